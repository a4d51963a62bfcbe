/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_cpu - the CPU backend's state, and the two kernels that several op files share.
 *
 * Each op file is compiled once for each instruction set (see CMakeLists.txt); LB_K gives its
 * symbols a suffix, and cpu/table.c gathers them into one lb_backend_table a set.
 */
#ifndef LB_COMMON_TENSOR_CPU_CPU_H
#define LB_COMMON_TENSOR_CPU_CPU_H

#include "common/tensor/backend_impl.h"
#include "common/tensor/cpu/pool.h"
#include "common/tensor/cpu/simd.h"

typedef struct lb_cpu {
    lb_pool *pool;
    bool amx;                  /* integer products by AMX (amx.h) */
    void **scratch;            /* [threads], each of scratch_bytes */
    size_t scratch_bytes;
    void *shared;              /* packed operands of one product */
    size_t shared_bytes;
    void *rows;                /* the input of one product, normed or as integers */
    size_t rows_bytes;
} lb_cpu;

/* Makes every thread's scratch at least this large (64-byte aligned). */
LB_NODISCARD lb_status lb_cpu_scratch(lb_cpu *cpu, size_t bytes);
/* The same for the buffers that all threads read. */
LB_NODISCARD lb_status lb_cpu_shared(lb_cpu *cpu, size_t bytes);
LB_NODISCARD lb_status lb_cpu_rows(lb_cpu *cpu, size_t bytes);

/* Aligned memory of any content, for free(); NULL without memory. */
void *lb_cpu_room(size_t bytes);
/* The same for what all threads read: spread over the machine's memory nodes (numa.h). */
void *lb_cpu_shared_room(size_t bytes);
lb_status lb_cpu_alloc(void *self, size_t bytes, void **out);
void lb_cpu_release(void *self, void *memory);
void lb_cpu_clear(void *self, void *memory, size_t bytes);
lb_status lb_cpu_copy_in(void *self, lb_tensor to, const void *host);
lb_status lb_cpu_copy_out(void *self, lb_tensor from, void *host);
void lb_cpu_weight_drop(void *self, lb_weight *weight);
uint32_t lb_cpu_threads(void *self);
void lb_cpu_close(void *self);

extern const lb_backend_table lb_cpu_table_portable;
#if defined(__x86_64__)
extern const lb_backend_table lb_cpu_table_avx2;
extern const lb_backend_table lb_cpu_table_avx2vnni;
extern const lb_backend_table lb_cpu_table_avx512;
extern const lb_backend_table lb_cpu_table_avx512vnni;
#elif defined(__aarch64__)
extern const lb_backend_table lb_cpu_table_neon;
extern const lb_backend_table lb_cpu_table_neondot;
#endif

/* ---- compiled once for each instruction set ---- */

/* The tile of a product that is held in registers. */
#if defined(LB_ISA_AVX512)
#define LB_TILE_ROWS 12
#define LB_TILE_VECTORS 2
#elif defined(LB_ISA_AVX2)
#define LB_TILE_ROWS 6      /* 6 x 2 sums of 8 lanes, 2 of weights and 1 broadcast: 15 of 16 */
#define LB_TILE_VECTORS 1
#elif defined(LB_ISA_NEON)
#define LB_TILE_ROWS 6      /* 6 x 4 sums of 4 lanes, 4 of weights and 1 broadcast: 29 of 32 */
#define LB_TILE_VECTORS 1
#else
#define LB_TILE_ROWS 4
#define LB_TILE_VECTORS 1
#endif

/* CASE(1) .. CASE(LB_TILE_ROWS): a switch over the rows of a tile, which must be constants. */
#define LB_TILE_CASES_4(CASE) CASE(1) CASE(2) CASE(3) CASE(4)
#define LB_TILE_CASES_6(CASE) LB_TILE_CASES_4(CASE) CASE(5) CASE(6)
#define LB_TILE_CASES_12(CASE)                                                                   \
    LB_TILE_CASES_6(CASE) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#if LB_TILE_ROWS == 12
#define LB_TILE_CASES LB_TILE_CASES_12
#elif LB_TILE_ROWS == 6
#define LB_TILE_CASES LB_TILE_CASES_6
#else
#define LB_TILE_CASES LB_TILE_CASES_4
#endif

#if defined(__clang__)
#if __has_feature(address_sanitizer)
#define LB_SANITIZED
#define LB_UNROLL
#else
#define LB_UNROLL _Pragma("clang loop unroll(full)")
#endif
#else
#define LB_UNROLL _Pragma("GCC unroll 16")
#endif

/* A tile, compiled for each of its heights; but once where it is instrumented, since clang takes
 * minutes for all of them. */
#if defined(LB_SANITIZED)
#define LB_TILE_INLINE static __attribute__((noinline))
#else
#define LB_TILE_INLINE static inline __attribute__((always_inline))
#endif

/* What a tile asks the cache for while it runs, `step` bytes further on for each group of its
 * panel: its share of the panel that comes next, for which it would otherwise wait. */
typedef struct lb_ahead {
    const char *at;
    size_t step;
} lb_ahead;

#define LB_LINE 64u                      /* bytes of a line of the cache */
#define LB_PREFETCH(p) __builtin_prefetch((p), 0, 2)

/* The rows of tile `tile` of `tiles` that share `rows` evenly: a tile of one or two rows waits for
 * its own sums. */
static inline size_t lb_tile_height(size_t rows, size_t tiles, size_t tile)
{
    return rows / tiles + (tile < rows % tiles);
}

static inline float *row_f32(lb_tensor t, size_t row)
{
    return (float *)t.data + row * t.stride;
}

/* Rows of activations as integers, for weights that are stored so (quantise.c). */
typedef struct lb_quantised {
    const char *rows;          /* int16 or bytes (simd_int.h); k padded to whole vectors */
    size_t stride;             /* bytes */
    const float *scales;       /* [rows][blocks] */
    size_t blocks;
    bool amx;                  /* multiplied by AMX, int16 in planes (quantise.h) */
} lb_quantised;

/* The same from row `first` on. */
static inline lb_quantised lb_quantised_from(const lb_quantised *q, size_t first)
{
    if (!q->rows)
        return *q;
    return (lb_quantised){q->rows + first * q->stride, q->stride, q->scales + first * q->blocks,
                          q->blocks, q->amx};
}

/* Rows of x, normed unless norm is NULL, as integers on this thread: row r at rows + r * stride,
 * whole vectors, and its scales at scales[r * blocks]; planes: LB_INT16 as two planes of bytes. */
void LB_K(lb_quantise_part)(lb_dtype stored, bool planes, lb_tensor x, const lb_norm *norm,
                            char *rows, size_t stride, float *scales);
/* Bytes between rows: a multiple of a line and none of 4 KiB, so that the rows of a tile stand in
 * different sets of the cache. */
static inline size_t lb_quantise_stride(lb_dtype stored, size_t cols)
{
    size_t padded = (cols + LB_LANES - 1) / LB_LANES * LB_LANES;
    size_t stride = (padded * lb_dtype_size(stored) + 127) / 64 * 64;
    return stride % 1024 == 0 ? stride + 64 : stride;
}
/* Where the low bytes of a row in planes stand: the first line of its second half. */
static inline size_t lb_quantise_low(size_t stride)
{
    return stride / 128 * 64;
}

/* Makes the rows of *x, normed unless norm is NULL, what a product with weights stored as `stored`
 * reads; they live until the next call. For f32 and bf16 *x then is what is read, and *out is
 * empty. */
LB_NODISCARD lb_status LB_K(lb_product_rows)(lb_cpu *cpu, lb_dtype stored, const lb_norm *norm,
                                             lb_tensor *x, lb_quantised *out);

/* c[rows, n] = alpha * a[rows, k] P (+ c) (+ bias), P the panels of a packing with k columns. f32
 * and bf16: each element is one chain of fused multiply-adds over k in order, from 0. Integers: an
 * exact sum for each block of k, times its two scales, added by one chain over the blocks. */
typedef struct lb_product {
    const float *a;            /* f32 and bf16 panels */
    size_t lda;
    const lb_quantised *q;     /* integer panels: the rows instead of a */
    const void *panels;
    const float *scales;       /* [panels][blocks][LB_PANEL], of integer panels */
    const int32_t *sums;       /* the same shape, of 8-bit panels: -128 x the sum of a block */
    lb_dtype stored;
    float *c;
    size_t ldc, k, n;
    size_t depth;              /* k of the packing: more than k when a part is summed */
    size_t packed;             /* columns of the packing from the first on: n, or more */
    float alpha;
    bool accumulate;
    const float *bias;         /* [n] or NULL */
} lb_product;

/* The product with rows [first, first + n) of a weight, first a multiple of LB_PANEL; the caller
 * sets a and lda or q, c and ldc. */
static inline lb_product lb_product_with(const lb_weight *w, size_t first, size_t n)
{
    size_t panel = first / LB_PANEL, scales = panel * lb_quant_blocks(w->k) * LB_PANEL;
    return (lb_product){
        .panels = (const char *)w->forward + panel * lb_panel_bytes(w->stored, w->k),
        .scales = w->scales ? w->scales + scales : NULL,
        .sums = w->sums ? w->sums + scales : NULL,
        .stored = w->stored, .k = w->k, .n = n, .depth = w->k, .packed = w->n - first,
        .alpha = 1.0f,
    };
}

/* The product of `n` columns of dy with rows [first, first + n) of a weight, first a multiple of
 * LB_QUANT_BLOCK: a part of dy W. */
static inline lb_product lb_product_back(const lb_weight *w, size_t first, size_t n)
{
    size_t groups = lb_panel_groups(w->stored, first), block = first / LB_QUANT_BLOCK;
    return (lb_product){
        .panels = (const char *)w->backward + groups * LB_PANEL * LB_GROUP_BYTES,
        .scales = w->backward_scales ? w->backward_scales + block * LB_PANEL : NULL,
        .stored = w->stored, .k = n, .n = w->k, .depth = w->n, .packed = w->k, .alpha = 1.0f,
    };
}

/* Rows [first, first + rows) and panels [panel, panel + panels) of a product, on this thread. */
void LB_K(lb_product_part)(const lb_product *p, size_t first, size_t rows, size_t panel,
                           size_t panels);
/* The whole of some products with the same number of rows, on the pool. */
void LB_K(lb_product_run)(lb_cpu *cpu, const lb_product *products, size_t count, size_t rows);
/* One tile of integer panels: rows <= LB_TILE_ROWS from `row`, LB_TILE_VECTORS vectors from
 * `column`, into out[rows][LB_TILE_VECTORS * LB_LANES], rows ld apart. */
void LB_K(lb_tile_int)(const lb_product *p, size_t rows, size_t row, size_t column,
                       lb_ahead ahead, float *out, size_t ld);

lb_status LB_K(lb_cpu_weight_pack)(void *self, lb_weight *weight, const lb_row_source *source);
lb_status LB_K(lb_cpu_embed)(void *self, lb_tensor out, const lb_weight *table,
                             const uint32_t *ids);
lb_status LB_K(lb_cpu_linear)(void *self, lb_tensor x, const lb_norm *norm,
                              const lb_linear_out *outs, size_t count);
lb_status LB_K(lb_cpu_linear_backward)(void *self, lb_tensor dx, lb_tensor dy, const lb_weight *w,
                                       bool accumulate);
lb_status LB_K(lb_cpu_gemm)(void *self, const lb_gemm_args *args);
lb_status LB_K(lb_cpu_rmsnorm)(void *self, lb_tensor out, lb_tensor x, lb_tensor gain, float eps);
lb_status LB_K(lb_cpu_rmsnorm_backward)(void *self, const lb_tensor t[4], float eps,
                                        bool accumulate);
lb_status LB_K(lb_cpu_rope)(void *self, lb_tensor x, size_t head_dim, lb_tensor table,
                            const uint32_t *positions, bool inverse);
lb_status LB_K(lb_cpu_swiglu)(void *self, lb_tensor out, lb_tensor gate, lb_tensor up);
lb_status LB_K(lb_cpu_linear_swiglu)(void *self, lb_tensor out, lb_tensor x, const lb_norm *norm,
                                     const lb_weight *gate, const lb_weight *up);
lb_status LB_K(lb_cpu_swiglu_backward)(void *self, const lb_tensor t[5]);
lb_status LB_K(lb_cpu_copy_rows)(void *self, lb_tensor to, lb_tensor from,
                                 const uint32_t *to_index, const uint32_t *from_index,
                                 size_t rows);
lb_status LB_K(lb_cpu_kv_write)(void *self, const lb_kv_write_args *args);
lb_status LB_K(lb_cpu_attention)(void *self, const lb_attention_args *args);
lb_status LB_K(lb_cpu_attention_backward)(void *self, const lb_attention_grad_args *args);
lb_status LB_K(lb_cpu_limits)(void *self, lb_limits *out);
lb_status LB_K(lb_cpu_head)(void *self, lb_tensor h, const lb_weight *w, const uint32_t *targets,
                            const lb_head_out *out);
lb_status LB_K(lb_cpu_head_backward)(void *self, lb_tensor dh, lb_tensor h, const lb_weight *w,
                                     const uint32_t *targets, const float *lse,
                                     const float *grad);
lb_status LB_K(lb_cpu_head_sample)(void *self, lb_tensor h, const lb_sample_args *args);

#endif
