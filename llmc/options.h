// The options: one line each. struct Config, the parser, --help, the start-up print, config.json, the checkpoint's record and README come from it.
//
// type    C type        text
// INT     int           a whole number in [min, max], or the word in `choices` if there is one, stored as 0
// TOKENS  int64_t       a whole number in [min, max]
// REAL    double        a finite number in [min, max]
// TEXT    const char*   anything but "", which is the default of those that may be absent
// ENUM    int           one of the words in `choices`, stored as its index
// FLAG    int           no value; 0 or 1
//
// resume: may a resumed run differ from its checkpoint?  NEVER (architecture, data order), SCHEDULE (only with --new-schedule), ALWAYS.
//         It is the resolved values that are compared: --preset may change its name, not the sizes.
#ifndef OPTIONS_H
#define OPTIONS_H

//        type    field           name              default         min   max      choices                            resume    group        help
#define OPTIONS(X) \
        X(TEXT,   train_data,     "train-data",     "",             0,    0,       "",                                ALWAYS,   "data",      "training shards: a file name or a glob pattern in quotes") \
        X(TEXT,   val_data,       "val-data",       "",             0,    0,       "",                                ALWAYS,   "data",      "validation shards, likewise; none: no validation loss") \
        X(TEXT,   tokenizer,      "tokenizer",      "byte",         0,    0,       "",                                NEVER,    "data",      "'byte', or a tokenizer file written by data/gpt2_tokenizer.py; used for prompts and samples") \
        X(ENUM,   preset,         "preset",         "tiny",         0,    0,       "tiny|30M|124M|340M|1B",           ALWAYS,   "model",     "sizes to start from; the five options below override single ones") \
        X(INT,    layers,         "layers",         "0",            0,    1024,    "",                                NEVER,    "model",     "layers (0: the preset's)") \
        X(INT,    channels,       "channels",       "0",            0,    8192,    "",                                NEVER,    "model",     "width of the residual stream (0: the preset's)") \
        X(INT,    heads,          "heads",          "0",            0,    1024,    "",                                NEVER,    "model",     "attention heads (0: the preset's)") \
        X(INT,    mlp,            "mlp",            "0",            0,    262144,  "",                                NEVER,    "model",     "width of the SwiGLU (0: the preset's)") \
        X(INT,    vocab,          "vocab",          "0",            0,    1048576, "",                                NEVER,    "model",     "true vocabulary, without padding (0: the preset's)") \
        X(TEXT,   pattern,        "pattern",        "S256,M128:8",  0,    0,       "",                                NEVER,    "model",     "cycle of layer kinds: S<window>, M<block>:<topk>, D") \
        X(INT,    kconv,          "kconv",          "3",            0,    5,       "",                                NEVER,    "model",     "key-convolution width on M layers: 3, 5, or 0 for none") \
        X(REAL,   theta,          "theta",          "10000",        1,    1e12,    "",                                NEVER,    "model",     "RoPE base on S layers") \
        X(INT,    seq_len,        "seq-len",        "8192",         1,    1048576, "",                                NEVER,    "model",     "tokens in a training row") \
        X(INT,    steps,          "steps",          "1000",         1,    100000000, "",                              SCHEDULE, "optimizer", "optimizer steps of the whole run") \
        X(TOKENS, total_batch,    "total-batch",    "0",            0,    1099511627776.0, "",                        SCHEDULE, "optimizer", "tokens a step, a multiple of micro-batch x seq-len x ranks (0: one micro-batch a rank)") \
        X(INT,    micro_batch,    "micro-batch",    "1",            1,    65536,   "auto",                            ALWAYS,   "optimizer", "rows a forward and backward pass takes at once; auto: as many as fit, or the checkpoint's") \
        X(REAL,   lr,             "lr",             "0.0006",       0,    10,      "",                                SCHEDULE, "optimizer", "peak learning rate") \
        X(INT,    warmup,         "warmup",         "-1",           -1,   100000000, "",                              SCHEDULE, "optimizer", "steps of linear warm-up (-1: a tenth of the steps, at most 2000)") \
        X(ENUM,   schedule,       "schedule",       "cosine",       0,    0,       "cosine|wsd|linear|constant",      SCHEDULE, "optimizer", "learning rate after warm-up; cosine, wsd and linear end at a tenth of the peak") \
        X(INT,    cooldown,       "cooldown",       "-1",           -1,   100000000, "",                              SCHEDULE, "optimizer", "steps of linear cool-down at the end of wsd (-1: a fifth of the steps)") \
        X(REAL,   weight_decay,   "weight-decay",   "0.1",          0,    10,      "",                                NEVER,    "optimizer", "decoupled weight decay, on matrices only") \
        X(REAL,   clip,           "clip",           "1.0",          0,    1e9,     "",                                NEVER,    "optimizer", "global gradient-norm clip (0: off)") \
        X(INT,    seed,           "seed",           "1337",         0,    2147483647, "",                             NEVER,    "optimizer", "seed of initialisation, data order and sampling") \
        X(TEXT,   out,            "out",            "runs/default", 0,    0,       "",                                ALWAYS,   "run",       "run directory: log, config, checkpoints") \
        X(TEXT,   resume,         "resume",         "auto",         0,    0,       "",                                ALWAYS,   "run",       "'auto': newest whole checkpoint in --out; 'none'; or a checkpoint directory") \
        X(FLAG,   new_schedule,   "new-schedule",   "0",            0,    1,       "",                                ALWAYS,   "run",       "allow steps, lr, warmup, schedule, cooldown, total-batch to differ from the checkpoint") \
        X(INT,    save_every,     "save-every",     "1000",         0,    100000000, "",                              ALWAYS,   "run",       "steps between checkpoints (0: only the last step)") \
        X(INT,    keep,           "keep",           "3",            2,    1000,    "",                                ALWAYS,   "run",       "newest checkpoints to keep") \
        X(INT,    keep_major,     "keep-major",     "0",            0,    100000000, "",                              ALWAYS,   "run",       "also keep every checkpoint whose step is a multiple of this (0: none)") \
        X(INT,    eval_every,     "eval-every",     "250",          0,    100000000, "",                              ALWAYS,   "run",       "steps between validation losses (0: only the last step)") \
        X(INT,    eval_batches,   "eval-batches",   "20",           1,    1000000, "",                                ALWAYS,   "run",       "micro-batches a validation loss takes; a smaller set is used whole") \
        X(INT,    log_every,      "log-every",      "1",            1,    1000000, "",                                ALWAYS,   "run",       "steps between console lines; log.jsonl has every step") \
        X(INT,    sample_every,   "sample-every",   "0",            0,    100000000, "",                              ALWAYS,   "run",       "steps between printed samples (0: none)") \
        X(FLAG,   take_lock,      "take-lock",      "0",            0,    1,       "",                                ALWAYS,   "run",       "take over a run directory locked from another host") \
        X(INT,    recompute,      "recompute",      "0",            0,    4,       "",                                ALWAYS,   "memory",    "0 keep all .. 4 keep every second layer's input; same numbers to the bit") \
        X(INT,    scratch,        "scratch",        "2048",         16,   1048576, "",                                ALWAYS,   "memory",    "MiB of scratch attention may use; beyond it heads are walked in groups, of one head at least") \
        X(ENUM,   attn_path,      "attn-path",      "auto",         0,    0,       "auto|hopper|portable",            ALWAYS,   "memory",    "attention kernels: hopper needs compute capability 9.0; auto takes them where they run") \
        X(FLAG,   deterministic,  "deterministic",  "0",            0,    1,       "",                                ALWAYS,   "memory",    "GEMM plans by the library's first proposal, unmeasured: the same in every fresh run") \
        X(ENUM,   init,           "init",           "auto",         0,    0,       "auto|mpi|tcp|file",               ALWAYS,   "ranks",     "how the processes meet; auto: mpi under mpirun, else this process is alone") \
        X(TEXT,   meet,           "meet",           "",             0,    0,       "",                                ALWAYS,   "ranks",     "where: HOST:PORT of rank 0 for tcp, for file a path that all hosts share") \
        X(INT,    ranks,          "ranks",          "0",            0,    65536,   "",                                ALWAYS,   "ranks",     "processes, one a GPU (0: what mpirun or srun says, else 1); with --dry-run: GPUs to estimate for") \
        X(INT,    rank,           "rank",           "-1",           -1,   65535,   "",                                ALWAYS,   "ranks",     "which of them this process is (-1: what mpirun or srun says)") \
        X(INT,    zero,           "zero",           "0",            0,    1,       "",                                ALWAYS,   "ranks",     "1: master weights and moments are divided among the ranks (ZeRO-1)") \
        X(ENUM,   reduce,         "reduce",         "fp32",         0,    0,       "fp32|bf16",                       ALWAYS,   "ranks",     "what gradients travel in; the error of bf16 is printed at the first step") \
        X(INT,    timeout,        "timeout",        "600",          2,    86400,   "",                                ALWAYS,   "ranks",     "seconds until a rank that does not answer is given up, and the run with it") \
        X(INT,    check_every,    "check-every",    "1000",         0,    100000000, "",                              ALWAYS,   "ranks",     "steps between comparisons of the weights across ranks (0: never)") \
        X(REAL,   gpu_tok_s,      "gpu-tok-s",      "0",            0,    1e12,    "",                                ALWAYS,   "ranks",     "for --dry-run: tokens a second measured on one GPU (0: 40 % of an H100's peak)") \
        X(INT,    host_gpus,      "host-gpus",      "8",            1,    1024,    "",                                ALWAYS,   "ranks",     "for --dry-run: GPUs in one host") \
        X(REAL,   gpu_link,       "gpu-link",       "350",          0.01, 1e6,     "",                                ALWAYS,   "ranks",     "for --dry-run: GB/s that a reduction reaches between the GPUs of a host") \
        X(REAL,   host_link,      "host-link",      "40",           0.01, 1e6,     "",                                ALWAYS,   "ranks",     "for --dry-run: GB/s that it reaches between hosts, per GPU") \
        X(INT,    max_bad_steps,  "max-bad-steps",  "10",           1,    1000000, "",                                ALWAYS,   "safety",    "stop after this many skipped steps in a row") \
        X(REAL,   skip_z,         "skip-z",         "0",            0,    1000,    "",                                ALWAYS,   "safety",    "skip steps whose loss or gradient norm is so many deviations above the last 128 steps' (0: off)") \
        X(FLAG,   dry_run,        "dry-run",        "0",            0,    1,       "",                                ALWAYS,   "other",     "print options, parameters, memory, FLOPs and tokens, then exit; needs neither GPU nor data") \
        X(FLAG,   eval_only,      "eval-only",      "0",            0,    1,       "",                                ALWAYS,   "other",     "score --eval-data (perplexities, tasks) and --val-data (loss) with the newest checkpoint, then exit") \
        X(TEXT,   eval_data,      "eval-data",      "",             0,    0,       "",                                ALWAYS,   "other",     "evaluation shards with their sidecars NAME.json: texts and tasks, a file name or a glob pattern in quotes") \
        X(INT,    eval_items,     "eval-items",     "0",            0,    100000000, "",                              ALWAYS,   "other",     "score the first N items of a task (0: all)") \
        X(TEXT,   eval_out,       "eval-out",       "",             0,    0,       "",                                ALWAYS,   "other",     "file for the score of every continuation of a task, one JSON line each") \
        X(INT,    eval_context,   "eval-context",   "0",            0,    1048576, "",                                ALWAYS,   "other",     "tokens of context (0: seq-len)") \
        X(INT,    eval_stride,    "eval-stride",    "0",            0,    1048576, "",                                ALWAYS,   "other",     "tokens a window moves on, at most the context (0: half the context)") \
        X(ENUM,   eval_attention, "eval-attention", "sparse",       0,    0,       "sparse|dense",                    ALWAYS,   "other",     "MoBA layers as trained, or the same weights attending to every block") \
        X(TEXT,   prompt,         "prompt",         "",             0,    0,       "",                                ALWAYS,   "other",     "with a checkpoint: continue this text, then exit") \
        X(INT,    sample_tokens,  "sample-tokens",  "64",           1,    1048576, "",                                ALWAYS,   "other",     "tokens to sample") \
        X(REAL,   temperature,    "temperature",    "0.8",          0,    100,     "",                                ALWAYS,   "other",     "sampling temperature (0: greedy)") \
        X(INT,    top_k,          "top-k",          "0",            0,    1048576, "",                                ALWAYS,   "other",     "sample among the k likeliest tokens (0: all)") \
        X(REAL,   top_p,          "top-p",          "1.0",          0,    1,       "",                                ALWAYS,   "other",     "sample among the likeliest tokens that hold this probability (1: all)")

#endif
