// Level 3: the parameters. One line per tensor generates the views, the arena, the initialisation, the decay mask, the checkpoint's records
// and the printed table.
#ifndef PARAMS_H
#define PARAMS_H

#include "common.h"
#include "config.h"
#include "dtype.h"
#include "pattern.h"

// The shape of the network. layer[l] says what attention layer l has.
typedef struct {
    int L, C, H, D, F;       // layers, channels, heads, head dim = C/H, MLP width
    int V, Vp;               // true vocabulary; rounded up to 128
    int W;                   // key-convolution width, 0 for none
    int ranks;               // the flat arrays are padded to this many equal parts (0: 1)
    double theta;            // RoPE base
    LayerSpec* layer;        // (L)
} ModelShape;

enum { PARAM_ALIGN = 64 };   // elements: every tensor, and every rank's part, starts on 128 bytes in bf16, 256 in fp32

typedef enum { INIT_ONE, INIT_NORMAL, INIT_RESIDUAL, INIT_TAPS } InitKind;
// INIT_NORMAL N(0, 0.02);  INIT_RESIDUAL N(0, 0.02/sqrt(2L)), for what writes into the residual stream;  INIT_TAPS U(-1/sqrt(W), 1/sqrt(W))

// MATRIX: (rows, cols), computed with in floatX, decayed.   VECTOR: computed with in fp32, not decayed.
//        field   type    rows                          cols    init
#define LAYER_PARAMS(X) \
        X(norm1,  VECTOR, 1,                            s->C,   INIT_ONE) \
        X(wqkv,   MATRIX, 3 * s->C,                     s->C,   INIT_NORMAL) \
        X(kconv,  VECTOR, kconv_taps(s, l),             s->C,   INIT_TAPS) \
        X(wo,     MATRIX, s->C,                         s->C,   INIT_RESIDUAL) \
        X(norm2,  VECTOR, 1,                            s->C,   INIT_ONE) \
        X(w13,    MATRIX, 2 * s->F,                     s->C,   INIT_NORMAL) \
        X(w2,     MATRIX, s->C,                         s->F,   INIT_RESIDUAL)

#define MODEL_PARAMS(X) \
        X(wte,    MATRIX, s->Vp,                        s->C,   INIT_NORMAL) \
        X(normf,  VECTOR, 1,                            s->C,   INIT_ONE)

typedef floatX PARAM_MATRIX;
typedef float  PARAM_VECTOR;
#define PARAM_VIEW_FIELD(field, type, ...)  const PARAM_##type* field;
#define PARAM_GRAD_FIELD(field, ...)        float* field;
#define PARAM_LAYER_ID(field, ...)          LAYER_##field,
#define PARAM_MODEL_ID(field, ...)          MODEL_##field,

typedef struct { LAYER_PARAMS(PARAM_VIEW_FIELD) } LayerParams;
typedef struct { LAYER_PARAMS(PARAM_GRAD_FIELD) } LayerGrads;
typedef struct { MODEL_PARAMS(PARAM_VIEW_FIELD) } ModelParams;
typedef struct { MODEL_PARAMS(PARAM_GRAD_FIELD) } ModelGrads;
enum { LAYER_PARAMS(PARAM_LAYER_ID) LAYER_FIELDS };
enum { MODEL_PARAMS(PARAM_MODEL_ID) MODEL_FIELDS };

typedef struct {
    char     name[32];       // "layer.03.wqkv", "wte"
    bool     is_matrix;
    InitKind init;
    int      rows, cols;     // rows is 0 for a tensor this layer does not have (kconv outside M layers)
    size_t   offset;         // first element in the flat arena: matrices first, then vectors; multiples of 64
} Tensor;

// Master weights, moments and gradients are flat fp32 arenas of `elements`, laid out alike: matrices in [0, matrix_elements), vectors after.
// The compute copy has matrices in floatX and vectors in fp32.
typedef struct {
    int     count;           // MODEL_FIELDS + L * LAYER_FIELDS, model tensors first
    Tensor* tensor;
    size_t  matrix_elements, elements;   // with alignment padding
    size_t  parameters;                  // without it: what is printed
} ParamTable;

#ifdef __cplusplus
extern "C" {
#endif

// The shape that resolved options ask for; s->layer is the caller's to free. False: the pattern is bad.
bool shape_from_config(ModelShape* s, const Config* cfg, Error* err);

bool is_moba(const ModelShape* s, int l);
int  kconv_taps(const ModelShape* s, int l);          // W on M layers, else 0

ParamTable param_table(const ModelShape* s);
void       param_table_free(ParamTable* table);
size_t     parameter_formula(const ModelShape* s);    // the closed formula the table is tested against

// Master weights into host memory (`elements` floats), a pure function of (seed, tensor name, element); rows V..Vp-1 of wte are zero.
void       params_init(float* master, const ParamTable* table, const ModelShape* s, uint64_t seed);

LayerParams layer_params(const ParamTable* table, const floatX* matrices, const float* vectors, int l);
ModelParams model_params(const ParamTable* table, const floatX* matrices, const float* vectors);
LayerGrads  layer_grads(const ParamTable* table, float* grads, int l);
ModelGrads  model_grads(const ParamTable* table, float* grads);

#ifdef __cplusplus
}
#endif
#endif
