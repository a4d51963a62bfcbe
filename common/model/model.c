/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/model.h"

#include "common/model/model_impl.h"

#include <math.h>
#include <stdlib.h>

/* ---- rotary table ---- */

/* Angular frequencies of the head's pairs, in f32 as Transformers computes them, so that positions
 * far out turn by the same rounded angle. llama3 scaling: see docs/NUMERICS.md. */
static void rope_frequencies(const lb_model_config *c, const float *factors, float *out)
{
    const lb_rope_config *r = &c->rope;
    for (uint32_t i = 0; i < c->head_dim / 2; i++) {
        float exponent = (float)(2 * i) / (float)c->head_dim;
        double f = (double)(1.0f / (float)pow(r->theta, (double)exponent));
        if (r->llama3) {
            double wavelength = 2.0 * M_PI / f, original = r->original_max_positions;
            double low = original / r->low_freq_factor, high = original / r->high_freq_factor;
            double smooth = (original / wavelength - r->low_freq_factor) /
                            (r->high_freq_factor - r->low_freq_factor);
            if (wavelength > low)
                f /= r->factor;
            else if (wavelength >= high)
                f = (1.0 - smooth) * f / r->factor + smooth * f;
        }
        out[i] = factors ? (float)f / factors[i] : (float)f;
    }
}

static lb_status make_rope(lb_model *model, lb_err *err)
{
    const lb_model_config *c = &model->config;
    size_t half = c->head_dim / 2, positions = c->max_positions;
    float *frequency = malloc(half * sizeof *frequency);
    float *table = malloc(positions * c->head_dim * sizeof *table);
    lb_status status = LB_OK;
    if (!frequency || !table) {
        status = lb_fail(err, LB_ENOMEM, NULL, "no memory for the rotary table");
        goto done;
    }
    rope_frequencies(c, model->rope_factors, frequency);
    for (size_t p = 0; p < positions; p++) {
        for (size_t i = 0; i < half; i++) {
            float angle = (float)p * frequency[i];
            table[p * c->head_dim + i] = (float)cos((double)angle);
            table[p * c->head_dim + half + i] = (float)sin((double)angle);
        }
    }
    status = lb_device_alloc(model->backend, LB_F32, positions, c->head_dim, &model->rope, err);
    if (status == LB_OK) {
        lb_copy_in(model->ops, model->rope, table);
        status = lb_ops_status(model->ops, err);
    }
done:
    free(frequency);
    free(table);
    return status;
}

/* ---- model ---- */

lb_status lb_model_load(lb_backend *backend, const char *dir, const lb_model_options *options,
                        lb_model **out, lb_err *err)
{
    lb_model *model = calloc(1, sizeof *model);
    if (!model)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a model");
    model->backend = backend;
    model->options = *options;
    if (model->options.max_tokens == 0)
        model->options.max_tokens = LB_MODEL_MAX_TOKENS_DEFAULT;
    lb_status status = LB_OK;
    if (model->options.max_tokens > LB_MODEL_MAX_TOKENS_LIMIT)
        status = lb_fail(err, LB_EINVAL, "max_tokens", "%u rows a pass are more than %u",
                         model->options.max_tokens, LB_MODEL_MAX_TOKENS_LIMIT);
    if (status == LB_OK)
        status = lb_config_load(dir, &model->config, err);
    if (status == LB_OK && model->config.max_positions > LB_MODEL_POSITIONS_MAX)
        model->config.max_positions = LB_MODEL_POSITIONS_MAX;
    if (status == LB_OK)
        status = lb_ops_create(backend, &model->ops, err);
    if (status == LB_OK) {
        model->layers = calloc(model->config.layers, sizeof *model->layers);
        if (!model->layers)
            status = lb_fail(err, LB_ENOMEM, NULL, "no memory for the layers");
    }
    if (status == LB_OK)
        status = lb_model_load_weights(model, dir, err);
    if (status == LB_OK)
        status = make_rope(model, err);
    if (status != LB_OK) {
        lb_model_free(model);
        return status;
    }
    *out = model;
    return LB_OK;
}

static void free_layer(lb_model *model, lb_layer *layer)
{
    lb_tensor *vectors[] = {&layer->bias[0], &layer->bias[1], &layer->bias[2],
                            &layer->attention_norm, &layer->mlp_norm, &layer->q_norm,
                            &layer->k_norm};
    for (int p = 0; p < LB_PROJ_COUNT; p++)
        lb_weight_free(layer->projection[p]);
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        lb_device_free(model->backend, vectors[i]);
}

void lb_model_free(lb_model *model)
{
    if (!model)
        return;
    for (uint32_t i = 0; model->layers && i < model->config.layers; i++)
        free_layer(model, &model->layers[i]);
    free(model->layers);
    lb_weight_free(model->embedding);
    lb_weight_free(model->unembedding);
    lb_device_free(model->backend, &model->final_norm);
    lb_device_free(model->backend, &model->rope);
    lb_ops_free(model->ops);
    free(model->rope_factors);
    free(model);
}

const lb_model_config *lb_model_get_config(const lb_model *model)
{
    return &model->config;
}

size_t lb_model_weight_bytes(const lb_model *model)
{
    return model->weight_bytes;
}

size_t lb_model_peak_scratch_bytes(const lb_model *model)
{
    return lb_ops_peak_bytes(model->ops);
}

const char *lb_model_digest(const lb_model *model)
{
    return model->digest;
}

lb_status lb_model_check_tokens(const lb_model *model, const lb_sequence *sequence, lb_err *err)
{
    const lb_model_config *c = &model->config;
    if (sequence->count == 0 || sequence->count > c->max_positions)
        return lb_fail(err, LB_EINVAL, "tokens", "a sequence has %u tokens, 1 .. %u are allowed",
                       sequence->count, c->max_positions);
    for (uint32_t t = 0; t < sequence->count; t++) {
        if (sequence->tokens[t] >= c->vocab)
            return lb_fail(err, LB_EINVAL, "tokens",
                           "token %u at position %u is not below the vocabulary's %u",
                           sequence->tokens[t], t, c->vocab);
    }
    return LB_OK;
}

/* ---- adapter ---- */

/* Every tensor of the layout must fit this model's projections. */
static lb_status check_layout(const lb_model *model, const lb_lora_layout *layout, lb_err *err)
{
    if (layout->layers != model->config.layers)
        return lb_fail(err, LB_EINVAL, "layout", "it has %u layers, the model %u", layout->layers,
                       model->config.layers);
    for (size_t i = 0; i < layout->count; i++) {
        const lb_lora_tensor *t = &layout->tensors[i];
        uint32_t out = 0, in = 0;
        lb_projection_shape(&model->config, t->projection, &out, &in);
        const lb_lora_module *module = lb_lora_find_module(layout, t->layer, t->projection);
        uint32_t rank = module ? module->rank : 0;
        if (rank == 0 || t->rows != (t->is_b ? out : rank) || t->cols != (t->is_b ? rank : in))
            return lb_fail(err, LB_EINVAL, t->name, "[%u, %u] does not fit the model", t->rows,
                           t->cols);
    }
    return LB_OK;
}

static lb_tensor view(lb_tensor flat, const lb_lora_tensor *t, size_t rows, size_t cols)
{
    return lb_tensor_reshape(lb_tensor_cols(flat, t->offset, rows * cols), rows, cols);
}

/* Both vectors of the adapter, as it is and with its tensors transposed. */
static lb_status upload_adapter(lb_adapter *adapter, const float *flat, lb_err *err)
{
    lb_model *model = adapter->model;
    const lb_lora_layout *layout = &adapter->layout;
    float *turned = malloc(layout->elements * sizeof *turned);
    if (!turned)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for an adapter");
    for (size_t i = 0; i < layout->count; i++) {
        const lb_lora_tensor *t = &layout->tensors[i];
        for (size_t r = 0; r < t->rows; r++) {
            for (size_t c = 0; c < t->cols; c++)
                turned[t->offset + c * t->rows + r] = flat[t->offset + r * t->cols + c];
        }
    }
    lb_status status = lb_device_alloc(model->backend, LB_F32, 1, layout->elements,
                                       &adapter->flat, err);
    if (status == LB_OK)
        status = lb_device_alloc(model->backend, LB_F32, 1, layout->elements, &adapter->turned,
                                 err);
    if (status == LB_OK) {
        lb_ops_reset(model->ops);
        lb_copy_in(model->ops, adapter->flat, flat);
        lb_copy_in(model->ops, adapter->turned, turned);
        status = lb_ops_status(model->ops, err);
    }
    free(turned);
    return status;
}

lb_status lb_adapter_create(lb_model *model, const lb_lora_layout *layout, const float *flat,
                            lb_adapter **out, lb_err *err)
{
    lb_status status = check_layout(model, layout, err);
    if (status != LB_OK)
        return status;
    size_t slots = (size_t)layout->layers * LB_PROJ_COUNT;
    lb_adapter *adapter = calloc(1, sizeof *adapter);
    if (!adapter)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for an adapter");
    adapter->model = model;
    adapter->a = calloc(slots, sizeof *adapter->a);
    adapter->b = calloc(slots, sizeof *adapter->b);
    adapter->a_turned = calloc(slots, sizeof *adapter->a_turned);
    adapter->b_turned = calloc(slots, sizeof *adapter->b_turned);
    adapter->scale = calloc(slots, sizeof *adapter->scale);
    status = adapter->a && adapter->b && adapter->a_turned && adapter->b_turned && adapter->scale
                 ? lb_lora_layout_copy(layout, &adapter->layout, err)
                 : lb_fail(err, LB_ENOMEM, NULL, "no memory for an adapter");
    if (status == LB_OK)
        status = upload_adapter(adapter, flat, err);
    for (size_t i = 0; status == LB_OK && i < slots; i++)
        adapter->scale[i] = layout->modules[i].scale;
    for (size_t i = 0; status == LB_OK && i < layout->count; i++) {
        const lb_lora_tensor *t = &layout->tensors[i];
        size_t slot = t->layer * LB_PROJ_COUNT + t->projection;
        (t->is_b ? adapter->b : adapter->a)[slot] = view(adapter->flat, t, t->rows, t->cols);
        (t->is_b ? adapter->b_turned : adapter->a_turned)[slot] =
            view(adapter->turned, t, t->cols, t->rows);
    }
    if (status != LB_OK) {
        lb_adapter_free(adapter);
        return status;
    }
    *out = adapter;
    return LB_OK;
}

void lb_adapter_free(lb_adapter *adapter)
{
    if (!adapter)
        return;
    lb_device_free(adapter->model->backend, &adapter->flat);
    lb_device_free(adapter->model->backend, &adapter->turned);
    lb_lora_layout_free(&adapter->layout);
    free(adapter->a);
    free(adapter->b);
    free(adapter->a_turned);
    free(adapter->b_turned);
    free(adapter->scale);
    free(adapter);
}
