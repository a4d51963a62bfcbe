/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_lora - the low-rank adapter y = W x + s B (A x): layout, initial values, PEFT files.
 *
 * All matrices of an adapter stand in one flat f32 vector in a fixed order (layer, then projection
 * in the order of lb_projection, then A before B), so that a gradient, an optimizer state and an
 * adapter have the same index. The layout follows from the model's config alone: the coordinator
 * needs no weights. A [r, in], B [out, r], row-major. Rank and scale are each module's own; what
 * we make ourselves has one rank and one scale, what others made may have PEFT's patterns.
 * Source: Hu et al., "LoRA" (2021); Kalajdzievski, "rsLoRA" (2023); file names and keys: PEFT.
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
    bool rslora;               /* the scale is alpha / sqrt(rank), not alpha / rank */
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

/* One projection of one layer. */
typedef struct lb_lora_module {
    uint32_t rank;             /* 0: it is no target, and the rest is 0 */
    float scale;
    size_t first;              /* its A in `tensors`; B follows */
} lb_lora_module;

typedef struct lb_lora_layout {
    lb_lora_config config;     /* where no pattern says otherwise; targets of any layer */
    lb_lora_module *modules;   /* [layers * LB_PROJ_COUNT] */
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
/* to is overwritten; freed by lb_lora_layout_free. */
LB_NODISCARD lb_status lb_lora_layout_copy(const lb_lora_layout *from, lb_lora_layout *to,
                                           lb_err *err);
/* The module of a layer's projection; NULL when it is not a target. */
const lb_lora_module *lb_lora_find_module(const lb_lora_layout *layout, uint32_t layer,
                                          lb_projection projection);
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

/* The layout that an adapter_config.json describes for a model: target_modules as a list of names
 * or suffixes, as "all-linear" or as a regular expression; use_rslora; layers_to_transform;
 * rank_pattern and alpha_pattern. LB_EUNSUPPORTED names the key of what is not implemented (DoRA,
 * biases, modules_to_save, replicated layers, ...) unless it is null, false or empty, and the
 * entry of target_modules that is no projection of the model. */
LB_NODISCARD lb_status lb_lora_layout_parse(const char *json, size_t length,
                                            const lb_model_config *model, lb_lora_layout *out,
                                            lb_err *err);
/* Reads the tensors (F32, BF16 or F16) into flat. Their names are the layout's, or those with the
 * adapter's name before ".weight" (lora_A.default.weight), the same one in each. A missing, extra
 * or misshapen tensor, or a value that is not finite, is refused by name. */
LB_NODISCARD lb_status lb_lora_decode(const lb_lora_layout *layout, const uint8_t *safetensors,
                                      size_t length, float *flat, lb_err *err);
/* Reads DIR/adapter_config.json and DIR/adapter_model.safetensors; flat is owned by the caller
 * (free()). */
LB_NODISCARD lb_status lb_lora_load(const char *dir, const lb_model_config *model,
                                    lb_lora_layout *layout, float **flat, lb_err *err);

#endif
