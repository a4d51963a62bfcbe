/* SPDX-License-Identifier: Apache-2.0
 *
 * What moves or adds rows: copy, gather, scatter, add, and the embedding's lookup.
 */
#include "common/tensor/cpu/cpu.h"

lb_status LB_K(lb_cpu_add)(void *self, lb_tensor to, lb_tensor x)
{
    (void)self;
    for (size_t r = 0; r < to.rows; r++) {
        float *out = row_f32(to, r);
        const float *in = row_f32(x, r);
        for (size_t i = 0; i < to.cols; i++)
            out[i] += in[i];
    }
    return LB_OK;
}

lb_status LB_K(lb_cpu_copy_rows)(void *self, lb_tensor to, lb_tensor from,
                                 const uint32_t *to_index, const uint32_t *from_index,
                                 size_t rows)
{
    (void)self;
    for (size_t r = 0; r < rows; r++)
        memmove(row_f32(to, to_index ? to_index[r] : r),
                row_f32(from, from_index ? from_index[r] : r), to.cols * sizeof(float));
    return LB_OK;
}

lb_status LB_K(lb_cpu_embed)(void *self, lb_tensor out, const lb_weight *table,
                             const uint32_t *ids)
{
    (void)self;
    for (size_t t = 0; t < out.rows; t++) {
        float *row = row_f32(out, t);
        if (table->stored == LB_F32) {
            memcpy(row, (const float *)table->rows + ids[t] * table->k, table->k * sizeof *row);
            continue;
        }
        const uint16_t *half = (const uint16_t *)table->rows + ids[t] * table->k;
        for (size_t i = 0; i < table->k; i++)
            row[i] = lb_bf16_to_f32(half[i]);
    }
    return LB_OK;
}
