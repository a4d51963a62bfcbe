/* SPDX-License-Identifier: Apache-2.0
 *
 * Forward and backward with respect to the adapter. The forward keeps every layer's input; the
 * other activations of as many layers as fit the budget are kept too, those of the rest are
 * computed again by the same lines, hence with the same bits. Parameter gradients are one chain
 * over the rows of all sequences in the order of the array, so micro-batches do not show in them.
 */
#include "common/model/model_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KEPT_BYTES_DEFAULT ((size_t)1 << 30)

typedef struct pass {
    lb_model *model;
    const lb_adapter *adapter;
    lb_tensor *grad_a, *grad_b;    /* [L * LB_PROJ_COUNT] views of the summed gradient */
    const lb_sequence *sequences;  /* of this micro-batch */
    size_t count, rows;
    uint32_t *tokens, *targets, *positions, *starts, *slots;
    uint32_t *table;               /* [pages]: the sequences' pages, one after the other */
    lb_kv_row *kv;
    size_t pages;
    float *logprob, *lse, *grad;   /* [rows] */
    lb_block_state *states;        /* [L] */
    size_t kept_from;              /* layers from here on keep their activations */
} pass;

/* dx = (dx +) dy W + scale (dy B) A and, row by row in order, dB += dy^T u, dA += (scale dy B)^T x
 * with u = scale x A^T. dx with data NULL is not computed. */
static void project_backward(const pass *p, size_t layer, lb_projection projection, lb_tensor dx,
                             lb_tensor dy, lb_tensor x, bool accumulate)
{
    lb_ops *ops = p->model->ops;
    size_t slot = layer * LB_PROJ_COUNT + projection, mark = lb_ops_mark(ops);
    lb_tensor a = p->adapter->a[slot], b = p->adapter->b[slot];
    if (dx.data)
        lb_linear_backward(ops, dx, dy, p->model->layers[layer].projection[projection],
                           accumulate);
    if (a.data) {
        lb_tensor u = lb_ops_alloc(ops, LB_F32, x.rows, a.rows);
        lb_tensor du = lb_ops_alloc(ops, LB_F32, x.rows, a.rows);
        lb_gemm_nn(ops, u, x, p->adapter->a_turned[slot], p->adapter->scale[slot], false);
        lb_gemm_nn(ops, du, dy, b, p->adapter->scale[slot], false);
        lb_gemm_tn(ops, p->grad_b[slot], dy, u, true);
        lb_gemm_tn(ops, p->grad_a[slot], du, x, true);
        if (dx.data)
            lb_gemm_nn(ops, dx, du, a, 1.0f, true);
    }
    lb_ops_release(ops, mark);
}

static lb_tensor alloc_like(const pass *p, lb_tensor t)
{
    return lb_ops_alloc(p->model->ops, LB_F32, t.rows, t.cols);
}

static void mlp_backward(const pass *p, size_t layer, lb_tensor dx, const lb_block_state *s)
{
    lb_ops *ops = p->model->ops;
    size_t mark = lb_ops_mark(ops);
    lb_tensor dgated = alloc_like(p, s->gated), dgate = alloc_like(p, s->gate);
    lb_tensor dup = alloc_like(p, s->up), dnormed = alloc_like(p, s->mlp_normed);
    project_backward(p, layer, LB_PROJ_DOWN, dgated, dx, s->gated, false);
    lb_swiglu_backward(ops, dgate, dup, dgated, s->gate, s->up);
    project_backward(p, layer, LB_PROJ_GATE, dnormed, dgate, s->mlp_normed, false);
    project_backward(p, layer, LB_PROJ_UP, dnormed, dup, s->mlp_normed, true);
    lb_rmsnorm_backward(ops, dx, dnormed, s->middle, p->model->layers[layer].mlp_norm,
                        (float)p->model->config.rms_eps, true);
    lb_ops_release(ops, mark);
}

/* Back through the rotary embedding and the per-head norm; d is changed in place. */
static lb_tensor heads_backward(const pass *p, lb_tensor d, lb_tensor raw, lb_tensor gain)
{
    lb_ops *ops = p->model->ops;
    lb_rope(ops, d, p->model->config.head_dim, p->model->rope, p->positions, true);
    if (!gain.data)
        return d;
    lb_tensor out = alloc_like(p, raw);
    lb_rmsnorm_backward(ops, out, d, raw, gain, (float)p->model->config.rms_eps, false);
    return out;
}

static void attention_backward(const pass *p, size_t layer, lb_tensor dx, const lb_block_state *s)
{
    lb_ops *ops = p->model->ops;
    const lb_layer *w = &p->model->layers[layer];
    size_t mark = lb_ops_mark(ops);
    lb_attention_shape shape = lb_model_attention(p->model);
    lb_tensor dattended = alloc_like(p, s->attended);
    lb_tensor grads[3] = {alloc_like(p, s->q), alloc_like(p, s->k), alloc_like(p, s->v)};
    project_backward(p, layer, LB_PROJ_O, dattended, dx, s->attended, false);
    lb_attention_backward(ops, grads, dattended, s->q, s->k, s->v, p->starts, p->count, &shape);
    lb_tensor dq = heads_backward(p, grads[0], s->q_raw, w->q_norm);
    lb_tensor dk = heads_backward(p, grads[1], s->k_raw, w->k_norm);
    /* Nothing below layer 0 learns, so its input needs no gradient. */
    lb_tensor dnormed = {0};
    if (layer > 0)
        dnormed = alloc_like(p, s->normed);
    project_backward(p, layer, LB_PROJ_Q, dnormed, dq, s->normed, false);
    project_backward(p, layer, LB_PROJ_K, dnormed, dk, s->normed, true);
    project_backward(p, layer, LB_PROJ_V, dnormed, grads[2], s->normed, true);
    if (layer > 0)
        lb_rmsnorm_backward(ops, dx, dnormed, s->input, w->attention_norm,
                            (float)p->model->config.rms_eps, true);
    lb_ops_release(ops, mark);
}

static lb_rows rows_of(const pass *p)
{
    return (lb_rows){p->rows, p->tokens, p->positions, p->slots, p->kv, NULL, p->pages};
}

static void backward(const pass *p, lb_tensor dx)
{
    lb_ops *ops = p->model->ops;
    lb_rows rows = rows_of(p);
    for (size_t layer = p->model->config.layers; layer-- > 0;) {
        lb_block_state s = p->states[layer];
        size_t mark = lb_ops_mark(ops);
        if (layer < p->kept_from) {
            lb_tensor x = alloc_like(p, s.input);
            lb_copy(ops, x, p->states[layer].input);
            lb_block_forward(p->model, p->adapter, layer, &rows, x, &s);
        }
        mlp_backward(p, layer, dx, &s);
        attention_backward(p, layer, dx, &s);
        lb_ops_release(ops, mark);
    }
}

static lb_tensor forward(const pass *p)
{
    lb_ops *ops = p->model->ops;
    lb_rows rows = rows_of(p);
    lb_tensor x = lb_ops_alloc(ops, LB_F32, p->rows, p->model->config.hidden);
    lb_embed(ops, x, p->model->embedding, p->tokens);
    for (size_t i = 0; i < p->model->config.layers; i++) {
        bool keep = i >= p->kept_from;
        if (!keep) {
            p->states[i].input = alloc_like(p, x);
            lb_copy(ops, p->states[i].input, x);
        }
        lb_block_forward(p->model, p->adapter, i, &rows, x, keep ? &p->states[i] : NULL);
    }
    return x;
}

static lb_status check_finite(const float *values, size_t count, const char *field, lb_err *err)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(values[i]))
            return lb_fail(err, LB_ENUMERIC, field, "the %s of entry %zu is not finite", field,
                           i + 1);
    }
    return LB_OK;
}

/* Calls the loss for each sequence: entry t of a sequence is row t - 1. */
static lb_status call_loss(const pass *p, size_t first_sequence, lb_loss_fn loss, void *arg,
                           lb_err *err)
{
    size_t longest = 0;
    for (size_t s = 0; s < p->count; s++)
        longest = p->sequences[s].count > longest ? p->sequences[s].count : longest;
    float *entries = calloc(2 * longest, sizeof *entries);
    if (!entries)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a loss");
    lb_status status = LB_OK;
    for (size_t s = 0; status == LB_OK && s < p->count; s++) {
        size_t first = p->starts[s], n = p->sequences[s].count;
        float *grad = entries + longest;
        entries[0] = 0.0f;
        memcpy(entries + 1, p->logprob + first, (n - 1) * sizeof *entries);
        memset(grad, 0, n * sizeof *grad);
        status = check_finite(entries + 1, n - 1, "logprob", err);
        if (status == LB_OK)
            status = loss(arg, first_sequence + s, entries, grad, err);
        if (status == LB_OK)
            status = check_finite(grad + 1, n - 1, "loss", err);
        memcpy(p->grad + first, grad + 1, (n - 1) * sizeof *grad);
    }
    free(entries);
    return status;
}

static lb_status run_pass(pass *p, size_t first_sequence, lb_loss_fn loss, void *arg, lb_err *err)
{
    lb_model *model = p->model;
    lb_ops *ops = model->ops;
    size_t mark = lb_ops_mark(ops);
    lb_tensor x = forward(p);
    lb_tensor h = alloc_like(p, x), dh = alloc_like(p, x), dx = alloc_like(p, x);
    lb_head_out out = {.logprob = p->logprob, .lse = p->lse};
    lb_rmsnorm(ops, h, x, model->final_norm, (float)model->config.rms_eps);
    lb_head(ops, h, lb_model_head(model), p->targets, &out);
    lb_status status = lb_ops_status(ops, err);
    if (status == LB_OK)
        status = call_loss(p, first_sequence, loss, arg, err);
    if (status == LB_OK) {
        lb_head_backward(ops, dh, h, lb_model_head(model), p->targets, p->lse, p->grad);
        lb_rmsnorm_backward(ops, dx, dh, x, model->final_norm, (float)model->config.rms_eps,
                            false);
        backward(p, dx);
        status = lb_ops_status(ops, err);
    }
    lb_ops_release(ops, mark);
    return status;
}

static void pass_free(pass *p)
{
    free(p->tokens);
    free(p->targets);
    free(p->positions);
    free(p->starts);
    free(p->slots);
    free(p->table);
    free(p->kv);
    free(p->logprob);
    free(p->lse);
    free(p->grad);
    free(p->states);
}

/* The first layer whose activations are kept: as many of the last ones as the budget holds. A kept
 * block takes what lb_block_state names; of the others the input alone is kept. */
static size_t first_kept(const lb_model *model, size_t rows)
{
    const lb_model_config *c = &model->config;
    size_t budget = model->options.activation_bytes ? model->options.activation_bytes
                                                    : KEPT_BYTES_DEFAULT;
    size_t queries = (size_t)c->heads * c->head_dim, keys = (size_t)c->kv_heads * c->head_dim;
    size_t heads = model->layers[0].q_norm.data ? 3 : 2;     /* normed heads are apart from raw */
    size_t columns = 4 * (size_t)c->hidden + heads * (queries + keys) + 3 * (size_t)c->mlp;
    size_t block = columns * rows * sizeof(float), input = c->hidden * rows * sizeof(float);
    size_t kept = 0;
    while (kept < c->layers && (kept + 1) * block + (c->layers - kept - 1) * input <= budget)
        kept++;
    return c->layers - kept;
}

/* Lays the sequences' rows end to end; the last token of each predicts nothing and is not run. */
static lb_status pass_create(lb_model *model, const lb_sequence *sequences, size_t count, pass *p,
                             lb_err *err)
{
    size_t rows = 0, r = 0, page = 0;
    for (size_t s = 0; s < count; s++) {
        rows += sequences[s].count - 1;
        p->pages += lb_kv_pages(sequences[s].count - 1);
    }
    p->sequences = sequences;
    p->count = count;
    p->rows = rows;
    p->kept_from = first_kept(model, rows);
    p->tokens = calloc(rows, sizeof *p->tokens);
    p->targets = calloc(rows, sizeof *p->targets);
    p->positions = calloc(rows, sizeof *p->positions);
    p->starts = calloc(count + 1, sizeof *p->starts);
    p->slots = calloc(rows, sizeof *p->slots);
    p->table = calloc(p->pages, sizeof *p->table);
    p->kv = calloc(rows, sizeof *p->kv);
    p->logprob = calloc(rows, sizeof *p->logprob);
    p->lse = calloc(rows, sizeof *p->lse);
    p->grad = calloc(rows, sizeof *p->grad);
    p->states = calloc(model->config.layers, sizeof *p->states);
    if (!p->tokens || !p->targets || !p->positions || !p->starts || !p->slots || !p->table ||
        !p->kv || !p->logprob || !p->lse || !p->grad || !p->states)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a pass of %zu rows", rows);
    for (size_t i = 0; i < p->pages; i++)
        p->table[i] = (uint32_t)i;
    for (size_t s = 0; s < count; s++) {
        p->starts[s] = (uint32_t)r;
        for (uint32_t t = 0; t + 1 < sequences[s].count; t++, r++) {
            p->tokens[r] = sequences[s].tokens[t];
            p->targets[r] = sequences[s].tokens[t + 1];
            p->positions[r] = t;
            p->slots[r] = (uint32_t)page * LB_KV_PAGE + t;
            p->kv[r] = (lb_kv_row){.pages = p->table + page, .count = t + 1};
        }
        page += lb_kv_pages(sequences[s].count - 1);
    }
    p->starts[count] = (uint32_t)r;
    return LB_OK;
}

/* Views of the summed gradient in the layout's order. */
static lb_status gradient_views(const lb_adapter *adapter, lb_tensor sum, pass *p, lb_err *err)
{
    size_t slots = (size_t)adapter->layout.layers * LB_PROJ_COUNT;
    p->grad_a = calloc(slots, sizeof *p->grad_a);
    p->grad_b = calloc(slots, sizeof *p->grad_b);
    if (!p->grad_a || !p->grad_b)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for gradient views");
    for (size_t i = 0; i < adapter->layout.count; i++) {
        const lb_lora_tensor *t = &adapter->layout.tensors[i];
        lb_tensor *views = t->is_b ? p->grad_b : p->grad_a;
        views[t->layer * LB_PROJ_COUNT + t->projection] = lb_tensor_reshape(
            lb_tensor_cols(sum, t->offset, (size_t)t->rows * t->cols), t->rows, t->cols);
    }
    return LB_OK;
}

static lb_status check(const lb_model *model, const lb_adapter *adapter,
                       const lb_sequence *sequences, size_t count, lb_err *err)
{
    if (!adapter || !model->options.trainable)
        return lb_fail(err, LB_EINVAL, "adapter",
                       "a gradient needs an adapter and a model loaded as trainable");
    for (size_t s = 0; s < count; s++) {
        lb_status status = lb_model_check_tokens(model, &sequences[s], err);
        if (status != LB_OK)
            return status;
        if (sequences[s].count < 2)
            return lb_fail(err, LB_EINVAL, "tokens", "a sequence of 1 token has nothing to train");
    }
    return LB_OK;
}

lb_status lb_model_gradient(lb_model *model, const lb_adapter *adapter,
                            const lb_sequence *sequences, size_t count, lb_loss_fn loss,
                            void *loss_arg, float *grad_flat, lb_err *err)
{
    lb_status status = check(model, adapter, sequences, count, err);
    if (status != LB_OK || count == 0)
        return status;
    pass shared = {.model = model, .adapter = adapter};
    size_t elements = adapter->layout.elements;
    float *host = malloc(elements * sizeof *host);
    lb_ops_reset(model->ops);
    lb_tensor sum = lb_ops_alloc_zero(model->ops, LB_F32, 1, elements);
    status = host ? lb_ops_status(model->ops, err)
                  : lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu gradients", elements);
    if (status == LB_OK)
        status = gradient_views(adapter, sum, &shared, err);
    for (size_t first = 0; status == LB_OK && first < count;) {
        size_t rows = sequences[first].count - 1, last = first + 1;
        while (last < count && rows + sequences[last].count - 1 <= model->options.max_tokens)
            rows += sequences[last++].count - 1;
        pass p = shared;
        status = pass_create(model, sequences + first, last - first, &p, err);
        if (status == LB_OK)
            status = run_pass(&p, first, loss, loss_arg, err);
        pass_free(&p);
        first = last;
    }
    if (status == LB_OK) {
        lb_copy_out(model->ops, sum, host);
        status = lb_ops_status(model->ops, err);
    }
    for (size_t i = 0; status == LB_OK && i < elements; i++)
        grad_flat[i] += host[i];
    free(host);
    free(shared.grad_a);
    free(shared.grad_b);
    return status;
}
