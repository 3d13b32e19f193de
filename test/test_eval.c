// Evaluation against answers that are known: a model whose layers do nothing is a bigram table, softmax(norm(wte[token]) . wte^T).
#include "test.h"
#include "tempdir.h"

#include "evalfile.h"
#include "ops.h"
#include "rng.h"

enum { VOCAB = 40, CHANNELS = 16 };

typedef struct {
    Model  m;
    float* master;
} Net;

// Initial weights times `scale`; bigram: all layers zero.
static Net* net_open(int B, int T, bool bigram, float scale) {
    Net* net = (Net*)xcalloc(1, sizeof *net);
    ModelShape s = {.L = 2, .C = CHANNELS, .H = 2, .D = CHANNELS / 2, .F = 16, .V = VOCAB, .Vp = 128, .W = 3, .theta = 10000};
    s.layer = (LayerSpec*)xcalloc(2, sizeof *s.layer);
    Error err;
    CHECK(pattern_parse(s.layer, 2, "S4,M8:2", &err), "%s", err.text);
    model_plan(&net->m, s, B, T, FORWARD_ONLY, (size_t)1 << 26);
    model_allocate(&net->m);
    net->master = (float*)xmalloc(net->m.table.elements * sizeof(float));
    params_init(net->master, &net->m.table, &net->m.shape, 7);
    for (int i = 0; i < net->m.table.count; i++) {
        const Tensor* t = &net->m.table.tensor[i];
        bool layer_matrix = t->is_matrix && strcmp(t->name, "wte") != 0;
        for (size_t j = 0; t->is_matrix && j < (size_t)t->rows * (size_t)t->cols; j++) { net->master[t->offset + j] *= bigram && layer_matrix ? 0 : scale; }
    }
    size_t matrices = net->m.table.matrix_elements;
    adamw_copy(net->m.matrices, NULL, net->master, matrices, net->m.stream);
    adamw_copy(NULL, net->m.vectors, net->master + matrices, net->m.table.elements - matrices, net->m.stream);
    return net;
}

static void net_close(Net* net) {
    model_close(&net->m);
    free(net->master);
    free(net);
}

// log p(next | token) of the bigram, in fp64; *likeliest: no other token has more
static double bigram(const Net* net, int token, int next, bool* likeliest) {
    const float* wte = net->master + net->m.table.tensor[0].offset;
    double logit[VOCAB], squares = 0, highest = -1e300, sum = 0;
    for (int c = 0; c < CHANNELS; c++) { squares += (double)wte[token * CHANNELS + c] * wte[token * CHANNELS + c]; }
    for (int v = 0; v < VOCAB; v++) {
        logit[v] = 0;
        for (int c = 0; c < CHANNELS; c++) { logit[v] += (double)wte[token * CHANNELS + c] * wte[v * CHANNELS + c] / sqrt(squares / CHANNELS + 1e-6); }
        highest = fmax(highest, logit[v]);
    }
    for (int v = 0; v < VOCAB; v++) { sum += exp(logit[v] - highest); }
    *likeliest = logit[next] == highest;
    return logit[next] - highest - log(sum);
}

static int* random_tokens(int n, uint64_t seed) {
    int* tokens = (int*)xmalloc((size_t)n * sizeof(int));
    for (int i = 0; i < n; i++) { tokens[i] = (int)(test_bits(&seed) % VOCAB); }
    return tokens;
}

// ---- perplexity -----------------------------------------------------------------------------------------------------------------

TEST(eval_stream_of_a_bigram_is_its_sum) {
    enum { N = 101, T = 16 };
    Net* net = net_open(3, T, true, 60);
    int* tokens = random_tokens(N, 1);
    double expected = 0;
    bool likeliest;
    for (int i = 1; i < N; i++) { expected -= bigram(net, tokens[i - 1], tokens[i], &likeliest); }
    const int strides[] = {1, 5, 8, 16};
    for (int i = 0; i < 4; i++) {
        Perplexity p = eval_stream(&net->m, tokens, N, T, strides[i]);
        CHECK_EQ(p.scored, N - 1 - (strides[i] == T ? (N - 1) / T : 0));      // without overlap a window's first token has no predecessor
        if (strides[i] < T) { CHECK_NEAR(p.nll, expected, 1e-5 * expected); }
    }
    free(tokens);
    net_close(net);
}

// log p of the token after `inputs`, by the model alone
static double direct(Net* net, const int* inputs, int count, int next) {
    float logits[VOCAB];
    double sum = 0;
    model_batch(&net->m, inputs, NULL, 1, count);
    model_forward(&net->m);
    model_logits(&net->m, count - 1, logits);
    for (int v = 0; v < VOCAB; v++) { sum += exp((double)logits[v]); }
    return logits[next] - log(sum);
}

TEST(eval_documents_rolls_windows_over_each_document) {
    enum { N = 60, T = 8 };
    const int64_t documents[] = {0, 26, 27, 35, 52};                          // 25 tokens, none, 7, 16, 7, each behind its end-of-text
    Net* net = net_open(2, T, false, 20);
    int* tokens = random_tokens(N, 2);
    double expected = 0;
    int scored = 0;
    for (int d = 0; d < 5; d++) {
        const int* text = tokens + documents[d] + 1;
        int length = (int)((d < 4 ? documents[d + 1] : N) - documents[d]) - 1;
        for (int i = 0; i < length; i++, scored++) {
            int end = (i / T + 1) * T < length ? (i / T + 1) * T : length;    // of the run that i is scored in
            int begin = i < T ? -1 : end - T - 1;                             // -1: the end-of-text
            expected -= direct(net, text + begin, i - begin, text[i]);
        }
    }
    Perplexity p = eval_documents(&net->m, tokens, N, documents, 5, T);
    CHECK_EQ(p.scored, scored);
    CHECK_EQ(scored, N - 5);
    CHECK_NEAR(p.nll, expected, 1e-5 * expected);
    free(tokens);
    net_close(net);
}

// ---- tasks ------------------------------------------------------------------------------------------------------------------------

// A task written down by hand; task_close must not be called on it.
static Task hand_made(TaskKind kind, Item* items, int num_items, Request* requests, int num_requests) {
    Task task = {kind, (char*)"hand made", num_items, num_requests, 0, items, requests};
    for (int i = 0; i < num_requests; i++) { task.longest = task.longest > requests[i].tokens ? task.longest : requests[i].tokens; }
    return task;
}

TEST(task_scores_of_a_bigram_are_its_sums) {
    enum { REQUESTS = 9 };
    Net* net = net_open(2, 64, true, 60);
    Item items[REQUESTS];
    Request requests[REQUESTS];
    int64_t end = 0;
    for (int i = 0; i < REQUESTS; i++) {
        Item item = {i, 1, 0, 0, 0};
        Request request = {end, i, 2 + 9 * i, 1 + i, 1};
        items[i] = item;
        requests[i] = request;
        end += request.tokens;
    }
    int* tokens = random_tokens((int)end, 3);
    bool likeliest;
    for (int v = 0; v < VOCAB; v++) {                                         // the first item's continuation is what greedy decoding gives
        bigram(net, tokens[0], v, &likeliest);
        if (likeliest) { tokens[1] = v; }
    }
    Task task = hand_made(TASK_WORD, items, REQUESTS, requests, REQUESTS);
    Score* scores = task_score(&net->m, &task, tokens, 64);
    for (int i = 0; i < REQUESTS; i++) {
        const int* last = tokens + requests[i].first + requests[i].tokens;
        double expected = 0;
        bool greedy = true;
        for (int k = -requests[i].scored; k < 0; k++) {
            expected += bigram(net, last[k - 1], last[k], &likeliest);
            greedy = greedy && likeliest;
        }
        CHECK_NEAR(scores[i].loglik, expected, 1e-5 * fabs(expected));
        CHECK(scores[i].greedy == greedy, "request %d: greedy is %d", i, scores[i].greedy);
    }
    CHECK(scores[0].greedy && task_right(&task, scores, 0, false), "the likeliest continuation is not found greedy");
    free(scores);
    free(tokens);
    net_close(net);
}

TEST(task_context_is_cut_on_the_left) {
    enum { N = 40, T = 16 };
    Net* net = net_open(2, T, false, 20);
    int* tokens = random_tokens(N, 4);
    Item items[] = {{0, 1, 0, 0, 0}};
    Request requests[] = {{0, 0, N, 1, 1}};
    Task task = hand_made(TASK_WORD, items, 1, requests, 1);
    Score* scores = task_score(&net->m, &task, tokens, T);
    CHECK_NEAR(scores[0].loglik, direct(net, tokens + N - 1 - T, T, tokens[N - 1]), 1e-5);
    free(scores);
    free(tokens);
    net_close(net);
}

TEST(task_scores_do_not_depend_on_the_batch) {
    enum { REQUESTS = 7 };
    Item items[REQUESTS];
    Request requests[REQUESTS];
    int64_t end = 0;
    for (int i = 0; i < REQUESTS; i++) {
        Item item = {i, 1, 0, 0, 0};
        Request request = {end, i, 5 + 17 * i, 3, 1};
        items[i] = item;
        requests[i] = request;
        end += request.tokens;
    }
    int* tokens = random_tokens((int)end, 5);
    Task task = hand_made(TASK_CHOICES, items, REQUESTS, requests, REQUESTS);
    Score* first = NULL;
    for (int B = 1; B <= REQUESTS; B += 3) {
        Net* net = net_open(B, 128, false, 20);
        Score* scores = task_score(&net->m, &task, tokens, 128);
        for (int i = 0; first && i < REQUESTS; i++) { CHECK(scores[i].loglik == first[i].loglik, "request %d scores otherwise in rows of %d", i, B); }
        if (first) { free(scores); } else { first = scores; }
        net_close(net);
    }
    free(first);
    free(tokens);
}

TEST(task_accuracy_by_hand) {
    Item items[] = {{0, 3, 1, 0, 0}, {3, 2, 0, 0, 0}, {5, 2, 1, 0, 0}, {7, 2, 0, 0, 0}};
    Request requests[] = {{0, 0, 9, 1, 4}, {0, 0, 9, 1, 8}, {0, 0, 9, 1, 4}, {0, 1, 9, 1, 6}, {0, 1, 9, 1, 4}, {0, 2, 9, 1, 1}, {0, 2, 9, 1, 1},
                          {0, 3, 9, 1, 5}, {0, 3, 9, 1, 5}};
    //                 right, also normalised      wrong, right normalised   wrong, both: the first  right: a tie goes to the first
    Score scores[] = {{-5, false}, {-4, false}, {-6, false},   {-3, false}, {-2.9, false},   {-1, false}, {-2, false},   {-7, false}, {-7, false}};
    Task task = hand_made(TASK_CHOICES, items, 4, requests, 9);
    const bool plain[] = {true, false, false, true}, normalized[] = {true, true, false, true};
    for (int i = 0; i < 4; i++) {
        CHECK(task_right(&task, scores, i, false) == plain[i], "item %d is %s", i, plain[i] ? "not right" : "right");
        CHECK(task_right(&task, scores, i, true) == normalized[i], "item %d is %s, normalised", i, normalized[i] ? "not right" : "right");
    }
    Estimate accuracy = task_accuracy(&task, scores, false);
    CHECK_NEAR(accuracy.mean, 0.5, 1e-15);
    CHECK_NEAR(accuracy.error, sqrt(0.25 / 3), 1e-12);                        // sqrt(sum of squared deviations / (n - 1) / n), of 1 0 0 1
    CHECK_NEAR(task_accuracy(&task, scores, true).mean, 0.75, 1e-15);
}

TEST(task_perplexity_by_hand) {
    Item items[] = {{0, 1, 0, 0, 0}, {1, 1, 0, 0, 0}};
    Request requests[] = {{0, 0, 9, 1, 4}, {0, 1, 9, 1, 4}};
    Score scores[] = {{-1, true}, {-3, false}};
    Task task = hand_made(TASK_WORD, items, 2, requests, 2);
    Estimate p = task_perplexity(&task, scores);
    CHECK_NEAR(p.mean, exp(2), 1e-12);
    CHECK_NEAR(p.error, exp(2) * 1, 1e-12);                                   // of -1, -3: deviation sqrt(2), of the mean 1
    CHECK_NEAR(task_accuracy(&task, scores, false).mean, 0.5, 1e-15);
}

// ---- sidecars ---------------------------------------------------------------------------------------------------------------------

// Is this sidecar of a shard of `tokens` tokens refused with this status and a sentence that has `part`? status 0: accepted
static void check_sidecar(const char* json, int tokens, int status, const char* part) {
    static const char* dir;
    if (!dir) { dir = temp_dir(); }
    char* path = xformat("%s/set.json", dir);
    char* shard = xformat("%s/set.bin", dir);
    temp_write(path, json, strlen(json));
    Sidecar sidecar;
    Task task;
    TextInfo info;
    Error err = {0};
    bool good = sidecar_open(&sidecar, shard, 257, &err), is_task = good && task_is(&sidecar);
    if (good && is_task) {
        good = task_open(&task, &sidecar, tokens, 0, &err);
        task_close(&task);
    } else if (good) {
        good = text_info(&info, &sidecar, tokens, &err);
        text_info_close(&info);
    }
    sidecar_close(&sidecar);
    CHECK(good == (status == 0), "%s: %s", json, good ? "accepted" : err.text);
    if (!good) {
        CHECK_EQ(err.code, status);
        CHECK(strstr(err.text, part), "'%s' is not in: %s", part, err.text);
    }
    free(path);
    free(shard);
}

#define TEXT_SIDECAR(rest) "{\"bytes\":9,\"words\":2," rest "}"
#define TASK_SIDECAR(kind, items, requests) "{\"task\":\"t\",\"kind\":\"" kind "\",\"vocab\":257,\"items\":" items ",\"requests\":" requests "}"

TEST(eval_sidecars_of_texts_are_checked) {
    check_sidecar(TEXT_SIDECAR("\"join\":\"hf\""), 9, 0, "");
    check_sidecar(TEXT_SIDECAR("\"join\":\"documents\",\"documents\":[0,4,8]"), 9, 0, "");
    check_sidecar(TEXT_SIDECAR("\"join\":\"documents\",\"documents\":[0,4,4]"), 9, EXIT_DATA, "ascending");
    check_sidecar(TEXT_SIDECAR("\"join\":\"documents\",\"documents\":[0,9]"), 9, EXIT_DATA, "below 9");
    check_sidecar(TEXT_SIDECAR("\"join\":\"documents\",\"documents\":[1]"), 9, EXIT_DATA, "from 0");
    check_sidecar(TEXT_SIDECAR("\"join\":\"documents\",\"documents\":[]"), 9, EXIT_DATA, "ascending");
    check_sidecar(TEXT_SIDECAR("\"join\":\"documents\""), 9, EXIT_DATA, "ascending");
    check_sidecar(TEXT_SIDECAR("\"join\":\"eot\""), 9, 0, "");
    check_sidecar(TEXT_SIDECAR("\"join\":\"what\""), 9, EXIT_DATA, "'what', none of eot, hf and documents");
    check_sidecar("{\"bytes\":9,\"join\":\"hf\"}", 9, EXIT_DATA, "\"words\"");
    check_sidecar(TEXT_SIDECAR("\"join\":\"hf\",\"tokens\":9"), 9, 0, "");
    check_sidecar(TEXT_SIDECAR("\"join\":\"hf\",\"tokens\":8"), 9, EXIT_DATA, "of 8 tokens, the shard has 9");
    check_sidecar(TEXT_SIDECAR("\"join\":\"hf\",\"tokens\":\"9\""), 9, EXIT_DATA, "of \"9\" tokens");
    check_sidecar("{\"bytes\":9,\"words\":2,\"jo", 9, EXIT_DATA, "cut copy");
    check_sidecar("[1]", 9, EXIT_DATA, "not a JSON object");
}

TEST(eval_sidecars_that_are_no_files_are_refused) {
    char *path = xformat("%s/set.json", temp_dir()), *shard = xformat("%.*s.bin", (int)strlen(path) - 5, path);
    Sidecar sidecar;
    Error err = {0};
    CHECK(mkdir(path, 0777) == 0, "mkdir %s", path);
    CHECK(!sidecar_open(&sidecar, shard, 257, &err) && err.code == EXIT_DATA && strstr(err.text, "a directory, expected a file"), "%s", err.text);
    sidecar_close(&sidecar);
    CHECK(rmdir(path) == 0 && mkfifo(path, 0666) == 0, "mkfifo %s", path);
    CHECK(!sidecar_open(&sidecar, shard, 257, &err) && err.code == EXIT_DATA && strstr(err.text, "a pipe or device, expected a file"), "%s", err.text);
    sidecar_close(&sidecar);
    free(path);
    free(shard);
}

TEST(eval_sidecars_of_tasks_are_checked) {
    check_sidecar(TASK_SIDECAR("choices", "[[1,0,0]]", "[[0,4,1,5],[0,5,2,6]]"), 9, 0, "");
    check_sidecar(TASK_SIDECAR("riddles", "[[0,0,0]]", "[[0,9,1,5]]"), 9, EXIT_DATA, "'riddles'; this program knows choices, word and needle");
    check_sidecar(TASK_SIDECAR("choices", "[[0,0,0]]", "[[0,4,1,5]]"), 9, EXIT_DATA, "have 4 tokens, the shard 9");
    check_sidecar(TASK_SIDECAR("choices", "[[2,0,0]]", "[[0,4,1,5],[0,5,2,6]]"), 9, EXIT_DATA, "rows a task has");      // answer 2 of two
    check_sidecar(TASK_SIDECAR("choices", "[[0,0,0],[0,0,0]]", "[[0,9,1,5]]"), 9, EXIT_DATA, "rows a task has");        // an item without continuations
    check_sidecar(TASK_SIDECAR("choices", "[[0,0,0]]", "[[0,9,9,5]]"), 9, EXIT_DATA, "rows a task has");                // no context
    check_sidecar(TASK_SIDECAR("choices", "[[0,0,0]]", "[[0,9,0,5]]"), 9, EXIT_DATA, "rows a task has");                // no continuation
    check_sidecar(TASK_SIDECAR("choices", "[[0,0,0]]", "[[0,9,1,0]]"), 9, EXIT_DATA, "rows a task has");                // no characters to divide by
    check_sidecar(TASK_SIDECAR("choices", "[[0,0,0]]", "[[1,9,1,5]]"), 9, EXIT_DATA, "rows a task has");                // no such item
    check_sidecar(TASK_SIDECAR("choices", "[[0,0,0]]", "[[0,9,1]]"), 9, EXIT_DATA, "rows a task has");
    check_sidecar(TASK_SIDECAR("choices", "[[0,0,0]]", "[[0,99999999999,1,5]]"), 9, EXIT_DATA, "rows a task has");
    check_sidecar(TASK_SIDECAR("word", "[[0,0,0]]", "[[0,4,1,5],[0,5,2,6]]"), 9, EXIT_DATA, "rows a task has");         // two words for one item
    check_sidecar(TASK_SIDECAR("choices", "{}", "[]"), 9, EXIT_DATA, "rows a task has");
    check_sidecar("{\"task\":\"t\",\"kind\":\"choices\",\"vocab\":50257}", 9, EXIT_DATA, "tokenizer of 50257 tokens, the model's vocabulary is 257");
    check_sidecar("{\"task\":\"t\",\"kind\":\"choices\",\"vocab\":100}", 9, EXIT_DATA, "tokenizer of 100 tokens, the model's vocabulary is 257");
}

// A whole sidecar with some bytes changed: refused with the right status, or every request lies in the shard and every item has its own.
TEST(task_sidecars_with_changed_bytes_do_no_harm) {
    static const char whole[] = TASK_SIDECAR("choices", "[[1,0,0],[0,10,50]]", "[[0,4,1,5],[0,5,2,6],[1,8,3,7]]");
    char text[sizeof whole];
    uint64_t seed = 11;
    int accepted = 0;
    for (int round = 0; round < 50000; round++) {
        memcpy(text, whole, sizeof whole);
        for (int change = (int)(test_bits(&seed) % 3); change >= 0; change--) {
            text[test_bits(&seed) % (sizeof whole - 1)] = "0123456789[]{},\"-e"[test_bits(&seed) % 19];
        }
        Sidecar sidecar = {(char*)"changed.json", text, {NULL, NULL}};
        Task task;
        Error err = {0};
        if (!json_parse(&sidecar.json, text, strlen(text), NULL)) { continue; }
        if (task_open(&task, &sidecar, 17, 0, &err)) {
            accepted++;
            for (int i = 0; i < task.requests; i++) {
                const Request* r = &task.request[i];
                const Item* item = &task.item[r->item];
                CHECK(r->first >= 0 && r->first + r->tokens <= 17 && r->scored >= 1 && r->scored < r->tokens, "round %d: request %d is outside", round, i);
                CHECK(i >= item->first && i < item->first + item->count && item->gold < item->count, "round %d: item %d is not its own", round, r->item);
            }
        } else {
            CHECK_EQ(err.code, EXIT_DATA);
        }
        task_close(&task);
    }
    CHECK(accepted > 100, "only %d were accepted", accepted);
}

TEST_MAIN()
