/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/lora.h"

#include "common/base/rng.h"
#include "common/model/lora_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

void lb_lora_module_path(uint32_t layer, lb_projection projection, char out[LB_MODULE_PATH])
{
    snprintf(out, LB_MODULE_PATH, "model.layers.%u.%s.%s", layer, projections[projection].module,
             projections[projection].name);
}

float lb_lora_scale(double alpha, uint32_t rank, bool rslora)
{
    return (float)(alpha / (rslora ? sqrt((double)rank) : (double)rank));
}

static void add_tensors(const lb_model_config *model, uint32_t layer, lb_projection p,
                        lb_lora_module *module, lb_lora_layout *layout)
{
    uint32_t rows, cols;
    char path[LB_MODULE_PATH];
    lb_projection_shape(model, p, &rows, &cols);
    lb_lora_module_path(layer, p, path);
    module->first = layout->count;
    for (int is_b = 0; is_b < 2; is_b++) {
        lb_lora_tensor *t = &layout->tensors[layout->count++];
        *t = (lb_lora_tensor){.layer = layer, .projection = p, .is_b = is_b,
                              .rows = is_b ? rows : module->rank,
                              .cols = is_b ? module->rank : cols, .offset = layout->elements};
        snprintf(t->name, sizeof t->name, "base_model.model.%s.lora_%c.weight", path,
                 is_b ? 'B' : 'A');
        layout->elements += (size_t)t->rows * t->cols;
    }
}

lb_status lb_lora_layout_build(const lb_model_config *model, const lb_lora_config *config,
                               lb_lora_module *modules, lb_lora_layout *out, lb_err *err)
{
    size_t slots = (size_t)model->layers * LB_PROJ_COUNT, targets = 0;
    for (size_t i = 0; i < slots; i++)
        targets += modules[i].rank > 0;
    lb_lora_layout layout = {.config = *config, .modules = modules, .layers = model->layers};
    layout.tensors = calloc(targets ? targets * 2 : 1, sizeof *layout.tensors);
    if (!layout.tensors) {
        free(modules);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu LoRA tensors", targets * 2);
    }
    for (size_t i = 0; i < slots; i++) {
        if (modules[i].rank > 0)
            add_tensors(model, (uint32_t)(i / LB_PROJ_COUNT), (lb_projection)(i % LB_PROJ_COUNT),
                        &modules[i], &layout);
    }
    *out = layout;
    return LB_OK;
}

lb_status lb_lora_layout_create(const lb_model_config *model, const lb_lora_config *config,
                                lb_lora_layout *out, lb_err *err)
{
    lb_status status = check_config(config, err);
    if (status != LB_OK)
        return status;
    size_t slots = (size_t)model->layers * LB_PROJ_COUNT;
    lb_lora_module *modules = calloc(slots, sizeof *modules);
    if (!modules)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu LoRA modules", slots);
    for (size_t i = 0; i < slots; i++) {
        if (config->targets & 1u << i % LB_PROJ_COUNT) {
            modules[i].rank = config->rank;
            modules[i].scale = lb_lora_scale(config->alpha, config->rank, config->rslora);
        }
    }
    return lb_lora_layout_build(model, config, modules, out, err);
}

lb_status lb_lora_layout_copy(const lb_lora_layout *from, lb_lora_layout *to, lb_err *err)
{
    size_t slots = (size_t)from->layers * LB_PROJ_COUNT;
    lb_lora_layout copy = *from;
    copy.modules = malloc(slots * sizeof *copy.modules);
    copy.tensors = malloc(from->count * sizeof *copy.tensors);
    if (!copy.modules || !copy.tensors) {
        lb_lora_layout_free(&copy);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for an adapter's layout");
    }
    memcpy(copy.modules, from->modules, slots * sizeof *copy.modules);
    memcpy(copy.tensors, from->tensors, from->count * sizeof *copy.tensors);
    *to = copy;
    return LB_OK;
}

void lb_lora_layout_free(lb_lora_layout *layout)
{
    if (!layout)
        return;
    free(layout->modules);
    free(layout->tensors);
    *layout = (lb_lora_layout){0};
}

const lb_lora_module *lb_lora_find_module(const lb_lora_layout *layout, uint32_t layer,
                                          lb_projection projection)
{
    if (layer >= layout->layers || projection >= LB_PROJ_COUNT)
        return NULL;
    const lb_lora_module *module = &layout->modules[layer * LB_PROJ_COUNT + projection];
    return module->rank > 0 ? module : NULL;
}

const lb_lora_tensor *lb_lora_find(const lb_lora_layout *layout, uint32_t layer,
                                   lb_projection projection, bool is_b)
{
    const lb_lora_module *module = lb_lora_find_module(layout, layer, projection);
    return module ? &layout->tensors[module->first + is_b] : NULL;
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
