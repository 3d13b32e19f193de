// What written_products.cu writes before a product: here the product itself writes nothing, so that all of it is seen.
#include "test.h"
#ifndef LLMC_CPU
#include "ref.h"
#include "written_products.cu"

// a matrix of 5 rows and 3 columns (the other way round in ROW order), lines 8 elements apart, 2 batches 32 apart
enum { LONG = 5, LINES = 3, LD = 8, BATCHES = 2, STRIDE = 32, ELEMENTS = 64, UNTOUCHED = 0x11 };

static int products;        // asked of the library

cublasStatus_t __real_cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void*, cublasLtMatrixLayout_t, const void*,
                                     cublasLtMatrixLayout_t, const void*, const void*, cublasLtMatrixLayout_t, void*, cublasLtMatrixLayout_t,
                                     const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t) {
    products++;
    return CUBLAS_STATUS_SUCCESS;
}

static cublasLtMatrixLayout_t layout_of(cudaDataType_t type, cublasLtOrder_t lies, int count) {
    cublasLtMatrixLayout_t layout;
    int32_t order = lies, batches = count;
    int64_t stride = STRIDE;
    bool by_column = lies == CUBLASLT_ORDER_COL;
    LT_CHECK(cublasLtMatrixLayoutCreate(&layout, type, by_column ? LONG : LINES, by_column ? LINES : LONG, LD));
    LT_CHECK(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof order));
    LT_CHECK(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batches, sizeof batches));
    LT_CHECK(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride));
    return layout;
}

// bytes (ELEMENTS elements) of out after a product into it that joins beta of itself, or of another matrix
static unsigned char* after_product(cublasLtMatrixLayout_t layout, size_t bytes, float beta, bool of_itself) {
    unsigned char before[ELEMENTS * sizeof(float)];
    memset(before, UNTOUCHED, sizeof before);
    void *out = device_from(before, bytes), *other = device_from(before, bytes);
    float alpha = 1;
    cublasLtMatmulDesc_t product;
    LT_CHECK(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    products = 0;
    cublasStatus_t status = __wrap_cublasLtMatmul(NULL, product, &alpha, other, layout, other, layout, &beta, of_itself ? out : other, layout,
                                                  out, layout, NULL, NULL, 0, 0);
    CHECK_EQ(status, CUBLAS_STATUS_SUCCESS);
    CHECK_EQ(products, 1);
    unsigned char *found = (unsigned char*)host_from(out, bytes), *spared = (unsigned char*)host_from(other, bytes);
    CHECK(memcmp(spared, before, bytes) == 0, "another matrix than out was written");
    cublasLtMatmulDescDestroy(product);
    device_free(out);
    device_free(other);
    free(spared);
    return found;
}

// exactly the matrix's elements were written, or nothing
static void written_check(cudaDataType_t type, cublasLtOrder_t order, int batches, float beta, bool of_itself, bool expect_written) {
    size_t size = type == CUDA_R_32F ? 4 : 2;
    cublasLtMatrixLayout_t layout = layout_of(type, order, batches);
    unsigned char* found = after_product(layout, ELEMENTS * size, beta, of_itself);
    for (size_t i = 0; i < ELEMENTS * size; i++) {
        size_t element = i / size, line = element % STRIDE / LD;
        bool inside = expect_written && element / STRIDE < (size_t)batches && line < LINES && element % LD < LONG;
        CHECK(found[i] == (inside ? 0xff : UNTOUCHED), "byte %zu (element %zu) is %02x, of %d batches, beta %g", i, element, found[i], batches, beta);
    }
    cublasLtMatrixLayoutDestroy(layout);
    free(found);
}

GPU_TEST(written_products_set_every_element_and_no_gap) {
    for (int batches = 1; batches <= BATCHES; batches++) {
        written_check(CUDA_R_16BF, CUBLASLT_ORDER_COL, batches, 0, true, true);
        written_check(CUDA_R_32F, CUBLASLT_ORDER_COL, batches, 0, true, true);
        written_check(CUDA_R_16BF, CUBLASLT_ORDER_ROW, batches, 0, true, true);
    }
}

GPU_TEST(written_products_set_what_joins_another_matrix) {
    written_check(CUDA_R_16BF, CUBLASLT_ORDER_COL, BATCHES, 1, false, true);
    written_check(CUDA_R_16BF, CUBLASLT_ORDER_COL, BATCHES, 0, false, true);
}

GPU_TEST(written_products_leave_what_is_added_to) { written_check(CUDA_R_32F, CUBLASLT_ORDER_COL, BATCHES, 1, true, false); }
#endif

TEST_MAIN()
