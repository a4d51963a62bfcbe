/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/json.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* jansson recurses once a level, so the depth is bounded before it sees the text. */
static bool too_deep(const char *text, size_t length)
{
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > LB_JSON_DEPTH_MAX)
                return true;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return false;
}

size_t lb_json_count_opened(const char *text, size_t length)
{
    size_t count = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        if (in_string && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            in_string = !in_string;
        else if (!in_string && (text[i] == '{' || text[i] == '['))
            count++;
    }
    return count;
}

typedef struct key_span {
    const char *at;
    size_t length;
} key_span;

/* The path of the member whose value ends at byte `end`, such as "lora.r", for an error's field.
 * The text before `end` is well formed and was found not to be too deep. */
static void path_at(const char *text, size_t end, char *out, size_t size)
{
    key_span keys[LB_JSON_DEPTH_MAX + 1] = {{0}}, last = {0};
    size_t depth = 0, used = 0;
    for (size_t i = 0; i < end; i++) {
        char c = text[i];
        if (c == '"') {
            size_t from = ++i;
            while (i < end && text[i] != '"')
                i += text[i] == '\\' ? 2 : 1;
            last = (key_span){.at = text + from, .length = (i < end ? i : end) - from};
        } else if (c == ':') {
            keys[depth] = last;
        } else if ((c == '{' || c == '[') && depth < LB_JSON_DEPTH_MAX) {
            keys[++depth] = (key_span){0};
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    out[0] = '\0';
    for (size_t level = 0; level <= depth && used + 1 < size; level++) {
        if (!keys[level].at)
            continue;
        int cut = (int)(keys[level].length < size ? keys[level].length : size);
        int n = snprintf(out + used, size - used, "%s%.*s", used ? "." : "", cut, keys[level].at);
        used += n > 0 ? (size_t)n : 0;
    }
}

static lb_status malformed(const char *text, size_t length, const json_error_t *why, lb_err *err)
{
    char field[LB_ERR_FIELD_MAX] = "";
    size_t position = why->position > 0 ? (size_t)why->position : 0;
    if (json_error_code(why) == json_error_numeric_overflow) {
        path_at(text, position < length ? position : length, field, sizeof field);
        return lb_fail(err, LB_EDATA, field, "the number at %d:%d is too large", why->line,
                       why->column);
    }
    if (json_error_code(why) == json_error_out_of_memory)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu bytes of JSON", length);
    return lb_fail(err, LB_EDATA, NULL, "the JSON is malformed at %d:%d: %.160s", why->line,
                   why->column, why->text);
}

lb_status lb_json_parse(const char *text, size_t length, lb_json **out, lb_err *err)
{
    json_error_t why = {0};
    if (too_deep(text, length))
        return lb_fail(err, LB_EDATA, NULL, "the JSON is nested deeper than %d levels",
                       LB_JSON_DEPTH_MAX);
    json_t *root = json_loadb(text ? text : "", length,
                              JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    if (!root)
        return malformed(text, length, &why, err);
    *out = root;
    return LB_OK;
}

void lb_json_free(lb_json *root)
{
    json_decref(root);
}

bool lb_json_is_object(const lb_json *node)
{
    return node && json_is_object(node);
}

bool lb_json_is_array(const lb_json *node)
{
    return node && json_is_array(node);
}

bool lb_json_is_string(const lb_json *node)
{
    return node && json_is_string(node);
}

bool lb_json_is_number(const lb_json *node)
{
    return node && json_is_number(node);
}

bool lb_json_is_integer(const lb_json *node)
{
    return node && json_is_integer(node);
}

bool lb_json_is_bool(const lb_json *node)
{
    return node && json_is_boolean(node);
}

bool lb_json_is_null(const lb_json *node)
{
    return node && json_is_null(node);
}

const lb_json *lb_json_get(const lb_json *object, const char *key)
{
    return object ? json_object_get(object, key) : NULL;
}

size_t lb_json_array_size(const lb_json *array)
{
    return array ? json_array_size(array) : 0;
}

const lb_json *lb_json_at(const lb_json *array, size_t index)
{
    return array ? json_array_get(array, index) : NULL;
}

size_t lb_json_object_size(const lb_json *object)
{
    return object ? json_object_size(object) : 0;
}

lb_status lb_json_each(const lb_json *object,
                       lb_status (*visit)(void *arg, const char *key, const lb_json *value),
                       void *arg)
{
    /* The iterator's functions take a mutable object but only read it. */
    json_t *mutable = (json_t *)(uintptr_t)object;
    for (void *it = object ? json_object_iter(mutable) : NULL; it;
         it = json_object_iter_next(mutable, it)) {
        lb_status status = visit(arg, json_object_iter_key(it), json_object_iter_value(it));
        if (status != LB_OK)
            return status;
    }
    return LB_OK;
}

const char *lb_json_string(const lb_json *node)
{
    return node ? json_string_value(node) : NULL;
}

size_t lb_json_string_length(const lb_json *node)
{
    return node ? json_string_length(node) : 0;
}

int64_t lb_json_integer(const lb_json *node)
{
    return node ? json_integer_value(node) : 0;
}

double lb_json_number(const lb_json *node)
{
    return node ? json_number_value(node) : 0.0;
}

bool lb_json_bool(const lb_json *node)
{
    return node && json_is_true(node);
}

/* ---- typed members ---- */

/* Fails with the member's whole path as the field. */
static lb_status bad(lb_err *err, const char *where, const char *key, const char *why)
{
    char field[LB_ERR_FIELD_MAX];
    int cut = snprintf(field, sizeof field, "%s%s%s", where, *where ? "." : "", key);
    (void)cut;   /* a longer path is cut, which is all a message needs */
    return lb_fail(err, LB_EINVAL, field, "%s %s", field, why);
}

typedef bool (*type_test)(const lb_json *node);

/* The member if it is there and not null. LB_EINVAL: needed but absent, or of another type. */
static lb_status member(const lb_json *object, const char *where, const char *key, bool needed,
                        type_test test, const char *type, const lb_json **out, lb_err *err)
{
    const lb_json *node = lb_json_get(object, key);
    char why[64];
    *out = NULL;
    if (!node || json_is_null(node))
        return needed ? bad(err, where, key, "is required") : LB_OK;
    if (!test(node)) {
        snprintf(why, sizeof why, "must be %s", type);
        return bad(err, where, key, why);
    }
    *out = node;
    return LB_OK;
}

static lb_status string_member(const lb_json *object, const char *where, const char *key,
                               bool needed, const char **out, lb_err *err)
{
    const lb_json *node;
    lb_status status = member(object, where, key, needed, lb_json_is_string, "a string", &node,
                              err);
    if (status != LB_OK || !node)
        return status;
    if (strlen(json_string_value(node)) != json_string_length(node))
        return bad(err, where, key, "must not hold a NUL character");
    *out = json_string_value(node);
    return LB_OK;
}

lb_status lb_json_need_string(const lb_json *object, const char *where, const char *key,
                              const char **out, lb_err *err)
{
    return string_member(object, where, key, true, out, err);
}

lb_status lb_json_opt_string(const lb_json *object, const char *where, const char *key,
                             const char **out, lb_err *err)
{
    return string_member(object, where, key, false, out, err);
}

static lb_status u64_member(const lb_json *object, const char *where, const char *key,
                            bool needed, const uint64_t range[2], uint64_t *out, lb_err *err)
{
    const lb_json *node;
    char why[96];
    lb_status status = member(object, where, key, needed, lb_json_is_integer, "an integer", &node,
                              err);
    if (status != LB_OK || !node)
        return status;
    int64_t value = json_integer_value(node);
    if (value < 0 || (uint64_t)value < range[0] || (uint64_t)value > range[1]) {
        snprintf(why, sizeof why, "is %lld, which is outside %llu .. %llu", (long long)value,
                 (unsigned long long)range[0], (unsigned long long)range[1]);
        return bad(err, where, key, why);
    }
    *out = (uint64_t)value;
    return LB_OK;
}

lb_status lb_json_need_u64(const lb_json *object, const char *where, const char *key,
                           uint64_t min, uint64_t max, uint64_t *out, lb_err *err)
{
    return u64_member(object, where, key, true, (uint64_t[2]){min, max}, out, err);
}

lb_status lb_json_opt_u64(const lb_json *object, const char *where, const char *key,
                          uint64_t min, uint64_t max, uint64_t *out, lb_err *err)
{
    return u64_member(object, where, key, false, (uint64_t[2]){min, max}, out, err);
}

lb_status lb_json_need_u32(const lb_json *object, const char *where, const char *key,
                           uint32_t min, uint32_t max, uint32_t *out, lb_err *err)
{
    uint64_t wide = 0;
    lb_status status = u64_member(object, where, key, true, (uint64_t[2]){min, max}, &wide, err);
    if (status == LB_OK)
        *out = (uint32_t)wide;
    return status;
}

lb_status lb_json_opt_u32(const lb_json *object, const char *where, const char *key,
                          uint32_t min, uint32_t max, uint32_t *out, lb_err *err)
{
    uint64_t wide = *out;
    lb_status status = u64_member(object, where, key, false, (uint64_t[2]){min, max}, &wide, err);
    *out = (uint32_t)wide;
    return status;
}

lb_status lb_json_opt_i64(const lb_json *object, const char *where, const char *key, int64_t min,
                          int64_t max, int64_t *out, lb_err *err)
{
    const lb_json *node;
    char why[96];
    lb_status status = member(object, where, key, false, lb_json_is_integer, "an integer", &node,
                              err);
    if (status != LB_OK || !node)
        return status;
    int64_t value = json_integer_value(node);
    if (value < min || value > max) {
        snprintf(why, sizeof why, "is %lld, which is outside %lld .. %lld", (long long)value,
                 (long long)min, (long long)max);
        return bad(err, where, key, why);
    }
    *out = value;
    return LB_OK;
}

static lb_status f64_member(const lb_json *object, const char *where, const char *key,
                            bool needed, const double range[2], double *out, lb_err *err)
{
    const lb_json *node;
    char why[96];
    lb_status status = member(object, where, key, needed, lb_json_is_number, "a number", &node,
                              err);
    if (status != LB_OK || !node)
        return status;
    double value = json_number_value(node);
    if (!(value >= range[0] && value <= range[1])) {
        snprintf(why, sizeof why, "is %g, which is outside %g .. %g", value, range[0], range[1]);
        return bad(err, where, key, why);
    }
    *out = value;
    return LB_OK;
}

lb_status lb_json_need_f64(const lb_json *object, const char *where, const char *key, double min,
                           double max, double *out, lb_err *err)
{
    return f64_member(object, where, key, true, (double[2]){min, max}, out, err);
}

lb_status lb_json_opt_f64(const lb_json *object, const char *where, const char *key, double min,
                          double max, double *out, lb_err *err)
{
    return f64_member(object, where, key, false, (double[2]){min, max}, out, err);
}

lb_status lb_json_opt_bool(const lb_json *object, const char *where, const char *key, bool *out,
                           lb_err *err)
{
    const lb_json *node;
    lb_status status = member(object, where, key, false, lb_json_is_bool, "true or false", &node,
                              err);
    if (status == LB_OK && node)
        *out = json_is_true(node);
    return status;
}

static lb_status node_member(const lb_json *object, const char *where, const char *key,
                             bool needed, bool array, const lb_json **out, lb_err *err)
{
    const lb_json *node;
    lb_status status = member(object, where, key, needed,
                              array ? lb_json_is_array : lb_json_is_object,
                              array ? "an array" : "an object", &node, err);
    if (status == LB_OK && node)
        *out = node;
    return status;
}

lb_status lb_json_need_object(const lb_json *object, const char *where, const char *key,
                              const lb_json **out, lb_err *err)
{
    return node_member(object, where, key, true, false, out, err);
}

lb_status lb_json_opt_object(const lb_json *object, const char *where, const char *key,
                             const lb_json **out, lb_err *err)
{
    return node_member(object, where, key, false, false, out, err);
}

lb_status lb_json_need_array(const lb_json *object, const char *where, const char *key,
                             const lb_json **out, lb_err *err)
{
    return node_member(object, where, key, true, true, out, err);
}

lb_status lb_json_opt_array(const lb_json *object, const char *where, const char *key,
                            const lb_json **out, lb_err *err)
{
    return node_member(object, where, key, false, true, out, err);
}

static int append_chunk(const char *bytes, size_t length, void *arg)
{
    lb_buf *out = arg;
    lb_buf_append(out, bytes, length);
    return out->status == LB_OK ? 0 : -1;
}

void lb_json_dump(lb_buf *out, const lb_json *node, bool sorted)
{
    if (!node) {
        lb_buf_puts(out, "null");
        return;
    }
    size_t flags = JSON_COMPACT | JSON_ENCODE_ANY | (sorted ? JSON_SORT_KEYS : 0);
    if (json_dump_callback(node, append_chunk, out, flags) != 0 && out->status == LB_OK)
        out->status = LB_ENOMEM;
}
