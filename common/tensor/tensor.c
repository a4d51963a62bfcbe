/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tensor/tensor.h"

#include <assert.h>
#include <string.h>

size_t lb_dtype_size(lb_dtype dtype)
{
    return dtype == LB_BF16 ? 2 : 4;
}

static void *at(lb_tensor t, size_t row, size_t col)
{
    return t.data ? (char *)t.data + (row * t.stride + col) * lb_dtype_size(t.dtype) : NULL;
}

lb_tensor lb_tensor_rows(lb_tensor t, size_t first, size_t count)
{
    assert(first <= t.rows && count <= t.rows - first);
    return (lb_tensor){t.dtype, count, t.cols, t.stride, at(t, first, 0)};
}

lb_tensor lb_tensor_cols(lb_tensor t, size_t first, size_t count)
{
    assert(first <= t.cols && count <= t.cols - first);
    return (lb_tensor){t.dtype, t.rows, count, t.stride, at(t, 0, first)};
}

lb_tensor lb_tensor_reshape(lb_tensor t, size_t rows, size_t cols)
{
    assert(t.rows * t.cols == rows * cols && (t.stride == t.cols || t.rows <= 1));
    return (lb_tensor){t.dtype, rows, cols, cols, t.data};
}

float lb_bf16_to_f32(uint16_t value)
{
    uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

uint16_t lb_f32_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(bits >> 16 | 0x40u);    /* a quiet NaN, whose low bits may go */
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

float lb_f16_to_f32(uint16_t value)
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
