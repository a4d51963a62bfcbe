/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tensor/ops.h"

#include "common/base/buf.h"
#include "common/tensor/backend_impl.h"

#include <stdlib.h>

#define CHUNKS_MAX 40u                   /* each at least doubles: 2^40 chunks' worth of memory */
#define CHUNK_FIRST ((size_t)1 << 20)
#define ALIGNMENT 64u
#define MARK_SHIFT 56                    /* a mark: the chunk's index above its used bytes */

typedef struct chunk {
    char *base;
    size_t size, used;
} chunk;

struct lb_ops {
    lb_backend *backend;
    lb_status status;
    lb_err err;
    chunk chunks[CHUNKS_MAX];
    size_t current, chunk_count;
    size_t live, peak;
};

/* ---- stream and arena ---- */

lb_status lb_ops_create(lb_backend *backend, lb_ops **out, lb_err *err)
{
    lb_ops *ops = calloc(1, sizeof *ops);
    if (!ops)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for an op stream");
    ops->backend = backend;
    *out = ops;
    return LB_OK;
}

void lb_ops_free(lb_ops *ops)
{
    if (!ops)
        return;
    for (size_t i = 0; i < ops->chunk_count; i++)
        ops->backend->table->release(ops->backend->self, ops->chunks[i].base);
    free(ops);
}

lb_status lb_ops_status(const lb_ops *ops, lb_err *err)
{
    if (err && ops->status != LB_OK)
        *err = ops->err;
    return ops->status;
}

void lb_ops_reset(lb_ops *ops)
{
    ops->status = LB_OK;
    lb_ops_release(ops, 0);
}

void lb_ops_fail(lb_ops *ops, lb_status status, const char *what)
{
    if (ops->status == LB_OK)
        ops->status = lb_fail(&ops->err, status, NULL, "%s", what);
}

/* Whether the stream goes on; otherwise its first failure becomes `what`. */
static bool check(lb_ops *ops, bool fits, const char *what)
{
    if (!fits)
        lb_ops_fail(ops, LB_EINTERNAL, what);
    return ops->status == LB_OK;
}

static void done(lb_ops *ops, lb_status status, const char *what)
{
    if (status != LB_OK)
        lb_ops_fail(ops, status, what);
}

static bool arena_grow(lb_ops *ops, size_t bytes)
{
    if (ops->chunk_count == CHUNKS_MAX)
        return false;
    size_t size = ops->chunk_count ? ops->chunks[ops->chunk_count - 1].size : CHUNK_FIRST / 2;
    size = size > SIZE_MAX / 4 ? bytes : 2 * size;
    if (size < bytes)
        size = bytes;
    void *base = NULL;
    if (ops->backend->table->alloc(ops->backend->self, size, &base) != LB_OK)
        return false;
    ops->chunks[ops->chunk_count++] = (chunk){.base = base, .size = size};
    return true;
}

lb_tensor lb_ops_alloc(lb_ops *ops, lb_dtype dtype, size_t rows, size_t cols)
{
    lb_tensor none = {.dtype = dtype, .rows = rows, .cols = cols,
                      .stride = lb_ops_stride(rows, cols)};
    size_t bytes;
    if (ops->status != LB_OK)
        return none;
    if (!lb_size_mul(rows, none.stride, &bytes) ||
        !lb_size_mul(bytes, lb_dtype_size(dtype), &bytes) || bytes > SIZE_MAX / 2) {
        lb_ops_fail(ops, LB_ETOOBIG, "a temporary's size overflows");
        return none;
    }
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + ALIGNMENT;
    while (ops->current < ops->chunk_count &&
           ops->chunks[ops->current].size - ops->chunks[ops->current].used < bytes) {
        ops->current++;
        if (ops->current < ops->chunk_count)
            ops->chunks[ops->current].used = 0;
    }
    if (ops->current == ops->chunk_count && !arena_grow(ops, bytes)) {
        ops->current = ops->chunk_count ? ops->chunk_count - 1 : 0;
        lb_ops_fail(ops, LB_ENOMEM, "no memory for a temporary");
        return none;
    }
    chunk *c = &ops->chunks[ops->current];
    none.data = c->base + c->used;
    c->used += bytes;
    size_t live = c->used;
    for (size_t i = 0; i < ops->current; i++)
        live += ops->chunks[i].used;
    ops->live = live;
    if (live > ops->peak)
        ops->peak = live;
    return none;
}

lb_tensor lb_ops_alloc_zero(lb_ops *ops, lb_dtype dtype, size_t rows, size_t cols)
{
    lb_tensor t = lb_ops_alloc(ops, dtype, rows, cols);
    if (t.data)
        ops->backend->table->clear(ops->backend->self, t.data,
                                   rows * t.stride * lb_dtype_size(dtype));
    return t;
}

size_t lb_ops_mark(const lb_ops *ops)
{
    if (ops->chunk_count == 0)
        return 0;
    return ops->current << MARK_SHIFT | ops->chunks[ops->current].used;
}

void lb_ops_release(lb_ops *ops, size_t mark)
{
    size_t index = mark >> MARK_SHIFT;
    if (index >= ops->chunk_count)
        return;
    for (size_t i = index + 1; i < ops->chunk_count; i++)
        ops->chunks[i].used = 0;
    ops->chunks[index].used = mark & (((size_t)1 << MARK_SHIFT) - 1);
    ops->current = index;
}

size_t lb_ops_peak_bytes(const lb_ops *ops)
{
    return ops->peak;
}

lb_status lb_device_alloc(lb_backend *backend, lb_dtype dtype, size_t rows, size_t cols,
                          lb_tensor *out, lb_err *err)
{
    size_t bytes;
    void *data = NULL;
    if (!lb_size_mul(rows, cols, &bytes) || !lb_size_mul(bytes, lb_dtype_size(dtype), &bytes) ||
        !lb_size_add(bytes, ALIGNMENT, &bytes) || bytes > SIZE_MAX / 2)
        return lb_fail(err, LB_ETOOBIG, NULL, "a tensor of %zu x %zu overflows", rows, cols);
    if (backend->table->alloc(backend->self, bytes, &data) != LB_OK)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a tensor of %zu x %zu", rows, cols);
    backend->table->clear(backend->self, data, bytes);
    *out = (lb_tensor){dtype, rows, cols, cols, data};
    return LB_OK;
}

void lb_device_free(lb_backend *backend, lb_tensor *tensor)
{
    if (!tensor || !tensor->data)
        return;
    backend->table->release(backend->self, tensor->data);
    *tensor = (lb_tensor){0};
}

/* ---- shapes ---- */

static bool is_f32(lb_tensor t)
{
    return t.dtype == LB_F32 && t.data && t.stride >= t.cols;
}

static bool same(lb_tensor a, lb_tensor b)
{
    return is_f32(a) && is_f32(b) && a.rows == b.rows && a.cols == b.cols;
}

static bool is_vector(lb_tensor t, size_t cols)
{
    return is_f32(t) && t.rows == 1 && t.cols == cols;
}

#define CALL(op, ...) ops->backend->table->op(ops->backend->self, __VA_ARGS__)

void lb_copy_in(lb_ops *ops, lb_tensor to, const void *host)
{
    if (check(ops, to.data && host, "copy_in: no memory"))
        done(ops, CALL(copy_in, to, host), "copy_in failed");
}

void lb_copy_out(lb_ops *ops, lb_tensor from, void *host)
{
    if (check(ops, from.data && host, "copy_out: no memory"))
        done(ops, CALL(copy_out, from, host), "copy_out failed");
}

/* ---- weights ---- */

lb_status lb_weight_pack(lb_backend *backend, size_t n, size_t k, const lb_row_source *source,
                         lb_dtype stored, unsigned flags, lb_weight **out, lb_err *err)
{
    size_t rows, cols, bytes;
    if (n == 0 || k == 0 || !lb_size_add(n, LB_PANEL, &rows) || !lb_size_add(k, LB_PANEL, &cols) ||
        !lb_size_mul(rows, cols, &bytes) || bytes > SIZE_MAX / 16)
        return lb_fail(err, LB_EINVAL, NULL, "%zu x %zu is no shape for a weight", n, k);
    if (stored == LB_I32)
        return lb_fail(err, LB_EINVAL, "dtype", "weights are f32, bf16, fast or int8");
    if (!lb_dtype_has_backward(stored) && (flags & LB_WEIGHT_BACKWARD))
        return lb_fail(err, LB_EUNSUPPORTED, "dtype", "weights in %s have no backward",
                       lb_dtype_name(stored));
    lb_weight *w = calloc(1, sizeof *w);
    if (!w)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a weight");
    *w = (lb_weight){.stored = stored, .n = n, .k = k, .flags = flags, .backend = backend};
    lb_status status = backend->table->weight_pack(backend->self, w, source);
    if (status != LB_OK) {
        lb_weight_free(w);
        return lb_fail(err, status, NULL, "no memory for a weight of %zu x %zu", n, k);
    }
    *out = w;
    return LB_OK;
}

typedef struct host_matrix {
    const uint8_t *data;
    lb_dtype dtype;
    size_t k;
} host_matrix;

static void read_host(const void *arg, size_t first, size_t count, float *out)
{
    const host_matrix *m = arg;
    const uint8_t *from = m->data + first * m->k * lb_dtype_size(m->dtype);
    if (m->dtype == LB_F32) {
        memcpy(out, from, count * m->k * sizeof *out);
        return;
    }
    for (size_t i = 0; i < count * m->k; i++) {
        uint16_t half;
        memcpy(&half, from + i * sizeof half, sizeof half);
        out[i] = lb_bf16_to_f32(half);
    }
}

lb_status lb_weight_create(lb_backend *backend, size_t n, size_t k, const void *source,
                           lb_dtype source_dtype, lb_dtype stored, unsigned flags,
                           lb_weight **out, lb_err *err)
{
    host_matrix matrix = {.data = source, .dtype = source_dtype, .k = k};
    lb_row_source rows = {.read = read_host, .arg = &matrix};
    if (source_dtype == LB_I32)
        return lb_fail(err, LB_EINVAL, NULL, "weights are f32 or bf16");
    return lb_weight_pack(backend, n, k, &rows, stored, flags, out, err);
}

void lb_weight_free(lb_weight *weight)
{
    if (!weight)
        return;
    weight->backend->table->weight_drop(weight->backend->self, weight);
    free(weight);
}

size_t lb_weight_n(const lb_weight *weight)
{
    return weight->n;
}

size_t lb_weight_k(const lb_weight *weight)
{
    return weight->k;
}

size_t lb_weight_bytes(const lb_weight *weight)
{
    return weight->bytes;
}

size_t lb_weight_packed_bytes(size_t n, size_t k, lb_dtype stored, unsigned flags)
{
    lb_packing_sizes forward = lb_packing_bytes(n, k, stored, flags & LB_WEIGHT_FORWARD);
    lb_packing_sizes backward = lb_packing_bytes(k, n, stored, flags & LB_WEIGHT_BACKWARD);
    return forward.panels + forward.scales + forward.sums + backward.panels + backward.scales;
}

/* ---- forward ---- */

void lb_embed(lb_ops *ops, lb_tensor out, const lb_weight *table, const uint32_t *ids)
{
    if (!check(ops, is_f32(out) && out.cols == table->k && table->forward, "embed: shapes"))
        return;
    for (size_t t = 0; t < out.rows; t++) {
        if (ids[t] >= table->n) {
            lb_ops_fail(ops, LB_EINVAL, "embed: a token id is not in the vocabulary");
            return;
        }
    }
    done(ops, CALL(embed, out, table, ids), "embed failed");
}

static bool norm_fits(const lb_norm *norm, lb_tensor x)
{
    return !norm || is_vector(norm->gain, x.cols);
}

void lb_linears(lb_ops *ops, lb_tensor x, const lb_norm *norm, const lb_linear_out *outs,
                size_t count)
{
    bool fits = is_f32(x) && norm_fits(norm, x) && count > 0 && count <= LB_LINEARS_MAX;
    for (size_t i = 0; fits && i < count; i++) {
        const lb_linear_out *o = &outs[i];
        fits = is_f32(o->out) && o->out.rows == x.rows && x.cols == o->w->k &&
               o->out.cols == o->w->n && o->w->forward && o->w->stored == outs[0].w->stored &&
               (!o->bias.data || is_vector(o->bias, o->w->n));
    }
    if (check(ops, fits, "linear: shapes"))
        done(ops, CALL(linear, x, norm, outs, count), "linear failed");
}

void lb_linear(lb_ops *ops, lb_tensor out, lb_tensor x, const lb_weight *w, lb_tensor bias)
{
    const lb_linear_out one = {out, w, bias, false};
    lb_linears(ops, x, NULL, &one, 1);
}

static bool gain_fits(lb_tensor gain, lb_tensor x)
{
    return gain.cols > 0 && x.cols % gain.cols == 0 && is_vector(gain, gain.cols);
}

void lb_rmsnorm(lb_ops *ops, lb_tensor out, lb_tensor x, lb_tensor gain, float eps)
{
    if (check(ops, same(out, x) && gain_fits(gain, x), "rmsnorm: shapes"))
        done(ops, CALL(rmsnorm, out, x, gain, eps), "rmsnorm failed");
}

void lb_rope(lb_ops *ops, lb_tensor x, size_t head_dim, lb_tensor table,
             const uint32_t *positions, bool inverse)
{
    bool fits = is_f32(x) && is_f32(table) && head_dim >= 2 && head_dim % 2 == 0 &&
                x.cols % head_dim == 0 && table.cols == head_dim;
    for (size_t t = 0; fits && t < x.rows; t++)
        fits = positions[t] < table.rows;
    if (check(ops, fits, "rope: shapes or a position past the table"))
        done(ops, CALL(rope, x, head_dim, table, positions, inverse), "rope failed");
}

void lb_swiglu(lb_ops *ops, lb_tensor out, lb_tensor gate, lb_tensor up)
{
    if (check(ops, same(out, gate) && same(gate, up), "swiglu: shapes"))
        done(ops, CALL(swiglu, out, gate, up), "swiglu failed");
}

void lb_linear_swiglu(lb_ops *ops, lb_tensor out, lb_tensor x, const lb_norm *norm,
                      const lb_weight *gate, const lb_weight *up)
{
    bool fits = is_f32(out) && is_f32(x) && norm_fits(norm, x) && out.rows == x.rows &&
                gate->k == x.cols && gate->n == out.cols && up->k == gate->k &&
                up->n == gate->n && gate->forward && up->forward && gate->stored == up->stored;
    if (check(ops, fits, "linear_swiglu: shapes"))
        done(ops, CALL(linear_swiglu, out, x, norm, gate, up), "linear_swiglu failed");
}

void lb_copy(lb_ops *ops, lb_tensor to, lb_tensor from)
{
    if (check(ops, same(to, from), "copy: shapes"))
        done(ops, CALL(copy_rows, to, from, NULL, NULL, to.rows), "copy failed");
}

static bool rows_below(const uint32_t *index, size_t count, size_t rows)
{
    for (size_t i = 0; i < count; i++) {
        if (index[i] >= rows)
            return false;
    }
    return true;
}

void lb_gather_rows(lb_ops *ops, lb_tensor to, lb_tensor from, const uint32_t *index)
{
    bool fits = is_f32(to) && is_f32(from) && to.cols == from.cols &&
                rows_below(index, to.rows, from.rows);
    if (check(ops, fits, "gather_rows: shapes"))
        done(ops, CALL(copy_rows, to, from, NULL, index, to.rows), "gather_rows failed");
}

void lb_scatter_rows(lb_ops *ops, lb_tensor to, lb_tensor from, const uint32_t *index)
{
    bool fits = is_f32(to) && is_f32(from) && to.cols == from.cols &&
                rows_below(index, from.rows, to.rows);
    if (check(ops, fits, "scatter_rows: shapes"))
        done(ops, CALL(copy_rows, to, from, index, NULL, from.rows), "scatter_rows failed");
}

static void gemm(lb_ops *ops, const lb_gemm_args *args, bool fits)
{
    fits = fits && is_f32(args->a) && is_f32(args->b) && is_f32(args->c);
    if (check(ops, fits, "gemm: shapes"))
        done(ops, CALL(gemm, args), "gemm failed");
}

void lb_gemm_nn(lb_ops *ops, lb_tensor c, lb_tensor a, lb_tensor b, float alpha, bool accumulate)
{
    lb_gemm_args args = {false, c, a, b, alpha, accumulate};
    gemm(ops, &args, a.cols == b.rows && c.rows == a.rows && c.cols == b.cols);
}

void lb_gemm_tn(lb_ops *ops, lb_tensor c, lb_tensor a, lb_tensor b, bool accumulate)
{
    lb_gemm_args args = {true, c, a, b, 1.0f, accumulate};
    gemm(ops, &args, a.rows == b.rows && c.rows == a.cols && c.cols == b.cols);
}

static bool shape_fits(const lb_attention_shape *s)
{
    return s->kv_heads > 0 && s->heads > 0 && s->head_dim > 0 && s->heads % s->kv_heads == 0 &&
           lb_kv_can_store(s->stored, s->head_dim);
}

static bool cache_fits(const lb_attention_shape *s, lb_tensor keys, lb_tensor values)
{
    return is_f32(keys) && is_f32(values) && keys.rows == values.rows &&
           keys.cols == lb_kv_key_page(s) && values.cols == lb_kv_value_page(s);
}

void lb_kv_write(lb_ops *ops, lb_tensor keys, lb_tensor values, lb_tensor k, lb_tensor v,
                 const uint32_t *slots, const lb_attention_shape *shape)
{
    bool fits = shape_fits(shape) && cache_fits(shape, keys, values) && same(k, v) &&
                k.cols == (size_t)shape->kv_heads * shape->head_dim;
    for (size_t t = 0; fits && t < k.rows; t++)
        fits = slots[t] / LB_KV_PAGE < keys.rows;
    lb_kv_write_args args = {keys, values, k, v, slots, shape};
    if (check(ops, fits, "kv_write: shapes or a slot past the cache"))
        done(ops, CALL(kv_write, &args), "kv_write failed");
}

/* Rows of one sequence stand together with one table: each of its pages is looked at once. */
static bool rows_fit(const lb_kv_row *rows, size_t count, size_t pages)
{
    const uint32_t *table = NULL;
    size_t known = 0;
    for (size_t t = 0; t < count; t++) {
        size_t own = ((size_t)rows[t].count + LB_KV_PAGE - 1) / LB_KV_PAGE;
        if (own == 0)
            return false;
        if (rows[t].pages != table) {
            table = rows[t].pages;
            known = 0;
        }
        for (; known < own; known++) {
            if (table[known] >= pages)
                return false;
        }
    }
    return true;
}

void lb_attention(lb_ops *ops, lb_tensor out, lb_tensor q, lb_tensor keys, lb_tensor values,
                  const lb_kv_row *rows, const lb_attention_shape *shape)
{
    bool fits = shape_fits(shape) && cache_fits(shape, keys, values) && same(out, q) &&
                q.cols == (size_t)shape->heads * shape->head_dim &&
                rows_fit(rows, q.rows, keys.rows);
    lb_attention_args args = {out, q, keys, values, rows, shape};
    if (check(ops, fits, "attention: shapes or a page past the cache"))
        done(ops, CALL(attention, &args), "attention failed");
}

/* ---- head ---- */

static bool targets_below(const uint32_t *targets, size_t rows, size_t vocab)
{
    return !targets || rows_below(targets, rows, vocab);
}

void lb_head(lb_ops *ops, lb_tensor h, const lb_weight *w, const uint32_t *targets,
             const lb_head_out *out)
{
    bool fits = is_f32(h) && h.cols == w->k && w->forward && out->k <= w->n &&
                !out->top_id == !out->top_logprob &&
                (targets || (!out->logprob && !out->rank)) &&
                targets_below(targets, h.rows, w->n);
    if (check(ops, fits, "head: shapes, or a target that is not in the vocabulary"))
        done(ops, CALL(head, h, w, targets, out), "head failed");
}

void lb_head_backward(lb_ops *ops, lb_tensor dh, lb_tensor h, const lb_weight *w,
                      const uint32_t *targets, const float *lse, const float *grad)
{
    bool fits = same(dh, h) && h.cols == w->k && w->forward && w->backward &&
                targets_below(targets, h.rows, w->n);
    if (check(ops, fits, "head_backward: shapes"))
        done(ops, CALL(head_backward, dh, h, w, targets, lse, grad), "head_backward failed");
}

void lb_head_sample(lb_ops *ops, lb_tensor h, const lb_weight *w, const uint8_t *allowed,
                    const lb_sample_params *params, const float *uniform, uint32_t *token,
                    float *logprob)
{
    bool fits = is_f32(h) && h.cols == w->k && w->forward && params->temperature >= 0 &&
                params->top_p > 0;
    lb_sample_args args = {w, allowed, params, uniform, token, logprob};
    if (check(ops, fits, "head_sample: shapes"))
        done(ops, CALL(head_sample, h, &args), "head_sample failed");
}

/* ---- backward ---- */

void lb_linear_backward(lb_ops *ops, lb_tensor dx, lb_tensor dy, const lb_weight *w,
                        bool accumulate)
{
    bool fits = is_f32(dx) && is_f32(dy) && dx.rows == dy.rows && dx.cols == w->k &&
                dy.cols == w->n && w->backward;
    if (check(ops, fits, "linear_backward: shapes"))
        done(ops, CALL(linear_backward, dx, dy, w, accumulate), "linear_backward failed");
}

void lb_rmsnorm_backward(lb_ops *ops, lb_tensor dx, lb_tensor dy, lb_tensor x, lb_tensor gain,
                         float eps, bool accumulate)
{
    const lb_tensor t[4] = {dx, dy, x, gain};
    if (check(ops, same(dx, dy) && same(dy, x) && gain_fits(gain, x),
              "rmsnorm_backward: shapes"))
        done(ops, CALL(rmsnorm_backward, t, eps, accumulate), "rmsnorm_backward failed");
}

void lb_swiglu_backward(lb_ops *ops, lb_tensor dgate, lb_tensor dup, lb_tensor dout,
                        lb_tensor gate, lb_tensor up)
{
    const lb_tensor t[5] = {dgate, dup, dout, gate, up};
    bool fits = same(dgate, dup) && same(dup, dout) && same(dout, gate) && same(gate, up);
    if (check(ops, fits, "swiglu_backward: shapes"))
        done(ops, CALL(swiglu_backward, t), "swiglu_backward failed");
}

void lb_attention_backward(lb_ops *ops, const lb_tensor grads[3], lb_tensor dout, lb_tensor q,
                           lb_tensor k, lb_tensor v, const uint32_t *starts, size_t sequences,
                           const lb_attention_shape *shape)
{
    bool fits = shape_fits(shape) && same(grads[0], q) && same(grads[1], k) &&
                same(grads[2], v) && same(k, v) && same(dout, q) && q.rows == k.rows &&
                q.cols == (size_t)shape->heads * shape->head_dim &&
                k.cols == (size_t)shape->kv_heads * shape->head_dim && starts[0] == 0 &&
                starts[sequences] == q.rows;
    for (size_t s = 0; fits && s < sequences; s++)
        fits = starts[s] < starts[s + 1];
    lb_attention_grad_args args = {grads[0], grads[1], grads[2], dout, q, k, v, starts,
                                   sequences, shape};
    if (check(ops, fits, "attention_backward: shapes"))
        done(ops, CALL(attention_backward, &args), "attention_backward failed");
}
