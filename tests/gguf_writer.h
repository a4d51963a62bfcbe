/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes GGUF images for the tests, and remembers where every field of one lies, so that a test can
 * spoil them one by one.
 */
#ifndef LB_TESTS_GGUF_WRITER_H
#define LB_TESTS_GGUF_WRITER_H

#include "common/base/buf.h"
#include "common/io/gguf.h"
#include "tests/check.h"

#include <stdio.h>
#include <string.h>

#define GW_MARKS_MAX 512
#define GW_HEADER 24u

enum { GW_U8, GW_I8, GW_U16, GW_I16, GW_U32, GW_I32, GW_F32, GW_BOOL, GW_STRING, GW_ARRAY, GW_U64,
       GW_I64, GW_F64 };

typedef enum gw_part { GW_IN_HEADER, GW_IN_KEYS, GW_IN_TABLE } gw_part;

/* A field: of what it is part (the key or tensor; "" in the header), and which of its fields. */
typedef struct gw_mark {
    gw_part part;
    char of[64];
    const char *what;
    size_t at;                     /* in its part; after gw_finish, in the image */
    unsigned width;
} gw_mark;

typedef struct gguf_writer {
    lb_buf keys, table, data;
    uint64_t key_count, tensor_count;
    uint32_t version, alignment;   /* 0: 3 and 32 */
    gw_mark marks[GW_MARKS_MAX];
    size_t mark_count;
} gguf_writer;

static inline void gw_note(gguf_writer *w, gw_part part, const char *of, const char *what,
                           size_t at, unsigned width)
{
    assert_true(w->mark_count < GW_MARKS_MAX);
    gw_mark *m = &w->marks[w->mark_count++];
    *m = (gw_mark){.part = part, .what = what, .at = at, .width = width};
    snprintf(m->of, sizeof m->of, "%.63s", of);
}

static inline void gw_text(gguf_writer *w, lb_buf *to, gw_part part, const char *of,
                           const char *what, const char *text)
{
    gw_note(w, part, of, what, to->length, 8);
    lb_buf_u64(to, strlen(text));
    lb_buf_puts(to, text);
}

/* A key and the type of its value, which the caller appends to w->keys. */
static inline void gw_key(gguf_writer *w, const char *key, uint32_t type)
{
    gw_text(w, &w->keys, GW_IN_KEYS, key, "key length", key);
    gw_note(w, GW_IN_KEYS, key, "type", w->keys.length, 4);
    lb_buf_u32(&w->keys, type);
    w->key_count++;
}

static inline void gw_u32(gguf_writer *w, const char *key, uint32_t value)
{
    gw_key(w, key, GW_U32);
    gw_note(w, GW_IN_KEYS, key, "value", w->keys.length, 4);
    lb_buf_u32(&w->keys, value);
}

static inline void gw_f32(gguf_writer *w, const char *key, double value)
{
    gw_key(w, key, GW_F32);
    lb_buf_f32(&w->keys, (float)value);
}

static inline void gw_bool(gguf_writer *w, const char *key, uint8_t value)
{
    gw_key(w, key, GW_BOOL);
    gw_note(w, GW_IN_KEYS, key, "value", w->keys.length, 1);
    lb_buf_append(&w->keys, &value, 1);
}

static inline void gw_string(gguf_writer *w, const char *key, const char *value)
{
    gw_key(w, key, GW_STRING);
    gw_text(w, &w->keys, GW_IN_KEYS, key, "string length", value);
}

/* An array of `count` items of a type, which the caller appends to w->keys. */
static inline void gw_array(gguf_writer *w, const char *key, uint32_t item, uint64_t count)
{
    gw_key(w, key, GW_ARRAY);
    gw_note(w, GW_IN_KEYS, key, "item type", w->keys.length, 4);
    lb_buf_u32(&w->keys, item);
    gw_note(w, GW_IN_KEYS, key, "count", w->keys.length, 8);
    lb_buf_u64(&w->keys, count);
}

static inline void gw_strings(gguf_writer *w, const char *key, const char *const *items,
                              size_t count)
{
    gw_array(w, key, GW_STRING, count);
    for (size_t i = 0; i < count; i++)
        gw_text(w, &w->keys, GW_IN_KEYS, key, "item length", items[i]);
}

static inline void gw_pad(lb_buf *buf, size_t alignment)
{
    while (buf->length % alignment)
        lb_buf_append(buf, "", 1);
}

/* shape[0] is the innermost; bytes [size] are copied. */
static inline void gw_tensor(gguf_writer *w, const char *name, lb_gguf_type type, uint32_t rank,
                             const uint64_t *shape, const void *bytes, size_t size)
{
    static const char *const dimensions[] = {"dimension 0", "dimension 1", "dimension 2",
                                             "dimension 3", "dimension 4"};
    gw_text(w, &w->table, GW_IN_TABLE, name, "name length", name);
    gw_note(w, GW_IN_TABLE, name, "rank", w->table.length, 4);
    lb_buf_u32(&w->table, rank);
    for (uint32_t i = 0; i < rank; i++) {
        gw_note(w, GW_IN_TABLE, name, dimensions[i], w->table.length, 8);
        lb_buf_u64(&w->table, shape[i]);
    }
    gw_note(w, GW_IN_TABLE, name, "tensor type", w->table.length, 4);
    lb_buf_u32(&w->table, (uint32_t)type);
    gw_pad(&w->data, w->alignment ? w->alignment : 32);
    gw_note(w, GW_IN_TABLE, name, "offset", w->table.length, 8);
    lb_buf_u64(&w->table, w->data.length);
    lb_buf_append(&w->data, bytes, size);
    w->tensor_count++;
}

/* Puts the image together (out is cleared first) and moves the marks to their places in it. */
static inline void gw_finish(gguf_writer *w, lb_buf *out)
{
    lb_buf_clear(out);
    lb_buf_puts(out, "GGUF");
    lb_buf_u32(out, w->version ? w->version : 3);
    lb_buf_u64(out, w->tensor_count);
    lb_buf_u64(out, w->key_count);
    lb_buf_append(out, w->keys.data, w->keys.length);
    lb_buf_append(out, w->table.data, w->table.length);
    gw_pad(out, w->alignment ? w->alignment : 32);
    lb_buf_append(out, w->data.data, w->data.length);
    assert_int_equal(out->status, LB_OK);
    for (size_t i = 0; i < w->mark_count; i++) {
        gw_part part = w->marks[i].part;
        w->marks[i].at += GW_HEADER + (part == GW_IN_TABLE ? w->keys.length : 0);
    }
    gw_note(w, GW_IN_HEADER, "", "magic", 0, 4);
    gw_note(w, GW_IN_HEADER, "", "version", 4, 4);
    gw_note(w, GW_IN_HEADER, "", "n_tensors", 8, 8);
    gw_note(w, GW_IN_HEADER, "", "n_kv", 16, 8);
}

static inline void gw_free(gguf_writer *w)
{
    lb_buf_free(&w->keys);
    lb_buf_free(&w->table);
    lb_buf_free(&w->data);
}

#endif
