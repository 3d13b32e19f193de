// The linker puts this before cublasLtMatmul (Makefile: --wrap) in the program that sanitize_gpu.sh gives to initcheck: the tool does not see
// the library's TMA stores, and takes what its products wrote for memory that nobody wrote. So a kernel with ordinary stores writes out's
// elements before the product does. They become NaN: what a product leaves out is not hidden but spoils the loss.
#include <cublasLt.h>

#include "cuda_common.cuh"

extern "C" {
cublasStatus_t __real_cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void*, cublasLtMatrixLayout_t, const void*,
                                     cublasLtMatrixLayout_t, const void*, const void*, cublasLtMatrixLayout_t, void*, cublasLtMatrixLayout_t,
                                     const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t);
cublasStatus_t __wrap_cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void*, cublasLtMatrixLayout_t, const void*,
                                     cublasLtMatrixLayout_t, const void*, const void*, cublasLtMatrixLayout_t, void*, cublasLtMatrixLayout_t,
                                     const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t);
}

// a matrix in memory, in bytes: `lines` columns (or rows, if those lie together) of `width`, `pitch` apart, and that `batches` times, `stride` apart
typedef struct { size_t width, pitch, lines, stride; int batches; } Extent;

#define LT_CHECK(call) do { cublasStatus_t status_ = (call); \
    if (status_ != CUBLAS_STATUS_SUCCESS) { FAIL(EXIT_INTERNAL, "%s: %s", #call, cublasLtGetStatusString(status_)); } } while (0)

static Extent extent_of(cublasLtMatrixLayout_t matrix) {
    uint32_t type;
    int32_t order, batches;
    uint64_t rows, columns;
    int64_t ld, stride;
    #define ASK(what, value) LT_CHECK(cublasLtMatrixLayoutGetAttribute(matrix, CUBLASLT_MATRIX_LAYOUT_##what, &(value), sizeof(value), NULL))
    ASK(TYPE, type);
    ASK(ORDER, order);
    ASK(ROWS, rows);
    ASK(COLS, columns);
    ASK(LD, ld);
    ASK(BATCH_COUNT, batches);
    ASK(STRIDED_BATCH_OFFSET, stride);
    #undef ASK
    REQUIRE(type == CUDA_R_16BF || type == CUDA_R_32F, "a product writes elements of type %u, known are bf16 and fp32", type);
    REQUIRE(order == CUBLASLT_ORDER_COL || order == CUBLASLT_ORDER_ROW, "a product writes a matrix of order %d, known are columns and rows", order);
    size_t bytes = type == CUDA_R_16BF ? 2 : 4;
    bool by_column = order == CUBLASLT_ORDER_COL;
    return {(by_column ? rows : columns) * bytes, ld * bytes, by_column ? columns : rows, stride * bytes, batches};
}

// one block per line, its threads along it; 0xffff is NaN in bf16, twice it is NaN in fp32
__global__ void spoil_kernel(char* out, size_t width, size_t pitch) {
    uint16_t* line = (uint16_t*)(out + blockIdx.x * pitch);
    for (size_t i = threadIdx.x; i < width / sizeof(uint16_t); i += blockDim.x) { line[i] = 0xffff; }
}

static void spoil(void* out, Extent e, cudaStream_t stream) {
    for (int b = 0; b < e.batches; b++) {
        spoil_kernel<<<(unsigned)e.lines, 256, 0, stream>>>((char*)out + b * e.stride, e.width, e.pitch);
        LAUNCH_CHECK();
    }
}

// out = alpha a b + beta add: out is read only where it is what the product joins, and joins at all
static bool out_is_read(cublasLtMatmulDesc_t product, const void* beta, const void* add, const void* out) {
    int32_t pointers, scale;
    LT_CHECK(cublasLtMatmulDescGetAttribute(product, CUBLASLT_MATMUL_DESC_POINTER_MODE, &pointers, sizeof pointers, NULL));
    LT_CHECK(cublasLtMatmulDescGetAttribute(product, CUBLASLT_MATMUL_DESC_SCALE_TYPE, &scale, sizeof scale, NULL));
    REQUIRE(pointers == CUBLASLT_POINTER_MODE_HOST && scale == CUDA_R_32F,
            "a product's beta is not an fp32 number of the host (pointer mode %d, type %d)", pointers, scale);
    return add == out && *(const float*)beta != 0;
}

cublasStatus_t __wrap_cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product, const void* alpha, const void* a,
                                     cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                                     const void* add, cublasLtMatrixLayout_t add_layout, void* out, cublasLtMatrixLayout_t out_layout,
                                     const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes, cudaStream_t stream) {
    if (!out_is_read(product, beta, add, out)) { spoil(out, extent_of(out_layout), stream); }
    return __real_cublasLtMatmul(handle, product, alpha, a, a_layout, b, b_layout, beta, add, add_layout, out, out_layout, algorithm, workspace,
                                 workspace_bytes, stream);
}
