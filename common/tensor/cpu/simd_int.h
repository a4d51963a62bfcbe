/* SPDX-License-Identifier: Apache-2.0
 *
 * vi - sixteen lanes of int32, which take sums of products of small integers. Integer sums are
 * exact, so every instruction set gives the same lanes by whichever instructions it has.
 *
 * A group is what one lane consumes at once: two int16, or four 8-bit integers.
 *
 * VNNI multiplies unsigned by signed bytes, and so do AVX-512 without it and plain C here; Arm, and
 * AVX2 without it, multiply signed by signed ones (LB_SIGNED_BYTES). So the activations of an 8-bit
 * product are written by vf_store_bytes in the form that vi_dot_bytes takes, and its sums begin
 * with vi_begin_bytes(-128 x the sums of the weights' bytes), which puts right what 128 added to
 * each activation does; where none is added that is 0.
 */
#ifndef LB_COMMON_TENSOR_CPU_SIMD_INT_H
#define LB_COMMON_TENSOR_CPU_SIMD_INT_H

#include "common/tensor/cpu/simd.h"

#if defined(LB_ISA_AVX512)

/* Not __m512i, whose elements are 64-bit: gcc then keeps arrays of sums in memory. */
typedef int32_t vi __attribute__((vector_size(64)));
static inline vi vi_zero(void) { return (vi)_mm512_setzero_si512(); }
static inline vi vi_load(const void *p) { return (vi)_mm512_loadu_si512(p); }
static inline vi vi_set(int32_t x) { return (vi)_mm512_set1_epi32(x); }
static inline vf vi_to_vf(vi a) { return _mm512_cvtepi32_ps((__m512i)a); }
#if defined(LB_ISA_VNNI)
static inline vi vi_dot_i16(vi sum, vi a, vi b)
{
    return (vi)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
}
static inline vi vi_dot_bytes(vi sum, vi a, vi b)
{
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
}
#else
static inline vi vi_dot_i16(vi sum, vi a, vi b)
{
    return sum + (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
}
/* Bytes 0 and 2, then 1 and 3, of each group as int16; no step saturates. */
static inline vi vi_dot_bytes(vi sum, vi x, vi y)
{
    __m512i a = (__m512i)x, b = (__m512i)y;
    __m512i even = _mm512_madd_epi16(_mm512_and_si512(a, _mm512_set1_epi16(0xFF)),
                                     _mm512_srai_epi16(_mm512_slli_epi16(b, 8), 8));
    __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(a, 8), _mm512_srai_epi16(b, 8));
    return sum + (vi)_mm512_add_epi32(even, odd);
}
#endif
/* Rounds to nearest even. */
static inline void vf_store_i16(int16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(a)));
}
static inline void vf_store_i8(int8_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}

#elif defined(LB_ISA_AVX2)

typedef struct vi { __m256i a, b; } vi;
static inline vi vi_zero(void) { return (vi){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline vi vi_load(const void *p)
{
    const __m256i *from = p;
    return (vi){_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
}
static inline vi vi_set(int32_t x) { return (vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
static inline vf vi_to_vf(vi x) { return (vf){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
#if defined(LB_ISA_VNNI)
static inline vi vi_dot_i16(vi sum, vi x, vi y)
{
    return (vi){_mm256_dpwssd_avx_epi32(sum.a, x.a, y.a),
                _mm256_dpwssd_avx_epi32(sum.b, x.b, y.b)};
}
static inline vi vi_dot_bytes(vi sum, vi x, vi y)
{
    return (vi){_mm256_dpbusd_avx_epi32(sum.a, x.a, y.a),
                _mm256_dpbusd_avx_epi32(sum.b, x.b, y.b)};
}
#else
/* Each in one piece: a compiler that sees the parts of a tile makes all products before it adds the
 * first, has no registers for them, and halves the rate. */
static inline __m256i dot16_half(__m256i sum, __m256i a, __m256i b)
{
    __m256i pairs;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
            : "+x"(sum), "=&x"(pairs) : "x"(a), "x"(b));
    return sum;
}
/* The unsigned bytes that vpmaddubsw takes are the magnitudes of b, whose signs a is given; a pair
 * is at most 2 x 127 x 127, which an int16 holds. */
static inline __m256i dot8_half(__m256i sum, __m256i a, __m256i b)
{
    __m256i pairs;
    __asm__("vpsignb %4, %2, %1\n\tvpmaddubsw %1, %3, %1\n\t"
            "vpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
            : "+x"(sum), "=&x"(pairs)
            : "x"(a), "x"(_mm256_abs_epi8(b)), "xm"(b), "xm"(_mm256_set1_epi16(1)));
    return sum;
}
static inline vi vi_dot_i16(vi sum, vi x, vi y)
{
    return (vi){dot16_half(sum.a, x.a, y.a), dot16_half(sum.b, x.b, y.b)};
}
#define LB_SIGNED_BYTES
static inline vi vi_dot_bytes(vi sum, vi x, vi y)
{
    return (vi){dot8_half(sum.a, x.a, y.a), dot8_half(sum.b, x.b, y.b)};
}
#endif
static inline __m256i pack_i16(vf x)
{
    __m256i mixed = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    return _mm256_permute4x64_epi64(mixed, 0xD8);
}
static inline void vf_store_i16(int16_t *p, vf x)
{
    _mm256_storeu_si256((__m256i *)(void *)p, pack_i16(x));
}
static inline void vf_store_i8(int8_t *p, vf x)
{
    __m256i wide = pack_i16(x);
    _mm_storeu_si128((__m128i *)(void *)p, _mm_packs_epi16(_mm256_castsi256_si128(wide),
                                                           _mm256_extracti128_si256(wide, 1)));
}

#elif defined(LB_ISA_NEON)

typedef struct vi { int32x4_t a, b, c, d; } vi;
static inline vi vi_load(const void *p)
{
    const int32_t *from = p;
    return (vi){vld1q_s32(from), vld1q_s32(from + 4), vld1q_s32(from + 8), vld1q_s32(from + 12)};
}
static inline vi vi_set(int32_t x)
{
    int32x4_t all = vdupq_n_s32(x);
    return (vi){all, all, all, all};
}
static inline vi vi_zero(void) { return vi_set(0); }
static inline vf vi_to_vf(vi x)
{
    return (vf){vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)};
}
static inline int32x4_t dot16_quarter(int32x4_t sum, int32x4_t a, int32x4_t b)
{
    int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y));
    return vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(x, y)));
}
static inline int32x4_t dot8_quarter(int32x4_t sum, int32x4_t a, int32x4_t b)
{
    int8x16_t x = vreinterpretq_s8_s32(a), y = vreinterpretq_s8_s32(b);
#if defined(LB_ISA_DOTPROD)
    return vdotq_s32(sum, x, y);
#else
    int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(y));
    int32x4_t pairs = vpaddlq_s16(low), more = vpaddlq_s16(vmull_high_s8(x, y));
    return vaddq_s32(sum, vpaddq_s32(pairs, more));
#endif
}
static inline vi vi_dot_i16(vi sum, vi x, vi y)
{
    return (vi){dot16_quarter(sum.a, x.a, y.a), dot16_quarter(sum.b, x.b, y.b),
                dot16_quarter(sum.c, x.c, y.c), dot16_quarter(sum.d, x.d, y.d)};
}
#define LB_SIGNED_BYTES
static inline vi vi_dot_bytes(vi sum, vi x, vi y)
{
    return (vi){dot8_quarter(sum.a, x.a, y.a), dot8_quarter(sum.b, x.b, y.b),
                dot8_quarter(sum.c, x.c, y.c), dot8_quarter(sum.d, x.d, y.d)};
}
/* Rounded to nearest even. */
static inline int16x8_t pack_i16(float32x4_t low, float32x4_t high)
{
    return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(low)), vqmovn_s32(vcvtnq_s32_f32(high)));
}
static inline void vf_store_i16(int16_t *p, vf x)
{
    vst1q_s16(p, pack_i16(x.a, x.b));
    vst1q_s16(p + 8, pack_i16(x.c, x.d));
}
static inline void vf_store_i8(int8_t *p, vf x)
{
    vst1q_s8(p, vcombine_s8(vqmovn_s16(pack_i16(x.a, x.b)), vqmovn_s16(pack_i16(x.c, x.d))));
}

#else

typedef struct vi { int32_t v[LB_LANES]; } vi;
static inline vi vi_load(const void *p)
{
    vi r;
    memcpy(&r, p, sizeof r);
    return r;
}
static inline vi vi_zero(void) { return (vi){{0}}; }
static inline vi vi_set(int32_t x)
{
    vi r;
    for (size_t i = 0; i < LB_LANES; i++)
        r.v[i] = x;
    return r;
}
static inline vf vi_to_vf(vi a)
{
    vf r;
    for (size_t i = 0; i < LB_LANES; i++)
        r.v[i] = (float)a.v[i];
    return r;
}
static inline vi vi_dot_i16(vi sum, vi a, vi b)
{
    int16_t x[2 * LB_LANES], y[2 * LB_LANES];
    memcpy(x, &a, sizeof x);
    memcpy(y, &b, sizeof y);
    for (size_t i = 0; i < LB_LANES; i++)
        sum.v[i] += x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1];
    return sum;
}
static inline vi vi_dot_bytes(vi sum, vi a, vi b)
{
    uint8_t x[4 * LB_LANES];
    int8_t y[4 * LB_LANES];
    memcpy(x, &a, sizeof x);
    memcpy(y, &b, sizeof y);
    for (size_t i = 0; i < 4 * LB_LANES; i++)
        sum.v[i / 4] += x[i] * y[i];
    return sum;
}
/* What no integer is near (NaN, for one) becomes 0: its conversion would be undefined. */
static inline int32_t nearest(float x)
{
    return x >= -32768.0f && x <= 32767.0f ? (int32_t)rintf(x) : 0;
}
static inline void vf_store_i16(int16_t *p, vf a)
{
    for (size_t i = 0; i < LB_LANES; i++)
        p[i] = (int16_t)nearest(a.v[i]);
}
static inline void vf_store_i8(int8_t *p, vf a)
{
    for (size_t i = 0; i < LB_LANES; i++)
        p[i] = (int8_t)nearest(a.v[i]);
}

#endif

#if defined(LB_SIGNED_BYTES)
#define LB_BYTE_SIGN 0       /* what vf_store_bytes' bytes differ in from vf_store_i8's */
static inline void vf_store_bytes(char *p, vf a) { vf_store_i8((int8_t *)p, a); }
static inline vi vi_begin_bytes(const int32_t *sums)
{
    (void)sums;
    return vi_zero();
}
static inline vi vi_begin_row(int32_t sum)
{
    (void)sum;
    return vi_zero();
}
#else
#define LB_BYTE_SIGN 0x80
/* With 128 added to each: -128 .. 127 becomes 0 .. 255. */
static inline void vf_store_bytes(char *p, vf a)
{
    int8_t lane[LB_LANES];
    uint64_t bits[2];
    vf_store_i8(lane, a);
    memcpy(bits, lane, sizeof bits);
    bits[0] ^= 0x8080808080808080u;
    bits[1] ^= 0x8080808080808080u;
    memcpy(p, bits, sizeof bits);
}
static inline vi vi_begin_bytes(const int32_t *sums) { return vi_load(sums); }
/* The same where all columns are multiplied with one row, and the columns were written by
 * vf_store_bytes. */
static inline vi vi_begin_row(int32_t sum) { return vi_set(sum); }
#endif

static inline int32_t load_i32(const void *p)
{
    int32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

#endif
