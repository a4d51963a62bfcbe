/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_ops - the operations a decoder is made of, over one backend.
 *
 * An lb_ops is a stream of operations with an arena for temporaries and a sticky error: after a
 * failure (a shape that does not fit, memory, a device) every further call does nothing, and
 * lb_ops_status tells what the first failure was. So a forward pass reads as the paper does.
 * One thread uses an lb_ops at a time; the backend's own threads are inside the ops.
 *
 * Numerics, for every op: f32 arithmetic (bf16 only as storage of weights; integers where weights
 * are stored so), fused multiply-adds in an order that depends on the columns alone. The result for
 * a row therefore has the same bits whatever the number of rows, of threads, and whichever
 * instruction set the backend chose.
 * Shapes: T rows (tokens), D hidden, N outputs, K inputs, H heads, V vocabulary.
 */
#ifndef LB_COMMON_TENSOR_OPS_H
#define LB_COMMON_TENSOR_OPS_H

#include "common/base/status.h"
#include "common/tensor/tensor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lb_backend lb_backend;
typedef struct lb_ops lb_ops;

/* ---- backend and stream ---- */

/* Opens the backend ("cpu"). threads 0: as many as the process may use (affinity and cgroup).
 * isa NULL: the first of lb_backend_isa that gives the bits of the portable kernels, which is tried
 * in some milliseconds; lb_backend_describe names those that do not. Otherwise a name of
 * lb_backend_isa (LB_EUNSUPPORTED if the chip lacks it). */
LB_NODISCARD lb_status lb_backend_open(const char *name, uint32_t threads, const char *isa,
                                       lb_backend **out, lb_err *err);
void lb_backend_close(lb_backend *backend);
/* The CPU's instruction sets that have kernels and that this chip has, the fastest first; NULL from
 * the last on. "avx512amx", "avx512vnni", "avx512", "avx2vnni", "avx2" on x86, "neondot", "neon" on
 * Arm, and "portable". */
const char *lb_backend_isa(size_t index);
const char *lb_backend_describe(const lb_backend *backend);  /* "cpu avx512, 2 threads" */
uint32_t lb_backend_threads(const lb_backend *backend);

/* What the machine itself can do with this backend's threads and instruction set, measured anew:
 * chains of multiply-adds in registers (10^9 operations a second, a product and a sum are two), and
 * reading memory that no cache holds (10^9 bytes a second). Takes about 0.1 s, and 256 MiB. */
typedef struct lb_limits {
    double f32_gflops, int16_gops, int8_gops, read_gb_per_s;
} lb_limits;

LB_NODISCARD lb_status lb_backend_limits(lb_backend *backend, lb_limits *out, lb_err *err);

LB_NODISCARD lb_status lb_ops_create(lb_backend *backend, lb_ops **out, lb_err *err);
void lb_ops_free(lb_ops *ops);
lb_status lb_ops_status(const lb_ops *ops, lb_err *err);     /* copies the first failure */
void lb_ops_reset(lb_ops *ops);                  /* forgets the failure and frees the arena */
void lb_ops_fail(lb_ops *ops, lb_status status, const char *what);

/* Elements between the rows of such a temporary. Rows that are a multiple of 4 KiB apart would fall
 * into the same sets of a cache, so they are moved apart. */
static inline size_t lb_ops_stride(size_t rows, size_t cols)
{
    return rows > 1 && cols % 256 == 0 && cols < SIZE_MAX - 16 ? cols + 16 : cols;
}

/* Temporaries of the arena, of any content; on failure the stream fails and data is NULL. A mark
 * taken before and released after gives the memory of everything allocated in between back. */
lb_tensor lb_ops_alloc(lb_ops *ops, lb_dtype dtype, size_t rows, size_t cols);
lb_tensor lb_ops_alloc_zero(lb_ops *ops, lb_dtype dtype, size_t rows, size_t cols);
size_t lb_ops_mark(const lb_ops *ops);
void lb_ops_release(lb_ops *ops, size_t mark);
size_t lb_ops_peak_bytes(const lb_ops *ops);

/* Memory that outlives the stream's arena (KV caches, adapters); zeroed. */
LB_NODISCARD lb_status lb_device_alloc(lb_backend *backend, lb_dtype dtype, size_t rows,
                                       size_t cols, lb_tensor *out, lb_err *err);
void lb_device_free(lb_backend *backend, lb_tensor *tensor);
void lb_copy_in(lb_ops *ops, lb_tensor to, const void *host);   /* host: [rows, cols] contiguous */
void lb_copy_out(lb_ops *ops, lb_tensor from, void *host);

/* ---- weights ---- */

typedef enum lb_weight_flags {
    LB_WEIGHT_FORWARD = 1,   /* lb_linear, lb_head, lb_embed */
    LB_WEIGHT_BACKWARD = 2,  /* lb_linear_backward, lb_head_backward; a second packing, not of
                                LB_INT8 */
} lb_weight_flags;

/* Where a weight's values come from: read writes rows [first, first + count) of [N, K] to out in
 * f32. It is called once for each row, from several threads. */
typedef struct lb_row_source {
    void (*read)(const void *arg, size_t first, size_t count, float *out);
    const void *arg;
} lb_row_source;

/* Packs [n, k] as `stored`: LB_F32, or rounded to nearest even LB_BF16, LB_INT16 (12 bits and sign)
 * or LB_INT8, the integers with a scale for each LB_QUANT_BLOCK columns of a row. The integers of
 * the backward are rounded from the source too, in blocks of a column. */
LB_NODISCARD lb_status lb_weight_pack(lb_backend *backend, size_t n, size_t k,
                                      const lb_row_source *source, lb_dtype stored,
                                      unsigned flags, lb_weight **out, lb_err *err);
/* The same from host memory [N, K] of source_dtype (LB_F32 or LB_BF16, any alignment). */
LB_NODISCARD lb_status lb_weight_create(lb_backend *backend, size_t n, size_t k,
                                        const void *source, lb_dtype source_dtype,
                                        lb_dtype stored, unsigned flags, lb_weight **out,
                                        lb_err *err);
void lb_weight_free(lb_weight *weight);
size_t lb_weight_n(const lb_weight *weight);
size_t lb_weight_k(const lb_weight *weight);
size_t lb_weight_bytes(const lb_weight *weight);
/* What lb_weight_bytes of such a weight would be; the sizes must not overflow. */
size_t lb_weight_packed_bytes(size_t n, size_t k, lb_dtype stored, unsigned flags);

/* ---- forward ---- */

/* out[T, D] = rows of table at ids[T] (host array; an id outside [0, N) fails the stream). */
void lb_embed(lb_ops *ops, lb_tensor out, const lb_weight *table, const uint32_t *ids);
/* out[T, N] = x[T, K] W^T + bias (+ out when accumulate; bias [1, N] or data NULL). */
typedef struct lb_linear_out {
    lb_tensor out;
    const lb_weight *w;
    lb_tensor bias;
    bool accumulate;
} lb_linear_out;

/* An RMSNorm of a product's input, as lb_rmsnorm gives it to the bit, of which no tensor is made
 * where the input is rounded to integers in any case. gain [1, K]. */
typedef struct lb_norm {
    lb_tensor gain;
    float eps;
} lb_norm;

/* Several products of the same x, normed unless norm is NULL, as one: q, k and v, or gate and up.
 * 1 .. LB_LINEARS_MAX of them, with weights of one dtype. */
#define LB_LINEARS_MAX 4u
void lb_linears(lb_ops *ops, lb_tensor x, const lb_norm *norm, const lb_linear_out *outs,
                size_t count);
void lb_linear(lb_ops *ops, lb_tensor out, lb_tensor x, const lb_weight *w, lb_tensor bias);
/* out[T, D] = x / sqrt(mean(x^2) + eps) * gain[1, D]. out may be x. x may be [T, H * D]: then each
 * run of D columns (a head) is normed by itself. */
void lb_rmsnorm(lb_ops *ops, lb_tensor out, lb_tensor x, lb_tensor gain, float eps);
/* Rotates x[T, H * head_dim] in place, half-split form (rotate_half), by table rows positions[T]
 * (host). table [P, head_dim]: cos of head_dim / 2 angles, then sin. inverse: the transpose, which
 * is the backward. */
void lb_rope(lb_ops *ops, lb_tensor x, size_t head_dim, lb_tensor table,
             const uint32_t *positions, bool inverse);
/* out[T, M] = silu(gate) * up. */
void lb_swiglu(lb_ops *ops, lb_tensor out, lb_tensor gate, lb_tensor up);
/* out[T, M] = silu(x gate^T) * (x up^T), x[T, K], normed unless norm is NULL, gate and up [M, K] of
 * one dtype: the bits of lb_linears and lb_swiglu, for who needs neither product by itself. */
void lb_linear_swiglu(lb_ops *ops, lb_tensor out, lb_tensor x, const lb_norm *norm,
                      const lb_weight *gate, const lb_weight *up);
void lb_copy(lb_ops *ops, lb_tensor to, lb_tensor from);
/* to[i] = from[index[i]] by rows (gather), or to[index[i]] = from[i] (scatter). Host indices. */
void lb_gather_rows(lb_ops *ops, lb_tensor to, lb_tensor from, const uint32_t *index);
void lb_scatter_rows(lb_ops *ops, lb_tensor to, lb_tensor from, const uint32_t *index);

/* C[M, N] = alpha A[M, K] B[K, N] (+ C when accumulate), all f32 tensors. Sums run over K in
 * order. */
void lb_gemm_nn(lb_ops *ops, lb_tensor c, lb_tensor a, lb_tensor b, float alpha, bool accumulate);
/* C[M, N] = A[K, M]^T B[K, N] (+ C when accumulate). The sums go on from what C holds, so that the
 * bits do not depend on how K is cut into calls. */
void lb_gemm_tn(lb_ops *ops, lb_tensor c, lb_tensor a, lb_tensor b, bool accumulate);

/* Keys and values are kept in pages of LB_KV_PAGE tokens. Position p of a sequence is lane
 * p % LB_KV_PAGE of page pages[p / LB_KV_PAGE]; sequences may have pages in common. A cache is two
 * f32 tensors with a row for each page, keys [pages, lb_kv_key_page] and values
 * [pages, lb_kv_value_page], zero before their first use. What stands in a page is the backend's:
 * f32, or rotated integers with a scale for each token and head. */
#define LB_KV_PAGE 32u

/* What a query row sees: the first count positions of a table of pages, its own being the last. */
typedef struct lb_kv_row {
    const uint32_t *pages;           /* [ceil(count / LB_KV_PAGE)], borrowed */
    uint32_t count;
} lb_kv_row;

static inline size_t lb_kv_value_width(size_t head_dim)
{
    return (head_dim + 31) / 32 * 32;
}

typedef struct lb_attention_shape {
    uint32_t heads, kv_heads, head_dim;
    float scale;                     /* 1 / sqrt(head_dim) */
    lb_dtype stored;                 /* of a cache: LB_F32, or LB_INT16 or LB_INT8 where
                                        lb_kv_can_store says so */
} lb_attention_shape;

/* A head's keys and values are one block of integers; a larger one is kept in f32. */
static inline bool lb_kv_can_store(lb_dtype dtype, size_t head_dim)
{
    return dtype == LB_F32 || (lb_dtype_is_integer(dtype) && head_dim <= LB_QUANT_BLOCK);
}

/* Floats of one kv head's part of a page: its lanes and, of integers, at the end their scales. */
static inline size_t lb_kv_head_floats(const lb_attention_shape *s, size_t width)
{
    return s->stored == LB_F32
               ? width * LB_KV_PAGE
               : width * LB_KV_PAGE * lb_dtype_size(s->stored) / sizeof(float) + LB_KV_PAGE;
}

static inline size_t lb_kv_key_head(const lb_attention_shape *s)
{
    size_t dim = s->head_dim;
    return lb_kv_head_floats(s, s->stored == LB_F32 ? dim : (dim + 15) / 16 * 16);
}

static inline size_t lb_kv_value_head(const lb_attention_shape *s)
{
    return lb_kv_head_floats(s, lb_kv_value_width(s->head_dim));
}

/* Floats of a page. */
static inline size_t lb_kv_key_page(const lb_attention_shape *s)
{
    return s->kv_heads * lb_kv_key_head(s);
}

static inline size_t lb_kv_value_page(const lb_attention_shape *s)
{
    return s->kv_heads * lb_kv_value_head(s);
}

/* Puts k[T, kv_heads * head_dim] and v (same shape) into a cache: row t to slots[t] (host), which
 * is page * LB_KV_PAGE + lane. */
void lb_kv_write(lb_ops *ops, lb_tensor keys, lb_tensor values, lb_tensor k, lb_tensor v,
                 const uint32_t *slots, const lb_attention_shape *shape);
/* out[T, H * head_dim]: softmax(scale * q k^T) v of each row (rows: host array [T]) over its keys.
 * Query head h reads kv head h / (heads / kv_heads). No [T, T] buffer; memory is a block of keys a
 * thread. The bits of a row depend on its keys in logical order, not on the pages they lie in. */
void lb_attention(lb_ops *ops, lb_tensor out, lb_tensor q, lb_tensor keys, lb_tensor values,
                  const lb_kv_row *rows, const lb_attention_shape *shape);

/* ---- the head: [T, V] is never materialised; tiles of the vocabulary are ---- */

/* Results per row; a NULL member is not computed. All host arrays.
 *   logprob [T] log softmax at target, natural      lse [T] logsumexp of the logits
 *   rank [T] 1 + number of strictly larger logits   entropy [T] nats
 *   top_id, top_logprob [T, k] (both or neither), largest first; ties: the smaller id first */
typedef struct lb_head_out {
    float *logprob, *lse, *entropy, *top_logprob;
    uint32_t *rank, *top_id;
    size_t k;
} lb_head_out;

/* h[T, D] (after the final norm), w [V, D]; targets[T] host, NULL when logprob and rank are. */
void lb_head(lb_ops *ops, lb_tensor h, const lb_weight *w, const uint32_t *targets,
             const lb_head_out *out);

/* dh[T, D] = sum_v grad[t] (1[v = target] - softmax_v) W[v]: the backward of logprob. grad[T] is
 * dL/dlogprob (host); a row with grad 0 gives exactly 0 and costs nothing. lse as lb_head gave. */
void lb_head_backward(lb_ops *ops, lb_tensor dh, lb_tensor h, const lb_weight *w,
                      const uint32_t *targets, const float *lse, const float *grad);

typedef struct lb_sample_params {
    float temperature;     /* 0: greedy (the smallest id among equals) */
    float top_p;           /* (0, 1]; 1: off */
    uint32_t top_k;        /* 0: off */
} lb_sample_params;

/* Draws token[t] for each row from the softmax of logits / temperature, cut to top_k then top_p,
 * by inverse CDF in id order of uniform[t] in [0, 1). allowed: bytes [V], 0 forbids an id; NULL:
 * all. logprob[t]: the raw log softmax (temperature 1, nothing forbidden) of the drawn token, the
 * same bits as lb_head gives. */
void lb_head_sample(lb_ops *ops, lb_tensor h, const lb_weight *w, const uint8_t *allowed,
                    const lb_sample_params *params, const float *uniform, uint32_t *token,
                    float *logprob);

/* ---- backward ---- */

/* dx[T, K] = dy[T, N] W (+ dx when accumulate). w needs LB_WEIGHT_BACKWARD. */
void lb_linear_backward(lb_ops *ops, lb_tensor dx, lb_tensor dy, const lb_weight *w,
                        bool accumulate);
/* dx = d(rmsnorm)/dx of dy, x the input of the forward. dx may not alias. accumulate adds. */
void lb_rmsnorm_backward(lb_ops *ops, lb_tensor dx, lb_tensor dy, lb_tensor x, lb_tensor gain,
                         float eps, bool accumulate);
void lb_swiglu_backward(lb_ops *ops, lb_tensor dgate, lb_tensor dup, lb_tensor dout,
                        lb_tensor gate, lb_tensor up);
/* dq, dk, dv of lb_attention for packed causal sequences: sequence s is rows
 * [starts[s], starts[s + 1]) of q, k and v alike, row t sees starts[s] .. t. Overwrites all three.
 * One task is one sequence and kv head, so the sums have one order. */
void lb_attention_backward(lb_ops *ops, const lb_tensor grads[3], lb_tensor dout, lb_tensor q,
                           lb_tensor k, lb_tensor v, const uint32_t *starts, size_t sequences,
                           const lb_attention_shape *shape);

#endif
