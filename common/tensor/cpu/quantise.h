/* SPDX-License-Identifier: Apache-2.0
 *
 * What weights (pack.c) and activations (quantise.c) have in common when they become integers.
 *
 * LB_INT16: magnitudes up to 4095, so that the sum of 128 products, 128 x 4095^2 = 2146435200, is
 * below 2^31. LB_INT8: up to 127; activations get 128 added, because the instructions multiply
 * unsigned by signed bytes, and the sums start from -128 times the weights' sum.
 *
 * Before it is rounded a block is rotated by H D / sqrt(n), D a diagonal of fixed signs and H
 * Hadamard's matrix: the product of two vectors stays what it was, but one large element no longer
 * makes the steps of 127 others coarse (Ashkboos et al., "QuaRot", 2024).
 */
#ifndef LB_COMMON_TENSOR_CPU_QUANTISE_H
#define LB_COMMON_TENSOR_CPU_QUANTISE_H

#include "common/tensor/cpu/cpu.h"
#include "common/tensor/cpu/simd_int.h"

#define LB_INT16_MAX 4095.0f
#define LB_INT8_MAX 127.0f
/* A block whose magnitudes are all below this counts as zeros: the inverse would overflow. */
#define QUANT_LEAST 1e-30f

/* Signs without a pattern that activations could have: the first bits of the fractions of sqrt(2),
 * sqrt(3), sqrt(5) and sqrt(7). */
static const float quant_signs[LB_QUANT_BLOCK] = {
    -1,  1,  1, -1,  1,  1,  1,  1,  1, -1,  1, -1,  1, -1, -1,  1,
    -1, -1, -1,  1,  1, -1, -1,  1,  1, -1, -1,  1,  1, -1, -1, -1,
    -1, -1, -1,  1,  1, -1, -1,  1, -1, -1,  1, -1, -1, -1,  1, -1,
    -1,  1, -1,  1,  1,  1,  1, -1,  1, -1, -1, -1,  1, -1,  1, -1,
     1, -1, -1, -1,  1, -1, -1,  1,  1,  1, -1, -1, -1, -1,  1,  1,
     1, -1,  1,  1, -1, -1, -1,  1, -1, -1,  1,  1, -1, -1, -1, -1,
    -1, -1, -1, -1,  1,  1, -1,  1, -1,  1, -1,  1,  1, -1,  1, -1,
     1, -1,  1, -1, -1, -1,  1,  1, -1,  1, -1,  1, -1, -1, -1, -1,
};

/* + for the lanes that take the sum of a pair, - for those that take the difference. */
static const float quant_halves[4][LB_LANES] = {
    { 1,  1,  1,  1,  1,  1,  1,  1, -1, -1, -1, -1, -1, -1, -1, -1},
    { 1,  1,  1,  1, -1, -1, -1, -1,  1,  1,  1,  1, -1, -1, -1, -1},
    { 1,  1, -1, -1,  1,  1, -1, -1,  1,  1, -1, -1,  1,  1, -1, -1},
    { 1, -1,  1, -1,  1, -1,  1, -1,  1, -1,  1, -1,  1, -1,  1, -1},
};

/* One stage of the transform inside a vector. */
#define QUANT_STAGE(v, swap, halves)                                                             \
    for (size_t i = 0; i < vectors; i++)                                                         \
        v[i] = vf_fma(v[i], vf_load(halves), swap(v[i]))

/* x[vectors * LB_LANES] in place, vectors a power of two; back: the inverse. */
static inline void quant_rotate_part(float *x, size_t vectors, bool back)
{
    vf v[LB_QUANT_BLOCK / LB_LANES];
    const vf scale = vf_set(1.0f / __builtin_sqrtf((float)(vectors * LB_LANES)));
    for (size_t i = 0; i < vectors; i++)
        v[i] = back ? vf_load(x + i * LB_LANES)
                    : vf_mul(vf_load(x + i * LB_LANES),
                             vf_load(quant_signs + i * LB_LANES));
    QUANT_STAGE(v, vf_swap8, quant_halves[0]);
    QUANT_STAGE(v, vf_swap4, quant_halves[1]);
    QUANT_STAGE(v, vf_swap2, quant_halves[2]);
    QUANT_STAGE(v, vf_swap1, quant_halves[3]);
    for (size_t width = 1; width < vectors; width *= 2) {
        for (size_t i = 0; i < vectors; i++) {
            if (i & width)
                continue;
            vf low = v[i], high = v[i + width];
            v[i] = vf_add(low, high);
            v[i + width] = vf_sub(low, high);
        }
    }
    for (size_t i = 0; i < vectors; i++) {
        vf y = vf_mul(v[i], scale);
        vf_store(x + i * LB_LANES, back ? vf_mul(y, vf_load(quant_signs + i * LB_LANES))
                                           : y);
    }
}

/* A block of `count`, a multiple of LB_LANES: 128, or parts of 64, 32 and 16 at a row's end. */
static inline void quant_rotate(float *x, size_t count, bool back)
{
    for (size_t part = LB_QUANT_BLOCK; part >= LB_LANES; part /= 2) {
        if (!(count & part))
            continue;
        quant_rotate_part(x, part / LB_LANES, back);
        x += part;
    }
}

/* Elements of a row that a block from `first` on has, in whole vectors. */
static inline size_t quant_count(size_t k, size_t first)
{
    size_t left = (k - first + LB_LANES - 1) / LB_LANES * LB_LANES;
    return left < LB_QUANT_BLOCK ? left : LB_QUANT_BLOCK;
}

/* The block of row[k] from `first` on, rotated, into block[LB_QUANT_BLOCK]; returns quant_count. */
static inline size_t quant_block(const float *row, size_t k, size_t first,
                                 float block[LB_QUANT_BLOCK])
{
    size_t padded = quant_count(k, first), count = k - first < padded ? k - first : padded;
    memcpy(block, row + first, count * sizeof *block);
    memset(block + count, 0, (padded - count) * sizeof *block);
    quant_rotate(block, padded, false);
    return padded;
}

/* The scale of x[count], whole vectors, and in *inverse what to multiply with. */
static inline float quant_scale(const float *x, size_t count, lb_dtype stored, float *inverse)
{
    vf largest = vf_set(0.0f), odd = vf_set(0.0f);
    for (size_t i = 0; i < count; i += LB_LANES) {
        vf v = vf_load(x + i);
        largest = vf_max(vf_max(v, vf_sub(vf_set(0.0f), v)), largest);
        odd = vf_fma(v, vf_set(0.0f), odd);      /* NaN as soon as one is not finite */
    }
    float most = stored == LB_INT16 ? LB_INT16_MAX : LB_INT8_MAX;
    float magnitude = vf_largest(largest);
    *inverse = magnitude < QUANT_LEAST ? 0.0f : most / magnitude;
    return (magnitude < QUANT_LEAST ? 0.0f : magnitude / most) + vf_sum(odd);
}

#endif
