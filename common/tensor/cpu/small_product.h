/* SPDX-License-Identifier: Apache-2.0
 *
 * Products inside one task: c[rows, columns] = (c * keep) + sum over parts and k of a b, in tiles
 * of registers. Each element is one chain over the parts and their k in order, which may go on over
 * several calls, so that how the depth is cut does not show in the bits.
 */
#ifndef LB_COMMON_TENSOR_CPU_SMALL_PRODUCT_H
#define LB_COMMON_TENSOR_CPU_SMALL_PRODUCT_H

#include "common/tensor/cpu/cpu.h"

#define SMALL_WIDTH (LB_TILE_VECTORS * LB_LANES)

/* CASE(rows of the tile) for each tile, whose place is `row` and `column`. */
#define SMALL_TILES(rows, columns, CASE)                                                         \
    for (size_t column = 0; column < (columns); column += SMALL_WIDTH) {                         \
        const size_t tiles = ((rows) + LB_TILE_ROWS - 1) / LB_TILE_ROWS;                         \
        for (size_t row = 0, tile = 0; tile < tiles; tile++) {                                   \
            const size_t height = lb_tile_height(rows, tiles, tile);                             \
            switch (height) {                                                                    \
                LB_TILE_CASES(CASE)                                                              \
            default:                                                                             \
                break;                                                                           \
            }                                                                                    \
            row += height;                                                                       \
        }                                                                                        \
    }

typedef struct small_product {
    const float *a;            /* element (row, k) at a[row * lda + k * step] */
    size_t lda, step;
    const float *const *b;     /* [parts] of [depth, columns], rows ldb apart */
    size_t parts, depth, ldb;
    float *c;
    size_t ldc;
    const float *keep;         /* [rows] what c is multiplied with; NULL: c counts as 0 */
} small_product;

LB_TILE_INLINE void small_tile(const int rows, const small_product *p, size_t row, size_t column)
{
    vf sum[LB_TILE_ROWS][LB_TILE_VECTORS], w[LB_TILE_VECTORS];
    const float *a = p->a + row * p->lda;
    float *c = p->c + row * p->ldc + column;
    LB_UNROLL
    for (int i = 0; i < rows; i++) {
        LB_UNROLL
        for (size_t v = 0; v < LB_TILE_VECTORS; v++)
            sum[i][v] = p->keep ? vf_mul(vf_load(c + (size_t)i * p->ldc + v * LB_LANES),
                                         vf_set(p->keep[row + (size_t)i]))
                                : vf_set(0.0f);
    }
    for (size_t part = 0; part < p->parts; part++) {
        const float *b = p->b[part] + column;
        for (size_t k = 0; k < p->depth; k++, b += p->ldb, a += p->step) {
            LB_UNROLL
            for (size_t v = 0; v < LB_TILE_VECTORS; v++)
                w[v] = vf_load(b + v * LB_LANES);
            LB_UNROLL
            for (int i = 0; i < rows; i++) {
                vf x = vf_set(a[(size_t)i * p->lda]);
                LB_UNROLL
                for (int v = 0; v < LB_TILE_VECTORS; v++)
                    sum[i][v] = vf_fma(x, w[v], sum[i][v]);
            }
        }
    }
    LB_UNROLL
    for (int i = 0; i < rows; i++) {
        LB_UNROLL
        for (size_t v = 0; v < LB_TILE_VECTORS; v++)
            vf_store(c + (size_t)i * p->ldc + v * LB_LANES, sum[i][v]);
    }
}

#define SMALL_CASE(count)                                                                        \
    case count:                                                                                  \
        small_tile(count, p, row, column);                                                       \
        break;

/* columns is a multiple of SMALL_WIDTH. */
static void small_product_run(const small_product *p, size_t rows, size_t columns)
{
    SMALL_TILES(rows, columns, SMALL_CASE)
}

#endif
