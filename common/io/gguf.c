/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/gguf.h"

#include "common/base/buf.h"
#include "common/io/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VERSION_MIN 2u
#define VERSION_MAX 3u
#define ALIGNMENT_DEFAULT 32u
#define ALIGNMENT_MIN 8u
#define ALIGNMENT_MAX 65536u
#define KEY_BYTES_MIN 13u      /* length, no name, type, one byte of value */
#define TENSOR_BYTES_MIN 24u   /* length, no name, rank, type, offset */

typedef enum value_type {
    VALUE_U8, VALUE_I8, VALUE_U16, VALUE_I16, VALUE_U32, VALUE_I32, VALUE_F32, VALUE_BOOL,
    VALUE_STRING, VALUE_ARRAY, VALUE_U64, VALUE_I64, VALUE_F64, VALUE_COUNT
} value_type;

/* Bytes of a value; 0 where its length varies. */
static const uint8_t value_bytes[VALUE_COUNT] = {
    [VALUE_U8] = 1, [VALUE_I8] = 1, [VALUE_U16] = 2, [VALUE_I16] = 2, [VALUE_U32] = 4,
    [VALUE_I32] = 4, [VALUE_F32] = 4, [VALUE_BOOL] = 1, [VALUE_U64] = 8, [VALUE_I64] = 8,
    [VALUE_F64] = 8,
};

typedef struct entry {
    char *key;                 /* owned */
    uint32_t type, item;       /* value_type; item: of arrays */
    uint64_t count;            /* items of an array, else 1 */
    const uint8_t *data;       /* of the value (strings: at their length) */
    size_t bytes;
} entry;

struct lb_gguf {
    entry *entries;            /* [entry_count], by key */
    size_t entry_count;
    lb_gguf_tensor *tensors;   /* [tensor_count], by name */
    size_t tensor_count;
    lb_mapping mapping;        /* of lb_gguf_load; otherwise the bytes are borrowed */
};

/* ---- reading ---- */

typedef struct parse_state {
    lb_gguf *file;
    lb_reader reader;
    uint64_t *offsets;         /* [tensor_count] from the start of the data */
    lb_err *err;
} parse_state;

static lb_status fail_short(parse_state *s, const char *field)
{
    return lb_fail(s->err, LB_EDATA, field, "the file ends within this field");
}

/* A name: printable bytes, copied. */
static lb_status read_name(parse_state *s, const char *what, char **out)
{
    uint64_t length = lb_read_u64(&s->reader);
    if (s->reader.failed || length > lb_reader_left(&s->reader))
        return fail_short(s, what);
    if (length == 0 || length > LB_GGUF_NAME_MAX)
        return lb_fail(s->err, LB_EDATA, what, "a name has %llu bytes; 1 .. %u are allowed",
                       (unsigned long long)length, LB_GGUF_NAME_MAX);
    const uint8_t *bytes = lb_read_bytes(&s->reader, (size_t)length);
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] < 0x20 || bytes[i] == 0x7F)
            return lb_fail(s->err, LB_EDATA, what, "a name has control characters");
    }
    *out = strndup((const char *)bytes, (size_t)length);
    return *out ? LB_OK : lb_fail(s->err, LB_ENOMEM, what, "no memory for a name");
}

static lb_status skip_string(parse_state *s, const char *key)
{
    uint64_t length = lb_read_u64(&s->reader);
    if (s->reader.failed || length > lb_reader_left(&s->reader))
        return fail_short(s, key);
    (void)lb_read_bytes(&s->reader, (size_t)length);
    return LB_OK;
}

static lb_status skip_array(parse_state *s, entry *e)
{
    e->item = lb_read_u32(&s->reader);
    e->count = lb_read_u64(&s->reader);
    if (s->reader.failed)
        return fail_short(s, e->key);
    if (e->item >= VALUE_COUNT || e->item == VALUE_ARRAY)
        return lb_fail(s->err, LB_EUNSUPPORTED, e->key, "an array of type %u is not supported",
                       e->item);
    e->data = s->reader.data + s->reader.offset;
    size_t size = value_bytes[e->item];
    if (size) {
        if (e->count > lb_reader_left(&s->reader) / size)
            return fail_short(s, e->key);
        (void)lb_read_bytes(&s->reader, (size_t)e->count * size);
        return LB_OK;
    }
    if (e->count > lb_reader_left(&s->reader) / sizeof(uint64_t))
        return fail_short(s, e->key);
    lb_status status = LB_OK;
    for (uint64_t i = 0; status == LB_OK && i < e->count; i++)
        status = skip_string(s, e->key);
    return status;
}

static lb_status read_entry(parse_state *s, entry *e)
{
    lb_status status = read_name(s, "key", &e->key);
    if (status != LB_OK)
        return status;
    e->type = lb_read_u32(&s->reader);
    e->count = 1;
    if (s->reader.failed)
        return fail_short(s, e->key);
    if (e->type >= VALUE_COUNT)
        return lb_fail(s->err, LB_EDATA, e->key, "type %u is not known", e->type);
    size_t start = s->reader.offset;
    e->data = s->reader.data + start;
    if (e->type == VALUE_ARRAY)
        status = skip_array(s, e);
    else if (e->type == VALUE_STRING)
        status = skip_string(s, e->key);
    else if (!lb_read_bytes(&s->reader, value_bytes[e->type]))
        status = fail_short(s, e->key);
    e->bytes = s->reader.offset - (size_t)(e->data - s->reader.data);
    if (status == LB_OK && e->type == VALUE_BOOL && *e->data > 1)
        status = lb_fail(s->err, LB_EDATA, e->key, "a bool has the value %u", *e->data);
    return status;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->key, ((const entry *)b)->key);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const lb_gguf_tensor *)a)->name, ((const lb_gguf_tensor *)b)->name);
}

static int by_place(const void *a, const void *b)
{
    const lb_gguf_tensor *x = *(const lb_gguf_tensor *const *)a;
    const lb_gguf_tensor *y = *(const lb_gguf_tensor *const *)b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static lb_status read_entries(parse_state *s, uint64_t count)
{
    lb_gguf *f = s->file;
    f->entries = calloc((size_t)count + 1, sizeof *f->entries);
    if (!f->entries)
        return lb_fail(s->err, LB_ENOMEM, "n_kv", "no memory for %llu keys",
                       (unsigned long long)count);
    lb_status status = LB_OK;
    for (uint64_t i = 0; status == LB_OK && i < count; i++) {
        f->entry_count++;
        status = read_entry(s, &f->entries[i]);
    }
    if (status != LB_OK)
        return status;
    qsort(f->entries, f->entry_count, sizeof *f->entries, by_key);
    for (size_t i = 1; i < f->entry_count; i++) {
        if (strcmp(f->entries[i - 1].key, f->entries[i].key) == 0)
            return lb_fail(s->err, LB_EDATA, f->entries[i].key, "the key is there twice");
    }
    return LB_OK;
}

/* Bytes of a tensor from its shape and type. */
static lb_status measure(parse_state *s, lb_gguf_tensor *t)
{
    size_t values = 0, block = 0, elements = 1;
    if (!lb_gguf_block(t->type, &values, &block))
        return lb_fail(s->err, LB_EUNSUPPORTED, t->name, "tensor type %u is not supported; F32, "
                       "F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K and Q6_K are",
                       (unsigned)t->type);
    for (uint32_t d = 0; d < t->rank; d++) {
        if (t->shape[d] == 0 || t->shape[d] > SIZE_MAX ||
            !lb_size_mul(elements, (size_t)t->shape[d], &elements))
            return lb_fail(s->err, LB_EDATA, t->name, "dimension %u is 0 or too large", d);
    }
    if (t->shape[0] % values != 0)
        return lb_fail(s->err, LB_EDATA, t->name, "rows of %llu values are no whole blocks of %s",
                       (unsigned long long)t->shape[0], lb_gguf_type_name(t->type));
    if (!lb_size_mul(elements / values, block, &t->bytes))
        return lb_fail(s->err, LB_EDATA, t->name, "the size overflows");
    return LB_OK;
}

static lb_status read_tensor(parse_state *s, lb_gguf_tensor *t, uint64_t *offset)
{
    char *name = NULL;
    lb_status status = read_name(s, "tensor", &name);
    t->name = name;
    if (status != LB_OK)
        return status;
    t->rank = lb_read_u32(&s->reader);
    if (s->reader.failed)
        return fail_short(s, name);
    if (t->rank == 0 || t->rank > LB_GGUF_RANK_MAX)
        return lb_fail(s->err, LB_EDATA, name, "it has %u dimensions; 1 .. %u are allowed",
                       t->rank, LB_GGUF_RANK_MAX);
    for (uint32_t d = 0; d < t->rank; d++)
        t->shape[d] = lb_read_u64(&s->reader);
    t->type = (lb_gguf_type)lb_read_u32(&s->reader);
    *offset = lb_read_u64(&s->reader);
    return s->reader.failed ? fail_short(s, name) : measure(s, t);
}

static lb_status read_alignment(parse_state *s, uint32_t *out)
{
    uint32_t alignment = ALIGNMENT_DEFAULT;
    lb_status status = lb_gguf_u32(s->file, "general.alignment", false, UINT32_MAX, &alignment,
                                   s->err);
    if (status == LB_OK && (alignment < ALIGNMENT_MIN || alignment > ALIGNMENT_MAX ||
                            (alignment & (alignment - 1)) != 0))
        status = lb_fail(s->err, LB_EDATA, "general.alignment",
                         "%u is no power of two from %u to %u", alignment, ALIGNMENT_MIN,
                         ALIGNMENT_MAX);
    *out = alignment;
    return status;
}

/* Puts every tensor at its place behind the table, inside the file. */
static lb_status place(parse_state *s)
{
    lb_gguf *f = s->file;
    uint32_t alignment = 0;
    lb_status status = read_alignment(s, &alignment);
    if (status != LB_OK)
        return status;
    size_t start = (s->reader.offset + alignment - 1) / alignment * alignment;
    size_t room = start < s->reader.length ? s->reader.length - start : 0;
    for (size_t i = 0; i < f->tensor_count; i++) {
        lb_gguf_tensor *t = &f->tensors[i];
        if (s->offsets[i] % alignment != 0)
            return lb_fail(s->err, LB_EDATA, t->name, "its offset %llu is no multiple of %u",
                           (unsigned long long)s->offsets[i], alignment);
        if (s->offsets[i] > room || t->bytes > room - (size_t)s->offsets[i])
            return lb_fail(s->err, LB_EDATA, t->name, "it ends past the file: %zu bytes at %llu "
                           "of %zu", t->bytes, (unsigned long long)s->offsets[i], room);
        t->data = s->reader.data + start + (size_t)s->offsets[i];
    }
    return LB_OK;
}

static lb_status check_tensors(parse_state *s)
{
    lb_gguf *f = s->file;
    const lb_gguf_tensor **order = calloc(f->tensor_count + 1, sizeof *order);
    lb_status status = LB_OK;
    if (!order)
        return lb_fail(s->err, LB_ENOMEM, "n_tensors", "no memory for the tensor table");
    qsort(f->tensors, f->tensor_count, sizeof *f->tensors, by_name);
    for (size_t i = 0; i < f->tensor_count; i++)
        order[i] = &f->tensors[i];
    for (size_t i = 1; status == LB_OK && i < f->tensor_count; i++) {
        if (strcmp(f->tensors[i - 1].name, f->tensors[i].name) == 0)
            status = lb_fail(s->err, LB_EDATA, f->tensors[i].name, "the tensor is there twice");
    }
    qsort(order, f->tensor_count, sizeof *order, by_place);
    for (size_t i = 1; status == LB_OK && i < f->tensor_count; i++) {
        if (order[i - 1]->data + order[i - 1]->bytes > order[i]->data)
            status = lb_fail(s->err, LB_EDATA, order[i]->name, "it overlaps %.60s",
                             order[i - 1]->name);
    }
    free(order);
    return status;
}

static lb_status read_tensors(parse_state *s, uint64_t count)
{
    lb_gguf *f = s->file;
    f->tensors = calloc((size_t)count + 1, sizeof *f->tensors);
    s->offsets = calloc((size_t)count + 1, sizeof *s->offsets);
    lb_status status = LB_OK;
    if (!f->tensors || !s->offsets)
        return lb_fail(s->err, LB_ENOMEM, "n_tensors", "no memory for %llu tensors",
                       (unsigned long long)count);
    for (uint64_t i = 0; status == LB_OK && i < count; i++) {
        f->tensor_count++;
        status = read_tensor(s, &f->tensors[i], &s->offsets[i]);
    }
    if (status == LB_OK)
        status = place(s);
    return status == LB_OK ? check_tensors(s) : status;
}

static lb_status parse(parse_state *s)
{
    lb_reader *r = &s->reader;
    const uint8_t *magic = lb_read_bytes(r, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return lb_fail(s->err, LB_EDATA, "magic", "the file does not begin with GGUF");
    uint32_t version = lb_read_u32(r);
    uint64_t tensors = lb_read_u64(r), keys = lb_read_u64(r);
    if (r->failed)
        return fail_short(s, "header");
    if (version < VERSION_MIN || version > VERSION_MAX)
        return lb_fail(s->err, LB_EUNSUPPORTED, "version", "%u is not supported; %u and %u "
                       "(little-endian) are", version, VERSION_MIN, VERSION_MAX);
    if (tensors > LB_GGUF_TENSORS_MAX || tensors > lb_reader_left(r) / TENSOR_BYTES_MIN)
        return lb_fail(s->err, LB_EDATA, "n_tensors", "%llu tensors do not fit into the file, or "
                       "are more than %u", (unsigned long long)tensors, LB_GGUF_TENSORS_MAX);
    if (keys > LB_GGUF_KEYS_MAX || keys > lb_reader_left(r) / KEY_BYTES_MIN)
        return lb_fail(s->err, LB_EDATA, "n_kv", "%llu keys do not fit into the file, or are more "
                       "than %u", (unsigned long long)keys, LB_GGUF_KEYS_MAX);
    lb_status status = read_entries(s, keys);
    return status == LB_OK ? read_tensors(s, tensors) : status;
}

lb_status lb_gguf_open(const uint8_t *data, size_t length, lb_gguf **out, lb_err *err)
{
    parse_state s = {.reader = {.data = data, .length = length}, .err = err};
    s.file = calloc(1, sizeof *s.file);
    if (!s.file)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a GGUF file");
    lb_status status = parse(&s);
    free(s.offsets);
    if (status != LB_OK) {
        lb_gguf_close(s.file);
        return status;
    }
    *out = s.file;
    return LB_OK;
}

lb_status lb_gguf_load(const char *path, lb_gguf **out, lb_err *err)
{
    lb_mapping mapping = {0};
    lb_status status = lb_file_map(path, &mapping, err);
    if (status != LB_OK)
        return status;
    status = lb_gguf_open(mapping.data, mapping.length, out, err);
    if (status == LB_OK) {
        (*out)->mapping = mapping;
        return LB_OK;
    }
    lb_file_unmap(&mapping);
    if (err)
        lb_err_wrap(err, "%s", path);
    return status;
}

void lb_gguf_close(lb_gguf *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->entry_count; i++)
        free(file->entries[i].key);
    for (size_t i = 0; i < file->tensor_count; i++)
        free((char *)(uintptr_t)file->tensors[i].name);
    free(file->entries);
    free(file->tensors);
    lb_file_unmap(&file->mapping);
    free(file);
}

bool lb_path_is_gguf(const char *path)
{
    static const char end[] = ".gguf";
    size_t length = strlen(path);
    return length >= sizeof end && strcmp(path + length - (sizeof end - 1), end) == 0;
}

size_t lb_gguf_count(const lb_gguf *file)
{
    return file->tensor_count;
}

const lb_gguf_tensor *lb_gguf_at(const lb_gguf *file, size_t index)
{
    return &file->tensors[index];
}

const lb_gguf_tensor *lb_gguf_find(const lb_gguf *file, const char *name)
{
    lb_gguf_tensor key = {.name = name};
    return bsearch(&key, file->tensors, file->tensor_count, sizeof key, by_name);
}

/* ---- metadata ---- */

static const entry *find_entry(const lb_gguf *file, const char *name)
{
    /* bsearch only reads the key. */
    entry wanted = {.key = (char *)(uintptr_t)name};
    return bsearch(&wanted, file->entries, file->entry_count, sizeof wanted, by_key);
}

bool lb_gguf_has(const lb_gguf *file, const char *key)
{
    return find_entry(file, key) != NULL;
}

static lb_status absent(const char *key, bool need, lb_err *err)
{
    return need ? lb_fail(err, LB_EDATA, key, "the file lacks this key") : LB_OK;
}

static lb_status wrong_type(const char *key, const char *wanted, lb_err *err)
{
    return lb_fail(err, LB_EDATA, key, "the value is not %s", wanted);
}

/* An integer of any type; false for another type, or beyond int64_t. */
static bool integer_at(uint32_t type, const uint8_t *data, int64_t *out)
{
    lb_reader r = {.data = data, .length = sizeof(uint64_t)};
    uint64_t wide = 0;
    switch (type) {
    case VALUE_U8: *out = lb_read_u8(&r); return true;
    case VALUE_I8: *out = (int8_t)lb_read_u8(&r); return true;
    case VALUE_U16: *out = lb_read_u16(&r); return true;
    case VALUE_I16: *out = (int16_t)lb_read_u16(&r); return true;
    case VALUE_U32: *out = lb_read_u32(&r); return true;
    case VALUE_I32: *out = (int32_t)lb_read_u32(&r); return true;
    case VALUE_U64:
    case VALUE_I64:
        wide = lb_read_u64(&r);
        *out = (int64_t)wide;
        return type == VALUE_I64 || wide <= INT64_MAX;
    default: return false;
    }
}

lb_status lb_gguf_u32(const lb_gguf *file, const char *key, bool need, uint32_t max,
                      uint32_t *out, lb_err *err)
{
    const entry *e = find_entry(file, key);
    int64_t value = 0;
    if (!e)
        return absent(key, need, err);
    if (e->type == VALUE_ARRAY || !integer_at(e->type, e->data, &value))
        return wrong_type(key, "an integer", err);
    if (value < 0 || value > max)
        return lb_fail(err, LB_EDATA, key, "%lld is outside 0 .. %u", (long long)value, max);
    *out = (uint32_t)value;
    return LB_OK;
}

lb_status lb_gguf_f64(const lb_gguf *file, const char *key, bool need, double *out, lb_err *err)
{
    const entry *e = find_entry(file, key);
    if (!e)
        return absent(key, need, err);
    lb_reader r = {.data = e->data, .length = e->bytes};
    if (e->type != VALUE_F32 && e->type != VALUE_F64)
        return wrong_type(key, "a float", err);
    double value = e->type == VALUE_F32 ? (double)lb_read_f32(&r) : lb_read_f64(&r);
    if (!isfinite(value))
        return lb_fail(err, LB_EDATA, key, "the value is not finite");
    *out = value;
    return LB_OK;
}

lb_status lb_gguf_bool(const lb_gguf *file, const char *key, bool need, bool *out, lb_err *err)
{
    const entry *e = find_entry(file, key);
    if (!e)
        return absent(key, need, err);
    if (e->type != VALUE_BOOL)
        return wrong_type(key, "a bool", err);
    *out = *e->data != 0;
    return LB_OK;
}

lb_status lb_gguf_string(const lb_gguf *file, const char *key, bool need, const char **out,
                         size_t *length, lb_err *err)
{
    const entry *e = find_entry(file, key);
    if (!e)
        return absent(key, need, err);
    if (e->type != VALUE_STRING)
        return wrong_type(key, "a string", err);
    *out = (const char *)e->data + sizeof(uint64_t);
    *length = e->bytes - sizeof(uint64_t);
    return LB_OK;
}

static lb_status array(const lb_gguf *file, const char *key, bool need, bool strings,
                       lb_gguf_array *out, lb_err *err)
{
    const entry *e = find_entry(file, key);
    *out = (lb_gguf_array){0};
    if (!e)
        return absent(key, need, err);
    bool integers = e->type == VALUE_ARRAY && e->item != VALUE_STRING && e->item != VALUE_F32 &&
                    e->item != VALUE_F64 && e->item != VALUE_BOOL;
    if (e->type != VALUE_ARRAY || (strings ? e->item != VALUE_STRING : !integers))
        return wrong_type(key, strings ? "an array of strings" : "an array of integers", err);
    *out = (lb_gguf_array){e->data, e->bytes, e->count, e->item};
    return LB_OK;
}

lb_status lb_gguf_strings(const lb_gguf *file, const char *key, bool need, lb_gguf_array *out,
                          lb_err *err)
{
    return array(file, key, need, true, out, err);
}

lb_status lb_gguf_integers(const lb_gguf *file, const char *key, bool need, lb_gguf_array *out,
                           lb_err *err)
{
    return array(file, key, need, false, out, err);
}

static void advance(lb_gguf_array *array, size_t bytes)
{
    array->data += bytes;
    array->bytes -= bytes;
    array->count--;
}

bool lb_gguf_next_string(lb_gguf_array *array, const char **out, size_t *length)
{
    lb_reader r = {.data = array->data, .length = array->bytes};
    if (array->count == 0)
        return false;
    *length = (size_t)lb_read_u64(&r);
    *out = (const char *)lb_read_bytes(&r, *length);
    if (!*out)
        return false;
    advance(array, sizeof(uint64_t) + *length);
    return true;
}

bool lb_gguf_next_integer(lb_gguf_array *array, int64_t *out)
{
    size_t size = array->item < VALUE_COUNT ? value_bytes[array->item] : 0;
    uint8_t wide[sizeof(uint64_t)] = {0};
    if (array->count == 0 || size == 0 || array->bytes < size)
        return false;
    memcpy(wide, array->data, size);
    advance(array, size);
    /* A u64 beyond int64_t cannot be an id; it shows as -1. */
    if (!integer_at(array->item, wide, out))
        *out = -1;
    return true;
}
