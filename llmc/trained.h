// Level 5: what options name, opened; and what is done with a trained run: evaluation, and going on with a prompt.
#ifndef TRAINED_H
#define TRAINED_H

#include "config.h"
#include "device.h"
#include "model.h"
#include "sample.h"
#include "shard.h"
#include "tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

// These end the program with a sentence where the options cannot be met.
ModelShape shape_of(const Config* cfg);
ShardSet*  open_shards(const Config* cfg, const char* pattern);
Tokenizer* open_tokenizer(const Config* cfg);
AttnPath   attn_path_of(const Config* cfg, const Device* device);

SampleSettings sample_settings(const Config* cfg, uint64_t stream);
void           plan_sampling(Model* m, const Config* cfg, size_t prompt_bytes);

// --eval-only and --prompt: the exit status
int trained_evaluate(Config* cfg);
int trained_complete(Config* cfg);

#ifdef __cplusplus
}
#endif
#endif
