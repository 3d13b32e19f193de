// Level 1: text to token ids and back. Two tokenizers: "byte" (ids 0..255 are the bytes, 256 ends a text) and a file of byte-pair
// encoding with the GPT-2 pre-tokenizer, written by data/gpt2_tokenizer.py and laid out byte by byte in data/README.md.
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Tokenizer Tokenizer;

// name: "byte", or the path of a tokenizer file. NULL and *err on anything that is not a whole, consistent file.
Tokenizer* tokenizer_open(const char* name, Error* err);
// The same from memory: *out is set only on true. Every size and offset is checked, so the bytes may come from anywhere.
bool       tokenizer_parse(const void* bytes, size_t n, Tokenizer** out, Error* err);
void       tokenizer_close(Tokenizer* tok);   // NULL is allowed

int tokenizer_vocab_size(const Tokenizer* tok);
int tokenizer_eot(const Tokenizer* tok);      // the id that stands before each document; encoding never yields it

// Writes the ids of the n bytes of text and returns how many: at most n, for which ids must have room. Any bytes are allowed: one that
// is not part of valid UTF-8 counts as a character that is neither letter, number nor space. Equal to tiktoken's encode_ordinary
// on valid UTF-8 without a stretch of more than 16 MiB that the pre-tokenizer would not split (it is split there).
size_t tokenizer_encode(const Tokenizer* tok, int* ids, const char* text, size_t n);

// The bytes of a token, and how many; not terminated, often not whole UTF-8. An id outside the vocabulary has none.
const char* tokenizer_decode(const Tokenizer* tok, int id, size_t* n);

#ifdef __cplusplus
}
#endif

#endif
