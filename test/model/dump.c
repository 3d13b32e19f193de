// One forward, loss and backward of a model just initialised and enlivened, every tensor of it written out for comparison.
//
//   dump OUT [--logits | --routing DUMP] OPTIONS...        options as of train_moba; one micro-batch of micro-batch x seq-len random tokens
//
// OUT/step_00000001, in the checkpoint's format, then holds "options", "tokens", "targets" (u64), "loss" (1), "losses" (one a
// token), with --logits "logits" (tokens, V), "param/NAME", "grad/NAME" (fp32), and for the i-th M layer "sel/i" (u64: the picked blocks). With --routing the picked blocks of
// another dump replace this backend's own, so that gradients are compared on the same routing. moba_topk is wrapped at link time to see and replace them.
#include "dumps.h"

static CheckpointWriter* writer;
static Checkpoint*       routing;      // NULL: keep this backend's own
static int               moba_layer;   // M layers routed so far
static bool              recording = true;   // until backward, which routes again where it recomputes

void __real_moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch,
                      stream_t stream);
void __wrap_moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch,
                      stream_t stream);

void __wrap_moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch,
                      stream_t stream) {
    char name[CHECKPOINT_NAME];
    if (!recording) {
        REQUIRE(!routing, "--routing cannot be combined with --recompute 3 or 4, whose backward routes again");
        __real_moba_topk(sel, q, centroid, shape, block, topk, scratch, stream);
        return;
    }
    size_t n = (size_t)shape.B * shape.H * shape.T * (topk - 1);
    uint16_t* host = (uint16_t*)xmalloc(n * sizeof(uint16_t));
    snprintf(name, sizeof name, "sel/%d", moba_layer++);
    __real_moba_topk(sel, q, centroid, shape, block, topk, scratch, stream);
    device_download(host, sel, n * sizeof(uint16_t), stream);
    stream_sync(stream);
    put_picks(writer, name, host, n);
    if (routing) {
        size_t found;
        uint16_t* picks = read_picks(routing, name, &found);
        REQUIRE(found == n, "--routing: %s has %zu picks, here are %zu", name, found, n);
        device_upload(sel, picks, n * sizeof(uint16_t), stream);
        stream_sync(stream);
        free(picks);
    }
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
    float* logits = (float*)xmalloc(n * (size_t)m->shape.V * sizeof(float));
    for (size_t i = 0; i < n; i++) { model_logits(m, (int)i, logits + i * (size_t)m->shape.V); }
    put_floats(writer, "logits", logits, n, (size_t)m->shape.V);
    free(logits);
}

static void put_tensors(const char* kind, const float* device, const Model* m) {
    float* host = (float*)xmalloc(m->table.elements * sizeof(float));
    device_download(host, device, m->table.elements * sizeof(float), m->stream);
    stream_sync(m->stream);
    for (int i = 0; i < m->table.count; i++) {
        char name[CHECKPOINT_NAME];
        const Tensor* t = &m->table.tensor[i];
        snprintf(name, sizeof name, "%s/%s", kind, t->name);
        if (t->rows) { put_floats(writer, name, host + t->offset, (size_t)t->rows, (size_t)t->cols); }
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
    Config cfg = config_of(argc - skip, argv + skip);
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
    int *tokens = random_ids(0, n, cfg.vocab), *targets = random_ids(1, n, cfg.vocab);
    uint64_t* wide = (uint64_t*)xmalloc(n * sizeof(uint64_t));
    writer = checkpoint_begin(out, 1, &err);
    TRY(writer);
    TRY(checkpoint_add_text(writer, "options", config_to_json(&cfg), &err));
    for (size_t i = 0; i < n; i++) { wide[i] = (uint64_t)tokens[i]; }
    put_u64(writer, "tokens", wide, n);
    for (size_t i = 0; i < n; i++) { wide[i] = (uint64_t)targets[i]; }
    put_u64(writer, "targets", wide, n);
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
