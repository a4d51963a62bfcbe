/* SPDX-License-Identifier: Apache-2.0
 *
 * The two 16-bit floating-point formats as bits: bf16 (8-bit exponent) and IEEE f16.
 */
#ifndef LB_COMMON_BASE_HALF_H
#define LB_COMMON_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float lb_bf16_to_f32(uint16_t value)
{
    uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

/* Rounds to nearest even; NaN stays NaN. */
static inline uint16_t lb_f32_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(bits >> 16 | 0x40u);    /* a quiet NaN, whose low bits may go */
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

static inline float lb_f16_to_f32(uint16_t value)
{
    uint32_t sign = (uint32_t)(value & 0x8000u) << 16;
    uint32_t exponent = value >> 10 & 0x1Fu, mantissa = value & 0x3FFu;
    uint32_t bits;
    float out;
    if (exponent == 0x1F) {
        bits = sign | 0x7F800000u | mantissa << 13;
    } else if (exponent > 0) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else if (mantissa == 0) {
        bits = sign;
    } else {
        /* Subnormal: mantissa * 2^-24 is exact in f32. */
        out = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &out, sizeof bits);
        bits |= sign;
    }
    memcpy(&out, &bits, sizeof out);
    return out;
}

#endif
