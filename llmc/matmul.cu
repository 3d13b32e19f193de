// Products through cuBLASLt. It knows column-major only: there a row-major (R, C) matrix is a (C, R) one with leading dimension C,
// so  out (N, OC) = inp weight^T  is asked for as  out^T (OC x N) = weight inp^T,  and nothing is moved.
#include <cublasLt.h>

#include "cuda_common.cuh"
#include "ops.h"

typedef enum { FORWARD, FORWARD_ADD, BACKWARD_INPUT, BACKWARD_WEIGHT, KINDS } MatmulKind;
static const char* const kind_names[KINDS] = {"matmul_forward", "matmul_forward_add", "matmul_backward_input", "matmul_backward_weight"};

// A measured time is kept beside the algorithm that had it; 0 where the library's first proposal was taken unmeasured.
typedef struct {
    MatmulKind kind;
    int N, C, OC;
    float ms;                   // the least that any proposal has taken; 0: not measured
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, out;
    cublasLtMatmulAlgo_t algorithm;
} Plan;

struct MatmulPlans {
    cublasLtHandle_t handle;
    void* workspace;
    size_t workspace_bytes;
    bool measuring;
    Plan* plans;
    int count, capacity;
};

// the operands of one product, in cuBLASLt's order
typedef struct { void* out; const floatX *a, *b; const void* add; stream_t stream; } Operands;      // add: NULL, or what the product joins

enum { MAX_PROPOSALS = 32, TIMED_RUNS = 3 };
static const float CLEARLY_FASTER = 0.98f;      // of the first proposal's time: less is noise, and a choice by noise differs from run to run

#define CUBLAS_CHECK(call, name, N, C, OC) do { cublasStatus_t status_ = (call); \
    if (status_ != CUBLAS_STATUS_SUCCESS) { \
        FAIL(EXIT_INTERNAL, "%s N=%d C=%d OC=%d: cuBLASLt status %d (%s)", name, N, C, OC, (int)status_, cublasLtGetStatusString(status_)); \
    } } while (0)

extern "C" size_t matmul_workspace(void) { return (size_t)64 << 20; }

extern "C" struct MatmulPlans* matmul_open(void* workspace, size_t workspace_bytes) {
    struct MatmulPlans* plans = (struct MatmulPlans*)xcalloc(1, sizeof(struct MatmulPlans));
    CUBLAS_CHECK(cublasLtCreate(&plans->handle), "matmul_open", 0, 0, 0);
    plans->workspace = workspace;
    plans->workspace_bytes = workspace_bytes;
    return plans;
}

static void close_plan(Plan* plan) {
    cublasLtMatmulDescDestroy(plan->product);
    cublasLtMatrixLayoutDestroy(plan->a);
    cublasLtMatrixLayoutDestroy(plan->b);
    cublasLtMatrixLayoutDestroy(plan->out);
}

extern "C" void matmul_close(struct MatmulPlans* plans) {
    for (int i = 0; i < plans->count; i++) { close_plan(&plans->plans[i]); }
    cublasLtDestroy(plans->handle);
    free(plans->plans);
    free(plans);
}

// The library's proposals for a shape, its favourite first; returns how many. A split inner dimension may be reduced through the workspace in
// fp32, in a fixed order, never by adding into the output as the parts arrive.
static int propose(cublasLtMatmulHeuristicResult_t proposals[MAX_PROPOSALS], const Plan* plan, const struct MatmulPlans* plans) {
    const char* name = kind_names[plan->kind];
    cublasLtMatmulPreference_t preference;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, alignment = 16;
    int found = 0;
    CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&preference), name, plan->N, plan->C, plan->OC);
    #define PREFER(what, value) CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_##what, &(value), \
                                             sizeof(value)), name, plan->N, plan->C, plan->OC)
    PREFER(MAX_WORKSPACE_BYTES, plans->workspace_bytes);
    PREFER(REDUCTION_SCHEME_MASK, reductions);
    PREFER(MIN_ALIGNMENT_A_BYTES, alignment);
    PREFER(MIN_ALIGNMENT_B_BYTES, alignment);
    PREFER(MIN_ALIGNMENT_C_BYTES, alignment);
    PREFER(MIN_ALIGNMENT_D_BYTES, alignment);
    #undef PREFER
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(plans->handle, plan->product, plan->a, plan->b, plan->out, plan->out, preference,
                                                           plans->measuring ? MAX_PROPOSALS : 1, proposals, &found);
    if (status == CUBLAS_STATUS_SUCCESS && found == 0) { status = CUBLAS_STATUS_NOT_SUPPORTED; }
    CUBLAS_CHECK(status, name, plan->N, plan->C, plan->OC);
    cublasLtMatmulPreferenceDestroy(preference);
    return found;
}

static cublasStatus_t launch(const struct MatmulPlans* plans, const Plan* plan, const cublasLtMatmulAlgo_t* algorithm, Operands x) {
    float alpha = 1, beta = x.add ? 1 : 0;
    return cublasLtMatmul(plans->handle, plan->product, &alpha, x.a, plan->a, x.b, plan->b, &beta, x.add ? x.add : x.out, plan->out, x.out, plan->out,
                          algorithm, plans->workspace, plans->workspace_bytes, x.stream);
}

// milliseconds of the fastest of a few runs; negative if the algorithm does not run
static float time_of(const struct MatmulPlans* plans, const Plan* plan, const cublasLtMatmulAlgo_t* algorithm, Operands x, cudaEvent_t begin,
                     cudaEvent_t end) {
    float best = -1;
    if (launch(plans, plan, algorithm, x) != CUBLAS_STATUS_SUCCESS) { return -1; }
    for (int run = 0; run < TIMED_RUNS; run++) {
        float ms = 0;
        CUDA_CHECK(cudaEventRecord(begin, x.stream));
        CUBLAS_CHECK(launch(plans, plan, algorithm, x), kind_names[plan->kind], plan->N, plan->C, plan->OC);
        CUDA_CHECK(cudaEventRecord(end, x.stream));
        CUDA_CHECK(cudaEventSynchronize(end));
        CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
        if (best < 0 || ms < best) { best = ms; }
    }
    return best;
}

static void choose_algorithm(Plan* plan, const struct MatmulPlans* plans, Operands x) {
    cublasLtMatmulHeuristicResult_t proposals[MAX_PROPOSALS];
    int found = propose(proposals, plan, plans);
    plan->algorithm = proposals[0].algo;
    plan->ms = 0;
    if (!plans->measuring) { return; }
    void* own = NULL;
    if (x.add && x.add == x.out) {       // each timed run would add to what is there: they get memory of their own, without it there is no measuring
        if (cudaMalloc(&own, (size_t)plan->C * plan->OC * sizeof(float)) != cudaSuccess) { (void)cudaGetLastError(); return; }
        x.add = x.out = own;
    }
    cudaEvent_t begin, end;
    CUDA_CHECK(cudaEventCreate(&begin));
    CUDA_CHECK(cudaEventCreate(&end));
    float first = 0, chosen = 0;
    for (int i = 0; i < found; i++) {
        if (proposals[i].state != CUBLAS_STATUS_SUCCESS) { continue; }
        float ms = time_of(plans, plan, &proposals[i].algo, x, begin, end);
        if (ms < 0) { continue; }
        if (first == 0) { first = ms; }
        if (plan->ms == 0 || ms < plan->ms) { plan->ms = ms; }
        if (chosen == 0 || (ms < chosen && ms < CLEARLY_FASTER * first)) {
            chosen = ms;
            plan->algorithm = proposals[i].algo;
        }
    }
    CUDA_CHECK(cudaEventDestroy(begin));
    CUDA_CHECK(cudaEventDestroy(end));
    CUDA_CHECK(cudaFree(own));
}

// rows x columns of the column-major view; the leading dimension is the number of rows
static cublasLtMatrixLayout_t layout(cudaDataType_t type, int rows, int columns, const Plan* plan) {
    cublasLtMatrixLayout_t result;
    CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&result, type, rows, columns, rows), kind_names[plan->kind], plan->N, plan->C, plan->OC);
    return result;
}

static void describe(Plan* plan) {
    int N = plan->N, C = plan->C, OC = plan->OC;
    cublasOperation_t a_turn = CUBLAS_OP_N, b_turn = CUBLAS_OP_N;
    switch (plan->kind) {
        case FORWARD:
        case FORWARD_ADD:                                                // out^T (OC x N) = weight (as C x OC, turned) inp^T (C x N)
            a_turn = CUBLAS_OP_T;
            plan->a = layout(CUDA_R_16BF, C, OC, plan);
            plan->b = layout(CUDA_R_16BF, C, N, plan);
            plan->out = layout(CUDA_R_16BF, OC, N, plan);
            break;
        case BACKWARD_INPUT:                                             // dinp^T (C x N) = weight^T (C x OC) dout^T (OC x N)
            plan->a = layout(CUDA_R_16BF, C, OC, plan);
            plan->b = layout(CUDA_R_16BF, OC, N, plan);
            plan->out = layout(CUDA_R_16BF, C, N, plan);
            break;
        case BACKWARD_WEIGHT:                                            // dweight^T (C x OC) = inp^T (C x N) dout (as OC x N, turned)
            b_turn = CUBLAS_OP_T;
            plan->a = layout(CUDA_R_16BF, C, N, plan);
            plan->b = layout(CUDA_R_16BF, OC, N, plan);
            plan->out = layout(CUDA_R_32F, C, OC, plan);
            break;
        case KINDS: break;
    }
    const char* name = kind_names[plan->kind];
    CUBLAS_CHECK(cublasLtMatmulDescCreate(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), name, N, C, OC);
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &a_turn, sizeof a_turn), name, N, C, OC);
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_TRANSB, &b_turn, sizeof b_turn), name, N, C, OC);
}

static Plan* known_plan(const struct MatmulPlans* plans, MatmulKind kind, int N, int C, int OC) {
    for (int i = 0; i < plans->count; i++) {
        Plan* plan = &plans->plans[i];
        if (plan->kind == kind && plan->N == N && plan->C == C && plan->OC == OC) { return plan; }
    }
    return NULL;
}

// described, without an algorithm
static Plan* add_plan(struct MatmulPlans* plans, MatmulKind kind, int N, int C, int OC) {
    if (plans->count == plans->capacity) {
        plans->capacity = plans->capacity ? 2 * plans->capacity : 32;
        Plan* larger = (Plan*)xmalloc(plans->capacity * sizeof(Plan));
        if (plans->count) { memcpy(larger, plans->plans, plans->count * sizeof(Plan)); }
        free(plans->plans);
        plans->plans = larger;
    }
    Plan* plan = &plans->plans[plans->count++];
    plan->kind = kind, plan->N = N, plan->C = C, plan->OC = OC, plan->ms = 0;
    describe(plan);
    return plan;
}

// A program multiplies a few dozen shapes: they are looked through in order.
static void multiply(MatmulKind kind, void* out, const floatX* a, const floatX* b, const void* add, int N, int C, int OC,
                     struct MatmulPlans* plans, stream_t stream) {
    const char* name = kind_names[kind];
    REQUIRE(C % 8 == 0 && OC % 8 == 0, "%s: C=%d or OC=%d is not a multiple of 8 (16-byte rows)", name, C, OC);
    REQUIRE(((uintptr_t)out | (uintptr_t)a | (uintptr_t)b | (uintptr_t)add) % 16 == 0, "%s N=%d C=%d OC=%d: a matrix does not start at a multiple of 16 bytes",
            name, N, C, OC);
    Operands operands = {out, a, b, add, stream};
    Plan* plan = known_plan(plans, kind, N, C, OC);
    if (!plan) {
        plan = add_plan(plans, kind, N, C, OC);
        choose_algorithm(plan, plans, operands);
    }
    CUBLAS_CHECK(launch(plans, plan, &plan->algorithm, operands), name, N, C, OC);
}

extern "C" void matmul_forward(floatX* out, const floatX* inp, const floatX* weight, int N, int C, int OC,
                               struct MatmulPlans* plans, stream_t stream) {
    multiply(FORWARD, out, weight, inp, NULL, N, C, OC, plans, stream);
}

extern "C" void matmul_forward_add(floatX* out, const floatX* inp, const floatX* weight, const floatX* add, int N, int C, int OC,
                                   struct MatmulPlans* plans, stream_t stream) {
    multiply(FORWARD_ADD, out, weight, inp, add, N, C, OC, plans, stream);
}

extern "C" void matmul_backward_input(floatX* dinp, const floatX* dout, const floatX* weight, int N, int C, int OC,
                                      struct MatmulPlans* plans, stream_t stream) {
    multiply(BACKWARD_INPUT, dinp, weight, dout, NULL, N, C, OC, plans, stream);
}

extern "C" void matmul_backward_weight(float* dweight, const floatX* dout, const floatX* inp, int N, int C, int OC, int add,
                                       struct MatmulPlans* plans, stream_t stream) {
    multiply(BACKWARD_WEIGHT, dweight, inp, dout, add ? dweight : NULL, N, C, OC, plans, stream);
}

// ---- plans as text --------------------------------------------------------------------------------------------------------
// first line   GPU, cuBLASLt VERSION          an algorithm means something to this library on this kind of GPU alone
// then         KIND N C OC MS and the eight words of the algorithm in hexadecimal; MS is the least that any algorithm has taken
enum { ALGORITHM_WORDS = sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t), LINE_BYTES = 320 };

static void first_line(char line[LINE_BYTES]) {
    cudaDeviceProp properties;
    int device = 0;
    CUDA_CHECK(cudaGetDevice(&device));
    CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    snprintf(line, LINE_BYTES, "%.255s, cuBLASLt %zu\n", properties.name, cublasLtGetVersion());
}

static void plan_line(char line[LINE_BYTES], const Plan* plan) {
    int length = snprintf(line, LINE_BYTES, "%s %d %d %d %.4f", kind_names[plan->kind], plan->N, plan->C, plan->OC, plan->ms);
    for (int w = 0; w < ALGORITHM_WORDS; w++) {
        length += snprintf(line + length, LINE_BYTES - length, " %llx", (unsigned long long)plan->algorithm.data[w]);
    }
    snprintf(line + length, LINE_BYTES - length, "\n");
}

extern "C" size_t matmul_plans_count(const struct MatmulPlans* plans) { return (size_t)plans->count; }

extern "C" void matmul_measure(struct MatmulPlans* plans, int on) { plans->measuring = on != 0; }

extern "C" size_t matmul_plans_text(char* text, size_t room, const struct MatmulPlans* plans) {
    size_t length = 0;
    char line[LINE_BYTES];
    if (room > 0) { text[0] = 0; }
    for (int i = -1; i < plans->count; i++) {
        if (i < 0) { first_line(line); } else { plan_line(line, &plans->plans[i]); }
        size_t bytes = strlen(line);
        if (length + bytes < room) { memcpy(text + length, line, bytes + 1); }
        length += bytes;
    }
    return length;
}

// false: the line is not a plan, or this library does not run its algorithm
static bool take_line(struct MatmulPlans* plans, const char* line) {
    char name[64];
    Plan read;
    int used = 0, kind = 0;
    if (sscanf(line, "%63s %d %d %d %f%n", name, &read.N, &read.C, &read.OC, &read.ms, &used) != 5) { return false; }
    while (kind < KINDS && strcmp(name, kind_names[kind]) != 0) { kind++; }
    if (kind == KINDS || read.N <= 0 || read.C <= 0 || read.OC <= 0) { return false; }
    for (int w = 0; w < ALGORITHM_WORDS; w++) {
        unsigned long long word;
        int more = 0;
        if (sscanf(line + used, "%llx%n", &word, &more) != 1) { return false; }
        read.algorithm.data[w] = word;
        used += more;
    }
    if (known_plan(plans, (MatmulKind)kind, read.N, read.C, read.OC)) { return false; }
    cublasLtMatmulHeuristicResult_t result;
    Plan* plan = add_plan(plans, (MatmulKind)kind, read.N, read.C, read.OC);
    plan->ms = read.ms;
    plan->algorithm = read.algorithm;
    cublasStatus_t status = cublasLtMatmulAlgoCheck(plans->handle, plan->product, plan->a, plan->b, plan->out, plan->out, &plan->algorithm, &result);
    if (status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= plans->workspace_bytes) { return true; }
    close_plan(plan);
    plans->count--;
    return false;
}

extern "C" size_t matmul_plans_take(struct MatmulPlans* plans, const char* text) {
    char line[LINE_BYTES];
    size_t taken = 0;
    first_line(line);
    if (strncmp(text, line, strlen(line)) != 0) { return 0; }
    for (const char* at = text + strlen(line); *at; at += strcspn(at, "\n"), at += *at == '\n') { taken += take_line(plans, at); }
    return taken;
}
