#include "dryrun.h"

#include <math.h>
#include <string.h>

#include "flops.h"
#include "report.h"

static const double DEFAULT_FLOPS = 0.4 * 989e12;      // 40 % of an H100's dense bf16 peak, where no measurement is given
static const double LATENCY_MS = 0.02;                 // of a collective, for each doubling of the number of GPUs

// What a millisecond of hidden reduction, had it the GPU for itself, takes from the computing it hides behind: NCCL holds SMs for which a
// product's last wave then waits. Two H200s, 340M at 8K, lost 1.7 to 2.0 of it at 4 and 8 rows a micro-batch, 0.9 at one (dev/LOG.md).
static const double CONTENTION = 1.8;

// ---- the estimate -----------------------------------------------------------------------------------------------------------

// An all-reduce (passes 2) or its half, a reduce-scatter or all-gather (1): rings inside each host, then of the GPUs with the same place in all
// hosts, each of which carries its part of a host's bytes over its own network link.
static double collective_ms(const EstimateInput* in, double bytes, double passes, int gpus, int calls) {
    int inside = min_int(gpus, in->host_gpus), hosts = ceil_div(gpus, inside);
    double local = passes * (inside - 1) / inside * bytes / in->gpu_link;
    double remote = passes * (hosts - 1) / hosts * (bytes / inside) / in->host_link;
    return gpus == 1 ? 0 : local + remote + calls * LATENCY_MS * log2(gpus);
}

StepEstimate estimate_step(const EstimateInput* in, int gpus) {
    double passes = in->gather_bytes > 0 ? 1 : 2;
    double body = collective_ms(in, in->body_bytes, passes, gpus, in->buckets);
    double tail = collective_ms(in, in->tail_bytes, passes, gpus, 1);
    double gather = in->gather_bytes > 0 ? collective_ms(in, in->gather_bytes, 1, gpus, in->buckets) : 0;
    double hidden = fmin(body, in->backward_ms);
    StepEstimate e = {in->compute_ms, CONTENTION * hidden, body + tail + gather, body - hidden + tail + gather};
    return e;
}

static EstimateInput estimate_input(const Config* cfg, const Model* m) {
    double tokens = (double)cfg->total_batch / cfg->ranks, micro = (double)cfg->micro_batch * cfg->seq_len;
    double tok_s = cfg->gpu_tok_s > 0 ? cfg->gpu_tok_s : DEFAULT_FLOPS / flops_per_token(&m->shape, cfg->seq_len, false);
    double width = cfg->reduce == REDUCE_BF16 ? 2 : 4;
    size_t wte = round_up((size_t)m->shape.Vp * (size_t)m->shape.C, PARAM_ALIGN), vectors = m->table.elements - m->table.matrix_elements;
    Partition p = partition_make(&m->table, 0, cfg->ranks, cfg->zero == 1, 0);
    EstimateInput in = {tokens / tok_s * 1e3, micro / tok_s * 1e3 * 2 / 3, width * (double)(m->table.matrix_elements - wte), width * (double)(wte + vectors),
                        cfg->zero ? 2.0 * (double)m->table.matrix_elements + 4.0 * (double)vectors : 0, p.buckets, cfg->host_gpus,
                        cfg->gpu_link * 1e6, cfg->host_link * 1e6};
    partition_free(&p);
    return in;
}

// ---- memory on many GPUs -------------------------------------------------------------------------------------------------------

static double plan_gib(const Config* cfg, PlanRun plan, int gpus, bool sharded) {
    Model m;
    Optimizer opt;
    plan(&m, &opt, cfg, cfg->recompute, 0, gpus, sharded);
    double gib = (double)m.arena.bytes / (1 << 30);
    optimizer_close(&opt);
    model_unplan(&m);
    return gib;
}

static void print_scaling(const Config* cfg, const Model* m, PlanRun plan) {
    EstimateInput in = estimate_input(cfg, m);
    double tokens = (double)cfg->total_batch / cfg->ranks;
    printf("scaling     estimated, with the tokens a GPU takes in a step held at %.0f\n", tokens);
    printf("            assumed: %.0f tok/s on one GPU (%s); %d GPUs a host, %.0f GB/s reduction speed between them, %.0f GB/s a GPU between hosts;\n"
           "            rings inside a host, then across hosts; %.0f us a collective and doubling; %d buckets; a third of a micro-batch is forward;\n"
           "            hidden is what its backward has time for, but for the embedding and the vectors%s; backward takes %.1f ms longer for a hidden one;\n"
           "            no stragglers, data is never late\n",
           tokens / in.compute_ms * 1e3, cfg->gpu_tok_s > 0 ? "--gpu-tok-s" : "40 % of an H100's peak; measure one GPU and give --gpu-tok-s", cfg->host_gpus,
           cfg->gpu_link, cfg->host_link, LATENCY_MS * 1e3, in.buckets, cfg->zero ? ", and the gathering of the weights" : "", CONTENTION);
    printf("    GPUs    tokens/step  compute ms  slowed ms  reduction ms  waited ms  step ms      tok/s  efficiency  GiB/GPU zero 0, 1\n");
    for (int gpus = 1; gpus <= 1024; gpus *= 2) {
        StepEstimate e = estimate_step(&in, gpus);
        double step = e.compute + e.slowed + e.waited;
        printf("    %4d  %13.0f  %10.2f  %9.2f  %12.2f  %9.2f  %7.2f  %9.4g  %9.1f%%  %7.2f %7.2f\n", gpus, tokens * gpus, e.compute, e.slowed, e.reduction, e.waited, step,
               tokens * gpus / step * 1e3, 100 * e.compute / step, plan_gib(cfg, plan, gpus, false),
               plan_gib(cfg, plan, gpus, true));
    }
    StepEstimate e = estimate_step(&in, cfg->ranks);
    printf("time        %.1f hours for %d steps on %d GPU%s\n", (e.compute + e.slowed + e.waited) * cfg->steps / 3.6e6, cfg->steps, cfg->ranks, cfg->ranks > 1 ? "s" : "");
}

int dry_run(const Config* cfg, PlanRun plan) {
    static const char* level_name[] = {"keep all", "redo norms and SwiGLU", "redo gate and up too", "keep layer inputs", "keep every second layer's input"};
    Model m;
    Optimizer opt;
    config_print(cfg, stdout);
    for (int level = RECOMPUTE_NONE; level <= RECOMPUTE_PAIR; level++) {
        plan(&m, &opt, cfg, level, 0, cfg->ranks, cfg->zero == 1);
        if (level == RECOMPUTE_NONE) {
            report_model(&m);
            report_parameters(&m);
            report_flops(cfg, &m);
            print_scaling(cfg, &m, plan);
        }
        printf("--recompute %d (%s)\n  ", level, level_name[level]);
        arena_print(&m.arena);
        optimizer_close(&opt);
        model_unplan(&m);
    }
    printf("runtime     on a GPU CUDA and its libraries take about 0.5 GiB beside that, which a run measures and prints in its line of memory\n");
    return 0;
}
