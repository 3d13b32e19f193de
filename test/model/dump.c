// One forward, loss and backward of a model just initialised and enlivened, every tensor of it written out for comparison.
//
//   dump OUT [--logits | --routing DUMP] OPTIONS...        options as of train_moba; one micro-batch of micro-batch x seq-len random tokens
//
// OUT/step_00000001, in the checkpoint's format, then holds "options", "tokens", "targets" (u64), "loss" (1), "losses" (one a
// token), with --logits "logits" (tokens, V), "param/NAME", "grad/NAME" (fp32), and for the i-th M layer "sel/i" (u64: the picked blocks). With --routing the picked blocks of
// another dump replace this backend's own, so that gradients are compared on the same routing. moba_topk is wrapped at link time to see and replace them.
#include <string.h>

#include "checkpoint.h"
#include "config.h"
#include "device.h"
#include "optimizer.h"
#include "rng.h"

#define TRY(call) do { if (!(call)) { FAIL(err.code, "%s", err.text); } } while (0)

static CheckpointWriter* writer;
static Checkpoint*       routing;      // NULL: keep this backend's own
static int               moba_layer;   // M layers routed so far
static bool              recording = true;   // until backward, which routes again where it recomputes

void __real_moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch,
                      stream_t stream);
void __wrap_moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch,
                      stream_t stream);

static void put_u64(const char* name, const uint64_t* values, size_t n) {
    Error err;
    int64_t shape[1] = {(int64_t)n};
    TRY(checkpoint_add(writer, name, CHECKPOINT_U64, 1, shape, values, &err));
}

void __wrap_moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch,
                      stream_t stream) {
    Error err;
    char name[CHECKPOINT_NAME];
    if (!recording) {
        REQUIRE(!routing, "--routing cannot be combined with --recompute 3 or 4, whose backward routes again");
        __real_moba_topk(sel, q, centroid, shape, block, topk, scratch, stream);
        return;
    }
    size_t n = (size_t)shape.B * shape.H * shape.T * (topk - 1);
    uint16_t* host = (uint16_t*)xmalloc(n * sizeof(uint16_t));
    uint64_t* wide = (uint64_t*)xmalloc(n * sizeof(uint64_t));
    snprintf(name, sizeof name, "sel/%d", moba_layer++);
    __real_moba_topk(sel, q, centroid, shape, block, topk, scratch, stream);
    device_download(host, sel, n * sizeof(uint16_t), stream);
    stream_sync(stream);
    for (size_t i = 0; i < n; i++) { wide[i] = host[i]; }
    put_u64(name, wide, n);
    if (routing) {
        TRY(checkpoint_read(routing, name, CHECKPOINT_U64, wide, n * sizeof(uint64_t), &err));
        for (size_t i = 0; i < n; i++) { host[i] = (uint16_t)wide[i]; }
        device_upload(sel, host, n * sizeof(uint16_t), stream);
        stream_sync(stream);
    }
    free(wide);
    free(host);
}

// As initialised, norm weights are all 1, which hides a swapped pair of them, and attention is nearly flat, which leaves q and k hardly any
// gradient. Matrices four times larger give scores of standard deviation near 1.
static void enliven(const Optimizer* opt, Model* m, uint64_t seed) {
    size_t bytes = m->table.elements * sizeof(float);
    float* host = (float*)xmalloc(bytes);
    device_download(host, opt->master, bytes, m->stream);
    stream_sync(m->stream);
    for (int i = 0; i < m->table.count; i++) {
        const Tensor* t = &m->table.tensor[i];
        size_t n = (size_t)t->rows * (size_t)t->cols;
        for (size_t j = 0; j < n; j++) {
            if (t->is_matrix)             { host[t->offset + j] *= 4; }
            else if (t->init == INIT_ONE) { host[t->offset + j] += 0.25f * (float)rng_normal(seed, rng_stream(t->name), j); }
        }
    }
    device_upload(opt->master, host, bytes, m->stream);
    stream_sync(m->stream);
    optimizer_publish(opt, m);
    free(host);
}

static void put_losses(Model* m, size_t n) {
    Error err;
    float* losses = (float*)xmalloc(n * sizeof(float));
    float loss = (float)(model_total(m) / (double)n);
    int64_t one[1] = {1}, tokens[1] = {(int64_t)n};
    device_download(losses, m->acts.losses, n * sizeof(float), m->stream);
    stream_sync(m->stream);
    TRY(checkpoint_add(writer, "loss", CHECKPOINT_F32, 1, one, &loss, &err));
    TRY(checkpoint_add(writer, "losses", CHECKPOINT_F32, 1, tokens, losses, &err));
    printf("loss %.9g\n", (double)loss);
    free(losses);
}

static void put_logits(Model* m, size_t n) {
    Error err;
    int64_t shape[2] = {(int64_t)n, m->shape.V};
    float* logits = (float*)xmalloc(n * (size_t)m->shape.V * sizeof(float));
    for (size_t i = 0; i < n; i++) { model_logits(m, (int)i, logits + i * (size_t)m->shape.V); }
    TRY(checkpoint_add(writer, "logits", CHECKPOINT_F32, 2, shape, logits, &err));
    free(logits);
}

static void put_tensors(const char* kind, const float* device, const Model* m) {
    float* host = (float*)xmalloc(m->table.elements * sizeof(float));
    device_download(host, device, m->table.elements * sizeof(float), m->stream);
    stream_sync(m->stream);
    for (int i = 0; i < m->table.count; i++) {
        Error err;
        char name[CHECKPOINT_NAME];
        const Tensor* t = &m->table.tensor[i];
        int64_t shape[2] = {t->rows, t->cols};
        snprintf(name, sizeof name, "%s/%s", kind, t->name);
        if (t->rows) { TRY(checkpoint_add(writer, name, CHECKPOINT_F32, 2, shape, host + t->offset, &err)); }
    }
    free(host);
}

int main(int argc, char** argv) {
    Error err;
    if (argc < 2) { FAIL(EXIT_USAGE, "usage: dump OUT [--logits | --routing DUMP] OPTIONS..."); }
    const char* out = argv[1];
    int skip = 1;
    if (argc > 3 && strcmp(argv[2], "--routing") == 0) {
        routing = checkpoint_open(argv[3], &err);
        TRY(routing);
        skip = 3;
    }
    bool logits = argc > 2 && strcmp(argv[2], "--logits") == 0;
    if (logits) { skip = 2; }
    char** options = (char**)xcalloc((size_t)argc + 1, sizeof(char*));      // OPTIONS --dry-run: no data is asked for
    for (int i = skip; i < argc; i++) { options[i - skip] = argv[i]; }
    options[argc - skip] = xstrdup("--dry-run");
    Config cfg = config_parse(argc - skip + 1, options);
    ModelShape shape;
    TRY(shape_from_config(&shape, &cfg, &err));
    device_open(0);
    Model m;
    Optimizer opt;
    model_plan(&m, shape, cfg.micro_batch, cfg.seq_len, (KeepLevel)cfg.recompute, (size_t)cfg.scratch << 20);
    m.attn_path = (AttnPath)cfg.attn_path;
    optimizer_plan(&opt, &m);
    model_allocate(&m);
    optimizer_init(&opt, &m, (uint64_t)cfg.seed);
    enliven(&opt, &m, (uint64_t)cfg.seed);
    size_t n = (size_t)cfg.micro_batch * cfg.seq_len;
    int *tokens = (int*)xmalloc(n * sizeof(int)), *targets = (int*)xmalloc(n * sizeof(int));
    uint64_t *wide = (uint64_t*)xmalloc(n * sizeof(uint64_t));
    for (size_t i = 0; i < n; i++) {
        tokens[i]  = (int)(rng_bits(1, 0, i).a % (uint64_t)cfg.vocab);
        targets[i] = (int)(rng_bits(1, 1, i).a % (uint64_t)cfg.vocab);
    }
    writer = checkpoint_begin(out, 1, &err);
    TRY(writer);
    TRY(checkpoint_add_text(writer, "options", config_to_json(&cfg), &err));
    for (size_t i = 0; i < n; i++) { wide[i] = (uint64_t)tokens[i]; }
    put_u64("tokens", wide, n);
    for (size_t i = 0; i < n; i++) { wide[i] = (uint64_t)targets[i]; }
    put_u64("targets", wide, n);
    model_zero(&m);
    model_batch(&m, tokens, targets, cfg.micro_batch, cfg.seq_len);
    model_forward(&m);
    recording = false;
    if (logits) { put_logits(&m, n); }
    model_loss_backward(&m, 1.0f / (float)n);
    model_backward(&m);
    put_losses(&m, n);
    put_tensors("param", opt.master, &m);
    put_tensors("grad", m.grads, &m);
    TRY(checkpoint_commit(writer, &err));
    return 0;
}
