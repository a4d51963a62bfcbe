/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_weights - the frozen parameters of a decoder, read from a Hugging Face folder and packed.
 * Private to common/model.
 *
 * One table of rows (weights.c) says which tensor goes where and which shape it must have. A
 * tensor that is missing, misshapen, of another element type, or unknown is refused by name.
 */
#ifndef LB_COMMON_MODEL_WEIGHTS_H
#define LB_COMMON_MODEL_WEIGHTS_H

#include "common/base/digest.h"
#include "common/base/status.h"
#include "common/io/config.h"
#include "common/io/safetensors.h"
#include "common/model/lora.h"
#include "common/tensor/ops.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lb_layer {
    lb_weight *projection[LB_PROJ_COUNT];
    lb_tensor bias[LB_PROJ_COUNT];         /* [1, out]; data NULL: none */
    lb_tensor input_norm, post_norm;       /* [1, D] */
    lb_tensor q_norm, k_norm;              /* [1, head_dim]; data NULL: none */
} lb_layer;

typedef struct lb_weights {
    lb_backend *backend;
    lb_weight *embedding;
    lb_weight *output;                     /* NULL when tied */
    const lb_weight *head;                 /* output, or the embedding when tied */
    lb_tensor final_norm;                  /* [1, D] */
    lb_layer *layers;
    uint32_t layer_count;
    size_t bytes;                          /* of all packings and vectors */
    char digest[LB_SHA256_HEX];
} lb_weights;

/* trainable: the matrices are packed for the backward too. */
LB_NODISCARD lb_status lb_weights_load(lb_backend *backend, const char *dir,
                                       const lb_model_config *config, lb_dtype dtype,
                                       bool trainable, lb_weights *out, lb_err *err);
void lb_weights_free(lb_weights *weights);

/* ---- the files of a folder (shards.c) ---- */

#define LB_SHARDS_MAX 1024u

typedef struct lb_shards lb_shards;

/* Maps DIR/model.safetensors, or all files that DIR/model.safetensors.index.json names. */
LB_NODISCARD lb_status lb_shards_open(const char *dir, lb_shards **out, lb_err *err);
void lb_shards_close(lb_shards *shards);
/* All tensors of all files, in the order of their names. */
size_t lb_shards_count(const lb_shards *shards);
const lb_st_tensor *lb_shards_at(const lb_shards *shards, size_t index);
/* The index of a name, or lb_shards_count. */
size_t lb_shards_find(const lb_shards *shards, const char *name);

/* ---- element types (convert.c) ---- */

bool lb_st_is_float(const lb_st_tensor *tensor);      /* F32, BF16 or F16 */
/* Expands a float tensor; out [elements]. */
void lb_st_expand(const lb_st_tensor *tensor, float *out);

#endif
