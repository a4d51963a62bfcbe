/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_buf - a growing byte buffer with a sticky error, for encoders and for bodies under a limit.
 *
 * Appends after a failure do nothing; the caller reads `status` once, at the end. `limit` bounds
 * the length (0: none): going past it sets LB_ETOOBIG. Little-endian writers are for wire frames.
 * Not thread safe. A zeroed lb_buf is a valid, empty one without a limit.
 */
#ifndef LB_COMMON_BASE_BUF_H
#define LB_COMMON_BASE_BUF_H

#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lb_buf {
    uint8_t *data;    /* owned; one NUL byte always follows the length when data is not NULL */
    size_t length;
    size_t capacity;
    size_t limit;
    lb_status status; /* LB_OK, LB_ENOMEM or LB_ETOOBIG */
} lb_buf;

void lb_buf_free(lb_buf *buf);                       /* NULL allowed; leaves a zeroed buffer */
void lb_buf_clear(lb_buf *buf);                      /* length 0, error forgotten, memory kept */
void lb_buf_append(lb_buf *buf, const void *bytes, size_t length);
void lb_buf_puts(lb_buf *buf, const char *text);
void lb_buf_printf(lb_buf *buf, const char *format, ...) LB_PRINTF(2, 3);
void lb_buf_u16(lb_buf *buf, uint16_t value);
void lb_buf_u32(lb_buf *buf, uint32_t value);
void lb_buf_u64(lb_buf *buf, uint64_t value);
void lb_buf_f32(lb_buf *buf, float value);
void lb_buf_f64(lb_buf *buf, double value);
/* Makes room for length more bytes and returns where they begin (length grows), NULL on failure. */
void *lb_buf_extend(lb_buf *buf, size_t length);
/* Hands the bytes over (the caller frees them with free()) and leaves a zeroed buffer. */
uint8_t *lb_buf_take(lb_buf *buf, size_t *length);

/* lb_reader - reads little-endian fields off borrowed bytes; sticky `failed` after a short read. */
typedef struct lb_reader {
    const uint8_t *data;
    size_t length;
    size_t offset;
    bool failed;
} lb_reader;

uint8_t lb_read_u8(lb_reader *reader);
uint16_t lb_read_u16(lb_reader *reader);
uint32_t lb_read_u32(lb_reader *reader);
uint64_t lb_read_u64(lb_reader *reader);
float lb_read_f32(lb_reader *reader);
double lb_read_f64(lb_reader *reader);
/* Returns length bytes in place (unaligned) and moves past them; NULL (and failed) when short. */
const uint8_t *lb_read_bytes(lb_reader *reader, size_t length);
size_t lb_reader_left(const lb_reader *reader);

/* Checked sizes: false on overflow, *out untouched. */
bool lb_size_mul(size_t a, size_t b, size_t *out);
bool lb_size_add(size_t a, size_t b, size_t *out);

#endif
