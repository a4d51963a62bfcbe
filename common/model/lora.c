/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/lora.h"

#include "common/base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct projection_row {
    const char *name, *module;
} projection_row;

static const projection_row projections[LB_PROJ_COUNT] = {
    [LB_PROJ_Q] = {"q_proj", "self_attn"},     [LB_PROJ_K] = {"k_proj", "self_attn"},
    [LB_PROJ_V] = {"v_proj", "self_attn"},     [LB_PROJ_O] = {"o_proj", "self_attn"},
    [LB_PROJ_GATE] = {"gate_proj", "mlp"},     [LB_PROJ_UP] = {"up_proj", "mlp"},
    [LB_PROJ_DOWN] = {"down_proj", "mlp"},
};

const char *lb_projection_name(lb_projection projection)
{
    return projection < LB_PROJ_COUNT ? projections[projection].name : "unknown";
}

void lb_projection_shape(const lb_model_config *model, lb_projection projection, uint32_t *out,
                         uint32_t *in)
{
    uint32_t queries = model->heads * model->head_dim, keys = model->kv_heads * model->head_dim;
    *in = projection == LB_PROJ_O ? queries : projection == LB_PROJ_DOWN ? model->mlp
                                                                        : model->hidden;
    switch (projection) {
    case LB_PROJ_Q:
        *out = queries;
        break;
    case LB_PROJ_K:
    case LB_PROJ_V:
        *out = keys;
        break;
    case LB_PROJ_GATE:
    case LB_PROJ_UP:
        *out = model->mlp;
        break;
    default:
        *out = model->hidden;
    }
}

static lb_status check_config(const lb_lora_config *config, lb_err *err)
{
    if (config->rank == 0 || config->rank > LB_LORA_RANK_MAX)
        return lb_fail(err, LB_EINVAL, "lora.r", "the rank %u is outside 1 .. %u", config->rank,
                       LB_LORA_RANK_MAX);
    if (!(config->alpha > 0) || !isfinite(config->alpha))
        return lb_fail(err, LB_EINVAL, "lora.alpha", "%g is not above 0", config->alpha);
    if ((config->targets & LB_LORA_ALL_TARGETS) == 0 || config->targets & ~LB_LORA_ALL_TARGETS)
        return lb_fail(err, LB_EINVAL, "lora.target_modules", "names no projection");
    return LB_OK;
}

lb_status lb_lora_layout_create(const lb_model_config *model, const lb_lora_config *config,
                                lb_lora_layout *out, lb_err *err)
{
    lb_status status = check_config(config, err);
    if (status != LB_OK)
        return status;
    size_t targets = (size_t)__builtin_popcount(config->targets);
    lb_lora_layout layout = {.config = *config, .count = model->layers * targets * 2,
                             .layers = model->layers};
    layout.tensors = calloc(layout.count, sizeof *layout.tensors);
    if (!layout.tensors)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu LoRA tensors", layout.count);
    size_t n = 0;
    for (uint32_t layer = 0; layer < model->layers; layer++) {
        for (int p = 0; p < LB_PROJ_COUNT; p++) {
            uint32_t rows, cols;
            lb_projection_shape(model, (lb_projection)p, &rows, &cols);
            for (int is_b = 0; is_b < 2 && config->targets & (1u << p); is_b++) {
                lb_lora_tensor *t = &layout.tensors[n++];
                *t = (lb_lora_tensor){.layer = layer, .projection = (lb_projection)p,
                                      .is_b = is_b, .rows = is_b ? rows : config->rank,
                                      .cols = is_b ? config->rank : cols,
                                      .offset = layout.elements};
                snprintf(t->name, sizeof t->name,
                         "base_model.model.model.layers.%u.%s.%s.lora_%c.weight", layer,
                         projections[p].module, projections[p].name, is_b ? 'B' : 'A');
                layout.elements += (size_t)t->rows * t->cols;
            }
        }
    }
    *out = layout;
    return LB_OK;
}

void lb_lora_layout_free(lb_lora_layout *layout)
{
    if (!layout)
        return;
    free(layout->tensors);
    *layout = (lb_lora_layout){0};
}

const lb_lora_tensor *lb_lora_find(const lb_lora_layout *layout, uint32_t layer,
                                   lb_projection projection, bool is_b)
{
    uint32_t targets = layout->config.targets;
    if (layer >= layout->layers || projection >= LB_PROJ_COUNT || !(targets & 1u << projection))
        return NULL;
    /* Layer, then target in the order of lb_projection, then A before B. */
    size_t per_layer = (size_t)__builtin_popcount(targets) * 2;
    size_t before = (size_t)__builtin_popcount(targets & ((1u << projection) - 1)) * 2;
    return &layout->tensors[layer * per_layer + before + is_b];
}

void lb_lora_init(const lb_lora_layout *layout, uint64_t seed, float *flat)
{
    for (size_t n = 0; n < layout->count; n++) {
        const lb_lora_tensor *t = &layout->tensors[n];
        size_t elements = (size_t)t->rows * t->cols;
        /* kaiming_uniform_ with a = sqrt(5): gain^2 = 1/3, bound = gain sqrt(3 / in). */
        float bound = (float)(1.0 / sqrt((double)t->cols));
        for (size_t i = 0; i < elements; i += 4) {
            uint32_t counter[4] = {LB_RNG_INIT, (uint32_t)n, (uint32_t)(i / 4), 0}, word[4];
            if (!t->is_b)
                lb_rng_block(seed, counter, word);
            for (size_t j = 0; j < 4 && i + j < elements; j++)
                flat[t->offset + i + j] =
                    t->is_b ? 0.0f : (2.0f * lb_rng_uniform(word[j]) - 1.0f) * bound;
        }
    }
}
