/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/safetensors.h"

#include "common/base/json.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 256u
#define LENGTH_BYTES 8u
/* Objects and arrays of a header: an entry has three, and no fewer bytes than these for each. */
#define OPENED_MAX (4u * LB_SAFETENSORS_MAX)
#define OPENED_LEAST 16u
#define ENTRY_BYTES_LEAST 12u

typedef struct dtype_row {
    const char *name;
    size_t size;
} dtype_row;

static const dtype_row dtypes[] = {
    [LB_ST_BOOL] = {"BOOL", 1},  [LB_ST_U8] = {"U8", 1},   [LB_ST_I8] = {"I8", 1},
    [LB_ST_F8_E5M2] = {"F8_E5M2", 1}, [LB_ST_F8_E4M3] = {"F8_E4M3", 1},
    [LB_ST_I16] = {"I16", 2},    [LB_ST_U16] = {"U16", 2}, [LB_ST_F16] = {"F16", 2},
    [LB_ST_BF16] = {"BF16", 2},  [LB_ST_I32] = {"I32", 4}, [LB_ST_U32] = {"U32", 4},
    [LB_ST_F32] = {"F32", 4},    [LB_ST_F64] = {"F64", 8}, [LB_ST_I64] = {"I64", 8},
    [LB_ST_U64] = {"U64", 8},
};
#define DTYPE_COUNT (sizeof dtypes / sizeof *dtypes)

struct lb_safetensors {
    lb_json *header;           /* names live here */
    lb_st_tensor *by_offset;   /* [count] */
    size_t *by_name;           /* [count] indices into by_offset, sorted by name */
    size_t count;
};

const char *lb_st_dtype_name(lb_st_dtype dtype)
{
    return (size_t)dtype < DTYPE_COUNT ? dtypes[dtype].name : "unknown";
}

size_t lb_st_dtype_size(lb_st_dtype dtype)
{
    return (size_t)dtype < DTYPE_COUNT ? dtypes[dtype].size : 0;
}

/* ---- reading ---- */

typedef struct parse_state {
    lb_safetensors *file;
    const uint8_t *data;       /* of the tensors, after the header */
    size_t data_length;
    lb_err *err;
} parse_state;

static lb_status check_name(const char *name, lb_err *err)
{
    size_t length = strlen(name);
    bool control = false;
    for (const char *c = name; *c; c++)
        control |= (unsigned char)*c < 0x20 || *c == 0x7F;
    if (length == 0 || length > NAME_MAX_BYTES || control)
        return lb_fail(err, LB_EDATA, "name", "a tensor's name has %zu bytes or control "
                       "characters; 1 .. %u printable bytes are allowed", length, NAME_MAX_BYTES);
    return LB_OK;
}

static lb_status parse_dtype(const char *name, const lb_json *node, lb_st_dtype *out, lb_err *err)
{
    const char *word = lb_json_string(node);
    bool whole = word && strlen(word) == lb_json_string_length(node);
    for (size_t i = 0; whole && i < DTYPE_COUNT; i++) {
        if (strcmp(word, dtypes[i].name) == 0) {
            *out = (lb_st_dtype)i;
            return LB_OK;
        }
    }
    return lb_fail(err, LB_EDATA, name, "dtype '%.40s' is not known", word ? word : "(none)");
}

/* A JSON number that is a whole count of bytes or elements. */
static bool count_of(const lb_json *node, uint64_t *out)
{
    if (!lb_json_is_integer(node) || lb_json_integer(node) < 0)
        return false;
    *out = (uint64_t)lb_json_integer(node);
    return true;
}

/* shape -> tensor, and the bytes it takes; false when a product overflows. */
static lb_status parse_shape(const lb_json *shape, lb_st_tensor *t, size_t *bytes, lb_err *err)
{
    size_t rank = lb_json_array_size(shape), elements = 1;
    if (!lb_json_is_array(shape) || rank > LB_SAFETENSORS_RANK_MAX)
        return lb_fail(err, LB_EDATA, t->name, "its shape is not an array of up to %d sizes",
                       LB_SAFETENSORS_RANK_MAX);
    t->rank = (uint32_t)rank;
    for (size_t i = 0; i < rank; i++) {
        if (!count_of(lb_json_at(shape, i), &t->shape[i]) ||
            !lb_size_mul(elements, t->shape[i], &elements))
            return lb_fail(err, LB_EDATA, t->name, "entry %zu of its shape is not a size", i);
    }
    if (!lb_size_mul(elements, lb_st_dtype_size(t->dtype), bytes))
        return lb_fail(err, LB_EDATA, t->name, "its size overflows");
    return LB_OK;
}

static lb_status parse_range(const lb_json *offsets, const parse_state *s, size_t bytes,
                             lb_st_tensor *t)
{
    uint64_t begin = 0, end = 0;
    if (lb_json_array_size(offsets) != 2 || !count_of(lb_json_at(offsets, 0), &begin) ||
        !count_of(lb_json_at(offsets, 1), &end))
        return lb_fail(s->err, LB_EDATA, t->name, "data_offsets is not a pair of offsets");
    if (begin > end || end > s->data_length)
        return lb_fail(s->err, LB_EDATA, t->name,
                       "data_offsets [%llu, %llu] do not lie in the file's %zu bytes of data",
                       (unsigned long long)begin, (unsigned long long)end, s->data_length);
    if (end - begin != bytes)
        return lb_fail(s->err, LB_EDATA, t->name,
                       "data_offsets span %llu bytes, its shape takes %zu",
                       (unsigned long long)(end - begin), bytes);
    t->data = s->data + begin;
    t->bytes = bytes;
    return LB_OK;
}

static lb_status parse_metadata_value(void *arg, const char *key, const lb_json *value)
{
    if (lb_json_is_string(value))
        return LB_OK;
    return lb_fail(arg, LB_EDATA, "__metadata__", "the value of '%.60s' is not a string", key);
}

static lb_status parse_tensor(void *arg, const char *key, const lb_json *value)
{
    parse_state *s = arg;
    size_t bytes = 0;
    lb_st_tensor t = {.name = key};
    lb_status status = check_name(key, s->err);
    if (status != LB_OK)
        return status;
    if (!lb_json_is_object(value))
        return lb_fail(s->err, LB_EDATA, key, "its entry is not an object");
    if (strcmp(key, "__metadata__") == 0)
        return lb_json_each(value, parse_metadata_value, s->err);
    status = parse_dtype(key, lb_json_get(value, "dtype"), &t.dtype, s->err);
    if (status == LB_OK)
        status = parse_shape(lb_json_get(value, "shape"), &t, &bytes, s->err);
    if (status == LB_OK)
        status = parse_range(lb_json_get(value, "data_offsets"), s, bytes, &t);
    if (status == LB_OK)
        s->file->by_offset[s->file->count++] = t;
    return status;
}

static int compare_offset(const void *a, const void *b)
{
    const lb_st_tensor *left = a, *right = b;
    if (left->data != right->data)
        return left->data < right->data ? -1 : 1;
    /* Zero-sized tensors share their offset with the next one. */
    if (left->bytes != right->bytes)
        return left->bytes < right->bytes ? -1 : 1;
    return strcmp(left->name, right->name);
}

static int compare_name(const void *a, const void *b, void *arg)
{
    const lb_st_tensor *tensors = arg;
    return strcmp(tensors[*(const size_t *)a].name, tensors[*(const size_t *)b].name);
}

/* Sorts by offset, checks that the tensors lie end to end, and makes the index by name. */
static lb_status check_layout(const parse_state *s)
{
    lb_safetensors *file = s->file;
    const uint8_t *expected = s->data;
    if (file->count > 1)
        qsort(file->by_offset, file->count, sizeof *file->by_offset, compare_offset);
    for (size_t i = 0; i < file->count; i++) {
        const lb_st_tensor *t = &file->by_offset[i];
        if (t->data != expected)
            return lb_fail(s->err, LB_EDATA, t->name,
                           "its data begin at %zu, the tensor before it ends at %zu",
                           (size_t)(t->data - s->data), (size_t)(expected - s->data));
        expected = t->data + t->bytes;
        file->by_name[i] = i;
    }
    if ((size_t)(expected - s->data) != s->data_length)
        return lb_fail(s->err, LB_EDATA, "data_offsets",
                       "the tensors end at %zu, the file's data at %zu",
                       (size_t)(expected - s->data), s->data_length);
    qsort_r(file->by_name, file->count, sizeof *file->by_name, compare_name, file->by_offset);
    return LB_OK;
}

static lb_status parse_header(const uint8_t *data, size_t length, size_t header_max,
                              lb_json **out, size_t *header_length, lb_err *err)
{
    lb_reader reader = {.data = data, .length = length};
    if (header_max > LB_SAFETENSORS_HEADER_MAX)
        header_max = LB_SAFETENSORS_HEADER_MAX;
    if (length < LENGTH_BYTES)
        return lb_fail(err, LB_EDATA, "header", "the file has %zu bytes, fewer than %u", length,
                       LENGTH_BYTES);
    uint64_t n = lb_read_u64(&reader);
    if (n > header_max)
        return lb_fail(err, LB_ETOOBIG, "header", "it claims %llu bytes, the limit is %zu",
                       (unsigned long long)n, header_max);
    if (n > length - LENGTH_BYTES)
        return lb_fail(err, LB_EDATA, "header", "it claims %llu bytes of a file of %zu",
                       (unsigned long long)n, length);
    const char *text = (const char *)data + LENGTH_BYTES;
    if (n == 0 || text[0] != '{')
        return lb_fail(err, LB_EDATA, "header", "it does not begin with '{'");
    /* An object takes a hundred times the memory of its "{}". */
    size_t opened = lb_json_count_opened(text, n);
    if (opened > OPENED_MAX || opened > OPENED_LEAST + n / ENTRY_BYTES_LEAST)
        return lb_fail(err, LB_ETOOBIG, "header", "its %llu bytes open %zu objects and arrays",
                       (unsigned long long)n, opened);
    lb_status status = lb_json_parse(text, n, out, err);
    if (status != LB_OK) {
        lb_err_wrap(err, "header");
        if (err && !err->field[0])
            snprintf(err->field, sizeof err->field, "header");
        return status;
    }
    *header_length = n;
    return LB_OK;
}

lb_status lb_safetensors_open(const uint8_t *data, size_t length, size_t header_max,
                              lb_safetensors **out, lb_err *err)
{
    size_t header_length = 0;
    lb_safetensors *file = calloc(1, sizeof *file);
    lb_status status = LB_OK;
    if (!file)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a safetensors reader");
    status = parse_header(data, length, header_max, &file->header, &header_length, err);
    if (status != LB_OK)
        goto done;
    size_t members = lb_json_object_size(file->header) -
                     (lb_json_get(file->header, "__metadata__") != NULL);
    if (members > LB_SAFETENSORS_MAX) {
        status = lb_fail(err, LB_ETOOBIG, "header", "it has %zu tensors, the limit is %d",
                         members, LB_SAFETENSORS_MAX);
        goto done;
    }
    file->by_offset = calloc(members + 1, sizeof *file->by_offset);
    file->by_name = calloc(members + 1, sizeof *file->by_name);
    if (!file->by_offset || !file->by_name) {
        status = lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu tensors", members);
        goto done;
    }
    parse_state state = {.file = file, .data = data + LENGTH_BYTES + header_length,
                         .data_length = length - LENGTH_BYTES - header_length, .err = err};
    status = lb_json_each(file->header, parse_tensor, &state);
    if (status == LB_OK)
        status = check_layout(&state);
done:
    if (status == LB_OK)
        *out = file;
    else
        lb_safetensors_close(file);
    return status;
}

void lb_safetensors_close(lb_safetensors *file)
{
    if (!file)
        return;
    lb_json_free(file->header);
    free(file->by_offset);
    free(file->by_name);
    free(file);
}

size_t lb_safetensors_count(const lb_safetensors *file)
{
    return file->count;
}

const lb_st_tensor *lb_safetensors_at(const lb_safetensors *file, size_t index)
{
    return index < file->count ? &file->by_offset[index] : NULL;
}

const lb_st_tensor *lb_safetensors_find(const lb_safetensors *file, const char *name)
{
    size_t low = 0, high = file->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const lb_st_tensor *t = &file->by_offset[file->by_name[middle]];
        int order = strcmp(name, t->name);
        if (order == 0)
            return t;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *lb_safetensors_metadata(const lb_safetensors *file, const char *key)
{
    return lb_json_string(lb_json_get(lb_json_get(file->header, "__metadata__"), key));
}

/* ---- writing ---- */

static int compare_source(const void *a, const void *b)
{
    const lb_st_source *const *left = a, *const *right = b;
    size_t left_size = lb_st_dtype_size((*left)->dtype);
    size_t right_size = lb_st_dtype_size((*right)->dtype);
    if (left_size != right_size)
        return left_size > right_size ? -1 : 1;
    return strcmp((*left)->name, (*right)->name);
}

static lb_status source_bytes(const lb_st_source *t, size_t *out, lb_err *err)
{
    size_t bytes = lb_st_dtype_size(t->dtype);
    if (bytes == 0 || t->rank > LB_SAFETENSORS_RANK_MAX)
        return lb_fail(err, LB_EINVAL, t->name, "its dtype or its rank of %u is not known",
                       t->rank);
    for (uint32_t i = 0; i < t->rank; i++) {
        if (!lb_size_mul(bytes, t->shape[i], &bytes))
            return lb_fail(err, LB_EINVAL, t->name, "its size overflows");
    }
    *out = bytes;
    return LB_OK;
}

static void write_metadata(lb_jsonw *w, const char *const *pairs, size_t count)
{
    lb_jsonw_key(w, "__metadata__");
    lb_jsonw_object(w);
    lb_jsonw_key(w, "format");
    lb_jsonw_string(w, "pt");
    for (size_t i = 0; i < count; i++) {
        lb_jsonw_key(w, pairs[2 * i]);
        lb_jsonw_string(w, pairs[2 * i + 1]);
    }
    lb_jsonw_object_end(w);
}

static void write_entry(lb_jsonw *w, const lb_st_source *t, size_t begin, size_t end)
{
    lb_jsonw_key(w, t->name);
    lb_jsonw_object(w);
    lb_jsonw_key(w, "dtype");
    lb_jsonw_string(w, lb_st_dtype_name(t->dtype));
    lb_jsonw_key(w, "shape");
    lb_jsonw_array(w);
    for (uint32_t i = 0; i < t->rank; i++)
        lb_jsonw_u64(w, t->shape[i]);
    lb_jsonw_array_end(w);
    lb_jsonw_key(w, "data_offsets");
    lb_jsonw_array(w);
    lb_jsonw_u64(w, begin);
    lb_jsonw_u64(w, end);
    lb_jsonw_array_end(w);
    lb_jsonw_object_end(w);
}

lb_status lb_safetensors_write(const lb_st_source *tensors, size_t count,
                               const char *const *metadata_pairs, size_t pair_count, lb_buf *out,
                               lb_err *err)
{
    lb_buf header = {0};
    lb_jsonw w = {.out = &header};
    lb_status status = LB_OK;
    size_t offset = 0, bytes = 0;
    const lb_st_source **sorted = calloc(count + 1, sizeof(const lb_st_source *));
    if (!sorted)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu tensors", count);
    for (size_t i = 0; i < count; i++)
        sorted[i] = &tensors[i];
    qsort(sorted, count, sizeof(const lb_st_source *), compare_source);
    lb_jsonw_object(&w);
    write_metadata(&w, metadata_pairs, pair_count);
    for (size_t i = 0; i < count && status == LB_OK; i++) {
        status = source_bytes(sorted[i], &bytes, err);
        size_t begin = offset;
        if (status == LB_OK && !lb_size_add(begin, bytes, &offset))
            status = lb_fail(err, LB_EINVAL, sorted[i]->name, "the sizes together overflow");
        if (status == LB_OK)
            write_entry(&w, sorted[i], begin, offset);
    }
    if (status != LB_OK)
        goto done;
    lb_jsonw_object_end(&w);
    while (header.status == LB_OK && header.length % LENGTH_BYTES != 0)
        lb_buf_append(&header, " ", 1);
    lb_buf_u64(out, header.length);
    lb_buf_append(out, header.data, header.length);
    for (size_t i = 0; i < count; i++) {
        if (source_bytes(sorted[i], &bytes, NULL) == LB_OK)
            lb_buf_append(out, sorted[i]->data, bytes);
    }
    if (header.status != LB_OK || out->status != LB_OK) {
        status = header.status != LB_OK ? header.status : out->status;
        lb_fail(err, status, NULL, "the file image: %s", lb_status_text(status));
    }
done:
    lb_buf_free(&header);
    free(sorted);
    return status;
}
