/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_lora - the low-rank adapter y = W x + (alpha / r) B (A x): layout, initial values, PEFT files.
 *
 * All matrices of an adapter stand in one flat f32 vector in a fixed order (layer, then projection
 * in the order of lb_projection, then A before B), so that a gradient, an optimizer state and an
 * adapter have the same index. The layout follows from the model's config alone: the coordinator
 * needs no weights. A [r, in], B [out, r], row-major.
 * Source: Hu et al., "LoRA" (2021); file names and keys: PEFT.
 */
#ifndef LB_COMMON_MODEL_LORA_H
#define LB_COMMON_MODEL_LORA_H

#include "common/base/buf.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/io/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum lb_projection {
    LB_PROJ_Q, LB_PROJ_K, LB_PROJ_V, LB_PROJ_O, LB_PROJ_GATE, LB_PROJ_UP, LB_PROJ_DOWN,
    LB_PROJ_COUNT
} lb_projection;

const char *lb_projection_name(lb_projection projection);  /* "q_proj" ... */
/* Rows (outputs) and columns (inputs) of a projection's matrix W. */
void lb_projection_shape(const lb_model_config *model, lb_projection projection, uint32_t *out,
                         uint32_t *in);

#define LB_LORA_RANK_MAX 512u

typedef struct lb_lora_config {
    uint32_t rank;
    double alpha;
    uint32_t targets;          /* bit (1 << lb_projection) */
} lb_lora_config;

#define LB_LORA_ALL_TARGETS ((1u << LB_PROJ_COUNT) - 1)

typedef struct lb_lora_tensor {
    char name[96];             /* base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight */
    uint32_t layer;
    lb_projection projection;
    bool is_b;
    uint32_t rows, cols;
    size_t offset;             /* elements into the flat vector */
} lb_lora_tensor;

typedef struct lb_lora_layout {
    lb_lora_config config;
    lb_lora_tensor *tensors;   /* [count] */
    size_t count;
    size_t elements;           /* of the flat vector */
    uint32_t layers;
} lb_lora_layout;

/* rank 1..LB_LORA_RANK_MAX, alpha > 0, at least one target; LB_EINVAL names the field. */
LB_NODISCARD lb_status lb_lora_layout_create(const lb_model_config *model,
                                             const lb_lora_config *config, lb_lora_layout *out,
                                             lb_err *err);
void lb_lora_layout_free(lb_lora_layout *layout);
/* The A or B of a layer's projection, NULL when it is not a target. */
const lb_lora_tensor *lb_lora_find(const lb_lora_layout *layout, uint32_t layer,
                                   lb_projection projection, bool is_b);

/* A: Kaiming-uniform with a = sqrt(5), that is uniform in (-1/sqrt(in), 1/sqrt(in)), from
 * LB_RNG_INIT of seed; B: zero. flat [elements]. */
void lb_lora_init(const lb_lora_layout *layout, uint64_t seed, float *flat);

/* adapter_model.safetensors (F32) and adapter_config.json of a flat vector. The same vector gives
 * the same bytes. base_model: the name or path written as base_model_name_or_path. */
LB_NODISCARD lb_status lb_lora_encode(const lb_lora_layout *layout, const float *flat,
                                      lb_buf *safetensors, lb_err *err);
void lb_lora_encode_config(const lb_lora_config *config, const char *base_model, lb_buf *json);

/* Reads adapter_config.json: targets as a list or "all-linear"; what is not implemented (DoRA,
 * rslora, bias, modules_to_save, patterns, layers_to_transform) is refused by key. */
LB_NODISCARD lb_status lb_lora_parse_config(const char *json, size_t length, lb_lora_config *out,
                                            lb_err *err);
/* Reads the tensors (F32, BF16 or F16) into flat; a missing, extra or misshapen tensor, or a value
 * that is not finite, is refused by name. */
LB_NODISCARD lb_status lb_lora_decode(const lb_lora_layout *layout, const uint8_t *safetensors,
                                      size_t length, float *flat, lb_err *err);
/* Reads DIR/adapter_config.json and DIR/adapter_model.safetensors; flat is owned by the caller
 * (free()). */
LB_NODISCARD lb_status lb_lora_load(const char *dir, const lb_model_config *model,
                                    lb_lora_layout *layout, float **flat, lb_err *err);

#endif
