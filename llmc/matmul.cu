// Products through cuBLASLt. It knows column-major only: there a row-major (R, C) matrix is a (C, R) one with leading dimension C,
// so  out (N, OC) = inp weight^T  is asked for as  out^T (OC x N) = weight inp^T,  and nothing is moved.
#include <cublasLt.h>

#include "cuda_common.cuh"
#include "ops.h"

typedef enum { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT } MatmulKind;
static const char* const kind_names[] = {"matmul_forward", "matmul_backward_input", "matmul_backward_weight"};

typedef struct {
    MatmulKind kind;
    int N, C, OC;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, out;
    cublasLtMatmulAlgo_t algorithm;
} Plan;

struct MatmulPlans {
    cublasLtHandle_t handle;
    void* workspace;
    size_t workspace_bytes;
    Plan* plans;
    int count, capacity;
};

#define CUBLAS_CHECK(call, name, N, C, OC) do { cublasStatus_t status_ = (call); \
    if (status_ != CUBLAS_STATUS_SUCCESS) { \
        FAIL(EXIT_INTERNAL, "%s N=%d C=%d OC=%d: cuBLASLt status %d (%s)", name, N, C, OC, (int)status_, cublasLtGetStatusString(status_)); \
    } } while (0)

extern "C" struct MatmulPlans* matmul_open(size_t workspace_bytes) {
    struct MatmulPlans* plans = (struct MatmulPlans*)xcalloc(1, sizeof(struct MatmulPlans));
    CUBLAS_CHECK(cublasLtCreate(&plans->handle), "matmul_open", 0, 0, 0);
    plans->workspace_bytes = workspace_bytes;
    if (workspace_bytes) { CUDA_CHECK(cudaMalloc(&plans->workspace, workspace_bytes)); }
    return plans;
}

extern "C" void matmul_close(struct MatmulPlans* plans) {
    for (int i = 0; i < plans->count; i++) {
        cublasLtMatmulDescDestroy(plans->plans[i].product);
        cublasLtMatrixLayoutDestroy(plans->plans[i].a);
        cublasLtMatrixLayoutDestroy(plans->plans[i].b);
        cublasLtMatrixLayoutDestroy(plans->plans[i].out);
    }
    CUDA_CHECK(cudaFree(plans->workspace));
    cublasLtDestroy(plans->handle);
    free(plans->plans);
    free(plans);
}

// The heuristic's first choice among deterministic algorithms: a split inner dimension may be reduced through the workspace in fp32,
// never by adding into the output.
static void choose_algorithm(Plan* plan, const struct MatmulPlans* plans) {
    const char* name = kind_names[plan->kind];
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
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
                                                           1, &result, &found);
    if (status == CUBLAS_STATUS_SUCCESS && found == 0) { status = CUBLAS_STATUS_NOT_SUPPORTED; }
    CUBLAS_CHECK(status, name, plan->N, plan->C, plan->OC);
    plan->algorithm = result.algo;
    cublasLtMatmulPreferenceDestroy(preference);
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
        case FORWARD:                                                    // out^T (OC x N) = weight (as C x OC, turned) inp^T (C x N)
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
    }
    const char* name = kind_names[plan->kind];
    CUBLAS_CHECK(cublasLtMatmulDescCreate(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), name, N, C, OC);
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &a_turn, sizeof a_turn), name, N, C, OC);
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_TRANSB, &b_turn, sizeof b_turn), name, N, C, OC);
}

// A program multiplies a few dozen shapes: they are looked through in order. The pointer is good until the next call.
static Plan* find_plan(struct MatmulPlans* plans, MatmulKind kind, int N, int C, int OC) {
    for (int i = 0; i < plans->count; i++) {
        Plan* plan = &plans->plans[i];
        if (plan->kind == kind && plan->N == N && plan->C == C && plan->OC == OC) { return plan; }
    }
    if (plans->count == plans->capacity) {
        plans->capacity = plans->capacity ? 2 * plans->capacity : 32;
        Plan* larger = (Plan*)xmalloc(plans->capacity * sizeof(Plan));
        if (plans->count) { memcpy(larger, plans->plans, plans->count * sizeof(Plan)); }
        free(plans->plans);
        plans->plans = larger;
    }
    Plan* plan = &plans->plans[plans->count++];
    plan->kind = kind, plan->N = N, plan->C = C, plan->OC = OC;
    describe(plan);
    choose_algorithm(plan, plans);
    return plan;
}

static void multiply(MatmulKind kind, void* out, const floatX* a, const floatX* b, float beta, int N, int C, int OC,
                     struct MatmulPlans* plans, stream_t stream) {
    const char* name = kind_names[kind];
    REQUIRE(C % 8 == 0 && OC % 8 == 0, "%s: C=%d or OC=%d is not a multiple of 8 (16-byte rows)", name, C, OC);
    REQUIRE(((uintptr_t)out | (uintptr_t)a | (uintptr_t)b) % 16 == 0, "%s N=%d C=%d OC=%d: a matrix does not start at a multiple of 16 bytes",
            name, N, C, OC);
    Plan* plan = find_plan(plans, kind, N, C, OC);
    float alpha = 1;
    CUBLAS_CHECK(cublasLtMatmul(plans->handle, plan->product, &alpha, a, plan->a, b, plan->b, &beta, out, plan->out, out, plan->out,
                                &plan->algorithm, plans->workspace, plans->workspace_bytes, stream), name, N, C, OC);
}

extern "C" void matmul_forward(floatX* out, const floatX* inp, const floatX* weight, int N, int C, int OC,
                               struct MatmulPlans* plans, stream_t stream) {
    multiply(FORWARD, out, weight, inp, 0, N, C, OC, plans, stream);
}

extern "C" void matmul_backward_input(floatX* dinp, const floatX* dout, const floatX* weight, int N, int C, int OC,
                                      struct MatmulPlans* plans, stream_t stream) {
    multiply(BACKWARD_INPUT, dinp, weight, dout, 0, N, C, OC, plans, stream);
}

extern "C" void matmul_backward_weight(float* dweight, const floatX* dout, const floatX* inp, int N, int C, int OC,
                                       struct MatmulPlans* plans, stream_t stream) {
    multiply(BACKWARD_WEIGHT, dweight, inp, dout, 1, N, C, OC, plans, stream);
}
