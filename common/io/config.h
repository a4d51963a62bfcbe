/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_model_config - config.json (and generation_config.json) of a Hugging Face decoder folder.
 *
 * Qwen3, Qwen2 and 2.5, Llama 3 and what has its architecture (SmolLM2), Mistral. Both generations
 * of keys are read: rope_theta + rope_scaling and rope_parameters; torch_dtype and dtype. A key
 * that is absent has the value that Transformers gives it. What is not implemented (yarn, sliding
 * attention, experts, another activation) is refused with the key's name, never approximated. All
 * sizes are checked against the limits below before anyone multiplies them.
 */
#ifndef LB_COMMON_IO_CONFIG_H
#define LB_COMMON_IO_CONFIG_H

#include "common/base/status.h"
#include "common/io/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_CONFIG_VOCAB_MAX (1u << 20)
#define LB_CONFIG_HIDDEN_MAX (1u << 15)
#define LB_CONFIG_LAYERS_MAX 512u
#define LB_CONFIG_HEADS_MAX 512u
#define LB_CONFIG_EOS_MAX 16u
#define LB_CONFIG_HEAD_DIM_MAX 512u
#define LB_CONFIG_POSITIONS_MAX (1u << 27)
#define LB_CONFIG_RMS_EPS_MIN 1e-12
#define LB_CONFIG_RMS_EPS_MAX 0.1
#define LB_CONFIG_ROPE_THETA_MAX 1e12

/* Mistral without a sliding window computes as Llama does. */
typedef enum lb_family { LB_FAMILY_LLAMA, LB_FAMILY_QWEN2, LB_FAMILY_QWEN3 } lb_family;

typedef struct lb_rope_config {
    double theta;
    bool llama3;               /* the llama3 scaling below applies */
    double factor, low_freq_factor, high_freq_factor;
    uint32_t original_max_positions;
} lb_rope_config;

typedef struct lb_model_config {
    lb_family family;
    uint32_t vocab;            /* V: rows of the embedding, padding included */
    uint32_t hidden;           /* D */
    uint32_t layers;           /* L */
    uint32_t heads;            /* H query heads */
    uint32_t kv_heads;         /* divides heads */
    uint32_t head_dim;         /* even */
    uint32_t mlp;              /* intermediate_size */
    uint32_t max_positions;
    double rms_eps;
    lb_rope_config rope;
    bool tied;                 /* the head is the embedding */
    bool qkv_bias;             /* Qwen2: biases on q, k, v */
    bool qk_norm;              /* Qwen3: RMSNorm on each head of q and k before RoPE */
    uint32_t eos[LB_CONFIG_EOS_MAX];  /* union of config.json and generation_config.json */
    uint32_t eos_count;
} lb_model_config;

/* Reads text[length] of config.json; generation may be NULL. LB_EUNSUPPORTED names the key. */
LB_NODISCARD lb_status lb_config_parse(const char *text, size_t length, const char *generation,
                                       size_t generation_length, lb_model_config *out,
                                       lb_err *err);
/* The same from a GGUF file's metadata. llama3's rope scaling stands there as a tensor of factors
 * (rope_freqs.weight), which the weights' loader reads: rope.llama3 stays false. */
LB_NODISCARD lb_status lb_config_from_gguf(const lb_gguf *file, lb_model_config *out, lb_err *err);
/* Reads a model: a .gguf file, or a folder's config.json and, if there, generation_config.json. */
LB_NODISCARD lb_status lb_config_load(const char *path, lb_model_config *out, lb_err *err);
bool lb_config_is_eos(const lb_model_config *config, uint32_t token);

#endif
