/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_model - a decoder (Qwen3, Qwen2, Llama) on a backend: score, generate, differentiate.
 *
 * Written once over common/tensor/ops.h. A model is frozen; an lb_adapter is one LoRA version on
 * the device. All calls below are for the one thread that owns the model. What a call computes for
 * a sequence has the same bits whatever else is in the call: scoring, the sampler's logprob and
 * the trainer's logprob of the same token under the same adapter are equal bit for bit.
 * Tokens in, tokens out: nothing here knows text.
 */
#ifndef LB_COMMON_MODEL_MODEL_H
#define LB_COMMON_MODEL_MODEL_H

#include "common/base/status.h"
#include "common/io/config.h"
#include "common/model/lora.h"
#include "common/tensor/ops.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Names the order of all sums: models of one digest and dtype give the same bits wherever this is
 * the same, on every chip. tests/numeric/test_numerics.c has digests of what it names. */
#define LB_NUMERICS "f32-fma-v4"

typedef struct lb_model lb_model;
typedef struct lb_adapter lb_adapter;

typedef struct lb_model_options {
    lb_dtype dtype;            /* storage of the weights; any that lb_dtype_parse knows */
    bool trainable;            /* also pack for the backward */
    size_t activation_bytes;   /* that a gradient keeps; what does not fit is computed twice, with
                                * the same bits. 0: 1 GiB */
    uint32_t max_tokens;       /* rows of one forward pass (chunk); 0: 512 */
} lb_model_options;

/* Loads DIR (config.json, model.safetensors or the sharded index). Weights are packed once; the
 * file's mapping is closed afterwards. backend is borrowed and must outlive the model. Errors name
 * the file, key or tensor. */
LB_NODISCARD lb_status lb_model_load(lb_backend *backend, const char *dir,
                                     const lb_model_options *options, lb_model **out,
                                     lb_err *err);
void lb_model_free(lb_model *model);
const lb_model_config *lb_model_get_config(const lb_model *model);
size_t lb_model_weight_bytes(const lb_model *model);
size_t lb_model_peak_scratch_bytes(const lb_model *model);
/* SHA-256 over the tensors (name, dtype, bytes) in the loader's order and what of the config the
 * shapes do not show; hex, borrowed. */
const char *lb_model_digest(const lb_model *model);

/* Copies a flat vector of layout to the device. layout is copied. */
LB_NODISCARD lb_status lb_adapter_create(lb_model *model, const lb_lora_layout *layout,
                                         const float *flat, lb_adapter **out, lb_err *err);
void lb_adapter_free(lb_adapter *adapter);

/* ---- score ---- */

typedef struct lb_sequence {
    const uint32_t *tokens;    /* [count], borrowed */
    uint32_t count;            /* 1 .. max_positions */
} lb_sequence;

/* What to compute for each scored position. Entry t of a sequence is about tokens[t] given
 * tokens[0..t-1]; entry 0 is undefined (NaN, rank 0). */
typedef struct lb_score_request {
    lb_sequence sequence;
    uint32_t start;            /* first scored entry, >= 1; entries before it cost no head */
    uint32_t k;                /* top-k, 0 for none */
    float *logprob;            /* [count], required; entries below start are NaN */
    uint32_t *rank;            /* [count] or NULL */
    float *entropy;            /* [count] or NULL */
    uint32_t *top_id;          /* [count * k] or NULL when k is 0 */
    float *top_logprob;        /* [count * k] */
} lb_score_request;

/* Scores all requests, packed into passes of at most options.max_tokens rows (a longer sequence is
 * run in chunks over a KV cache). adapter may be NULL. LB_EINVAL names the bad token or length;
 * LB_ENUMERIC when a logprob is not finite. */
LB_NODISCARD lb_status lb_model_score(lb_model *model, const lb_adapter *adapter,
                                      lb_score_request *requests, size_t count, lb_err *err);

/* ---- generate ---- */

typedef struct lb_generate_params {
    lb_sample_params sample;
    uint32_t max_new_tokens;       /* >= 1 */
    uint64_t seed;
    uint32_t step;                 /* counter of LB_RNG_SAMPLE, see common/base/rng.h */
    bool ignore_eos;
    size_t kv_bytes;               /* of keys and values at a time; 0: 512 MiB; raised to what one
                                    * rollout needs */
    const uint8_t *allowed;        /* bytes [V]: 0 forbids an id; NULL allows all */
    bool (*cancelled)(void *arg);  /* asked between steps; NULL: never */
    void *cancel_arg;
} lb_generate_params;

typedef struct lb_rollout {
    uint32_t *tokens;          /* [count] generated tokens, the stop token included; owned */
    float *logprobs;           /* [count] raw log softmax of each; owned */
    uint32_t count;
    bool stopped;              /* ended with an end-of-sequence token; otherwise truncated */
} lb_rollout;

/* Rolls out `group` samples of each prompt: out[p * group + g]. A prompt is prefilled once and its
 * KV shared by its group; rollouts join the batch as kv_bytes allows and leave when they end. Row
 * index for the
 * random counter: row_base + p * group + g, so a rollout does not depend on its neighbours.
 * out is filled only on LB_OK; free each with lb_rollout_free. */
LB_NODISCARD lb_status lb_model_generate(lb_model *model, const lb_adapter *adapter,
                                         const lb_sequence *prompts, size_t prompt_count,
                                         uint32_t group, uint32_t row_base,
                                         const lb_generate_params *params, lb_rollout *out,
                                         lb_err *err);
void lb_rollout_free(lb_rollout *rollout);

/* ---- differentiate ---- */

/* Given the trainer's logprobs of one sequence, writes dL/dlogprob for each entry. Entry t is about
 * tokens[t], as in lb_score_request; entry 0 is ignored. Returning a failure stops the pass. */
typedef lb_status (*lb_loss_fn)(void *arg, size_t sequence, const float *logprob, float *grad,
                                lb_err *err);

/* Forward and backward over the sequences in micro-batches of at most max_tokens rows; adds
 * dL/dparameter to grad_flat (f32, host, layout order; the sums over sequences run in the order of
 * the array, whatever the micro-batches). adapter is required, the model must be trainable, and a
 * sequence has at least two tokens. LB_ENUMERIC: a logprob or the loss is not finite. */
LB_NODISCARD lb_status lb_model_gradient(lb_model *model, const lb_adapter *adapter,
                                         const lb_sequence *sequences, size_t count,
                                         lb_loss_fn loss, void *loss_arg, float *grad_flat,
                                         lb_err *err);

#endif
