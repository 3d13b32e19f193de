#include "task.h"

#include <string.h>

static const char* const kind_names[] = {"choices", "word", "needle"};
enum { NUM_KINDS = sizeof kind_names / sizeof kind_names[0], ROW_UNIT = 64 };

// ---- the sidecar of a task --------------------------------------------------------------------------------------------------

bool task_is(const Sidecar* sidecar) {
    JsonValue kind;
    return json_member(sidecar->json, "task", &kind);
}

// a row of whole numbers in [0, INT32_MAX]
static bool read_row(JsonValue row, int* numbers, int count) {
    JsonValue value;
    int64_t number;
    int i = 0;
    if (json_kind(row) != '[') { return false; }
    for (size_t place = 0; json_next(row, &place, NULL, &value); i++) {
        if (i == count || !json_get_int(value, &number) || number < 0 || number > INT32_MAX) { return false; }
        numbers[i] = (int)number;
    }
    return i == count;
}

static int list_length(JsonValue list) {
    JsonValue value;
    int n = 0;
    for (size_t place = 0; json_kind(list) == '[' && json_next(list, &place, NULL, &value); n++) {}
    return n;
}

// "items": [gold, length, depth] each
static bool read_items(Task* task, JsonValue list) {
    JsonValue row;
    int i = 0;
    task->items = list_length(list);
    task->item = (Item*)xcalloc((size_t)task->items + 1, sizeof(Item));
    for (size_t place = 0; json_next(list, &place, NULL, &row); i++) {
        int numbers[3];
        if (!read_row(row, numbers, 3)) { return false; }
        Item item = {0, 0, numbers[0], numbers[1], numbers[2]};
        task->item[i] = item;
    }
    return i > 0;
}

// "requests": [item, tokens, scored, characters] each, the tokens one after another in the shard, items in order
static bool read_requests(Task* task, JsonValue list, int64_t* end) {
    JsonValue row;
    int i = 0, last = 0;
    task->requests = list_length(list);
    task->request = (Request*)xcalloc((size_t)task->requests + 1, sizeof(Request));
    for (size_t place = 0; json_next(list, &place, NULL, &row); i++) {
        int numbers[4];
        if (!read_row(row, numbers, 4)) { return false; }
        Request r = {*end, numbers[0], numbers[1], numbers[2], numbers[3]};
        if (r.item >= task->items || r.item < last || r.item > last + 1 || r.scored < 1 || r.scored >= r.tokens || r.characters < 1) { return false; }
        if (task->item[r.item].count++ == 0) { task->item[r.item].first = i; }
        task->request[i] = r;
        task->longest = max_int(task->longest, r.tokens);
        *end += r.tokens;
        last = r.item;
    }
    for (int k = 0; k < task->items; k++) {
        const Item* item = &task->item[k];
        if (item->gold >= item->count || (task->kind != TASK_CHOICES && item->count != 1)) { return false; }
    }
    return i > 0;
}

static void keep_first(Task* task, int limit) {
    if (limit == 0 || limit >= task->items) { return; }
    task->items = limit;
    task->requests = task->item[limit].first;
    task->longest = 0;
    for (int i = 0; i < task->requests; i++) { task->longest = max_int(task->longest, task->request[i].tokens); }
}

bool task_open(Task* task, const Sidecar* sidecar, int64_t tokens, int limit, Error* err) {
    memset(task, 0, sizeof *task);
    JsonValue name, kind, items, requests;
    int64_t end = 0;
    char* kind_text = json_member(sidecar->json, "kind", &kind) ? json_get_text(kind) : NULL;
    int k = 0;
    while (k < NUM_KINDS && !(kind_text && strcmp(kind_text, kind_names[k]) == 0)) { k++; }
    task->kind = (TaskKind)k;
    bool known = k < NUM_KINDS && json_member(sidecar->json, "task", &name) && (task->name = json_get_text(name));
    if (!known) {
        error_set(err, EXIT_DATA, "evaluation sidecar %s: a task of kind '%.40s'; this program knows choices, word and needle", sidecar->path,
                  kind_text ? kind_text : "");
        free(kind_text);
        return false;
    }
    free(kind_text);
    if (!(json_member(sidecar->json, "items", &items) && json_member(sidecar->json, "requests", &requests) && read_items(task, items) &&
          read_requests(task, requests, &end))) {
        return error_set(err, EXIT_DATA, "evaluation sidecar %s: \"items\" and \"requests\" are not the rows a task has (data/README.md)", sidecar->path);
    }
    if (end != tokens) {
        return error_set(err, EXIT_DATA, "evaluation sidecar %s: its requests have %lld tokens, the shard %lld (cut or mixed-up copies?)",
                         sidecar->path, (long long)end, (long long)tokens);
    }
    keep_first(task, limit);
    return true;
}

void task_close(Task* task) {
    free(task->name);
    free(task->item);
    free(task->request);
    memset(task, 0, sizeof *task);
}

// ---- scoring ------------------------------------------------------------------------------------------------------------------

// the inputs of a request: all its tokens but the last, at most `context`
static int inputs_of(const Request* r, int context) { return min_int(r->tokens - 1, context); }

bool task_fits(const Task* task, int context, Error* err) {
    int needed = task->kind == TASK_NEEDLE ? task->longest - 1 : 0;
    for (int i = 0; i < task->requests; i++) { needed = max_int(needed, task->request[i].scored); }
    return needed <= context || error_set(err, EXIT_USAGE, "--eval-context: %d is too short for %s, which needs %d tokens; give --eval-context %d",
                                          context, task->name, needed, needed);
}

void task_plan(const Task* task, int context, int64_t budget, int* B, int* T) {
    *T = (int)min_size(round_up((size_t)min_int(task->longest - 1, context), ROW_UNIT), (size_t)context);
    *B = (int)(budget / *T < 1 ? 1 : budget / *T > task->requests ? task->requests : budget / *T);
}

typedef struct { int request, inputs; } Turn;

static int longest_first(const void* a, const void* b) {
    const Turn *x = (const Turn*)a, *y = (const Turn*)b;
    return x->inputs != y->inputs ? (x->inputs < y->inputs ? 1 : -1) : x->request - y->request;
}

// Does the model, reading row `row` of the batch, find no token likelier than the continuation's at any of its places?
static bool is_greedy(Model* m, const int* targets, int row, int T, int inputs, float* logits) {
    for (int t = 0; t < inputs; t++) {
        int target = targets[(size_t)row * T + t];
        if (target < 0) { continue; }
        model_logits(m, row * T + t, logits);
        for (int v = 0; v < m->shape.V; v++) {
            if (logits[v] > logits[target] || (logits[v] == logits[target] && v < target)) { return false; }
        }
    }
    return true;
}

// Scores up to max_B requests in rows of T tokens; needs nothing of the rows but what it writes.
static void score_batch(Model* m, const Task* task, const int* tokens, const Turn* turns, int rows, int T, Score* scores) {
    size_t n = (size_t)rows * T;
    int* inputs  = (int*)xcalloc(n, sizeof(int));
    int* targets = (int*)xmalloc(n * sizeof(int));
    float* losses = (float*)xmalloc(n * sizeof(float));
    float* logits = (float*)xmalloc((size_t)m->shape.V * sizeof(float));
    memset(targets, -1, n * sizeof(int));
    for (int row = 0; row < rows; row++) {
        const Request* r = &task->request[turns[row].request];
        int count = turns[row].inputs;
        const int* last = tokens + r->first + r->tokens - 1;               // the inputs end before it
        for (int t = 0; t < count; t++) {
            inputs[(size_t)row * T + t] = last[t - count];
            if (t >= count - r->scored) { targets[(size_t)row * T + t] = last[t - count + 1]; }
        }
    }
    model_zero(m);
    model_batch(m, inputs, targets, rows, T);
    model_forward(m);
    model_loss(m);
    device_download(losses, m->acts.losses, n * sizeof(float), m->stream);
    stream_sync(m->stream);
    for (int row = 0; row < rows; row++) {
        Score* score = &scores[turns[row].request];
        score->loglik = 0;
        for (int t = 0; t < turns[row].inputs; t++) { score->loglik -= losses[(size_t)row * T + t]; }
        score->greedy = task->kind != TASK_CHOICES && is_greedy(m, targets, row, T, turns[row].inputs, logits);
    }
    free(inputs);
    free(targets);
    free(losses);
    free(logits);
}

Score* task_score(Model* m, const Task* task, const int* tokens, int context) {
    Score* scores = (Score*)xcalloc((size_t)task->requests, sizeof(Score));
    Turn* turns = (Turn*)xmalloc((size_t)task->requests * sizeof(Turn));
    for (int i = 0; i < task->requests; i++) {
        turns[i].request = i;
        turns[i].inputs = inputs_of(&task->request[i], context);
    }
    qsort(turns, (size_t)task->requests, sizeof(Turn), longest_first);     // rows of one pass are of about one length
    for (int done = 0; done < task->requests; ) {
        int rows = min_int(m->max_B, task->requests - done);
        int T = (int)min_size(round_up((size_t)turns[done].inputs, ROW_UNIT), (size_t)m->max_T);
        score_batch(m, task, tokens, turns + done, rows, T, scores);
        done += rows;
    }
    free(turns);
    return scores;
}

// ---- what comes out -----------------------------------------------------------------------------------------------------------

bool task_right(const Task* task, const Score* scores, int i, bool normalized) {
    const Item* item = &task->item[i];
    int best = 0;
    double highest = 0;
    if (task->kind != TASK_CHOICES) { return scores[item->first].greedy; }
    for (int c = 0; c < item->count; c++) {
        double score = scores[item->first + c].loglik / (normalized ? task->request[item->first + c].characters : 1);
        if (c == 0 || score > highest) {
            best = c;
            highest = score;
        }
    }
    return best == item->gold;
}

static Estimate estimate(double sum, double squares, int n) {
    Estimate e = {sum / n, 0};
    double spread = squares - sum * sum / n;
    if (n > 1 && spread > 0) { e.error = sqrt(spread / (n - 1) / n); }
    return e;
}

Estimate task_accuracy(const Task* task, const Score* scores, bool normalized) {
    int right = 0;
    for (int i = 0; i < task->items; i++) { right += task_right(task, scores, i, normalized); }
    return estimate(right, right, task->items);
}

Estimate task_perplexity(const Task* task, const Score* scores) {
    double sum = 0, squares = 0;
    for (int i = 0; i < task->requests; i++) {
        sum += scores[i].loglik;
        squares += scores[i].loglik * scores[i].loglik;
    }
    Estimate e = estimate(sum, squares, task->requests);
    e.mean = exp(-e.mean);
    e.error *= e.mean;                                                     // d exp(-x) = -exp(-x) dx
    return e;
}

// right answers and items of one cell
static void count_cell(const Task* task, const Score* scores, int length, int depth, int* right, int* items) {
    *right = *items = 0;
    for (int i = 0; i < task->items; i++) {
        if (task->item[i].length != length || (depth >= 0 && task->item[i].depth != depth)) { continue; }
        *right += task_right(task, scores, i, false);
        *items += 1;
    }
}

static void print_cell(int right, int items) {
    static const char* const shades[] = {" ", "░", "▒", "▓", "█"};
    if (items == 0) { printf("%10s  ", "-"); return; }
    double share = (double)right / items;
    printf("%9.2f %s ", share, shades[(int)(share * 4 + 0.5)]);
}

// the numbers that occur, ascending; returns how many
static int distinct(const Task* task, bool lengths, int* values) {
    int n = 0;
    for (int i = 0; i < task->items; i++) {
        int value = lengths ? task->item[i].length : task->item[i].depth, at = 0;
        while (at < n && values[at] < value) { at++; }
        if (at < n && values[at] == value) { continue; }
        memmove(values + at + 1, values + at, (size_t)(n - at) * sizeof(int));
        values[at] = value;
        n++;
    }
    return n;
}

// accuracy by depth (down) and length (across)
static void print_map(const Task* task, const Score* scores) {
    int* lengths = (int*)xmalloc((size_t)(task->items + 1) * sizeof(int));
    int* depths  = (int*)xmalloc((size_t)(task->items + 1) * sizeof(int));
    int num_lengths = distinct(task, true, lengths), num_depths = distinct(task, false, depths), right, items;
    printf("depth, tokens  ");
    for (int i = 0; i < num_lengths; i++) { printf("%9d   ", lengths[i]); }
    for (int d = 0; d <= num_depths; d++) {                                // the last row: all depths
        if (d < num_depths) { printf("\n  %3d %%        ", depths[d]); } else { printf("\n  all          "); }
        for (int i = 0; i < num_lengths; i++) {
            count_cell(task, scores, lengths[i], d < num_depths ? depths[d] : -1, &right, &items);
            print_cell(right, items);
        }
    }
    printf("\n");
    free(lengths);
    free(depths);
}

void task_print(const Task* task, const Score* scores) {
    Estimate plain = task_accuracy(task, scores, false);
    printf("task              %s, %d items\n", task->name, task->items);
    printf("accuracy          %.4f ± %.4f\n", plain.mean, plain.error);
    if (task->kind == TASK_CHOICES) {
        Estimate normalized = task_accuracy(task, scores, true);
        printf("acc, normalised   %.4f ± %.4f\n", normalized.mean, normalized.error);
    }
    if (task->kind == TASK_WORD) {
        Estimate perplexity = task_perplexity(task, scores);
        printf("perplexity        %.4f ± %.4f\n", perplexity.mean, perplexity.error);
    }
    if (task->kind == TASK_NEEDLE) { print_map(task, scores); }
}

void task_write(FILE* out, const Task* task, const Score* scores, const char* shard_path) {
    for (int i = 0; i < task->requests; i++) {
        const Item* item = &task->item[task->request[i].item];
        Json json = json_begin();
        json_put_text(&json, "task", task->name);
        json_put_text(&json, "shard", shard_path);
        json_put_int(&json, "item", task->request[i].item);
        json_put_int(&json, "choice", i - item->first);
        json_put_bool(&json, "gold", i - item->first == item->gold);
        json_put_exact(&json, "loglik", scores[i].loglik);
        if (task->kind != TASK_CHOICES) { json_put_bool(&json, "greedy", scores[i].greedy); }
        if (task->kind == TASK_NEEDLE) {
            json_put_int(&json, "length", item->length);
            json_put_int(&json, "depth", item->depth);
        }
        char* line = json_end(&json);
        fprintf(out, "%s\n", line);
        free(line);
    }
}
