/* SPDX-License-Identifier: Apache-2.0
 *
 * The tile of a product with integer panels. A block of LB_QUANT_BLOCK of k is summed exactly in
 * int32, converted, and added times its two scales to the f32 tile; so an element is one chain over
 * the blocks in order, the same on every instruction set.
 */
#include "common/tensor/cpu/cpu.h"
#include "common/tensor/cpu/simd_int.h"

#define ROWS LB_TILE_ROWS
#define VECTORS LB_TILE_VECTORS

/* Where a tile reads, moved on from block to block. */
typedef struct cursor {
    const char *rows, *panel;
    lb_ahead ahead;
    const float *row_scale, *scale;
    const int32_t *sums;
} cursor;

static inline __attribute__((always_inline)) void block(const int rows, const bool eight,
                                                        const lb_product *p, const cursor *at,
                                                        size_t groups, bool first, float *out,
                                                        size_t ld)
{
    vi sum[ROWS][VECTORS], w[VECTORS];
    const size_t line = LB_PANEL * LB_GROUP_BYTES, lane = LB_LANES * LB_GROUP_BYTES;
    const char *panel = at->panel, *a = at->rows, *ahead = at->ahead.at;
    const size_t stride = p->q->stride, blocks = p->q->blocks;
    LB_UNROLL
    for (int i = 0; i < rows; i++) {
        LB_UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            sum[i][v] = eight ? vi_begin_bytes(at->sums + v * LB_LANES) : vi_zero();
    }
    for (size_t g = 0; g < groups;
         g++, panel += line, a += LB_GROUP_BYTES, ahead += at->ahead.step) {
        LB_PREFETCH(ahead);
        LB_UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            w[v] = vi_load(panel + v * lane);
        LB_UNROLL
        for (int i = 0; i < rows; i++) {
            vi x = vi_set(load_i32(a + (size_t)i * stride));
            LB_UNROLL
            for (int v = 0; v < VECTORS; v++)
                sum[i][v] = eight ? vi_dot_bytes(sum[i][v], x, w[v])
                                  : vi_dot_i16(sum[i][v], x, w[v]);
        }
    }
    LB_UNROLL
    for (int i = 0; i < rows; i++) {
        vf scale = vf_set(at->row_scale[(size_t)i * blocks]);
        LB_UNROLL
        for (size_t v = 0; v < VECTORS; v++) {
            float *to = out + (size_t)i * ld + v * LB_LANES;
            vf part = vf_mul(vi_to_vf(sum[i][v]), vf_load(at->scale + v * LB_LANES));
            vf_store(to, vf_fma(part, scale, first ? vf_set(0.0f) : vf_load(to)));
        }
    }
}

#define BLOCK_CASE(count)                                                                        \
    case count:                                                                                  \
        if (p->stored == LB_INT8)                                                                \
            block(count, true, p, &at, groups, b == 0, out, ld);                                 \
        else                                                                                     \
            block(count, false, p, &at, groups, b == 0, out, ld);                                \
        break;

void LB_K(lb_tile_int)(const lb_product *p, size_t rows, size_t row, size_t column,
                       lb_ahead ahead, float *out, size_t ld)
{
    const size_t size = lb_dtype_size(p->stored), blocks = p->q->blocks;
    const size_t scales = column / LB_PANEL * lb_quant_blocks(p->depth) * LB_PANEL;
    const size_t panel = column / LB_PANEL, lane = column % LB_PANEL;
    size_t groups_left = lb_panel_groups(p->stored, p->k);
    cursor at = {
        .rows = p->q->rows + row * p->q->stride,
        .panel = (const char *)p->panels + panel * lb_panel_bytes(p->stored, p->depth) +
                 lane * LB_GROUP_BYTES,
        .ahead = ahead,
        .row_scale = p->q->scales + row * blocks,
        .scale = p->scales + scales + lane,
        .sums = p->stored == LB_INT8 ? p->sums + scales + lane : NULL,
    };
    for (size_t b = 0; b < blocks; b++) {
        const size_t whole = LB_QUANT_BLOCK * size / LB_GROUP_BYTES;
        const size_t groups = groups_left < whole ? groups_left : whole;
        switch (rows) {
        LB_TILE_CASES(BLOCK_CASE)
        default:
            return;
        }
        groups_left -= groups;
        at.rows += groups * LB_GROUP_BYTES;
        at.ahead.at += groups * ahead.step;
        at.panel += groups * LB_PANEL * LB_GROUP_BYTES;
        at.row_scale++;
        at.scale += LB_PANEL;
        at.sums = at.sums ? at.sums + LB_PANEL : NULL;
    }
}
