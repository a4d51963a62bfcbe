/* SPDX-License-Identifier: Apache-2.0
 *
 * The GGUF reader on well-formed files: metadata, tensors, and what is refused by name.
 */
#include "common/io/config.h"
#include "common/io/gguf.h"
#include "tests/gguf_writer.h"

#include <stdlib.h>

static const uint8_t zeros[4096];

static lb_gguf *open_image(const lb_buf *image)
{
    lb_gguf *file = NULL;
    lb_err err = {0};
    if (lb_gguf_open(image->data, image->length, &file, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    return file;
}

/* One key of every type. */
static void write_values(gguf_writer *w)
{
    static const char *const words[] = {"one", "", "three"};
    const uint8_t u8 = 200;
    const int8_t i8 = -100;
    gw_key(w, "u8", GW_U8);
    lb_buf_append(&w->keys, &u8, 1);
    gw_key(w, "i8", GW_I8);
    lb_buf_append(&w->keys, &i8, 1);
    gw_key(w, "u16", GW_U16);
    lb_buf_u16(&w->keys, 60000);
    gw_key(w, "i16", GW_I16);
    lb_buf_u16(&w->keys, (uint16_t)-30000);
    gw_u32(w, "u32", 4000000000u);
    gw_key(w, "i32", GW_I32);
    lb_buf_u32(&w->keys, (uint32_t)-2000000000);
    gw_key(w, "u64", GW_U64);
    lb_buf_u64(&w->keys, 5);
    gw_key(w, "u64 large", GW_U64);
    lb_buf_u64(&w->keys, 1ull << 63);
    gw_key(w, "i64", GW_I64);
    lb_buf_u64(&w->keys, (uint64_t)-5);
    gw_f32(w, "f32", 0.5);
    gw_key(w, "f64", GW_F64);
    lb_buf_f64(&w->keys, 0.1);
    gw_f32(w, "nan", (double)NAN);
    gw_bool(w, "yes", 1);
    gw_bool(w, "no", 0);
    gw_string(w, "text", "a text");
    gw_string(w, "empty", "");
    gw_strings(w, "words", words, 3);
    gw_array(w, "bytes", GW_U8, 2);
    lb_buf_append(&w->keys, "\x01\xff", 2);
    gw_array(w, "signed", GW_I32, 2);
    lb_buf_u32(&w->keys, (uint32_t)-7);
    lb_buf_u32(&w->keys, 7);
    gw_array(w, "wide", GW_U64, 2);
    lb_buf_u64(&w->keys, 1ull << 40);
    lb_buf_u64(&w->keys, UINT64_MAX);
    gw_array(w, "floats", GW_F32, 1);
    lb_buf_f32(&w->keys, 1.0f);
    gw_array(w, "nothing", GW_I32, 0);
}

static void test_integers(void **state)
{
    static const struct {
        const char *key;
        uint32_t max;
        lb_status status;
        uint32_t value;
    } rows[] = {
        {"u8", 255, LB_OK, 200}, {"u8", 199, LB_EDATA, 0}, {"i8", 255, LB_EDATA, 0},
        {"u16", 65535, LB_OK, 60000}, {"i16", 65535, LB_EDATA, 0},
        {"u32", UINT32_MAX, LB_OK, 4000000000u}, {"u32", 1u << 31, LB_EDATA, 0},
        {"i32", UINT32_MAX, LB_EDATA, 0}, {"u64", 5, LB_OK, 5}, {"u64", 4, LB_EDATA, 0},
        {"u64 large", UINT32_MAX, LB_EDATA, 0}, {"i64", UINT32_MAX, LB_EDATA, 0},
        {"f32", 9, LB_EDATA, 0}, {"yes", 9, LB_EDATA, 0}, {"text", 9, LB_EDATA, 0},
        {"signed", 9, LB_EDATA, 0}, {"absent", 9, LB_EDATA, 0},
    };
    gguf_writer w = {0};
    lb_buf image = {0};
    (void)state;
    write_values(&w);
    gw_finish(&w, &image);
    lb_gguf *file = open_image(&image);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t value = 77;
        lb_err err = {0};
        lb_status status = lb_gguf_u32(file, rows[i].key, true, rows[i].max, &value, &err);
        if (status != rows[i].status || (status != LB_OK && strcmp(err.field, rows[i].key) != 0))
            fail_msg("%s: %s, field '%s'", rows[i].key, lb_status_name(status), err.field);
        assert_int_equal(value, status == LB_OK ? rows[i].value : 77);
    }
    uint32_t value = 77;
    assert_int_equal(lb_gguf_u32(file, "absent", false, 9, &value, NULL), LB_OK);
    assert_int_equal(value, 77);
    lb_gguf_close(file);
    lb_gguf_close(NULL);
    lb_buf_free(&image);
    gw_free(&w);
}

static void test_other_values(void **state)
{
    gguf_writer w = {0};
    lb_buf image = {0};
    double real = 7;
    bool flag = false;
    const char *text = NULL;
    size_t length = 7;
    (void)state;
    write_values(&w);
    gw_finish(&w, &image);
    lb_gguf *file = open_image(&image);
    assert_int_equal(lb_gguf_f64(file, "f32", true, &real, NULL), LB_OK);
    assert_close(real, 0.5, 0);
    assert_int_equal(lb_gguf_f64(file, "f64", true, &real, NULL), LB_OK);
    assert_close(real, 0.1, 0);
    assert_int_equal(lb_gguf_f64(file, "absent", false, &real, NULL), LB_OK);
    assert_close(real, 0.1, 0);
    assert_int_equal(lb_gguf_f64(file, "absent", true, &real, NULL), LB_EDATA);
    assert_int_equal(lb_gguf_f64(file, "nan", true, &real, NULL), LB_EDATA);
    assert_int_equal(lb_gguf_f64(file, "u32", true, &real, NULL), LB_EDATA);
    assert_int_equal(lb_gguf_bool(file, "yes", true, &flag, NULL), LB_OK);
    assert_true(flag);
    assert_int_equal(lb_gguf_bool(file, "no", true, &flag, NULL), LB_OK);
    assert_false(flag);
    assert_int_equal(lb_gguf_bool(file, "u8", true, &flag, NULL), LB_EDATA);
    assert_int_equal(lb_gguf_bool(file, "absent", true, &flag, NULL), LB_EDATA);
    assert_int_equal(lb_gguf_string(file, "text", true, &text, &length, NULL), LB_OK);
    assert_int_equal(length, 6);
    assert_memory_equal(text, "a text", 6);
    assert_int_equal(lb_gguf_string(file, "empty", true, &text, &length, NULL), LB_OK);
    assert_int_equal(length, 0);
    assert_int_equal(lb_gguf_string(file, "words", true, &text, &length, NULL), LB_EDATA);
    assert_int_equal(lb_gguf_string(file, "absent", true, &text, &length, NULL), LB_EDATA);
    assert_true(lb_gguf_has(file, "text") && !lb_gguf_has(file, "tex"));
    lb_gguf_close(file);
    lb_buf_free(&image);
    gw_free(&w);
}

static void test_arrays(void **state)
{
    static const char *const words[] = {"one", "", "three"};
    static const struct {
        const char *key;
        size_t count;
        int64_t items[2];
    } rows[] = {
        {"bytes", 2, {1, 255}}, {"signed", 2, {-7, 7}}, {"wide", 2, {1ll << 40, -1}},
        {"nothing", 0, {0}}, {"absent", 0, {0}},
    };
    static const char *const refused[] = {"words", "floats", "text", "u32"};
    gguf_writer w = {0};
    lb_buf image = {0};
    lb_gguf_array array;
    const char *text = NULL;
    size_t length = 0;
    int64_t item = 0;
    (void)state;
    write_values(&w);
    gw_finish(&w, &image);
    lb_gguf *file = open_image(&image);
    assert_int_equal(lb_gguf_strings(file, "words", true, &array, NULL), LB_OK);
    assert_int_equal(array.count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_true(lb_gguf_next_string(&array, &text, &length));
        assert_int_equal(length, strlen(words[i]));
        assert_memory_equal(text, words[i], length);
    }
    assert_false(lb_gguf_next_string(&array, &text, &length));
    assert_int_equal(lb_gguf_strings(file, "bytes", true, &array, NULL), LB_EDATA);
    assert_int_equal(lb_gguf_strings(file, "absent", true, &array, NULL), LB_EDATA);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(lb_gguf_integers(file, rows[i].key, false, &array, NULL), LB_OK);
        assert_int_equal(array.count, rows[i].count);
        for (size_t k = 0; k < rows[i].count; k++) {
            assert_true(lb_gguf_next_integer(&array, &item));
            assert_true(item == rows[i].items[k]);
        }
        assert_false(lb_gguf_next_integer(&array, &item));
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        lb_err err = {0};
        assert_int_equal(lb_gguf_integers(file, refused[i], false, &array, &err), LB_EDATA);
        assert_string_equal(err.field, refused[i]);
    }
    lb_gguf_close(file);
    lb_buf_free(&image);
    gw_free(&w);
}

static void test_tensors(void **state)
{
    static const uint64_t shapes[][4] = {{5}, {64, 3}, {2, 3, 4}, {256, 1, 2, 1}};
    gguf_writer w = {.version = 2, .alignment = 64};
    lb_buf image = {0};
    uint8_t bytes[2048];
    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)i;
    gw_u32(&w, "general.alignment", 64);
    gw_tensor(&w, "d", LB_GGUF_F32, 1, shapes[0], bytes, 20);
    gw_tensor(&w, "b", LB_GGUF_Q8_0, 2, shapes[1], bytes + 1, 6 * 34);
    gw_tensor(&w, "c", LB_GGUF_BF16, 3, shapes[2], bytes + 2, 48);
    gw_tensor(&w, "a", LB_GGUF_Q6_K, 4, shapes[3], bytes + 3, 420);
    gw_finish(&w, &image);
    lb_gguf *file = open_image(&image);
    assert_int_equal(lb_gguf_count(file), 4);
    for (size_t i = 0; i < 4; i++) {
        const char name[] = {(char)('a' + i), '\0'};
        assert_string_equal(lb_gguf_at(file, i)->name, name);
        assert_ptr_equal(lb_gguf_find(file, name), lb_gguf_at(file, i));
    }
    const lb_gguf_tensor *b = lb_gguf_find(file, "b");
    assert_true(b->type == LB_GGUF_Q8_0 && b->rank == 2 && b->bytes == 6 * 34);
    assert_true(b->shape[0] == 64 && b->shape[1] == 3);
    assert_memory_equal(b->data, bytes + 1, b->bytes);
    assert_memory_equal(lb_gguf_find(file, "a")->data, bytes + 3, 420);
    assert_null(lb_gguf_find(file, "e"));
    assert_true(lb_path_is_gguf("x.gguf") && lb_path_is_gguf("a/b.gguf"));
    assert_true(!lb_path_is_gguf(".gguf") && !lb_path_is_gguf("x.gguf/") && !lb_path_is_gguf(""));
    lb_gguf_close(file);
    lb_buf_free(&image);
    gw_free(&w);
}

/* A file with one thing wrong; the error must name it. */
static void spoil(gguf_writer *w, const char *what)
{
    static const uint64_t one[] = {1}, half[] = {16}, many[] = {1, 1, 1, 1, 1};
    static const char *const names[] = {"twice"};
    char name[LB_GGUF_NAME_MAX + 2];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    if (strcmp(what, "key twice") == 0)
        gw_u32(w, "k", 1), gw_u32(w, "k", 2);
    else if (strcmp(what, "tensor twice") == 0)
        gw_tensor(w, names[0], LB_GGUF_F32, 1, one, zeros, 4),
        gw_tensor(w, names[0], LB_GGUF_F32, 1, one, zeros, 4);
    else if (strcmp(what, "long key") == 0)
        gw_u32(w, name, 1);
    else if (strcmp(what, "control character") == 0)
        gw_u32(w, "a\nb", 1);
    else if (strcmp(what, "empty key") == 0)
        gw_u32(w, "", 1);
    else if (strcmp(what, "empty name") == 0)
        gw_tensor(w, "", LB_GGUF_F32, 1, one, zeros, 4);
    else if (strcmp(what, "half a block") == 0)
        gw_tensor(w, "t", LB_GGUF_Q8_0, 1, half, zeros, 34);
    else if (strcmp(what, "rank") == 0)
        gw_tensor(w, "t", LB_GGUF_F32, 5, many, zeros, 4);
    else if (strcmp(what, "bool") == 0)
        gw_bool(w, "k", 2);
    else if (strcmp(what, "array of arrays") == 0)
        gw_array(w, "k", GW_ARRAY, 1), lb_buf_u32(&w->keys, 0), lb_buf_u64(&w->keys, 0);
    else if (strcmp(what, "alignment's type") == 0)
        gw_string(w, "general.alignment", "32");
    else
        fail_msg("no case '%s'", what);
}

static void test_refusals(void **state)
{
    static const struct {
        const char *what, *field;
    } rows[] = {
        {"key twice", "k"}, {"tensor twice", "twice"}, {"long key", "key"},
        {"control character", "key"}, {"empty key", "key"}, {"empty name", "tensor"},
        {"half a block", "t"}, {"rank", "t"}, {"bool", "k"}, {"array of arrays", "k"},
        {"alignment's type", "general.alignment"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        gguf_writer w = {0};
        lb_buf image = {0};
        lb_gguf *file = NULL;
        lb_err err = {0};
        spoil(&w, rows[i].what);
        gw_finish(&w, &image);
        assert_int_not_equal(lb_gguf_open(image.data, image.length, &file, &err), LB_OK);
        assert_null(file);
        if (strcmp(err.field, rows[i].field) != 0)
            fail_msg("%s: field '%s': %s", rows[i].what, err.field, err.message);
        lb_buf_free(&image);
        gw_free(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers),    cmocka_unit_test(test_other_values),
        cmocka_unit_test(test_arrays),      cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
