/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of common/model share: the weights of a decoder, and a pass of rows through it.
 */
#ifndef LB_COMMON_MODEL_MODEL_IMPL_H
#define LB_COMMON_MODEL_MODEL_IMPL_H

#include "common/base/digest.h"
#include "common/model/model.h"

/* Positions for which the rotary table is made; a config that allows more is cut to this. */
#define LB_MODEL_POSITIONS_MAX 32768u
#define LB_MODEL_MAX_TOKENS_DEFAULT 512u
#define LB_MODEL_MAX_TOKENS_LIMIT 65536u

typedef struct lb_layer {
    lb_weight *projection[LB_PROJ_COUNT];
    lb_tensor bias[3];         /* of q, k, v: [1, N]; data NULL without one */
    lb_tensor attention_norm, mlp_norm, q_norm, k_norm;  /* [1, D] or [1, head_dim] */
} lb_layer;

struct lb_model {
    lb_backend *backend;       /* borrowed */
    lb_ops *ops;
    lb_model_config config;
    lb_model_options options;
    lb_weight *embedding;      /* [V, D] */
    lb_weight *unembedding;    /* the head: NULL when it is the embedding */
    lb_tensor final_norm;      /* [1, D] */
    lb_tensor rope;            /* [positions, head_dim]: cos, then sin */
    float *rope_factors;       /* [head_dim / 2] divisors of the frequencies; NULL: none */
    lb_layer *layers;          /* [L] */
    size_t weight_bytes;
    char digest[LB_SHA256_HEX];
};

struct lb_adapter {
    lb_model *model;           /* borrowed */
    lb_lora_layout layout;
    lb_tensor flat;            /* [1, elements] */
    lb_tensor turned;          /* [1, elements]: every tensor transposed, at the same offset */
    /* [L * LB_PROJ_COUNT] views: A [r, in], B [out, r], A^T, B^T; data NULL if it is no target */
    lb_tensor *a, *b, *a_turned, *b_turned;
    float *scale;              /* [L * LB_PROJ_COUNT] */
};

/* weights.c: fills every weight of the model from a folder or a .gguf file. */
LB_NODISCARD lb_status lb_model_load_weights(lb_model *model, const char *path, lb_err *err);

/* The weight whose rows are the vocabulary's output vectors. */
static inline const lb_weight *lb_model_head(const lb_model *model)
{
    return model->unembedding ? model->unembedding : model->embedding;
}

/* Checks a sequence: 1 .. max_positions tokens, each in the vocabulary. */
LB_NODISCARD lb_status lb_model_check_tokens(const lb_model *model, const lb_sequence *sequence,
                                             lb_err *err);

/* ---- forward.c: rows through the decoder ---- */

/* Pages of keys and values, one pair of tensors a layer (see lb_kv_row in tensor/ops.h). */
typedef struct lb_kv_cache {
    lb_tensor *keys, *values;  /* [L] */
} lb_kv_cache;

/* Rows to run. A row's own key and value go to slots[row] before any row reads its pages. Without a
 * cache (NULL), a layer's pages are a temporary of kv_pages pages. */
typedef struct lb_rows {
    size_t count;
    const uint32_t *tokens, *positions, *slots;
    const lb_kv_row *kv;
    const lb_kv_cache *cache;
    size_t kv_pages;
} lb_rows;

/* What the backward of one block needs. Tensors live in the stream's arena. */
typedef struct lb_block_state {
    lb_tensor input, normed, q_raw, k_raw, q, k, v, attended, middle, mlp_normed, gate, up, gated;
} lb_block_state;

/* x [T, D] through layer `index`, in place. state NULL: temporaries are given back at once;
 * otherwise they are kept there. */
void lb_block_forward(lb_model *model, const lb_adapter *adapter, size_t index,
                      const lb_rows *rows, lb_tensor x, lb_block_state *state);
/* Embeds the rows, runs every layer, applies the final norm: [T, D], in the arena. */
lb_tensor lb_forward(lb_model *model, const lb_adapter *adapter, const lb_rows *rows);

/* Allocates a cache of `pages` in the arena; the arrays of views are owned (lb_kv_cache_free). */
LB_NODISCARD lb_status lb_kv_cache_create(lb_model *model, size_t pages, lb_kv_cache *out,
                                          lb_err *err);
void lb_kv_cache_free(lb_kv_cache *cache);

static inline size_t lb_kv_pages(size_t tokens)
{
    return (tokens + LB_KV_PAGE - 1) / LB_KV_PAGE;
}

/* Keys and values are kept as integers where weights of `dtype` are. */
static inline lb_attention_shape lb_attention_of(const lb_model_config *c, lb_dtype dtype)
{
    return (lb_attention_shape){c->heads, c->kv_heads, c->head_dim,
                                1.0f / __builtin_sqrtf((float)c->head_dim),
                                lb_kv_can_store(dtype, c->head_dim) ? dtype : LB_F32};
}

static inline lb_attention_shape lb_model_attention(const lb_model *model)
{
    return lb_attention_of(&model->config, model->options.dtype);
}

#endif
