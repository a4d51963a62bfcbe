/* SPDX-License-Identifier: Apache-2.0
 *
 * The block formats of GGUF tensors. A block is a scale (or several) in f16 and small integers; a
 * value is scale * integer (minus a minimum). Layouts: ggml-common.h; order of the arithmetic:
 * dequantize_row_* of ggml-quants.c.
 */
#include "common/io/gguf.h"

#include "common/base/half.h"

#include <string.h>

#define SMALL 32u              /* values of Q4_0, Q4_1 and Q8_0 blocks */
#define SUPER 256u             /* values of the K blocks */

typedef struct type_row {
    lb_gguf_type type;
    const char *name;
    size_t values, bytes;
    void (*plain)(const uint8_t *data, size_t count, float *out);   /* values; or NULL and */
    void (*expand)(const uint8_t *block, float *out);               /* one block */
} type_row;

static float half_at(const uint8_t *data)
{
    uint16_t bits = 0;
    memcpy(&bits, data, sizeof bits);
    return lb_f16_to_f32(bits);
}

static void expand_f32(const uint8_t *data, size_t count, float *out)
{
    memcpy(out, data, count * sizeof *out);
}

static void expand_f16(const uint8_t *data, size_t count, float *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = half_at(data + 2 * i);
}

static void expand_bf16(const uint8_t *data, size_t count, float *out)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, sizeof bits);
        out[i] = lb_bf16_to_f32(bits);
    }
}

/* { f16 d; i8 q[32] } */
static void expand_q8_0(const uint8_t *block, float *out)
{
    float d = half_at(block);
    for (size_t i = 0; i < SMALL; i++)
        out[i] = (float)(int8_t)block[2 + i] * d;
}

/* { f16 d; u8 q[16] }: low nibbles are the first half */
static void expand_q4_0(const uint8_t *block, float *out)
{
    float d = half_at(block);
    for (size_t i = 0; i < SMALL / 2; i++) {
        out[i] = (float)((block[2 + i] & 15) - 8) * d;
        out[i + SMALL / 2] = (float)((block[2 + i] >> 4) - 8) * d;
    }
}

/* { f16 d, m; u8 q[16] } */
static void expand_q4_1(const uint8_t *block, float *out)
{
    float d = half_at(block), m = half_at(block + 2);
    for (size_t i = 0; i < SMALL / 2; i++) {
        out[i] = (float)(block[4 + i] & 15) * d + m;
        out[i + SMALL / 2] = (float)(block[4 + i] >> 4) * d + m;
    }
}

/* Scale and minimum j of 8, six bits each in twelve bytes. */
static void scale_min(const uint8_t *packed, size_t j, float *scale, float *min)
{
    if (j < 4) {
        *scale = (float)(packed[j] & 63);
        *min = (float)(packed[j + 4] & 63);
    } else {
        *scale = (float)((packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4));
        *min = (float)((packed[j + 4] >> 4) | ((packed[j] >> 6) << 4));
    }
}

/* Chunks of 64 values in q, low nibbles first. Bit j of high[i], if there are such, is the fifth
 * bit. */
static void expand_nibbles(const uint8_t *block, const uint8_t *high, const uint8_t *q, float *out)
{
    float d = half_at(block), dmin = half_at(block + 2);
    for (size_t j = 0; j < 8; j++) {
        float scale, min;
        scale_min(block + 4, j, &scale, &min);
        float step = d * scale, low = dmin * min;
        const uint8_t *chunk = q + j / 2 * SMALL;
        for (size_t i = 0; i < SMALL; i++) {
            unsigned value = j % 2 ? chunk[i] >> 4 : chunk[i] & 15u;
            if (high)
                value |= ((high[i] >> j) & 1u) << 4;
            out[j * SMALL + i] = step * (float)value - low;
        }
    }
}

/* { f16 d, dmin; u8 scales[12]; u8 q[128] } */
static void expand_q4_k(const uint8_t *block, float *out)
{
    expand_nibbles(block, NULL, block + 16, out);
}

/* { f16 d, dmin; u8 scales[12]; u8 high[32]; u8 q[128] } */
static void expand_q5_k(const uint8_t *block, float *out)
{
    expand_nibbles(block, block + 16, block + 48, out);
}

/* { u8 low[128]; u8 high[64]; i8 scales[16]; f16 d }: halves of 128, quarters of 32 in each */
static void expand_q6_k(const uint8_t *block, float *out)
{
    const uint8_t *low = block, *high = block + 128, *scales = block + 192;
    float d = half_at(block + 208);
    for (size_t half = 0; half < 2; half++, low += 64, high += 32, scales += 8, out += 128) {
        for (size_t i = 0; i < 128; i++) {
            size_t quarter = i / 32, at = i % 32;
            unsigned nibble = quarter < 2 ? low[at + 32 * quarter] & 15u
                                          : low[at + 32 * (quarter - 2)] >> 4;
            unsigned top = (high[at] >> (2 * quarter)) & 3u;
            int value = (int)(nibble | top << 4) - 32;
            out[i] = d * (float)(int8_t)scales[i / 16] * (float)value;
        }
    }
}

static const type_row types[] = {
    {LB_GGUF_F32, "F32", 1, 4, expand_f32, NULL},
    {LB_GGUF_F16, "F16", 1, 2, expand_f16, NULL},
    {LB_GGUF_BF16, "BF16", 1, 2, expand_bf16, NULL},
    {LB_GGUF_Q4_0, "Q4_0", SMALL, 18, NULL, expand_q4_0},
    {LB_GGUF_Q4_1, "Q4_1", SMALL, 20, NULL, expand_q4_1},
    {LB_GGUF_Q8_0, "Q8_0", SMALL, 34, NULL, expand_q8_0},
    {LB_GGUF_Q4_K, "Q4_K", SUPER, 144, NULL, expand_q4_k},
    {LB_GGUF_Q5_K, "Q5_K", SUPER, 176, NULL, expand_q5_k},
    {LB_GGUF_Q6_K, "Q6_K", SUPER, 210, NULL, expand_q6_k},
};

static const type_row *find_type(lb_gguf_type type)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (types[i].type == type)
            return &types[i];
    }
    return NULL;
}

const char *lb_gguf_type_name(lb_gguf_type type)
{
    const type_row *row = find_type(type);
    return row ? row->name : "unknown";
}

bool lb_gguf_block(lb_gguf_type type, size_t *values, size_t *bytes)
{
    const type_row *row = find_type(type);
    if (!row)
        return false;
    *values = row->values;
    *bytes = row->bytes;
    return true;
}

void lb_gguf_expand(lb_gguf_type type, const uint8_t *data, size_t count, float *out)
{
    const type_row *row = find_type(type);
    if (!row)
        return;
    if (row->plain) {
        row->plain(data, count, out);
        return;
    }
    for (size_t i = 0; i < count / row->values; i++)
        row->expand(data + i * row->bytes, out + i * row->values);
}
