/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/lora.h"

#include "common/base/rng.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRAWS_PER_BLOCK 4u

typedef struct projection_row {
    const char *name, *block;
} projection_row;

static const projection_row projections[LB_PROJ_COUNT] = {
    [LB_PROJ_Q] = {"q_proj", "self_attn"},     [LB_PROJ_K] = {"k_proj", "self_attn"},
    [LB_PROJ_V] = {"v_proj", "self_attn"},     [LB_PROJ_O] = {"o_proj", "self_attn"},
    [LB_PROJ_GATE] = {"gate_proj", "mlp"},     [LB_PROJ_UP] = {"up_proj", "mlp"},
    [LB_PROJ_DOWN] = {"down_proj", "mlp"},
};

const char *lb_projection_name(lb_projection projection)
{
    assert(projection < LB_PROJ_COUNT);
    return projections[projection].name;
}

static lb_status check_config(const lb_lora_config *config, lb_err *err)
{
    if (config->rank < 1 || config->rank > LB_LORA_RANK_MAX)
        return lb_fail(err, LB_EINVAL, "rank", "%u is not in 1..%u", config->rank,
                       LB_LORA_RANK_MAX);
    if (!(config->alpha > 0) || !isfinite(config->alpha))
        return lb_fail(err, LB_EINVAL, "alpha", "%g is not a positive number", config->alpha);
    if (config->targets == 0 || (config->targets & ~LB_LORA_ALL_TARGETS) != 0)
        return lb_fail(err, LB_EINVAL, "targets", "0x%x names no set of projections",
                       config->targets);
    return LB_OK;
}

/* Inputs and outputs of a projection. */
static void sizes(const lb_model_config *c, lb_projection projection, uint32_t *in, uint32_t *out)
{
    uint32_t query = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const uint32_t table[LB_PROJ_COUNT][2] = {
        [LB_PROJ_Q] = {c->hidden, query},    [LB_PROJ_K] = {c->hidden, kv},
        [LB_PROJ_V] = {c->hidden, kv},       [LB_PROJ_O] = {query, c->hidden},
        [LB_PROJ_GATE] = {c->hidden, c->mlp}, [LB_PROJ_UP] = {c->hidden, c->mlp},
        [LB_PROJ_DOWN] = {c->mlp, c->hidden},
    };
    *in = table[projection][0];
    *out = table[projection][1];
}

static void add_tensor(lb_lora_layout *layout, const lb_model_config *model, uint32_t layer,
                       lb_projection projection, bool is_b)
{
    lb_lora_tensor *t = &layout->tensors[layout->count++];
    uint32_t in, out;
    sizes(model, projection, &in, &out);
    t->layer = layer;
    t->projection = projection;
    t->is_b = is_b;
    t->rows = is_b ? out : layout->config.rank;
    t->cols = is_b ? layout->config.rank : in;
    t->offset = layout->elements;
    snprintf(t->name, sizeof t->name, "base_model.model.model.layers.%u.%s.%s.lora_%c.weight",
             layer, projections[projection].block, projections[projection].name,
             is_b ? 'B' : 'A');
    /* The limits of a config and of the rank keep the sum of all products far below 2^64. */
    layout->elements += (size_t)t->rows * t->cols;
}

lb_status lb_lora_layout_create(const lb_model_config *model, const lb_lora_config *config,
                                lb_lora_layout *out, lb_err *err)
{
    lb_status status = check_config(config, err);
    if (status != LB_OK)
        return status;
    size_t targets = (size_t)__builtin_popcount(config->targets);
    lb_lora_layout layout = {.config = *config, .layers = model->layers};
    layout.tensors = calloc(2 * targets * model->layers, sizeof *layout.tensors);
    if (!layout.tensors)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for an adapter's layout");
    for (uint32_t layer = 0; layer < model->layers; layer++) {
        for (lb_projection p = 0; p < LB_PROJ_COUNT; p++) {
            if (!(config->targets & 1u << p))
                continue;
            add_tensor(&layout, model, layer, p, false);
            add_tensor(&layout, model, layer, p, true);
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
    size_t per_layer = 2 * (size_t)__builtin_popcount(targets);
    size_t before = 2 * (size_t)__builtin_popcount(targets & ((1u << projection) - 1));
    return &layout->tensors[layer * per_layer + before + is_b];
}

void lb_lora_init(const lb_lora_layout *layout, uint64_t seed, float *flat)
{
    for (size_t i = 0; i < layout->count; i++) {
        const lb_lora_tensor *t = &layout->tensors[i];
        float *values = flat + t->offset;
        size_t count = (size_t)t->rows * t->cols;
        float bound = (float)(1.0 / sqrt((double)t->cols));
        uint32_t draws[DRAWS_PER_BLOCK] = {0};
        for (size_t e = 0; e < count; e++) {
            if (!t->is_b && e % DRAWS_PER_BLOCK == 0)
                lb_rng_block(seed, (uint32_t[4]){LB_RNG_INIT, (uint32_t)i,
                                                 (uint32_t)(e / DRAWS_PER_BLOCK), 0}, draws);
            values[e] = t->is_b ? 0.0f
                      : bound * (2.0f * lb_rng_uniform(draws[e % DRAWS_PER_BLOCK]) - 1.0f);
        }
    }
}
