/* SPDX-License-Identifier: Apache-2.0
 *
 * exp and log for sixteen lanes, out of additions, products and fused multiply-adds alone, so that
 * they have the same bits on every instruction set and C library.
 *
 * exp: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial of degree 7 in r (its
 * coefficients are those of expf in Moshier's Cephes), times 2^n. Below
 * EXP_LOWEST it gives exactly 0 (no subnormals), above EXP_HIGHEST the value there; NaN stays NaN.
 * log: x = m 2^e with m in [sqrt(1/2), sqrt(2)), s = (m - 1) / (m + 1), 2 atanh(s) as a series.
 */
#ifndef LB_COMMON_TENSOR_CPU_VMATH_H
#define LB_COMMON_TENSOR_CPU_VMATH_H

#include "common/tensor/cpu/simd.h"

#include <stdbool.h>

#define EXP_LOWEST (-87.0f)
#define EXP_HIGHEST 88.0f
#define LOG2_E 1.44269504088896341f
#define LN2_HIGH 0.693145751953125f         /* ln 2 to 15 bits: n * LN2_HIGH is exact */
#define LN2_LOW 1.42860682030941723e-6f
#define SQRT_HALF 0.70710678118654752f

static inline vf vf_exp(vf x)
{
    vf bounded = vf_max(vf_min(x, vf_set(EXP_HIGHEST)), vf_set(EXP_LOWEST));
    vf n = vf_round(vf_mul(bounded, vf_set(LOG2_E)));
    vf r = vf_fma(n, vf_set(-LN2_HIGH), bounded);
    r = vf_fma(n, vf_set(-LN2_LOW), r);
    vf p = vf_set(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set(5.0000001201e-1f));
    p = vf_fma(p, vf_mul(r, r), r);
    p = vf_add(p, vf_set(1.0f));
    vf result = vf_where_less(x, vf_set(EXP_LOWEST), vf_set(0.0f), vf_scale(p, n));
    return vf_where_nan(x, result);
}

static inline vf vf_sigmoid(vf x)
{
    vf one = vf_set(1.0f);
    return vf_div(one, vf_add(one, vf_exp(vf_sub(vf_set(0.0f), x))));
}

/* out[n] = silu(gate) up. */
static inline void swiglu_row(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i += LB_LANES) {
        bool whole = n - i >= LB_LANES;
        vf g = whole ? vf_load(gate + i) : vf_load_n(gate + i, n - i, 0.0f);
        vf u = whole ? vf_load(up + i) : vf_load_n(up + i, n - i, 0.0f);
        vf y = vf_mul(vf_mul(g, vf_sigmoid(g)), u);
        if (whole)
            vf_store(out + i, y);
        else
            vf_store_n(out + i, y, n - i);
    }
}

/* Of a positive, normal, finite x; 0 gives -infinity, NaN stays NaN. */
static inline float log_f32(float x)
{
    uint32_t bits;
    float m;
    if (x != x)
        return x;
    if (x == 0.0f)
        return -__builtin_inff();
    memcpy(&bits, &x, sizeof bits);
    int32_t exponent = (int32_t)(bits >> 23) - 126;
    bits = (bits & 0x007FFFFFu) | 0x3F000000u;     /* m in [0.5, 1) */
    memcpy(&m, &bits, sizeof m);
    if (m < SQRT_HALF) {
        m *= 2.0f;
        exponent--;
    }
    float e = (float)exponent, s = (m - 1.0f) / (m + 1.0f), z = s * s;
    float p = 2.0f / 11.0f;
    p = __builtin_fmaf(p, z, 2.0f / 9.0f);
    p = __builtin_fmaf(p, z, 2.0f / 7.0f);
    p = __builtin_fmaf(p, z, 2.0f / 5.0f);
    p = __builtin_fmaf(p, z, 2.0f / 3.0f);
    float tail = __builtin_fmaf(p * z, s, e * LN2_LOW);
    return __builtin_fmaf(e, LN2_HIGH, __builtin_fmaf(2.0f, s, tail));
}

static inline float exp_f32(float x)
{
    float lane[LB_LANES];
    vf_store(lane, vf_exp(vf_set(x)));
    return lane[0];
}

#endif
