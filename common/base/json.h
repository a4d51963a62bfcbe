/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_json - reading and writing JSON; the only user of jansson.
 *
 * Reading: lb_json_parse makes a tree under limits (depth, bytes), refusing duplicate keys. The
 * typed getters check presence, type and range, and name the field in the error. A path such as
 * "method.type" names the field in messages only through `where`.
 * Writing: lb_jsonw streams text into an lb_buf without a tree; commas and escapes are its work.
 * Trees are immutable for callers and may be shared between threads once parsed.
 */
#ifndef LB_COMMON_BASE_JSON_H
#define LB_COMMON_BASE_JSON_H

#include "common/base/buf.h"
#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct json_t lb_json;  /* a node of jansson's tree; only json.c looks inside */

#define LB_JSON_DEPTH_MAX 32

/* Parses length bytes of UTF-8. *out is owned by the caller (lb_json_free frees the whole tree).
 * LB_EDATA: malformed, a duplicate key, a number beyond 64 bits (the field names it), or deeper
 * than LB_JSON_DEPTH_MAX; the message has line:column. */
LB_NODISCARD lb_status lb_json_parse(const char *text, size_t length, lb_json **out, lb_err *err);
void lb_json_free(lb_json *root);
/* How many objects and arrays well-formed text opens. Each takes a few hundred bytes in a tree, so
 * that a caller can refuse text whose tree would be many times its size. */
size_t lb_json_count_opened(const char *text, size_t length);

bool lb_json_is_object(const lb_json *node);
bool lb_json_is_array(const lb_json *node);
bool lb_json_is_string(const lb_json *node);
bool lb_json_is_number(const lb_json *node);
bool lb_json_is_integer(const lb_json *node);
bool lb_json_is_bool(const lb_json *node);
bool lb_json_is_null(const lb_json *node);

/* Borrowed children. NULL when absent. */
const lb_json *lb_json_get(const lb_json *object, const char *key);
size_t lb_json_array_size(const lb_json *array);
const lb_json *lb_json_at(const lb_json *array, size_t index);
size_t lb_json_object_size(const lb_json *object);
/* Calls visit for each member, in insertion order; stops and returns the first non-LB_OK. */
lb_status lb_json_each(const lb_json *object,
                       lb_status (*visit)(void *arg, const char *key, const lb_json *value),
                       void *arg);

/* Values of a node, for nodes whose type was checked: neutral value otherwise. */
const char *lb_json_string(const lb_json *node);            /* NULL if not a string */
size_t lb_json_string_length(const lb_json *node);          /* bytes; strings may hold NUL */
int64_t lb_json_integer(const lb_json *node);
double lb_json_number(const lb_json *node);                 /* of an integer or a real */
bool lb_json_bool(const lb_json *node);

/* Typed members of an object. `where` is the path of object for messages ("" at the top). The
 * `need_` forms fail when the member is absent or null; the `opt_` forms leave *out untouched.
 * A wrong type or a value outside [min, max] is LB_EINVAL with the full field name. */
LB_NODISCARD lb_status lb_json_need_string(const lb_json *object, const char *where,
                                           const char *key, const char **out, lb_err *err);
LB_NODISCARD lb_status lb_json_opt_string(const lb_json *object, const char *where,
                                          const char *key, const char **out, lb_err *err);
LB_NODISCARD lb_status lb_json_need_u64(const lb_json *object, const char *where, const char *key,
                                        uint64_t min, uint64_t max, uint64_t *out, lb_err *err);
LB_NODISCARD lb_status lb_json_opt_u64(const lb_json *object, const char *where, const char *key,
                                       uint64_t min, uint64_t max, uint64_t *out, lb_err *err);
LB_NODISCARD lb_status lb_json_need_u32(const lb_json *object, const char *where, const char *key,
                                        uint32_t min, uint32_t max, uint32_t *out, lb_err *err);
LB_NODISCARD lb_status lb_json_opt_u32(const lb_json *object, const char *where, const char *key,
                                       uint32_t min, uint32_t max, uint32_t *out, lb_err *err);
LB_NODISCARD lb_status lb_json_opt_i64(const lb_json *object, const char *where, const char *key,
                                       int64_t min, int64_t max, int64_t *out, lb_err *err);
LB_NODISCARD lb_status lb_json_need_f64(const lb_json *object, const char *where, const char *key,
                                        double min, double max, double *out, lb_err *err);
LB_NODISCARD lb_status lb_json_opt_f64(const lb_json *object, const char *where, const char *key,
                                       double min, double max, double *out, lb_err *err);
LB_NODISCARD lb_status lb_json_opt_bool(const lb_json *object, const char *where, const char *key,
                                        bool *out, lb_err *err);
LB_NODISCARD lb_status lb_json_need_object(const lb_json *object, const char *where,
                                           const char *key, const lb_json **out, lb_err *err);
LB_NODISCARD lb_status lb_json_opt_object(const lb_json *object, const char *where,
                                          const char *key, const lb_json **out, lb_err *err);
LB_NODISCARD lb_status lb_json_need_array(const lb_json *object, const char *where,
                                          const char *key, const lb_json **out, lb_err *err);
LB_NODISCARD lb_status lb_json_opt_array(const lb_json *object, const char *where,
                                         const char *key, const lb_json **out, lb_err *err);

/* Appends the compact text of a node (keys in insertion order; sorted when `sorted`, which makes
 * one text per value, fit for a digest). */
void lb_json_dump(lb_buf *out, const lb_json *node, bool sorted);

/* lb_jsonw - the streaming writer. Zero it, set out. Nesting deeper than its stack asserts: only
 * our own code writes. Failures show in out->status. */
typedef struct lb_jsonw {
    lb_buf *out;
    uint32_t depth;
    uint64_t has_items;  /* bit per level: an item was written, so a comma is due */
    bool after_key;
} lb_jsonw;

void lb_jsonw_object(lb_jsonw *w);              /* { as the next value */
void lb_jsonw_object_end(lb_jsonw *w);
void lb_jsonw_array(lb_jsonw *w);
void lb_jsonw_array_end(lb_jsonw *w);
void lb_jsonw_key(lb_jsonw *w, const char *key);
void lb_jsonw_string(lb_jsonw *w, const char *text);                   /* NULL writes null */
void lb_jsonw_string_n(lb_jsonw *w, const char *text, size_t length);  /* invalid UTF-8 -> U+FFFD */
void lb_jsonw_i64(lb_jsonw *w, int64_t value);
void lb_jsonw_u64(lb_jsonw *w, uint64_t value);
void lb_jsonw_f32(lb_jsonw *w, float value);    /* shortest text that reads back to the same f32 */
void lb_jsonw_f64(lb_jsonw *w, double value);   /* 17 digits at most; NaN and infinities: null */
void lb_jsonw_bool(lb_jsonw *w, bool value);
void lb_jsonw_null(lb_jsonw *w);
void lb_jsonw_node(lb_jsonw *w, const lb_json *node);                  /* NULL writes null */
void lb_jsonw_raw(lb_jsonw *w, const char *json, size_t length);       /* one encoded value */

#endif
