/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of integers inside one task, for attention: c[rows, columns] = (c * keep) + a b times
 * the scales, in tiles of registers. A call is one block of depth, whose sums are exact in int32;
 * so its order does not show in the bits.
 */
#ifndef LB_COMMON_TENSOR_CPU_SMALL_PRODUCT_INT_H
#define LB_COMMON_TENSOR_CPU_SMALL_PRODUCT_INT_H

#include "common/tensor/cpu/simd_int.h"
#include "common/tensor/cpu/small_product.h"

/* What is multiplied: int16; bytes of which those of b were written by vf_store_bytes; bytes of
 * which those of a are from 0 to 127. */
typedef enum small_int_kind { SMALL_INT16, SMALL_BYTES_B, SMALL_BYTES_A } small_int_kind;

typedef struct small_product_int {
    small_int_kind kind;
    const char *a;             /* group g of a row at a[row * lda + g * LB_GROUP_BYTES] */
    size_t lda;                /* bytes */
    const char *const *b;      /* [parts] of [groups][columns] groups, lines ldb bytes apart */
    size_t parts, groups, ldb;
    float *c;
    size_t ldc;
    const float *keep;         /* [rows] what c is multiplied with; NULL: c counts as 0 */
    const float *row_scale;    /* [rows] */
    const float *column_scale; /* [columns]; NULL: 1 */
    const int32_t *begin;      /* [rows] for vi_begin_row, of SMALL_BYTES_B: -128 x a row's sum */
} small_product_int;

static inline __attribute__((always_inline)) vi small_int_dot(const small_int_kind kind, vi sum,
                                                              vi x, vi w)
{
    return kind == SMALL_INT16                       ? vi_dot_i16(sum, x, w)
           : kind == SMALL_BYTES_B && LB_BYTE_SIGN != 0 ? vi_dot_bytes(sum, w, x)
                                                     : vi_dot_bytes(sum, x, w);
}

LB_TILE_INLINE void small_int_tile(const int rows, const small_int_kind kind,
                                   const small_product_int *p, size_t row, size_t column)
{
    vi sum[LB_TILE_ROWS][LB_TILE_VECTORS], w[LB_TILE_VECTORS];
    const size_t lane = LB_LANES * LB_GROUP_BYTES;
    const char *a = p->a + row * p->lda;
    LB_UNROLL
    for (int i = 0; i < rows; i++) {
        LB_UNROLL
        for (size_t v = 0; v < LB_TILE_VECTORS; v++)
            sum[i][v] = kind == SMALL_BYTES_B ? vi_begin_row(p->begin[row + (size_t)i]) : vi_zero();
    }
    for (size_t part = 0; part < p->parts; part++) {
        const char *b = p->b[part] + column * LB_GROUP_BYTES;
        for (size_t g = 0; g < p->groups; g++, b += p->ldb, a += LB_GROUP_BYTES) {
            LB_UNROLL
            for (size_t v = 0; v < LB_TILE_VECTORS; v++)
                w[v] = vi_load(b + v * lane);
            LB_UNROLL
            for (int i = 0; i < rows; i++) {
                vi x = vi_set(load_i32(a + (size_t)i * p->lda));
                LB_UNROLL
                for (int v = 0; v < LB_TILE_VECTORS; v++)
                    sum[i][v] = small_int_dot(kind, sum[i][v], x, w[v]);
            }
        }
    }
    LB_UNROLL
    for (int i = 0; i < rows; i++) {
        const vf scale = vf_set(p->row_scale[row + (size_t)i]);
        float *c = p->c + (row + (size_t)i) * p->ldc + column;
        LB_UNROLL
        for (size_t v = 0; v < LB_TILE_VECTORS; v++, c += LB_LANES) {
            vf part = vi_to_vf(sum[i][v]);
            if (p->column_scale)
                part = vf_mul(part, vf_load(p->column_scale + column + v * LB_LANES));
            if (p->keep)
                part = vf_fma(part, scale,
                              vf_mul(vf_load(c), vf_set(p->keep[row + (size_t)i])));
            else
                part = vf_mul(part, scale);
            vf_store(c, part);
        }
    }
}

#define SMALL_INT_CASE(count)                                                                    \
    case count:                                                                                  \
        if (p->kind == SMALL_INT16)                                                              \
            small_int_tile(count, SMALL_INT16, p, row, column);                                  \
        else if (p->kind == SMALL_BYTES_B)                                                       \
            small_int_tile(count, SMALL_BYTES_B, p, row, column);                                \
        else                                                                                     \
            small_int_tile(count, SMALL_BYTES_A, p, row, column);                                \
        break;

/* columns is a multiple of SMALL_WIDTH. */
static void small_product_int_run(const small_product_int *p, size_t rows, size_t columns)
{
    SMALL_TILES(rows, columns, SMALL_INT_CASE)
}

#endif
