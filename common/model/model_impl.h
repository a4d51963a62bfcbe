/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of common/model share: the weights, an adapter on the device, one forward pass.
 * Private to common/model.
 */
#ifndef LB_COMMON_MODEL_MODEL_IMPL_H
#define LB_COMMON_MODEL_MODEL_IMPL_H

#include "common/model/model.h"
#include "common/model/weights.h"

/* ---- the model ---- */

struct lb_model {
    lb_backend *backend;           /* borrowed */
    lb_ops *ops;
    lb_model_config config;
    lb_weights weights;
    lb_tensor rope;                /* [positions so far, head_dim], see lb_model_reserve_positions */
    lb_attention_shape attention;
    uint32_t max_tokens;
    bool trainable;
};

/* Makes the rotary table cover positions 0 .. count - 1; count is at most max_positions. */
LB_NODISCARD lb_status lb_model_reserve_positions(lb_model *model, uint32_t count, lb_err *err);

/* 1 .. max tokens, each in the vocabulary. index names the sequence in the message. */
LB_NODISCARD lb_status lb_model_check_sequence(const lb_model *model, const lb_sequence *sequence,
                                               size_t index, uint32_t max, lb_err *err);

/* ---- an adapter, or its gradient, on the device ---- */

/* Projections that read the same input. Their A's are stacked, so that x A^T is one product. */
typedef enum lb_group { LB_GROUP_QKV, LB_GROUP_O, LB_GROUP_GATE_UP, LB_GROUP_DOWN,
                        LB_GROUP_COUNT } lb_group;

typedef struct lb_group_row {
    lb_projection first;
    uint32_t count;
} lb_group_row;
extern const lb_group_row lb_groups[LB_GROUP_COUNT];

typedef struct lb_lora_layer {
    lb_tensor a[LB_GROUP_COUNT];   /* [targets of the group * r, in]; data NULL: no target */
    lb_tensor b[LB_PROJ_COUNT];    /* [out, r]; data NULL: not a target */
    uint32_t slot[LB_PROJ_COUNT];  /* its block of r rows in its group's A */
} lb_lora_layer;

typedef struct lb_lora_device {
    lb_backend *backend;
    lb_lora_layout layout;         /* owned */
    lb_tensor memory;              /* all of it, [1, elements] */
    lb_lora_layer *layers;         /* views into memory */
    float scale;                   /* alpha / r */
} lb_lora_device;

struct lb_adapter {
    lb_lora_device device;
};

/* Zeroed memory for the tensors of a layout. LB_EINVAL when the layout is of another model. */
LB_NODISCARD lb_status lb_lora_device_create(lb_model *model, const lb_lora_layout *layout,
                                             lb_lora_device *out, lb_err *err);
void lb_lora_device_free(lb_lora_device *device);
void lb_lora_device_in(lb_ops *ops, const lb_lora_device *device, const float *flat);
void lb_lora_device_out(lb_ops *ops, const lb_lora_device *device, float *flat);
/* The A or B of a projection as a view, rows of the stacked A for an A. */
lb_tensor lb_lora_device_view(const lb_lora_device *device, const lb_lora_tensor *tensor);

/* ---- KV cache ---- */

/* Keys (after RoPE) and values of all layers in numbered slots. */
typedef struct lb_kv {
    lb_backend *backend;
    lb_tensor memory;              /* [layers * 2 * slots, kv_heads * head_dim] */
    size_t slots;
} lb_kv;

LB_NODISCARD lb_status lb_kv_create(lb_model *model, size_t slots, lb_kv *out, lb_err *err);
void lb_kv_free(lb_kv *kv);                                    /* zeroed allowed */
lb_tensor lb_kv_keys(const lb_kv *kv, uint32_t layer);         /* [slots, kv_heads * head_dim] */
lb_tensor lb_kv_values(const lb_kv *kv, uint32_t layer);

/* ---- one forward pass over rows of any sequences ---- */

typedef struct lb_pass {
    lb_model *model;
    const lb_lora_device *lora;    /* NULL: the base model */
    const lb_kv *kv;               /* NULL: spans number the rows of this pass */
    size_t rows, capacity;
    uint32_t *tokens, *positions, *slots;   /* [capacity]; slots: where a row's key goes in kv */
    lb_kv_spans *spans;            /* [capacity] */
} lb_pass;

typedef struct lb_pass_row {
    uint32_t token, position, slot;
    lb_kv_spans spans;
} lb_pass_row;

LB_NODISCARD lb_status lb_pass_create(lb_model *model, const lb_adapter *adapter,
                                      size_t capacity, lb_pass *out, lb_err *err);
void lb_pass_free(lb_pass *pass);                              /* zeroed allowed */
void lb_pass_add(lb_pass *pass, const lb_pass_row *row);       /* asserts the capacity */

/* The activations of one transformer block. The forward reuses one for all layers; the backward
 * fills one again for the layer that it differentiates. */
typedef struct lb_block {
    lb_tensor h1, y[LB_PROJ_COUNT], u[LB_GROUP_COUNT], q, k, attended, mid, h2, act;
} lb_block;

void lb_block_alloc(const lb_pass *pass, lb_block *b);
/* out = block(in); in is left as it is. b: from lb_block_alloc of the same pass. */
void lb_block_forward(const lb_pass *pass, uint32_t layer, lb_tensor in, lb_tensor out,
                      lb_block *b);

/* The residual stream [rows, D] after all layers, in the arena. inputs: NULL, or [layers] tensors
 * that receive the input of each layer. */
lb_tensor lb_pass_forward(const lb_pass *pass, lb_tensor *inputs);
/* Rows index[0 .. count) of x under the final norm: what the head reads. */
lb_tensor lb_pass_final(const lb_pass *pass, lb_tensor x, const uint32_t *index, size_t count);

/* ---- backward of a pass without a KV cache ---- */

typedef struct lb_backward {
    const lb_pass *pass;
    const lb_lora_device *grad;    /* dA and dB are added to it */
    const uint32_t *starts;        /* [sequences + 1] rows */
    const bool *active;            /* [sequences]; false: all of its dL/dlogprob are 0 */
    size_t sequences;
} lb_backward;

/* dx: dL/d(residual stream after all layers), overwritten on the way down. inputs: as
 * lb_pass_forward filled them. */
void lb_pass_backward(const lb_backward *backward, const lb_tensor *inputs, lb_tensor dx);

#endif
