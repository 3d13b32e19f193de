// Level 0: the layer pattern, "S256,M128:8" -> one LayerSpec a layer.
//
//   pattern = element { "," element }          a cycle repeated over the layers, or as long as the model is deep
//   element = "S" [window]                     sliding-window attention with RoPE; "S" alone is S256
//           | "M" block ":" topk               MoBA; topk counts the own block
//           | "D"                              full causal attention
#ifndef PATTERN_H
#define PATTERN_H

#include "common.h"

typedef enum { LAYER_S, LAYER_M, LAYER_D } LayerKind;

enum {
    PATTERN_WINDOW = 256, PATTERN_MAX_WINDOW = 1048576,
    PATTERN_MIN_BLOCK = 8, PATTERN_MAX_BLOCK = 65536,     // what the grammar allows; the backend says what it has kernels for
    PATTERN_MAX_TOPK = 32,
    WINDOW_ALL = 1 << 30,                                 // wider than any row: full causal attention
};

typedef struct {
    LayerKind kind;
    int       window;        // S: keys a query sees, itself included; D: WINDOW_ALL; M: 0
    int       block, topk;   // M; else 0
} LayerSpec;

#ifdef __cplusplus
extern "C" {
#endif

// spec: (layers). Errors name the element.
bool pattern_parse(LayerSpec* spec, int layers, const char* text, Error* err);

// The shortest cycle that gives these layers, every number written out. The text is the caller's to free.
char* pattern_text(const LayerSpec* spec, int layers);

#ifdef __cplusplus
}
#endif
#endif
