/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 64u

void lb_buf_free(lb_buf *buf)
{
    if (!buf)
        return;
    free(buf->data);
    *buf = (lb_buf){0};
}

void lb_buf_clear(lb_buf *buf)
{
    buf->length = 0;
    buf->status = LB_OK;
    if (buf->data)
        buf->data[0] = 0;
}

/* Room for length more bytes and the closing NUL. */
static bool reserve(lb_buf *buf, size_t length)
{
    if (buf->status != LB_OK)
        return false;
    if (buf->limit && (buf->length > buf->limit || length > buf->limit - buf->length)) {
        buf->status = LB_ETOOBIG;
        return false;
    }
    if (length > SIZE_MAX / 2 - buf->length - 1) {
        buf->status = LB_ENOMEM;
        return false;
    }
    size_t need = buf->length + length + 1;
    if (need <= buf->capacity)
        return true;
    size_t capacity = buf->capacity ? buf->capacity : FIRST_CAPACITY;
    while (capacity < need)
        capacity *= 2;
    uint8_t *data = realloc(buf->data, capacity);
    if (!data) {
        buf->status = LB_ENOMEM;
        return false;
    }
    buf->data = data;
    buf->capacity = capacity;
    return true;
}

void *lb_buf_extend(lb_buf *buf, size_t length)
{
    if (!reserve(buf, length))
        return NULL;
    void *at = buf->data + buf->length;
    buf->length += length;
    buf->data[buf->length] = 0;
    return at;
}

void lb_buf_append(lb_buf *buf, const void *bytes, size_t length)
{
    void *at = lb_buf_extend(buf, length);
    if (at && length)
        memcpy(at, bytes, length);
}

void lb_buf_puts(lb_buf *buf, const char *text)
{
    lb_buf_append(buf, text, strlen(text));
}

void lb_buf_printf(lb_buf *buf, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0) {   /* more than INT_MAX bytes */
        if (buf->status == LB_OK)
            buf->status = LB_ETOOBIG;
    } else if (reserve(buf, (size_t)length)) {
        vsnprintf((char *)buf->data + buf->length, (size_t)length + 1, format, again);
        buf->length += (size_t)length;
    }
    va_end(again);
}

static void put(lb_buf *buf, uint64_t value, size_t bytes)
{
    uint8_t *at = lb_buf_extend(buf, bytes);
    for (size_t i = 0; at && i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

void lb_buf_u16(lb_buf *buf, uint16_t value)
{
    put(buf, value, sizeof value);
}

void lb_buf_u32(lb_buf *buf, uint32_t value)
{
    put(buf, value, sizeof value);
}

void lb_buf_u64(lb_buf *buf, uint64_t value)
{
    put(buf, value, sizeof value);
}

void lb_buf_f32(lb_buf *buf, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put(buf, bits, sizeof bits);
}

void lb_buf_f64(lb_buf *buf, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put(buf, bits, sizeof bits);
}

uint8_t *lb_buf_take(lb_buf *buf, size_t *length)
{
    uint8_t *data = buf->data;
    if (length)
        *length = buf->length;
    *buf = (lb_buf){0};
    return data;
}

/* ---- reader ---- */

size_t lb_reader_left(const lb_reader *reader)
{
    return reader->failed ? 0 : reader->length - reader->offset;
}

const uint8_t *lb_read_bytes(lb_reader *reader, size_t length)
{
    if (reader->failed || length > reader->length - reader->offset) {
        reader->failed = true;
        return NULL;
    }
    if (length == 0)   /* of no bytes at all, data may be NULL, which allows no arithmetic */
        return reader->data ? reader->data + reader->offset : (const uint8_t *)"";
    const uint8_t *at = reader->data + reader->offset;
    reader->offset += length;
    return at;
}

static uint64_t get(lb_reader *reader, size_t bytes)
{
    const uint8_t *at = lb_read_bytes(reader, bytes);
    uint64_t value = 0;
    for (size_t i = 0; at && i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

uint8_t lb_read_u8(lb_reader *reader)
{
    return (uint8_t)get(reader, 1);
}

uint16_t lb_read_u16(lb_reader *reader)
{
    return (uint16_t)get(reader, 2);
}

uint32_t lb_read_u32(lb_reader *reader)
{
    return (uint32_t)get(reader, 4);
}

uint64_t lb_read_u64(lb_reader *reader)
{
    return get(reader, 8);
}

float lb_read_f32(lb_reader *reader)
{
    uint32_t bits = lb_read_u32(reader);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

double lb_read_f64(lb_reader *reader)
{
    uint64_t bits = lb_read_u64(reader);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- checked sizes ---- */

bool lb_size_mul(size_t a, size_t b, size_t *out)
{
    size_t result;
    if (__builtin_mul_overflow(a, b, &result))
        return false;
    *out = result;
    return true;
}

bool lb_size_add(size_t a, size_t b, size_t *out)
{
    size_t result;
    if (__builtin_add_overflow(a, b, &result))
        return false;
    *out = result;
    return true;
}
