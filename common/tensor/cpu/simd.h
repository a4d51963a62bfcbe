/* SPDX-License-Identifier: Apache-2.0
 *
 * vf - sixteen f32 lanes, the unit in which every kernel of this folder counts.
 *
 * The same source is compiled once for each instruction set (LB_ISA_AVX512, LB_ISA_AVX2,
 * LB_ISA_NEON, or plain C) and gives the same bits in each, because all of them have sixteen lanes,
 * fuse exactly where vf_fma says so, and reduce in the one tree of vf_sum. LB_K(name) gives a
 * symbol its suffix.
 * vf_bf16_low and _high expand the two bf16 that each of sixteen 4-byte lanes holds.
 */
#ifndef LB_COMMON_TENSOR_CPU_SIMD_H
#define LB_COMMON_TENSOR_CPU_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LB_LANES 16u

#if defined(LB_ISA_AVX512)

#include <immintrin.h>
#if defined(LB_ISA_VNNI)
#define LB_K(name) name##_avx512vnni
#else
#define LB_K(name) name##_avx512
#endif
typedef __m512 vf;
static inline vf vf_set(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline float vf_first(vf a) { return _mm512_cvtss_f32(a); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for whole n within the exponent's range. */
static inline vf vf_scale(vf a, vf n)
{
    __m512i bits = _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), bits));
}
/* Lanes of a where x < y, of b elsewhere (and where x or y is NaN). */
static inline vf vf_where_less(vf x, vf y, vf a, vf b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
}
/* Lane i of vf_swap8 is lane i ^ 8 of a, and so on. */
static inline vf vf_swap8(vf a) { return _mm512_shuffle_f32x4(a, a, 0x4E); }
static inline vf vf_swap4(vf a) { return _mm512_shuffle_f32x4(a, a, 0xB1); }
static inline vf vf_swap2(vf a) { return _mm512_permute_ps(a, 0x4E); }
static inline vf vf_swap1(vf a) { return _mm512_permute_ps(a, 0xB1); }
/* x where x is NaN, b elsewhere. */
static inline vf vf_where_nan(vf x, vf b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), b, x);
}
static inline vf vf_bf16_low(const float *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
static inline vf vf_bf16_high(const float *p)
{
    __m512i high = _mm512_set1_epi32((int32_t)0xFFFF0000u);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), high));
}

#elif defined(LB_ISA_AVX2)

#include <immintrin.h>
#if defined(LB_ISA_VNNI)
#define LB_K(name) name##_avx2vnni
#else
#define LB_K(name) name##_avx2
#endif
typedef struct vf { __m256 a, b; } vf;
static inline vf vf_set(float x) { return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline vf vf_load(const float *p)
{
    return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
static inline void vf_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline float vf_first(vf x) { return _mm256_cvtss_f32(x.a); }
#define LB_PAIR(name, op)                                                                        \
    static inline vf name(vf x, vf y) { return (vf){op(x.a, y.a), op(x.b, y.b)}; }
LB_PAIR(vf_add, _mm256_add_ps)
LB_PAIR(vf_sub, _mm256_sub_ps)
LB_PAIR(vf_mul, _mm256_mul_ps)
LB_PAIR(vf_div, _mm256_div_ps)
LB_PAIR(vf_max, _mm256_max_ps)
LB_PAIR(vf_min, _mm256_min_ps)
#undef LB_PAIR
static inline vf vf_fma(vf x, vf y, vf z)
{
    return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline vf vf_round(vf x)
{
    return (vf){_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline __m256 scale_half(__m256 a, __m256 n)
{
    __m256i bits = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), bits));
}
static inline vf vf_scale(vf x, vf n) { return (vf){scale_half(x.a, n.a), scale_half(x.b, n.b)}; }
static inline vf vf_where_less(vf x, vf y, vf a, vf b)
{
    return (vf){_mm256_blendv_ps(b.a, a.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
                _mm256_blendv_ps(b.b, a.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}
static inline vf vf_swap8(vf x) { return (vf){x.b, x.a}; }
static inline vf vf_swap4(vf x)
{
    return (vf){_mm256_permute2f128_ps(x.a, x.a, 1), _mm256_permute2f128_ps(x.b, x.b, 1)};
}
static inline vf vf_swap2(vf x)
{
    return (vf){_mm256_permute_ps(x.a, 0x4E), _mm256_permute_ps(x.b, 0x4E)};
}
static inline vf vf_swap1(vf x)
{
    return (vf){_mm256_permute_ps(x.a, 0xB1), _mm256_permute_ps(x.b, 0xB1)};
}
static inline vf vf_where_nan(vf x, vf b)
{
    return (vf){_mm256_blendv_ps(b.a, x.a, _mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q)),
                _mm256_blendv_ps(b.b, x.b, _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q))};
}
static inline __m256 low_half(__m256 x)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 16));
}
static inline vf vf_bf16_low(const float *p)
{
    return (vf){low_half(_mm256_loadu_ps(p)), low_half(_mm256_loadu_ps(p + 8))};
}
static inline vf vf_bf16_high(const float *p)
{
    __m256 high = _mm256_castsi256_ps(_mm256_set1_epi32((int32_t)0xFFFF0000u));
    return (vf){_mm256_and_ps(_mm256_loadu_ps(p), high),
                _mm256_and_ps(_mm256_loadu_ps(p + 8), high)};
}

#elif defined(LB_ISA_NEON)

#include <arm_neon.h>
#if defined(LB_ISA_DOTPROD)
#define LB_K(name) name##_neondot
#else
#define LB_K(name) name##_neon
#endif
typedef struct vf { float32x4_t a, b, c, d; } vf;
static inline vf vf_set(float x)
{
    float32x4_t all = vdupq_n_f32(x);
    return (vf){all, all, all, all};
}
static inline vf vf_load(const float *p)
{
    return (vf){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
static inline void vf_store(float *p, vf x)
{
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
static inline float vf_first(vf x) { return vgetq_lane_f32(x.a, 0); }
#define LB_PAIR(name, op)                                                                        \
    static inline vf name(vf x, vf y)                                                            \
    {                                                                                            \
        return (vf){op(x.a, y.a), op(x.b, y.b), op(x.c, y.c), op(x.d, y.d)};                     \
    }
/* As the vector instructions of x86: the second operand when they compare unordered or equal. */
static inline float32x4_t larger(float32x4_t x, float32x4_t y)
{
    return vbslq_f32(vcgtq_f32(x, y), x, y);
}
static inline float32x4_t smaller(float32x4_t x, float32x4_t y)
{
    return vbslq_f32(vcltq_f32(x, y), x, y);
}
static inline float32x4_t scale_quarter(float32x4_t x, float32x4_t n)
{
    int32x4_t bits = vshlq_n_s32(vcvtnq_s32_f32(n), 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), bits));
}
/* x where x is NaN, y elsewhere. */
static inline float32x4_t unless_nan(float32x4_t x, float32x4_t y)
{
    return vbslq_f32(vceqq_f32(x, x), y, x);
}
LB_PAIR(vf_add, vaddq_f32)
LB_PAIR(vf_sub, vsubq_f32)
LB_PAIR(vf_mul, vmulq_f32)
LB_PAIR(vf_div, vdivq_f32)
LB_PAIR(vf_max, larger)
LB_PAIR(vf_min, smaller)
LB_PAIR(vf_scale, scale_quarter)
LB_PAIR(vf_where_nan, unless_nan)
#undef LB_PAIR
static inline vf vf_fma(vf x, vf y, vf z)
{
    return (vf){vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c),
                vfmaq_f32(z.d, x.d, y.d)};
}
static inline vf vf_round(vf x)
{
    return (vf){vrndnq_f32(x.a), vrndnq_f32(x.b), vrndnq_f32(x.c), vrndnq_f32(x.d)};
}
static inline vf vf_where_less(vf x, vf y, vf a, vf b)
{
    return (vf){vbslq_f32(vcltq_f32(x.a, y.a), a.a, b.a),
                vbslq_f32(vcltq_f32(x.b, y.b), a.b, b.b),
                vbslq_f32(vcltq_f32(x.c, y.c), a.c, b.c),
                vbslq_f32(vcltq_f32(x.d, y.d), a.d, b.d)};
}
static inline vf vf_swap8(vf x) { return (vf){x.c, x.d, x.a, x.b}; }
static inline vf vf_swap4(vf x) { return (vf){x.b, x.a, x.d, x.c}; }
static inline float32x4_t swap2(float32x4_t x) { return vextq_f32(x, x, 2); }
static inline vf vf_swap2(vf x) { return (vf){swap2(x.a), swap2(x.b), swap2(x.c), swap2(x.d)}; }
static inline vf vf_swap1(vf x)
{
    return (vf){vrev64q_f32(x.a), vrev64q_f32(x.b), vrev64q_f32(x.c), vrev64q_f32(x.d)};
}
static inline float32x4_t low_half(const float *p)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(vld1q_f32(p)), 16));
}
static inline vf vf_bf16_low(const float *p)
{
    return (vf){low_half(p), low_half(p + 4), low_half(p + 8), low_half(p + 12)};
}
static inline float32x4_t high_half(const float *p)
{
    uint32x4_t high = vdupq_n_u32(0xFFFF0000u);
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(vld1q_f32(p)), high));
}
static inline vf vf_bf16_high(const float *p)
{
    return (vf){high_half(p), high_half(p + 4), high_half(p + 8), high_half(p + 12)};
}

#else

#include <math.h>
#define LB_K(name) name##_portable
typedef struct vf { float v[LB_LANES]; } vf;
#define LB_EACH(expression)                                                                      \
    vf r;                                                                                        \
    for (size_t i = 0; i < LB_LANES; i++)                                                        \
        r.v[i] = (expression);                                                                   \
    return r
static inline vf vf_set(float x) { LB_EACH(x); }
static inline vf vf_load(const float *p) { LB_EACH(p[i]); }
static inline void vf_store(float *p, vf a) { memcpy(p, a.v, sizeof a.v); }
static inline float vf_first(vf a) { return a.v[0]; }
static inline vf vf_add(vf a, vf b) { LB_EACH(a.v[i] + b.v[i]); }
static inline vf vf_sub(vf a, vf b) { LB_EACH(a.v[i] - b.v[i]); }
static inline vf vf_mul(vf a, vf b) { LB_EACH(a.v[i] * b.v[i]); }
static inline vf vf_div(vf a, vf b) { LB_EACH(a.v[i] / b.v[i]); }
/* As the vector instructions: the second operand when they compare unordered or equal. */
static inline vf vf_max(vf a, vf b) { LB_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline vf vf_min(vf a, vf b) { LB_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
static inline vf vf_fma(vf a, vf b, vf c) { LB_EACH(fmaf(a.v[i], b.v[i], c.v[i])); }
static inline vf vf_round(vf a) { LB_EACH(rintf(a.v[i])); }
static inline float scale_lane(float a, float n)
{
    /* A NaN has no exponent to add to; its conversion would be undefined. */
    int32_t exponent = n >= -256.0f && n <= 256.0f ? (int32_t)n : 0;
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    bits += (uint32_t)exponent << 23;
    memcpy(&a, &bits, sizeof bits);
    return a;
}
static inline vf vf_scale(vf a, vf n) { LB_EACH(scale_lane(a.v[i], n.v[i])); }
static inline vf vf_where_less(vf x, vf y, vf a, vf b)
{
    LB_EACH(x.v[i] < y.v[i] ? a.v[i] : b.v[i]);
}
static inline vf vf_swap8(vf a) { LB_EACH(a.v[i ^ 8]); }
static inline vf vf_swap4(vf a) { LB_EACH(a.v[i ^ 4]); }
static inline vf vf_swap2(vf a) { LB_EACH(a.v[i ^ 2]); }
static inline vf vf_swap1(vf a) { LB_EACH(a.v[i ^ 1]); }
static inline vf vf_where_nan(vf x, vf b) { LB_EACH(x.v[i] != x.v[i] ? x.v[i] : b.v[i]); }
static inline float bf16_lane(const float *p, int shift, uint32_t mask)
{
    uint32_t bits;
    float out;
    memcpy(&bits, p, sizeof bits);
    bits = bits << shift & mask;
    memcpy(&out, &bits, sizeof out);
    return out;
}
static inline vf vf_bf16_low(const float *p) { LB_EACH(bf16_lane(p + i, 16, 0xFFFFFFFFu)); }
static inline vf vf_bf16_high(const float *p) { LB_EACH(bf16_lane(p + i, 0, 0xFFFF0000u)); }
#undef LB_EACH

#endif

/* The first n lanes of p, fill in the rest. */
static inline vf vf_load_n(const float *p, size_t n, float fill)
{
    float lane[LB_LANES];
    for (size_t i = 0; i < LB_LANES; i++)
        lane[i] = i < n ? p[i] : fill;
    return vf_load(lane);
}

static inline void vf_store_n(float *p, vf a, size_t n)
{
    float lane[LB_LANES];
    vf_store(lane, a);
    memcpy(p, lane, n * sizeof *lane);
}

/* Lanes 0 .. 15 in the tree of halves: lane i + lane i + 8, then 4, 2, 1. */
static inline float vf_sum(vf a)
{
    a = vf_add(a, vf_swap8(a));
    a = vf_add(a, vf_swap4(a));
    a = vf_add(a, vf_swap2(a));
    return vf_first(vf_add(a, vf_swap1(a)));
}

static inline float vf_largest(vf a)
{
    a = vf_max(a, vf_swap8(a));
    a = vf_max(a, vf_swap4(a));
    a = vf_max(a, vf_swap2(a));
    return vf_first(vf_max(a, vf_swap1(a)));
}

/* sum a[i] b[i]: lane i mod 16 fused in order, then vf_sum. */
static inline float dot_f32(const float *a, const float *b, size_t n)
{
    vf sum = vf_set(0.0f);
    size_t i = 0;
    for (; i + LB_LANES <= n; i += LB_LANES)
        sum = vf_fma(vf_load(a + i), vf_load(b + i), sum);
    if (i < n)
        sum = vf_fma(vf_load_n(a + i, n - i, 0.0f), vf_load_n(b + i, n - i, 0.0f), sum);
    return vf_sum(sum);
}

/* y += a x. */
static inline void axpy_f32(float *y, float a, const float *x, size_t n)
{
    vf scale = vf_set(a);
    size_t i = 0;
    for (; i + LB_LANES <= n; i += LB_LANES)
        vf_store(y + i, vf_fma(scale, vf_load(x + i), vf_load(y + i)));
    for (; i < n; i++)
        y[i] = __builtin_fmaf(a, x[i], y[i]);
}

#endif
