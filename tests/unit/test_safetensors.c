/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/file.h"
#include "common/io/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HEADER_MAX 1000000u

/* An image: the header's length, its text, and data_bytes of 0, 1, 2, ... */
static void make_image(lb_buf *out, const char *header, size_t data_bytes)
{
    lb_buf_clear(out);
    lb_buf_u64(out, strlen(header));
    lb_buf_puts(out, header);
    for (size_t i = 0; i < data_bytes; i++)
        lb_buf_append(out, &(uint8_t){(uint8_t)i}, 1);
}

/* Opens a copy that ends where its page of the heap ends, so that a sanitizer sees each byte read
 * past it. */
static lb_status open_copy(const uint8_t *data, size_t length, size_t header_max, lb_err *err)
{
    lb_safetensors *file = NULL;
    uint8_t *copy = malloc(length ? length : 1);
    assert_non_null(copy);
    memcpy(copy, data, length);
    lb_status status = lb_safetensors_open(copy, length, header_max, &file, err);
    assert_int_equal(status == LB_OK, file != NULL);
    if (file) {
        size_t total = 0;
        for (size_t i = 0; i < lb_safetensors_count(file); i++) {
            const lb_st_tensor *t = lb_safetensors_at(file, i);
            assert_true(t->data >= copy && t->bytes <= (size_t)(copy + length - t->data));
            assert_ptr_equal(lb_safetensors_find(file, t->name), t);
            for (size_t b = 0; b < t->bytes; b++)
                total += t->data[b];
        }
        assert_true(total <= 255 * length);
        assert_null(lb_safetensors_at(file, lb_safetensors_count(file)));
    }
    lb_safetensors_close(file);
    free(copy);
    return status;
}

static void test_dtypes(void **state)
{
    static const struct {
        const char *name;
        size_t size;
    } want[] = {
        {"BOOL", 1}, {"U8", 1}, {"I8", 1}, {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2},
        {"F16", 2}, {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4}, {"F64", 8}, {"I64", 8},
        {"U64", 8},
    };
    (void)state;
    lb_buf image = {0};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        char header[128];
        assert_string_equal(lb_st_dtype_name((lb_st_dtype)i), want[i].name);
        assert_int_equal(lb_st_dtype_size((lb_st_dtype)i), want[i].size);
        snprintf(header, sizeof header, "{\"t\":{\"dtype\":\"%s\",\"shape\":[3],"
                 "\"data_offsets\":[0,%zu]}}", want[i].name, 3 * want[i].size);
        make_image(&image, header, 3 * want[i].size);
        assert_int_equal(open_copy(image.data, image.length, HEADER_MAX, NULL), LB_OK);
    }
    assert_int_equal(lb_st_dtype_size((lb_st_dtype)99), 0);
    assert_string_equal(lb_st_dtype_name((lb_st_dtype)99), "unknown");
    lb_buf_free(&image);
}

static void test_accepts(void **state)
{
    static const struct {
        const char *header;
        size_t data, count;
    } cases[] = {
        {"{}", 0, 0},
        {"{}      ", 0, 0},
        {"{\"__metadata__\":{}}", 0, 0},
        {"{\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, 1},
        {"{\"z\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[0,0]}}", 0, 1},
        {"{\"z\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[2,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,2],\"data_offsets\":[0,2]}}", 4, 3},
        {"{\"m\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, 1},
        {"{\"extra\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":[{}]}}", 1, 1},
        {"{\"\xc3\xa9 \xe2\x82\xac\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
         1},
    };
    (void)state;
    lb_buf image = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_safetensors *file = NULL;
        lb_err err = {0};
        make_image(&image, cases[i].header, cases[i].data);
        if (lb_safetensors_open(image.data, image.length, HEADER_MAX, &file, &err) != LB_OK)
            fail_msg("%s: %s", cases[i].header, err.message);
        assert_int_equal(lb_safetensors_count(file), cases[i].count);
        lb_safetensors_close(file);
        assert_int_equal(open_copy(image.data, image.length, HEADER_MAX, NULL), LB_OK);
    }
    lb_buf_free(&image);
    lb_safetensors_close(NULL);
}

#define T(name, begin, end) "\"" name "\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":["     \
    begin "," end "]}"

static void test_refuses(void **state)
{
    static const struct {
        const char *header;
        size_t data;
        const char *field;
    } cases[] = {
        {"", 0, "header"},
        {" {}", 0, "header"},
        {"[]", 0, "header"},
        {"{", 0, "header"},
        {"{}x", 0, "header"},
        {"{\"\xff\":{}}", 0, "header"},
        {"{" T("a", "0", "2") "," T("a", "0", "2") "}", 2, "header"},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2,
         "header"},
        {"{\"a\":1}", 0, "a"},
        {"{\"a\":[]}", 0, "a"},
        {"{\"\":1}", 0, "name"},
        {"{\"a\":{}}", 0, "a"},
        {"{\"__metadata__\":1}", 0, "__metadata__"},
        {"{\"__metadata__\":{\"format\":1}}", 0, "__metadata__"},
        {"{" T("", "0", "2") "}", 2, "name"},
        {"{" T("a\\n", "0", "2") "}", 2, "name"},
        {"{" T("a\x7f", "0", "2") "}", 2, "name"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,2]}}", 2, "a"},
        {"{\"a\":{\"dtype\":\"u8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, "a"},
        {"{\"a\":{\"dtype\":\"U8\\u0000\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, "a"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, "a"},
        {"{\"a\":{\"dtype\":8,\"shape\":[2],\"data_offsets\":[0,2]}}", 2, "a"},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,2]}}", 2, "a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":2,\"data_offsets\":[0,2]}}", 2, "a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2.0],\"data_offsets\":[0,2]}}", 2, "a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[\"2\"],\"data_offsets\":[0,2]}}", 2, "a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,2]}}", 2,
         "a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2]}}", 2, "a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2]}}", 2, "a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2,2]}}", 2, "a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":{}}}", 2, "a"},
        {"{\"a\":{\"dtype\":\"U16\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, "a"},
        {"{" T("a", "2", "0") "}", 2, "a"},
        {"{" T("a", "0", "4") "}", 4, "a"},                               /* longer than it is */
        {"{" T("a", "1", "3") "}", 3, "a"},                               /* begins late */
        {"{" T("a", "0", "2") "," T("b", "3", "5") "}", 5, "b"},          /* hole */
        {"{" T("a", "0", "2") "," T("b", "1", "3") "}", 3, "b"},          /* overlap */
        {"{" T("a", "0", "2") "," T("b", "0", "2") "}", 2, "b"},          /* shared */
        {"{" T("a", "0", "2") "}", 3, "data_offsets"},                    /* bytes left over */
        {"{" T("a", "0", "2") "}", 1, "a"},                               /* bytes missing */
        {"{}", 1, "data_offsets"},
    };
    (void)state;
    lb_buf image = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_err err = {0};
        make_image(&image, cases[i].header, cases[i].data);
        lb_status status = open_copy(image.data, image.length, HEADER_MAX, &err);
        if (status != LB_EDATA || strcmp(err.field, cases[i].field) != 0)
            fail_msg("%s: %s, field '%s': %s", cases[i].header, lb_status_name(status), err.field,
                     err.message);
    }
    lb_buf_free(&image);
}

/* Numbers at the edges of every type, in the place of each number of a file. */
static const char *const edges[] = {
    "0", "1", "-1", "3", "4", "5", "2147483647", "2147483648", "4294967295", "4294967296",
    "4294967298", "9007199254740992", "9007199254740993", "9223372036854775807",
    "9223372036854775808", "18446744073709551615", "18446744073709551616", "1e3", "null", "{}",
};

static void test_hostile_numbers(void **state)
{
    static const char *const templates[] = {
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[%s,4]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,%s]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[%s],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4,%s],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,%s],\"data_offsets\":[0,4]}}",
    };
    static const char *const valid[] = {"0", "4", "4", "1", "1"};
    (void)state;
    lb_buf image = {0};
    for (size_t t = 0; t < sizeof templates / sizeof *templates; t++) {
        const char *slot = strstr(templates[t], "%s");
        for (size_t e = 0; e < sizeof edges / sizeof *edges; e++) {
            char header[256];
            lb_err err = {0};
            snprintf(header, sizeof header, "%.*s%s%s", (int)(slot - templates[t]), templates[t],
                     edges[e], slot + 2);
            make_image(&image, header, 4);
            lb_status status = open_copy(image.data, image.length, HEADER_MAX, &err);
            bool fits = strcmp(edges[e], valid[t]) == 0;
            if ((status == LB_OK) != fits || (!fits && !err.field[0]))
                fail_msg("%s: %s %s", header, lb_status_name(status), err.message);
        }
    }
    /* Products that wrap around to the true size, or to zero. */
    static const char *const products[] = {
        "[4294967296,4294967296]", "[4294967297,4294967297]", "[9223372036854775807,2]",
        "[4611686018427387905,4]", "[4611686018427387904,4,0]", "[65536,65536,65536,65536]",
        "[274177,67280421310721]",   /* 2^64 + 1 */
    };
    for (size_t p = 0; p < sizeof products / sizeof *products; p++) {
        char header[256];
        lb_err err = {0};
        snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"F32\",\"shape\":%s,"
                 "\"data_offsets\":[0,4]}}", products[p]);
        make_image(&image, header, 4);
        assert_int_equal(open_copy(image.data, image.length, HEADER_MAX, &err), LB_EDATA);
        assert_string_equal(err.field, "a");
    }
    lb_buf_free(&image);
}

static void test_hostile_header_lengths(void **state)
{
    (void)state;
    lb_buf image = {0};
    make_image(&image, "{" T("a", "0", "2") "}", 2);
    size_t header = image.length - 10;
    const uint64_t lengths[] = {
        0, 1, header - 1, header + 1, header + 2, header + 3, image.length, UINT64_MAX,
        UINT64_MAX - 7, UINT64_MAX - 8, 1ull << 31, 1ull << 32, (1ull << 32) + header, 1ull << 53,
        1ull << 63, (1ull << 63) + header, LB_SAFETENSORS_HEADER_MAX,
        LB_SAFETENSORS_HEADER_MAX + 1ull,
    };
    assert_int_equal(open_copy(image.data, image.length, HEADER_MAX, NULL), LB_OK);
    assert_int_equal(open_copy(image.data, image.length, header, NULL), LB_OK);
    lb_err err = {0};
    assert_int_equal(open_copy(image.data, image.length, header - 1, &err), LB_ETOOBIG);
    assert_string_equal(err.field, "header");
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (size_t b = 0; b < 8; b++)
            image.data[b] = (uint8_t)(lengths[i] >> (8 * b));
        err = (lb_err){0};
        assert_int_not_equal(open_copy(image.data, image.length, SIZE_MAX, &err), LB_OK);
        assert_string_equal(err.field, "header");
    }
    lb_buf_free(&image);
}

static void test_limits(void **state)
{
    (void)state;
    lb_buf header = {0}, image = {0};
    for (size_t length = 256; length <= 257; length++) {
        char name[300];
        memset(name, 'n', length);
        name[length] = '\0';
        lb_buf_clear(&header);
        lb_buf_printf(&header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
                      name);
        make_image(&image, (char *)header.data, 1);
        lb_err err = {0};
        assert_int_equal(open_copy(image.data, image.length, HEADER_MAX, &err),
                         length == 256 ? LB_OK : LB_EDATA);
    }
    for (unsigned extra = 0; extra < 2; extra++) {
        lb_buf_clear(&header);
        lb_buf_puts(&header, "{\"__metadata__\":{}");
        for (unsigned i = 0; i < LB_SAFETENSORS_MAX + extra; i++)
            lb_buf_printf(&header, ",\"t%u\":{\"dtype\":\"U8\",\"shape\":[0],"
                          "\"data_offsets\":[0,0]}", i);
        lb_buf_puts(&header, "}");
        make_image(&image, (char *)header.data, 0);
        lb_err err = {0};
        lb_status status = open_copy(image.data, image.length, LB_SAFETENSORS_HEADER_MAX, &err);
        assert_int_equal(status, extra ? LB_ETOOBIG : LB_OK);
    }
    lb_buf_free(&header);
    lb_buf_free(&image);
}

/* A tree takes many times the memory of "{}": more of them than tensors need are refused before one
 * is made. Brackets in names are names. */
static void test_limits_of_the_tree(void **state)
{
    static const struct {
        const char *first, *item, *last;
        unsigned items;
        lb_status status;
    } cases[] = {
        {"{\"a\":[{}", ",{}", "]}", 64, LB_ETOOBIG},
        {"{\"a\":[[]", ",[]", "]}", 64, LB_ETOOBIG},
        {"{\"a\":[[]", ",[]", "]}", 4, LB_EDATA},
        {"{\"", "{[", "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 100, LB_OK},
        {"{\"\\\"", "{[", "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 100,
         LB_OK},
    };
    (void)state;
    lb_buf header = {0}, image = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_err err = {0};
        lb_buf_clear(&header);
        lb_buf_puts(&header, cases[i].first);
        for (unsigned n = 0; n < cases[i].items; n++)
            lb_buf_puts(&header, cases[i].item);
        lb_buf_puts(&header, cases[i].last);
        lb_buf_append(&header, "", 1);
        make_image(&image, (char *)header.data, 1);
        assert_int_equal(open_copy(image.data, image.length, HEADER_MAX, &err), cases[i].status);
        if (cases[i].status == LB_ETOOBIG)
            assert_string_equal(err.field, "header");
    }
    lb_buf_free(&header);
    lb_buf_free(&image);
}

/* A small file with metadata, two dtypes, a scalar and an empty tensor. */
static void write_sample(lb_buf *out)
{
    static const float weights[6] = {1, 2, 3, 4, 5, 6};
    static const uint16_t halves[3] = {7, 8, 9};
    static const double scalar = 0.5;
    const lb_st_source sources[] = {
        {.name = "h", .dtype = LB_ST_BF16, .rank = 1, .shape = {3}, .data = halves},
        {.name = "w.b", .dtype = LB_ST_F32, .rank = 2, .shape = {2, 1}, .data = weights},
        {.name = "w.a", .dtype = LB_ST_F32, .rank = 2, .shape = {2, 2}, .data = weights + 2},
        {.name = "none", .dtype = LB_ST_F32, .rank = 1, .shape = {0}, .data = NULL},
        {.name = "s", .dtype = LB_ST_F64, .rank = 0, .data = &scalar},
    };
    static const char *const pairs[] = {"step", "12", "quote", "a\"b"};
    lb_err err = {0};
    assert_int_equal(lb_safetensors_write(sources, 5, pairs, 2, out, &err), LB_OK);
}

static void test_write_then_read(void **state)
{
    static const char *const order[] = {"s", "none", "w.a", "w.b", "h"};
    (void)state;
    lb_buf image = {0}, again = {0};
    lb_safetensors *file = NULL;
    write_sample(&image);
    write_sample(&again);
    assert_int_equal(image.length, again.length);
    assert_memory_equal(image.data, again.data, image.length);
    lb_reader reader = {.data = image.data, .length = image.length};
    assert_int_equal(lb_read_u64(&reader) % 8, 0);
    assert_int_equal(lb_safetensors_open(image.data, image.length, HEADER_MAX, &file, NULL),
                     LB_OK);
    assert_int_equal(lb_safetensors_count(file), 5);
    for (size_t i = 0; i < 5; i++)
        assert_string_equal(lb_safetensors_at(file, i)->name, order[i]);
    const lb_st_tensor *a = lb_safetensors_find(file, "w.a");
    assert_int_equal(a->rank, 2);
    assert_int_equal(a->shape[0], 2);
    assert_int_equal(a->dtype, LB_ST_F32);
    assert_memory_equal(a->data, ((const float[]){3, 4, 5, 6}), 16);
    assert_int_equal(lb_safetensors_find(file, "s")->bytes, 8);
    assert_null(lb_safetensors_find(file, "w"));
    assert_null(lb_safetensors_find(file, ""));
    assert_null(lb_safetensors_find(file, "__metadata__"));
    assert_string_equal(lb_safetensors_metadata(file, "format"), "pt");
    assert_string_equal(lb_safetensors_metadata(file, "quote"), "a\"b");
    assert_null(lb_safetensors_metadata(file, "other"));
    lb_safetensors_close(file);
    lb_buf_free(&image);
    lb_buf_free(&again);
}

/* Cut anywhere, or with a byte changed anywhere, a file is refused or read within its bounds. */
static void test_truncated_and_damaged(void **state)
{
    (void)state;
    lb_buf image = {0};
    write_sample(&image);
    for (size_t length = 0; length < image.length; length++)
        assert_int_not_equal(open_copy(image.data, length, HEADER_MAX, NULL), LB_OK);
    size_t header = image.data[0] + 256u * image.data[1] + 8u;
    for (size_t i = 0; i < header; i++) {
        uint8_t kept = image.data[i];
        for (unsigned bit = 0; bit < 8; bit++) {
            image.data[i] = kept ^ (uint8_t)(1u << bit);
            (void)!open_copy(image.data, image.length, HEADER_MAX, NULL);
        }
        image.data[i] = kept;
    }
    lb_buf_free(&image);
}

static void test_writer_refuses(void **state)
{
    (void)state;
    lb_buf out = {0}, small = {.limit = 64};
    lb_err err = {0};
    uint8_t byte = 0;
    lb_st_source huge = {.name = "huge", .dtype = LB_ST_F32, .rank = 2,
                         .shape = {1ull << 62, 4}, .data = &byte};
    assert_int_equal(lb_safetensors_write(&huge, 1, NULL, 0, &out, &err), LB_EINVAL);
    assert_string_equal(err.field, "huge");
    lb_st_source flat = {.name = "flat", .dtype = LB_ST_U8, .rank = LB_SAFETENSORS_RANK_MAX + 1,
                         .data = &byte};
    assert_int_equal(lb_safetensors_write(&flat, 1, NULL, 0, &out, &err), LB_EINVAL);
    flat = (lb_st_source){.name = "odd", .dtype = (lb_st_dtype)99, .data = &byte};
    assert_int_equal(lb_safetensors_write(&flat, 1, NULL, 0, &out, &err), LB_EINVAL);
    flat = (lb_st_source){.name = "one", .dtype = LB_ST_U8, .data = &byte};
    assert_int_equal(lb_safetensors_write(&flat, 1, NULL, 0, &small, &err), LB_ETOOBIG);
    assert_int_equal(lb_safetensors_write(NULL, 0, NULL, 0, &out, &err), LB_OK);
    assert_int_equal(open_copy(out.data, out.length, HEADER_MAX, &err), LB_OK);
    lb_buf_free(&out);
    lb_buf_free(&small);
}

/* Files that the reference implementation wrote: they open, and written again they are the same
 * bytes. */
static void test_reference_files(void **state)
{
    static const char *const paths[] = {
        "tests/golden/qwen3-tiny/model.safetensors",
        "tests/golden/llama3-tiny/adapter/adapter_model.safetensors",
    };
    (void)state;
    for (size_t p = 0; p < sizeof paths / sizeof *paths; p++) {
        lb_mapping mapping = {0};
        lb_safetensors *file = NULL;
        lb_buf again = {0};
        assert_int_equal(lb_file_map(paths[p], &mapping, NULL), LB_OK);
        assert_int_equal(lb_safetensors_open(mapping.data, mapping.length, HEADER_MAX, &file,
                                             NULL), LB_OK);
        size_t count = lb_safetensors_count(file);
        assert_true(count > 4);
        assert_string_equal(lb_safetensors_metadata(file, "format"), "pt");
        lb_st_source *sources = calloc(count, sizeof *sources);
        assert_non_null(sources);
        for (size_t i = 0; i < count; i++) {
            /* Backwards, so that the writer has something to sort. */
            const lb_st_tensor *t = lb_safetensors_at(file, count - 1 - i);
            sources[i] = (lb_st_source){.name = t->name, .dtype = t->dtype, .rank = t->rank,
                                        .data = t->data};
            memcpy(sources[i].shape, t->shape, sizeof t->shape);
        }
        assert_int_equal(lb_safetensors_write(sources, count, NULL, 0, &again, NULL), LB_OK);
        assert_int_equal(again.length, mapping.length);
        assert_memory_equal(again.data, mapping.data, mapping.length);
        free(sources);
        lb_buf_free(&again);
        lb_safetensors_close(file);
        lb_file_unmap(&mapping);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_hostile_numbers),
        cmocka_unit_test(test_hostile_header_lengths),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_limits_of_the_tree),
        cmocka_unit_test(test_write_then_read),
        cmocka_unit_test(test_truncated_and_damaged),
        cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_reference_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
