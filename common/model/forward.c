/* SPDX-License-Identifier: Apache-2.0
 *
 * The decoder's forward pass, written once: scoring, sampling and training all run these lines,
 * which is why their logprobs are the same bits.
 */
#include "common/model/model_impl.h"

#include <stdlib.h>

static bool adapted(const lb_adapter *adapter, size_t layer, size_t projection)
{
    return adapter && adapter->a[layer * LB_PROJ_COUNT + projection].data;
}

/* Whether any of `count` projections of a layer from `first` on is adapted. */
static bool any_adapted(const lb_adapter *adapter, size_t layer, size_t first, size_t count)
{
    bool any = false;
    for (size_t i = 0; i < count; i++)
        any = any || adapted(adapter, layer, first + i);
    return any;
}

/* out = (out +) W x (+ bias) + scale B (A x) for `count` projections of a layer that read the same
 * x, from `first` on; with a norm that of x, and then without an adapter. */
static void project_into(lb_model *model, const lb_adapter *adapter, size_t layer,
                         lb_projection first, size_t count, lb_tensor x, const lb_norm *norm,
                         const lb_tensor *out, bool accumulate)
{
    lb_ops *ops = model->ops;
    const lb_layer *weights = &model->layers[layer];
    lb_linear_out products[LB_LINEARS_MAX];
    for (size_t i = 0; i < count; i++) {
        size_t p = first + i;
        products[i] = (lb_linear_out){out[i], weights->projection[p], {0}, accumulate};
        if (p <= LB_PROJ_V)
            products[i].bias = weights->bias[p];
    }
    lb_linears(ops, x, norm, products, count);
    for (size_t i = 0; i < count; i++) {
        size_t slot = layer * LB_PROJ_COUNT + first + i;
        if (!adapted(adapter, layer, first + i))
            continue;
        size_t mark = lb_ops_mark(ops);
        lb_tensor low = lb_ops_alloc(ops, LB_F32, x.rows, adapter->a[slot].rows);
        lb_gemm_nn(ops, low, x, adapter->a_turned[slot], 1.0f, false);
        lb_gemm_nn(ops, out[i], low, adapter->b_turned[slot], adapter->scale[slot], true);
        lb_ops_release(ops, mark);
    }
}

/* The same into new tensors of the arena, out[count]. */
static void project(lb_model *model, const lb_adapter *adapter, size_t layer,
                    lb_projection first, size_t count, lb_tensor x, const lb_norm *norm,
                    lb_tensor *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = lb_ops_alloc(model->ops, LB_F32, x.rows,
                              lb_weight_n(model->layers[layer].projection[first + i]));
    project_into(model, adapter, layer, first, count, x, norm, out, false);
}

static lb_norm norm_of(const lb_model *model, lb_tensor gain)
{
    return (lb_norm){gain, (float)model->config.rms_eps};
}

static lb_tensor norm(lb_model *model, lb_tensor x, lb_tensor gain)
{
    lb_tensor out = lb_ops_alloc(model->ops, LB_F32, x.rows, x.cols);
    lb_rmsnorm(model->ops, out, x, gain, (float)model->config.rms_eps);
    return out;
}

/* The per-head norm of Qwen3, if there is one, then the rotary embedding; without a norm raw itself
 * is rotated. */
static lb_tensor position_heads(lb_model *model, lb_tensor raw, lb_tensor gain,
                                const lb_rows *rows)
{
    size_t dim = model->config.head_dim;
    lb_tensor out = gain.data ? norm(model, raw, gain) : raw;
    lb_rope(model->ops, out, dim, model->rope, rows->positions, false);
    return out;
}

static lb_tensor attend(lb_model *model, size_t layer, const lb_rows *rows,
                        const lb_block_state *s)
{
    lb_ops *ops = model->ops;
    lb_attention_shape shape = lb_model_attention(model);
    lb_tensor out = lb_ops_alloc(ops, LB_F32, s->q.rows, s->q.cols), keys, values;
    size_t mark = lb_ops_mark(ops);
    if (rows->cache) {
        keys = rows->cache->keys[layer];
        values = rows->cache->values[layer];
    } else {
        keys = lb_ops_alloc_zero(ops, LB_F32, rows->kv_pages, lb_kv_key_page(&shape));
        values = lb_ops_alloc_zero(ops, LB_F32, rows->kv_pages, lb_kv_value_page(&shape));
    }
    lb_kv_write(ops, keys, values, s->k, s->v, rows->slots, &shape);
    lb_attention(ops, out, s->q, keys, values, rows->kv, &shape);
    lb_ops_release(ops, mark);
    return out;
}

/* silu(gate) * up of the normed x: as one, unless something else reads the parts. */
static void mlp_forward(lb_model *model, const lb_adapter *adapter, size_t index, lb_tensor x,
                        bool keep, lb_block_state *s)
{
    const lb_layer *w = &model->layers[index];
    const lb_norm by = norm_of(model, w->mlp_norm);
    lb_tensor gate_up[2];
    s->gated = lb_ops_alloc(model->ops, LB_F32, x.rows, model->config.mlp);
    if (!keep && !any_adapted(adapter, index, LB_PROJ_GATE, 2)) {
        lb_linear_swiglu(model->ops, s->gated, x, &by, w->projection[LB_PROJ_GATE],
                         w->projection[LB_PROJ_UP]);
        return;
    }
    s->mlp_normed = norm(model, x, w->mlp_norm);
    project(model, adapter, index, LB_PROJ_GATE, 2, s->mlp_normed, NULL, gate_up);
    s->gate = gate_up[0];
    s->up = gate_up[1];
    lb_swiglu(model->ops, s->gated, s->gate, s->up);
}

void lb_block_forward(lb_model *model, const lb_adapter *adapter, size_t index,
                      const lb_rows *rows, lb_tensor x, lb_block_state *state)
{
    lb_ops *ops = model->ops;
    const lb_layer *w = &model->layers[index];
    const lb_norm by = norm_of(model, w->attention_norm);
    size_t mark = lb_ops_mark(ops);
    lb_block_state s = {0};
    lb_tensor qkv[3];
    if (state) {
        s.input = lb_ops_alloc(ops, LB_F32, x.rows, x.cols);
        lb_copy(ops, s.input, x);
    }
    if (state || any_adapted(adapter, index, LB_PROJ_Q, 3)) {
        s.normed = norm(model, x, w->attention_norm);
        project(model, adapter, index, LB_PROJ_Q, 3, s.normed, NULL, qkv);
    } else {
        project(model, adapter, index, LB_PROJ_Q, 3, x, &by, qkv);
    }
    s.q_raw = qkv[0];
    s.k_raw = qkv[1];
    s.v = qkv[2];
    s.q = position_heads(model, s.q_raw, w->q_norm, rows);
    s.k = position_heads(model, s.k_raw, w->k_norm, rows);
    s.attended = attend(model, index, rows, &s);
    project_into(model, adapter, index, LB_PROJ_O, 1, s.attended, NULL, &x, true);
    if (state) {
        s.middle = lb_ops_alloc(ops, LB_F32, x.rows, x.cols);
        lb_copy(ops, s.middle, x);
    }
    mlp_forward(model, adapter, index, x, state != NULL, &s);
    project_into(model, adapter, index, LB_PROJ_DOWN, 1, s.gated, NULL, &x, true);
    if (state)
        *state = s;
    else
        lb_ops_release(ops, mark);
}

lb_tensor lb_forward(lb_model *model, const lb_adapter *adapter, const lb_rows *rows)
{
    lb_tensor x = lb_ops_alloc(model->ops, LB_F32, rows->count, model->config.hidden);
    lb_embed(model->ops, x, model->embedding, rows->tokens);
    for (size_t i = 0; i < model->config.layers; i++)
        lb_block_forward(model, adapter, i, rows, x, NULL);
    return norm(model, x, model->final_norm);
}

lb_status lb_kv_cache_create(lb_model *model, size_t pages, lb_kv_cache *out, lb_err *err)
{
    lb_attention_shape s = lb_model_attention(model);
    size_t layers = model->config.layers;
    lb_kv_cache cache = {.keys = calloc(layers, sizeof *cache.keys),
                         .values = calloc(layers, sizeof *cache.values)};
    if (!cache.keys || !cache.values) {
        lb_kv_cache_free(&cache);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a KV cache");
    }
    for (size_t i = 0; i < layers; i++) {
        cache.keys[i] = lb_ops_alloc_zero(model->ops, LB_F32, pages, lb_kv_key_page(&s));
        cache.values[i] = lb_ops_alloc_zero(model->ops, LB_F32, pages, lb_kv_value_page(&s));
    }
    lb_status status = lb_ops_status(model->ops, err);
    if (status == LB_OK)
        *out = cache;
    else
        lb_kv_cache_free(&cache);
    return status;
}

void lb_kv_cache_free(lb_kv_cache *cache)
{
    free(cache->keys);
    free(cache->values);
    *cache = (lb_kv_cache){0};
}
