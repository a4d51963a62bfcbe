/* SPDX-License-Identifier: Apache-2.0
 *
 * RMSNorm of one row, for the op alone (norm.c) and for the input of a product (quantise.c), which
 * so have the same bits.
 */
#ifndef LB_COMMON_TENSOR_CPU_NORM_H
#define LB_COMMON_TENSOR_CPU_NORM_H

#include "common/tensor/cpu/cpu.h"

#include <math.h>

static inline float inverse_rms(const float *x, size_t cols, float eps)
{
    return 1.0f / sqrtf(dot_f32(x, x, cols) / (float)cols + eps);
}

/* out = x scale gain, for some of the columns of a row whose inverse_rms is scale. */
static inline void norm_columns(float *out, const float *x, float scale, const float *gain,
                                size_t cols)
{
    for (size_t i = 0; i < cols; i++)
        out[i] = x[i] * scale * gain[i];
}

#endif
