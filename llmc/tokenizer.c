#include "tokenizer.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { OTHER, LETTER, NUMBER, SPACE, NUM_CLASSES };      // of a character; the file has ranges for the last three, in this order

enum {
    MAX_VOCAB = 1 << 20,         // the widest --vocab
    MAX_TOKEN = 1024,            // bytes of a token; bounds the work of a look-up
    MAX_FILE  = 1 << 28,
    MAX_PIECE = 1 << 24,         // bytes merged at once; bounds the memory a text can ask for
    CODE_POINTS = 0x110000,
};
#define NO_RANK UINT32_MAX
#define EOT_TEXT "<|endoftext|>"

// The file: this header, range pairs (first, last) of letters, numbers and spaces, uint16 length of each token, their bytes, CRC-32.
typedef struct {
    char     magic[8];
    uint32_t version, vocab, eot, num_ranges[NUM_CLASSES - 1], token_bytes, unicode;
} Header;
_Static_assert(sizeof(Header) == 40, "the tokenizer file's header has no padding");
static const char MAGIC[8] = "MOBATOK";

struct Tokenizer {
    int       vocab, eot;
    bool      bytes_only;        // "byte": nothing below but the texts
    char*     text;              // the texts of all tokens in id order,
    uint32_t* start;             // (vocab + 1) where each begins
    uint32_t* slots;             // hash table of id + 1 by text, 0 is free; open addressing
    uint32_t  mask;              // slots - 1, a power of two less one
    size_t    longest;           // bytes of the longest token
    uint8_t*  class_of;          // (CODE_POINTS)
};

// ---- opening ----------------------------------------------------------------------------------------------------------

static uint32_t hash(const char* text, size_t n) {       // FNV-1a, high bits folded in
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < n; i++) { h = (h ^ (uint8_t)text[i]) * 0x100000001b3ull; }
    return (uint32_t)(h ^ (h >> 32));
}

// the slot that holds this text, or the free one where it would go
static uint32_t* find_slot(const Tokenizer* tok, const char* text, size_t n) {
    for (uint32_t i = hash(text, n) & tok->mask;; i = (i + 1) & tok->mask) {
        uint32_t id = tok->slots[i] - 1;
        if (tok->slots[i] == 0) { return &tok->slots[i]; }
        if (tok->start[id + 1] - tok->start[id] == n && memcmp(tok->text + tok->start[id], text, n) == 0) { return &tok->slots[i]; }
    }
}

// a token's id is its rank: the lower, the earlier its two parts are merged
static uint32_t rank_of(const Tokenizer* tok, const char* text, size_t n) {
    return n > tok->longest ? NO_RANK : *find_slot(tok, text, n) - 1;      // 0 - 1 is NO_RANK
}

static bool check_header(const Header* h, const uint8_t* bytes, size_t n, Error* err) {
    if (memcmp(h->magic, MAGIC, sizeof MAGIC) != 0) {
        return error_set(err, EXIT_DATA, "not a tokenizer file: it does not begin with MOBATOK (data/gpt2_tokenizer.py writes one)");
    }
    if (h->version != 1) { return error_set(err, EXIT_DATA, "tokenizer file of version %u, this program reads version 1", h->version); }
    if (h->vocab < 257 || h->vocab > MAX_VOCAB) {
        return error_set(err, EXIT_DATA, "tokenizer file with %u tokens, allowed are 257 to %d", h->vocab, MAX_VOCAB);
    }
    if (h->eot >= h->vocab) { return error_set(err, EXIT_DATA, "end-of-text id %u is outside the vocabulary of %u", h->eot, h->vocab); }
    uint64_t expected = sizeof *h + 2 * (uint64_t)h->vocab + h->token_bytes + sizeof(uint32_t);
    for (int c = 0; c < NUM_CLASSES - 1; c++) { expected += 8 * (uint64_t)h->num_ranges[c]; }
    if (expected != n) {
        return error_set(err, EXIT_DATA, "tokenizer file: its header promises %llu bytes, it holds %zu (cut copy?)",
                         (unsigned long long)expected, n);
    }
    uint32_t stored, found = (uint32_t)crc32(0, bytes, (uInt)(n - sizeof stored));
    memcpy(&stored, bytes + n - sizeof stored, sizeof stored);
    if (stored != found) {
        return error_set(err, EXIT_DATA, "tokenizer file is damaged: CRC-32 %08x, expected %08x (write it again with data/gpt2_tokenizer.py)",
                         found, stored);
    }
    return true;
}

// Fills class_of from the file's ranges; *at moves past them.
static bool parse_classes(Tokenizer* tok, const Header* h, const uint8_t** at, Error* err) {
    tok->class_of = (uint8_t*)xcalloc(CODE_POINTS, 1);
    for (int class = LETTER; class < NUM_CLASSES; class++) {
        for (uint32_t i = 0; i < h->num_ranges[class - LETTER]; i++, *at += 8) {
            uint32_t range[2];
            memcpy(range, *at, sizeof range);
            if (range[0] > range[1] || range[1] >= CODE_POINTS) {
                return error_set(err, EXIT_DATA, "tokenizer file: characters %x to %x are no range", range[0], range[1]);
            }
            for (uint32_t c = range[0]; c <= range[1]; c++) {
                if (tok->class_of[c] != OTHER) { return error_set(err, EXIT_DATA, "tokenizer file: character %x is in two ranges", c); }
                tok->class_of[c] = (uint8_t)class;
            }
        }
    }
    return true;
}

// Fills text, start and slots from the lengths at `lengths`, which the texts follow.
static bool parse_tokens(Tokenizer* tok, const Header* h, const uint8_t* lengths, Error* err) {
    tok->vocab = (int)h->vocab;
    tok->eot   = (int)h->eot;
    tok->text  = (char*)memcpy(xmalloc(h->token_bytes), lengths + 2 * (size_t)h->vocab, h->token_bytes);
    tok->start = (uint32_t*)xcalloc(h->vocab + 1, sizeof(uint32_t));
    for (uint32_t id = 0; id < h->vocab; id++) {
        uint32_t length = (uint32_t)lengths[2 * id] | (uint32_t)lengths[2 * id + 1] << 8;
        if (length < 1 || length > MAX_TOKEN || length > h->token_bytes - tok->start[id]) {
            return error_set(err, EXIT_DATA, "tokenizer file: token %u has %u bytes, allowed are 1 to %d within its %u",
                             id, length, MAX_TOKEN, h->token_bytes);
        }
        tok->start[id + 1] = tok->start[id] + length;
        if (id != h->eot) { tok->longest = max_size(tok->longest, length); }
    }
    if (tok->start[h->vocab] != h->token_bytes) {
        return error_set(err, EXIT_DATA, "tokenizer file: tokens of %u bytes in all, expected %u", tok->start[h->vocab], h->token_bytes);
    }

    size_t slots = 1024;
    while (slots < 2 * (size_t)h->vocab) { slots *= 2; }
    tok->slots = (uint32_t*)xcalloc(slots, sizeof(uint32_t));
    tok->mask  = (uint32_t)slots - 1;
    for (uint32_t id = 0; id < h->vocab; id++) {
        if (id == h->eot) { continue; }                  // never the result of a merge
        uint32_t* slot = find_slot(tok, tok->text + tok->start[id], tok->start[id + 1] - tok->start[id]);
        if (*slot != 0) { return error_set(err, EXIT_DATA, "tokenizer file: tokens %u and %u are the same", *slot - 1, id); }
        *slot = id + 1;
    }
    for (int byte = 0; byte < 256; byte++) {             // what nothing merges stays a byte
        char text = (char)byte;
        if (rank_of(tok, &text, 1) == NO_RANK) { return error_set(err, EXIT_DATA, "tokenizer file: byte %d has no token", byte); }
    }
    return true;
}

bool tokenizer_parse(const void* bytes, size_t n, Tokenizer** out, Error* err) {
    Header h;
    if (n < sizeof h + sizeof(uint32_t) || n > MAX_FILE) {
        return error_set(err, EXIT_DATA, "tokenizer file of %zu bytes, allowed are %zu to %d", n, sizeof h + sizeof(uint32_t), MAX_FILE);
    }
    memcpy(&h, bytes, sizeof h);
    if (!check_header(&h, (const uint8_t*)bytes, n, err)) { return false; }
    Tokenizer* tok = (Tokenizer*)xcalloc(1, sizeof *tok);
    const uint8_t* at = (const uint8_t*)bytes + sizeof h;
    if (!parse_classes(tok, &h, &at, err) || !parse_tokens(tok, &h, at, err)) {
        tokenizer_close(tok);
        return false;
    }
    *out = tok;
    return true;
}

static Tokenizer* byte_tokenizer(void) {
    Tokenizer* tok = (Tokenizer*)xcalloc(1, sizeof *tok);
    tok->bytes_only = true;
    tok->eot   = 256;
    tok->vocab = 257;
    tok->text  = (char*)xmalloc(256 + sizeof EOT_TEXT);
    tok->start = (uint32_t*)xcalloc(258, sizeof(uint32_t));
    for (int id = 0; id < 256; id++) {
        tok->text[id]  = (char)id;
        tok->start[id] = (uint32_t)id;
    }
    memcpy(tok->text + 256, EOT_TEXT, sizeof EOT_TEXT);
    tok->start[256] = 256;
    tok->start[257] = 256 + sizeof EOT_TEXT - 1;
    return tok;
}

// The whole of a regular file of at most MAX_FILE bytes; NULL and *err otherwise.
static void* read_whole(const char* path, size_t* n, Error* err) {
    int fd = open_to_read(path);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        error_set(err, EXIT_NO_INPUT, "tokenizer %s: %s (give 'byte' or a file written by data/gpt2_tokenizer.py)", path, strerror(errno));
        if (fd >= 0) { close(fd); }
        return NULL;
    }
    void* bytes = NULL;
    if (!S_ISREG(info.st_mode) || info.st_size > MAX_FILE) {
        error_set(err, EXIT_DATA, "tokenizer %s: expected a regular file of at most %d bytes", path, MAX_FILE);
    } else {
        bytes = xmalloc((size_t)info.st_size);
        for (*n = 0; *n < (size_t)info.st_size;) {
            ssize_t got = read(fd, (char*)bytes + *n, (size_t)info.st_size - *n);
            if (got < 0 && errno == EINTR) { continue; }
            if (got <= 0) { break; }
            *n += (size_t)got;
        }
    }
    close(fd);
    return bytes;
}

Tokenizer* tokenizer_open(const char* name, Error* err) {
    if (strcmp(name, "byte") == 0) { return byte_tokenizer(); }
    size_t n;
    void* bytes = read_whole(name, &n, err);
    if (!bytes) { return NULL; }
    Tokenizer* tok = NULL;
    Error why;
    if (!tokenizer_parse(bytes, n, &tok, &why)) { error_set(err, why.code, "%.200s: %.270s", name, why.text); }
    free(bytes);
    return tok;
}

void tokenizer_close(Tokenizer* tok) {
    if (!tok) { return; }
    free(tok->text);
    free(tok->start);
    free(tok->slots);
    free(tok->class_of);
    free(tok);
}

int tokenizer_vocab_size(const Tokenizer* tok) { return tok->vocab; }
int tokenizer_eot(const Tokenizer* tok)        { return tok->eot; }

const char* tokenizer_decode(const Tokenizer* tok, int id, size_t* n) {
    if (id < 0 || id >= tok->vocab) {
        *n = 0;
        return "";
    }
    *n = tok->start[id + 1] - tok->start[id];
    return tok->text + tok->start[id];
}

// ---- splitting: text to words -----------------------------------------------------------------------------------------

// Length of the UTF-8 character at s (n > 0) and its class. A byte that begins no valid character stands alone and is OTHER.
static size_t next_char(const Tokenizer* tok, const uint8_t* s, size_t n, int* class) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};      // by length: anything below has a shorter form
    if (s[0] < 0x80) {
        *class = tok->class_of[s[0]];
        return 1;
    }
    *class = OTHER;
    size_t length = s[0] >= 0xf8 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0xc0 ? 2 : 1;
    if (length == 1 || length > n) { return 1; }
    uint32_t c = s[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) { return 1; }
        c = c << 6 | (s[i] & 0x3fu);
    }
    if (c < smallest[length] || c >= CODE_POINTS || (c >= 0xd800 && c < 0xe000)) { return 1; }
    *class = tok->class_of[c];
    return length;
}

static size_t contraction(const uint8_t* s, size_t n) {
    static const char* const ends[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    for (size_t i = 0; s[0] == '\'' && i < sizeof ends / sizeof *ends; i++) {
        size_t length = strlen(ends[i]);
        if (n > length && memcmp(s + 1, ends[i], length) == 0) { return length + 1; }
    }
    return 0;
}

// Length of the first match (n > 0) of GPT-2's expression  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
static size_t word_length(const Tokenizer* tok, const uint8_t* s, size_t n) {
    size_t end = contraction(s, n), last = 0;
    if (end) { return end; }
    int first, class;
    size_t blank = s[0] == ' ' && n > 1;
    end = blank + next_char(tok, s + blank, n - blank, &first);
    if (blank && first == SPACE) { last = blank; }       // two spaces begin a run of spaces like any other
    while (end < n) {
        size_t length = next_char(tok, s + end, n - end, &class);
        if (class != first) { break; }
        last = end;
        end += length;
    }
    // a run of spaces leaves its last one to the word after it: \s+(?!\S)
    return first == SPACE && end < n && last > 0 ? last : end;
}

// ---- merging: a word to tokens ----------------------------------------------------------------------------------------

// A word as a list of parts, each named by the offset of its first byte. A pair is a part and the one after it. The heap holds
// rank << 32 | offset of pairs, so that the least is the lowest rank and, among equals, the leftmost; outdated entries stay in it and
// are known by pair_rank.
typedef struct {
    uint64_t* heap;
    uint32_t *next, *previous, *pair_rank;               // by offset; next of the last part is the word's length
    size_t    heap_size, room;
} Merger;

static void merger_reserve(Merger* m, size_t n) {
    if (n <= m->room) { return; }
    m->room = max_size(n, 2 * m->room);
    free(m->heap); free(m->next); free(m->previous); free(m->pair_rank);
    m->heap      = (uint64_t*)xmalloc(2 * m->room * sizeof(uint64_t));     // n - 1 pairs at first, and a merge takes one and adds two
    m->next      = (uint32_t*)xmalloc(m->room * sizeof(uint32_t));
    m->previous  = (uint32_t*)xmalloc(m->room * sizeof(uint32_t));
    m->pair_rank = (uint32_t*)xmalloc(m->room * sizeof(uint32_t));
}

static void heap_push(Merger* m, uint64_t key) {
    size_t i = m->heap_size++;
    for (; i > 0 && m->heap[(i - 1) / 2] > key; i = (i - 1) / 2) { m->heap[i] = m->heap[(i - 1) / 2]; }
    m->heap[i] = key;
}

static uint64_t heap_pop(Merger* m) {
    uint64_t least = m->heap[0], key = m->heap[--m->heap_size];
    size_t i = 0;
    for (size_t child = 1; child < m->heap_size; child = 2 * i + 1) {
        if (child + 1 < m->heap_size && m->heap[child + 1] < m->heap[child]) { child++; }
        if (key <= m->heap[child]) { break; }
        m->heap[i] = m->heap[child];
        i = child;
    }
    m->heap[i] = key;
    return least;
}

static void rank_pair(const Tokenizer* tok, Merger* m, const char* word, size_t n, uint32_t part) {
    uint32_t second = m->next[part];
    m->pair_rank[part] = second < n ? rank_of(tok, word + part, m->next[second] - part) : NO_RANK;
    if (m->pair_rank[part] != NO_RANK) { heap_push(m, (uint64_t)m->pair_rank[part] << 32 | part); }
}

// O(n log n): every merge makes at most two new pairs.
static size_t merge_word(const Tokenizer* tok, Merger* m, int* ids, const char* word, size_t n) {
    merger_reserve(m, n);
    m->heap_size = 0;
    for (uint32_t i = 0; i < n; i++) {
        m->next[i]     = i + 1;
        m->previous[i] = i - 1;
    }
    for (uint32_t i = 0; i < n; i++) { rank_pair(tok, m, word, n, i); }
    while (m->heap_size > 0) {
        uint64_t least = heap_pop(m);
        uint32_t part = (uint32_t)least;
        if (m->pair_rank[part] != least >> 32) { continue; }               // one of its parts has been merged since
        uint32_t second = m->next[part], after = m->next[second];
        m->next[part] = after;
        if (after < n) { m->previous[after] = part; }
        m->pair_rank[second] = NO_RANK;
        rank_pair(tok, m, word, n, part);
        if (part > 0) { rank_pair(tok, m, word, n, m->previous[part]); }
    }
    size_t count = 0;
    for (uint32_t i = 0; i < n; i = m->next[i]) { ids[count++] = (int)rank_of(tok, word + i, m->next[i] - i); }
    return count;
}

size_t tokenizer_encode(const Tokenizer* tok, int* ids, const char* text, size_t n) {
    if (tok->bytes_only) {
        for (size_t i = 0; i < n; i++) { ids[i] = (uint8_t)text[i]; }
        return n;
    }
    Merger m = {0};
    size_t count = 0;
    for (size_t at = 0, word = 0; at < n; at += word) {
        word = word_length(tok, (const uint8_t*)text + at, n - at);
        uint32_t rank = rank_of(tok, text + at, word);
        if (rank != NO_RANK) {
            ids[count++] = (int)rank;
            continue;
        }
        for (size_t done = 0; done < word; done += MAX_PIECE) {
            count += merge_word(tok, &m, ids + count, text + at + done, min_size(word - done, MAX_PIECE));
        }
    }
    free(m.heap); free(m.next); free(m.previous); free(m.pair_rank);
    return count;
}
