/* SPDX-License-Identifier: Apache-2.0
 *
 * What weights (pack.c) and activations (quantise.c) have in common when they become integers.
 *
 * LB_INT16: magnitudes up to 4095, so that the sum of 128 products, 128 x 4095^2 = 2146435200, is
 * below 2^31. LB_INT8: up to 127; activations get 128 added, because the instructions multiply
 * unsigned by signed bytes, and the sums start from -128 times the weights' sum.
 */
#ifndef LB_COMMON_TENSOR_CPU_QUANTISE_H
#define LB_COMMON_TENSOR_CPU_QUANTISE_H

#include "common/tensor/cpu/cpu.h"
#include "common/tensor/cpu/simd_int.h"

#define LB_INT16_MAX 4095.0f
#define LB_INT8_MAX 127.0f
/* A block whose magnitudes are all below this counts as zeros: the inverse would overflow. */
#define QUANT_LEAST 1e-30f

/* The scale of x[count], and in *inverse what to multiply with. */
static inline float quant_scale(const float *x, size_t count, lb_dtype stored, float *inverse)
{
    vf largest = vf_set(0.0f), odd = vf_set(0.0f);
    for (size_t i = 0; i < count; i += LB_LANES) {
        vf v = count - i >= LB_LANES ? vf_load(x + i) : vf_load_n(x + i, count - i, 0.0f);
        largest = vf_max(vf_max(v, vf_sub(vf_set(0.0f), v)), largest);
        odd = vf_fma(v, vf_set(0.0f), odd);      /* NaN as soon as one is not finite */
    }
    float most = stored == LB_INT16 ? LB_INT16_MAX : LB_INT8_MAX;
    float magnitude = vf_largest(largest);
    *inverse = magnitude < QUANT_LEAST ? 0.0f : most / magnitude;
    return (magnitude < QUANT_LEAST ? 0.0f : magnitude / most) + vf_sum(odd);
}

#endif
