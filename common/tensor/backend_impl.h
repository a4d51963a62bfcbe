/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_backend_table - what a backend implements. Private to common/tensor.
 *
 * ops.c checks shapes and the sticky error, then calls the table; an entry may trust its
 * arguments. cpu/ and (as a plugin) cuda/ have the same file names. A new op is: a row here, a
 * check in ops.c, a CPU file, a CUDA file, a parity case in tests/numeric/test_ops.c.
 */
#ifndef LB_COMMON_TENSOR_BACKEND_IMPL_H
#define LB_COMMON_TENSOR_BACKEND_IMPL_H

#include "common/tensor/ops.h"
#include "common/tensor/tensor.h"

/* A frozen matrix [n, k]. A packing that was not asked for is NULL. A packing of [n, k] is panels
 * of LB_PANEL rows, padded with zeros: the panel's columns come in groups of 4 bytes a row (1 of
 * f32, 2 of 16 bits, 4 of 8), so that group g of row r is at (r / P * groups + g) * P + r % P.
 * In planes, two groups of int16 are four high bytes a row and then four low ones
 * (cpu/quantise.h). */
#define LB_PANEL 32u
#define LB_GROUP_BYTES 4u

struct lb_weight {
    lb_dtype stored;
    bool planes;       /* its int16 are in planes of bytes, as the backend multiplies them */
    size_t n, k;
    unsigned flags;
    void *forward;     /* panels of [n, k]: products x W^T, and lb_embed */
    float *scales;     /* of its integers: [n / P][blocks of k][P] */
    int32_t *sums;     /* of its 8-bit integers, same shape: -128 times the sum of the block */
    void *backward;    /* panels of [k, n]: products dy W */
    float *backward_scales;    /* of its integers: [k / P][blocks of n][P] */
    size_t bytes;
    const lb_backend *backend;
};

/* Integers are kept for whole vectors of 16 columns, because their blocks are rotated. */
static inline size_t lb_panel_groups(lb_dtype stored, size_t depth)
{
    size_t group = LB_GROUP_BYTES / lb_dtype_size(stored);
    return (lb_dtype_is_integer(stored) ? (depth + 15) / 16 * 16 : depth + group - 1) / group;
}

static inline size_t lb_panel_bytes(lb_dtype stored, size_t depth)
{
    return lb_panel_groups(stored, depth) * LB_PANEL * LB_GROUP_BYTES;
}

static inline size_t lb_quant_blocks(size_t k)
{
    return (k + LB_QUANT_BLOCK - 1) / LB_QUANT_BLOCK;
}

/* Bytes of a packing of [n, k]; zeros unless it is wanted. */
typedef struct lb_packing_sizes {
    size_t panels, scales, sums;
} lb_packing_sizes;

static inline lb_packing_sizes lb_packing_bytes(size_t n, size_t k, lb_dtype stored, bool wanted)
{
    size_t panels = (n + LB_PANEL - 1) / LB_PANEL, blocks = panels * lb_quant_blocks(k) * LB_PANEL;
    if (!wanted)
        return (lb_packing_sizes){0};
    return (lb_packing_sizes){
        .panels = panels * lb_panel_bytes(stored, k),
        .scales = lb_dtype_is_integer(stored) ? blocks * sizeof(float) : 0,
        .sums = stored == LB_INT8 ? blocks * sizeof(int32_t) : 0,
    };
}

typedef struct lb_gemm_args {
    bool tn;                   /* A is [K, M], and sums go on from C */
    lb_tensor c, a, b;
    float alpha;               /* of nn */
    bool accumulate;
} lb_gemm_args;

typedef struct lb_sample_args {
    const lb_weight *w;
    const uint8_t *allowed;
    const lb_sample_params *params;
    const float *uniform;
    uint32_t *token;
    float *logprob;
} lb_sample_args;

typedef struct lb_attention_args {
    lb_tensor out, q, k, v;    /* k, v: pages */
    const lb_kv_row *rows;
    const lb_attention_shape *shape;
} lb_attention_args;

typedef struct lb_kv_write_args {
    lb_tensor keys, values, k, v;
    const uint32_t *slots;
    const lb_attention_shape *shape;
} lb_kv_write_args;

typedef struct lb_attention_grad_args {
    lb_tensor dq, dk, dv, dout, q, k, v;
    const uint32_t *starts;
    size_t sequences;
    const lb_attention_shape *shape;
} lb_attention_grad_args;

/* Entries return LB_OK, LB_ENOMEM or a device's failure. `self` is the backend's own state. */
typedef struct lb_backend_table {
    lb_status (*alloc)(void *self, size_t bytes, void **out);        /* 64-byte aligned */
    void (*release)(void *self, void *memory);
    void (*clear)(void *self, void *memory, size_t bytes);
    lb_status (*copy_in)(void *self, lb_tensor to, const void *host);
    lb_status (*copy_out)(void *self, lb_tensor from, void *host);
    lb_status (*weight_pack)(void *self, lb_weight *weight, const lb_row_source *source);
    void (*weight_drop)(void *self, lb_weight *weight);
    lb_status (*embed)(void *self, lb_tensor out, const lb_weight *table, const uint32_t *ids);
    lb_status (*linear)(void *self, lb_tensor x, const lb_norm *norm, const lb_linear_out *outs,
                        size_t count);
    lb_status (*linear_backward)(void *self, lb_tensor dx, lb_tensor dy, const lb_weight *w,
                                 bool accumulate);
    lb_status (*rmsnorm)(void *self, lb_tensor out, lb_tensor x, lb_tensor gain, float eps);
    lb_status (*rmsnorm_backward)(void *self, const lb_tensor t[4], float eps, bool accumulate);
    lb_status (*rope)(void *self, lb_tensor x, size_t head_dim, lb_tensor table,
                      const uint32_t *positions, bool inverse);
    lb_status (*swiglu)(void *self, lb_tensor out, lb_tensor gate, lb_tensor up);
    lb_status (*linear_swiglu)(void *self, lb_tensor out, lb_tensor x, const lb_norm *norm,
                               const lb_weight *gate, const lb_weight *up);
    lb_status (*swiglu_backward)(void *self, const lb_tensor t[5]);
    lb_status (*copy_rows)(void *self, lb_tensor to, lb_tensor from, const uint32_t *to_index,
                           const uint32_t *from_index, size_t rows);
    lb_status (*gemm)(void *self, const lb_gemm_args *args);
    lb_status (*kv_write)(void *self, const lb_kv_write_args *args);
    lb_status (*attention)(void *self, const lb_attention_args *args);
    lb_status (*attention_backward)(void *self, const lb_attention_grad_args *args);
    lb_status (*head)(void *self, lb_tensor h, const lb_weight *w, const uint32_t *targets,
                      const lb_head_out *out);
    lb_status (*head_backward)(void *self, lb_tensor dh, lb_tensor h, const lb_weight *w,
                               const uint32_t *targets, const float *lse, const float *grad);
    lb_status (*head_sample)(void *self, lb_tensor h, const lb_sample_args *args);
    uint32_t (*threads)(void *self);
    lb_status (*limits)(void *self, lb_limits *out);
    void (*close)(void *self);
} lb_backend_table;

struct lb_backend {
    const lb_backend_table *table;
    void *self;
    char description[96];
};

/* Whether both give the same bits; false as well when memory runs out (agree.c). */
bool lb_backend_agrees(lb_backend *backend, lb_backend *reference);

/* Opens the CPU backend into *out (table, self and description are set). */
LB_NODISCARD lb_status lb_cpu_open(uint32_t threads, const char *isa, lb_backend *out,
                                   lb_err *err);

#endif
