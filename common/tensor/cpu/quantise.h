/* SPDX-License-Identifier: Apache-2.0
 *
 * What weights (pack.c) and activations (quantise.c) have in common when they become integers.
 *
 * LB_INT16: magnitudes up to 4095, so that the sum of 128 products, 128 x 4095^2 = 2146435200, is
 * below 2^31. LB_INT8: up to 127, activations in the form that the instructions multiply
 * (simd_int.h).
 *
 * For AMX, which multiplies bytes, an int16 is 64 high + low with low from -32 to 31 and high from
 * -64 to 64, kept in two planes: rows have the high bytes of all columns and then the low ones,
 * panels those of four columns by turns. Four products of bytes make one of int16, and as exactly.
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
#define QUANT_VECTORS (LB_QUANT_BLOCK / LB_LANES)

#define PLANE_LOW 64              /* low bytes are one of so many */
#define PLANE_APART (LB_PANEL * LB_GROUP_BYTES)    /* from a panel's high byte to its low one */

static inline int8_t plane_high(int16_t value)
{
    return (int8_t)((value + PLANE_LOW / 2) >> 6);
}

static inline int8_t plane_low(int16_t value)
{
    return (int8_t)(value - plane_high(value) * PLANE_LOW);
}

/* How a packing's integers stand. */
typedef struct quant_form {
    lb_dtype stored;
    bool planes;
} quant_form;

static inline quant_form quant_form_of(const lb_weight *w)
{
    return (quant_form){w->stored, w->planes};
}

/* Where the integer of column `col` of a lane of a panel is; in planes its high byte. */
static inline size_t quant_at(quant_form form, size_t lane, size_t col)
{
    size_t size = form.planes ? 1 : lb_dtype_size(form.stored), group = LB_GROUP_BYTES / size;
    size_t line = col / group * (form.planes ? 2 : 1);
    return (line * LB_PANEL + lane) * LB_GROUP_BYTES + col % group * size;
}

static inline void quant_put(quant_form form, char *panel, size_t lane, size_t col, int16_t value)
{
    char *to = panel + quant_at(form, lane, col);
    if (form.planes) {
        *(int8_t *)to = plane_high(value);
        *(int8_t *)(to + PLANE_APART) = plane_low(value);
    } else if (form.stored == LB_INT16) {
        memcpy(to, &value, sizeof value);
    } else {
        *(int8_t *)to = (int8_t)value;
    }
}

static inline int16_t quant_get(quant_form form, const char *panel, size_t lane, size_t col)
{
    const char *from = panel + quant_at(form, lane, col);
    int16_t value = *(const int8_t *)from;
    if (form.planes)
        return (int16_t)(value * PLANE_LOW + *(const int8_t *)(from + PLANE_APART));
    if (form.stored == LB_INT16)
        memcpy(&value, from, sizeof value);
    return value;
}

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

/* One stage of the transform inside the vectors. */
#define QUANT_STAGE(swap, halves)                                                                \
    LB_UNROLL                                                                                    \
    for (size_t i = 0; i < vectors; i++)                                                         \
        v[i] = vf_fma(v[i], vf_load(halves), swap(v[i]))

/* One stage between vectors that are `width` apart. */
#define QUANT_PAIRS(width)                                                                       \
    LB_UNROLL                                                                                    \
    for (size_t i = 0; i + (width) < vectors; i++) {                                             \
        vf low = v[i], high = v[i + (width)];                                                    \
        v[i] = i & (width) ? low : vf_add(low, high);                                            \
        v[i + (width)] = i & (width) ? high : vf_sub(low, high);                                 \
    }

/* v in place, vectors a constant power of two; back: the inverse. */
static inline __attribute__((always_inline)) void quant_rotate_part(vf *v, const size_t vectors,
                                                                    const bool back)
{
    const vf scale = vf_set(1.0f / __builtin_sqrtf((float)(vectors * LB_LANES)));
    LB_UNROLL
    for (size_t i = 0; !back && i < vectors; i++)
        v[i] = vf_mul(v[i], vf_load(quant_signs + i * LB_LANES));
    QUANT_STAGE(vf_swap8, quant_halves[0]);
    QUANT_STAGE(vf_swap4, quant_halves[1]);
    QUANT_STAGE(vf_swap2, quant_halves[2]);
    QUANT_STAGE(vf_swap1, quant_halves[3]);
    QUANT_PAIRS(1u)
    QUANT_PAIRS(2u)
    QUANT_PAIRS(4u)
    LB_UNROLL
    for (size_t i = 0; i < vectors; i++) {
        v[i] = vf_mul(v[i], scale);
        if (back)
            v[i] = vf_mul(v[i], vf_load(quant_signs + i * LB_LANES));
    }
}

/* A block of 1 to QUANT_VECTORS vectors: 8, or parts of 4, 2 and 1 at a row's end. */
static inline void quant_rotate(vf *v, size_t vectors, const bool back)
{
    if (vectors & 8u)
        quant_rotate_part(v, 8, back);
    if (vectors & 4u)
        quant_rotate_part(v, 4, back);
    v += vectors & 4u;
    if (vectors & 2u)
        quant_rotate_part(v, 2, back);
    v += vectors & 2u;
    if (vectors & 1u)
        quant_rotate_part(v, 1, back);
}

/* Vectors of the block from `first` on of a row of k. */
static inline size_t quant_vectors(size_t k, size_t first)
{
    size_t left = (k - first + LB_LANES - 1) / LB_LANES;
    return left < QUANT_VECTORS ? left : QUANT_VECTORS;
}

/* The block of row[k] from `first` on, rotated; returns quant_vectors. */
static inline size_t quant_block(const float *row, size_t k, size_t first, vf v[QUANT_VECTORS])
{
    size_t vectors = quant_vectors(k, first);
    for (size_t i = 0; i < vectors; i++) {
        size_t at = first + i * LB_LANES;
        v[i] = k - at >= LB_LANES ? vf_load(row + at) : vf_load_n(row + at, k - at, 0.0f);
    }
    quant_rotate(v, vectors, false);
    return vectors;
}

/* The scale of a block, and in *inverse what to multiply with. */
static inline __attribute__((always_inline)) float quant_scale(const vf *v, const size_t vectors,
                                                               lb_dtype stored, float *inverse)
{
    vf largest = vf_set(0.0f), odd = vf_set(0.0f);
    LB_UNROLL
    for (size_t i = 0; i < vectors; i++) {
        largest = vf_max(vf_max(v[i], vf_sub(vf_set(0.0f), v[i])), largest);
        odd = vf_fma(v[i], vf_set(0.0f), odd);   /* NaN as soon as one is not finite */
    }
    float most = stored == LB_INT16 ? LB_INT16_MAX : LB_INT8_MAX;
    float magnitude = vf_largest(largest);
    *inverse = magnitude < QUANT_LEAST ? 0.0f : most / magnitude;
    return (magnitude < QUANT_LEAST ? 0.0f : magnitude / most) + vf_sum(odd);
}

#endif
