/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/json.h"
#include "common/base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static lb_json *parse(const char *text)
{
    lb_json *root = NULL;
    lb_err err = {0};
    if (lb_json_parse(text, strlen(text), &root, &err) != LB_OK)
        fail_msg("%s: %s", text, err.message);
    return root;
}

static void test_refuses_malformed_text(void **state)
{
    static const char *const cases[] = {
        "", " ", "{", "[", "\"", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "[1,]", "[1 2]", "{a:1}",
        "{'a':1}", "nul", "tru", "NaN", "Infinity", "-", "01", "1.", ".5", "+1", "1e", "0x10",
        "1 2", "{} {}", "{}x", "{},", "[]]", "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\n\"",
        "\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\xef\xbb\xbf{}",
        "{\"a\":1,\"a\":2}", "{\"b\":{\"a\":1,\"a\":2}}", "// x\n1", "{\"a\\u0000b\":1}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_json *root = NULL;
        lb_err err = {0};
        if (lb_json_parse(cases[i], strlen(cases[i]), &root, &err) != LB_EDATA)
            fail_msg("'%s' was not refused", cases[i]);
        assert_null(root);
        assert_non_null(strstr(err.message, "malformed at "));
        assert_int_equal(lb_json_parse(cases[i], strlen(cases[i]), &root, NULL), LB_EDATA);
    }
    lb_json *root = NULL;
    lb_err err = {0};
    assert_int_equal(lb_json_parse("{}\0", 3, &root, &err), LB_EDATA);   /* a NUL after it */
    assert_int_equal(lb_json_parse("{\n  \"a\": ?}", 11, &root, &err), LB_EDATA);
    assert_non_null(strstr(err.message, "malformed at 2:"));
    assert_int_equal(lb_json_parse(NULL, 0, &root, &err), LB_EDATA);
}

/* Text of `depth` open and as many closed brackets around a string that is full of brackets. */
static void nested(lb_buf *out, size_t depth, bool close)
{
    lb_buf_clear(out);
    for (size_t i = 0; i < depth; i++)
        lb_buf_puts(out, i % 2 ? "{\"k\":" : "[");
    lb_buf_puts(out, "\"[[[[{{{{\\\"[[[[\\\\\"");
    for (size_t i = depth; close && i > 0; i--)
        lb_buf_puts(out, i % 2 ? "]" : "}");
}

static void test_depth(void **state)
{
    static const size_t depths[] = {0, 1, 31, 32, 33, 1000, 1000000};
    (void)state;
    lb_buf text = {0};
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
        for (int close = 0; close < 2; close++) {
            lb_json *root = NULL;
            lb_err err = {0};
            nested(&text, depths[i], close);
            lb_status status = lb_json_parse((char *)text.data, text.length, &root, &err);
            bool fits = depths[i] <= LB_JSON_DEPTH_MAX;
            assert_int_equal(status, fits && (close || depths[i] == 0) ? LB_OK : LB_EDATA);
            assert_int_equal(!fits, strstr(err.message, "nested deeper") != NULL);
            lb_json_free(root);
        }
    }
    lb_buf_free(&text);
}

/* A number beyond 64 bits cannot stand in a tree; the error still says whose it is. */
static void test_overflow_names_the_field(void **state)
{
    static const struct {
        const char *text, *field;
    } cases[] = {
        {"{\"seed\":9223372036854775808}", "seed"},
        {"{\"seed\":18446744073709551616}", "seed"},
        {"{\"seed\":-9223372036854775809}", "seed"},
        {"{\"a\":1,\"lora\":{\"x\":[{\"y\":2}],\"alpha\":1e999},\"b\":1}", "lora.alpha"},
        {"{\"prompt\":[{\"id\":3},99999999999999999999,4]}", "prompt"},
        {"{\"\\\"{[:\":1,\"a:b\":99999999999999999999}", "a:b"},
        {"99999999999999999999", ""},
        {"[[99999999999999999999]]", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_json *root = NULL;
        lb_err err = {0};
        assert_int_equal(lb_json_parse(cases[i].text, strlen(cases[i].text), &root, &err),
                         LB_EDATA);
        assert_string_equal(err.field, cases[i].field);
        assert_non_null(strstr(err.message, "too large"));
    }
    char text[400];
    lb_json *root = NULL;
    lb_err err = {0};
    snprintf(text, sizeof text, "{\"%0300d\":1e999}", 7);
    assert_int_equal(lb_json_parse(text, strlen(text), &root, &err), LB_EDATA);
    assert_int_equal(strlen(err.field), LB_ERR_FIELD_MAX - 1);
}

static void test_nodes_of_every_type(void **state)
{
    static const char *const texts[] = {"{}", "[]", "\"s\"", "1", "1.0", "true", "null"};
    (void)state;
    bool (*const tests[])(const lb_json *) = {
        lb_json_is_object, lb_json_is_array, lb_json_is_string, lb_json_is_integer,
        lb_json_is_number, lb_json_is_bool, lb_json_is_null,
    };
    for (size_t i = 0; i < 7; i++) {
        lb_json *root = parse(texts[i]);
        for (size_t j = 0; j < 7; j++)
            assert_int_equal(tests[j](root), i == j || (i == 3 && j == 4));
        /* Each reader gives its neutral value off a node of another type. */
        assert_int_equal(lb_json_string(root) != NULL, i == 2);
        assert_int_equal(lb_json_string_length(root), i == 2);
        assert_int_equal(lb_json_integer(root), i == 3);
        assert_true(lb_json_number(root) == (i == 3 || i == 4 ? 1.0 : 0.0));
        assert_int_equal(lb_json_bool(root), i == 5);
        assert_null(lb_json_get(root, "k"));
        assert_null(lb_json_at(root, 0));
        assert_int_equal(lb_json_array_size(root), 0);
        assert_int_equal(lb_json_object_size(root), 0);
        assert_int_equal(lb_json_each(root, NULL, NULL), LB_OK);
        assert_false(tests[i](NULL));
        lb_json_free(root);
    }
    assert_null(lb_json_get(NULL, "k"));
    assert_null(lb_json_string(NULL));
    assert_int_equal(lb_json_integer(NULL), 0);
    lb_json_free(NULL);
}

static void test_strings_may_hold_nul(void **state)
{
    (void)state;
    lb_json *root = parse("{\"t\":\"a\\u0000b\"}");
    const lb_json *node = lb_json_get(root, "t");
    assert_int_equal(lb_json_string_length(node), 3);
    assert_memory_equal(lb_json_string(node), "a\0b", 4);
    const char *out = NULL;
    lb_err err = {0};
    assert_int_equal(lb_json_need_string(root, "", "t", &out, &err), LB_EINVAL);
    assert_string_equal(err.field, "t");
    assert_null(out);
    lb_buf text = {0};
    lb_json_dump(&text, root, false);
    assert_string_equal((char *)text.data, "{\"t\":\"a\\u0000b\"}");
    lb_buf_free(&text);
    lb_json_free(root);
}

static lb_status collect(void *arg, const char *key, const lb_json *value)
{
    lb_buf *out = arg;
    lb_buf_printf(out, "%s=%d ", key, (int)lb_json_integer(value));
    return lb_json_integer(value) == 3 ? LB_ECANCELLED : LB_OK;
}

static void test_each_in_order_until_stopped(void **state)
{
    (void)state;
    lb_buf seen = {0};
    lb_json *root = parse("{\"z\":1,\"a\":2,\"m\":3,\"b\":4}");
    assert_int_equal(lb_json_each(root, collect, &seen), LB_ECANCELLED);
    assert_string_equal((char *)seen.data, "z=1 a=2 m=3 ");
    lb_buf_free(&seen);
    lb_json_free(root);
}

/* ---- typed members ---- */

typedef enum getter { GET_STRING, GET_U64, GET_U32, GET_I64, GET_F64, GET_BOOL, GET_OBJECT,
                      GET_ARRAY, GETTER_COUNT } getter;

typedef struct values {
    const char *string;
    uint64_t u64;
    uint32_t u32;
    int64_t i64;
    double f64;
    bool boolean;
    const lb_json *node;
} values;

static lb_status get_need(const lb_json *o, getter g, values *v, lb_err *err)
{
    switch (g) {
    case GET_STRING: return lb_json_need_string(o, "a.b", "k", &v->string, err);
    case GET_U64: return lb_json_need_u64(o, "a.b", "k", 2, 9, &v->u64, err);
    case GET_U32: return lb_json_need_u32(o, "a.b", "k", 2, 9, &v->u32, err);
    case GET_F64: return lb_json_need_f64(o, "a.b", "k", 2, 9, &v->f64, err);
    case GET_OBJECT: return lb_json_need_object(o, "a.b", "k", &v->node, err);
    case GET_ARRAY: return lb_json_need_array(o, "a.b", "k", &v->node, err);
    case GET_I64: case GET_BOOL: case GETTER_COUNT: break;
    }
    return LB_EINTERNAL;   /* has no needed form */
}

static lb_status get_opt(const lb_json *o, getter g, values *v, lb_err *err)
{
    switch (g) {
    case GET_STRING: return lb_json_opt_string(o, "a.b", "k", &v->string, err);
    case GET_U64: return lb_json_opt_u64(o, "a.b", "k", 2, 9, &v->u64, err);
    case GET_U32: return lb_json_opt_u32(o, "a.b", "k", 2, 9, &v->u32, err);
    case GET_I64: return lb_json_opt_i64(o, "a.b", "k", 2, 9, &v->i64, err);
    case GET_F64: return lb_json_opt_f64(o, "a.b", "k", 2, 9, &v->f64, err);
    case GET_BOOL: return lb_json_opt_bool(o, "a.b", "k", &v->boolean, err);
    case GET_OBJECT: return lb_json_opt_object(o, "a.b", "k", &v->node, err);
    case GET_ARRAY: return lb_json_opt_array(o, "a.b", "k", &v->node, err);
    case GETTER_COUNT: break;
    }
    return LB_EINTERNAL;
}

#define BIT(g) (1u << (g))
#define INTEGERS (BIT(GET_U64) | BIT(GET_U32) | BIT(GET_I64))

static void test_members(void **state)
{
    static const struct {
        const char *text;
        unsigned accepted;   /* by these getters; range 2 .. 9 */
    } cases[] = {
        {"{\"k\":\"s\"}", BIT(GET_STRING)},
        {"{\"k\":2}", INTEGERS | BIT(GET_F64)},
        {"{\"k\":9}", INTEGERS | BIT(GET_F64)},
        {"{\"k\":1}", 0},
        {"{\"k\":10}", 0},
        {"{\"k\":-1}", 0},
        {"{\"k\":9223372036854775807}", 0},
        {"{\"k\":-9223372036854775808}", 0},
        {"{\"k\":4294967298}", 0},   /* 2 when cut to 32 bits */
        {"{\"k\":3.0}", BIT(GET_F64)},
        {"{\"k\":9.0000001}", 0},
        {"{\"k\":true}", BIT(GET_BOOL)},
        {"{\"k\":false}", BIT(GET_BOOL)},
        {"{\"k\":{}}", BIT(GET_OBJECT)},
        {"{\"k\":[]}", BIT(GET_ARRAY)},
        {"{\"k\":\"3\"}", BIT(GET_STRING)},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_json *root = parse(cases[i].text);
        for (getter g = 0; g < GETTER_COUNT; g++) {
            lb_err err = {0};
            values v = {0};
            bool accepted = cases[i].accepted & BIT(g);
            lb_status status = get_opt(root, g, &v, &err);
            if ((status == LB_OK) != accepted)
                fail_msg("%s: getter %d says %s", cases[i].text, (int)g, lb_status_name(status));
            if (g != GET_I64 && g != GET_BOOL)
                assert_int_equal(get_need(root, g, &v, &err), status);
            if (accepted)
                continue;
            assert_int_equal(status, LB_EINVAL);
            assert_string_equal(err.field, "a.b.k");
            assert_true(!v.string && !v.u64 && !v.u32 && !v.i64 && v.f64 == 0.0 && !v.node);
        }
        lb_json_free(root);
    }
}

/* Absent and null are the same: an error where needed, the default where not. */
static void test_absent_members(void **state)
{
    static const char *const texts[] = {"{}", "{\"k\":null}", "{\"K\":3}", "[]", "3"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        lb_json *root = parse(texts[i]);
        for (getter g = 0; g < GETTER_COUNT; g++) {
            lb_err err = {0};
            values v = {.u32 = 77, .u64 = 78, .f64 = 0.25, .boolean = true};
            assert_int_equal(get_opt(root, g, &v, &err), LB_OK);
            assert_true(v.u32 == 77 && v.u64 == 78 && v.f64 == 0.25 && v.boolean);
            if (g == GET_I64 || g == GET_BOOL)
                continue;
            assert_int_equal(get_need(root, g, &v, &err), LB_EINVAL);
            assert_string_equal(err.field, "a.b.k");
            assert_string_equal(err.message, "a.b.k is required");
        }
        lb_json_free(root);
    }
    lb_err err = {0};
    uint32_t n = 0;
    assert_int_equal(lb_json_need_u32(NULL, "", "top", 0, 1, &n, &err), LB_EINVAL);
    assert_string_equal(err.field, "top");
}

static void test_dump(void **state)
{
    (void)state;
    lb_buf text = {0};
    lb_json *root = parse(" { \"b\" : [ 1 , -2.5, true , null ] , \"a\" : { \"z\":\"\\u00e9\\n\","
                          "\"y\": {} } } ");
    lb_json_dump(&text, root, false);
    assert_string_equal((char *)text.data,
                        "{\"b\":[1,-2.5,true,null],\"a\":{\"z\":\"\xc3\xa9\\n\",\"y\":{}}}");
    lb_buf_clear(&text);
    lb_json_dump(&text, root, true);
    assert_string_equal((char *)text.data,
                        "{\"a\":{\"y\":{},\"z\":\"\xc3\xa9\\n\"},\"b\":[1,-2.5,true,null]}");
    lb_buf_clear(&text);
    lb_json_dump(&text, NULL, true);
    assert_string_equal((char *)text.data, "null");
    lb_buf small = {.limit = 10};
    lb_json_dump(&small, root, false);
    assert_int_equal(small.status, LB_ETOOBIG);
    lb_buf_free(&small);
    lb_buf_free(&text);
    lb_json_free(root);
}

/* ---- writing ---- */

static void test_writer_places_commas(void **state)
{
    (void)state;
    lb_buf text = {0};
    lb_jsonw w = {.out = &text};
    lb_json *node = parse("{\"n\":[1]}");
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "a\"b");
    lb_jsonw_array(&w);
    lb_jsonw_array_end(&w);
    lb_jsonw_key(&w, "b");
    lb_jsonw_array(&w);
    lb_jsonw_i64(&w, INT64_MIN);
    lb_jsonw_u64(&w, UINT64_MAX);
    lb_jsonw_object(&w);
    lb_jsonw_object_end(&w);
    lb_jsonw_array(&w);
    lb_jsonw_bool(&w, true);
    lb_jsonw_null(&w);
    lb_jsonw_array_end(&w);
    lb_jsonw_node(&w, node);
    lb_jsonw_node(&w, NULL);
    lb_jsonw_raw(&w, "{}", 2);
    lb_jsonw_array_end(&w);
    lb_jsonw_key(&w, "c");
    lb_jsonw_string(&w, NULL);
    lb_jsonw_object_end(&w);
    assert_string_equal((char *)text.data,
                        "{\"a\\\"b\":[],\"b\":[-9223372036854775808,18446744073709551615,{},"
                        "[true,null],{\"n\":[1]},null,{}],\"c\":null}");
    lb_json_free(node);
    lb_buf_free(&text);
}

static void test_writer_nests(void **state)
{
    (void)state;
    lb_buf text = {0};
    lb_jsonw w = {.out = &text};
    for (int i = 0; i < 60; i++)
        lb_jsonw_array(&w);
    for (int i = 0; i < 60; i++) {
        lb_jsonw_array_end(&w);
        if (i < 59)
            lb_jsonw_u64(&w, 1);
    }
    lb_buf want = {0};
    for (int i = 0; i < 60; i++)
        lb_buf_puts(&want, "[");
    for (int i = 0; i < 59; i++)
        lb_buf_puts(&want, i ? ",1]" : "],1]");
    assert_string_equal((char *)text.data, (char *)want.data);
    lb_buf_free(&want);
    lb_buf_free(&text);
}

/* Whatever bytes go in, the text is JSON; what was valid comes back the same. */
static void test_writer_strings(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
        const char *want;
    } cases[] = {
        {"", 0, "\"\""},
        {"a\"\\/\n\r\t\b\f", 9, "\"a\\\"\\\\/\\n\\r\\t\\b\\f\""},
        {"\0\x1f\x7f", 3, "\"\\u0000\\u001f\\u007f\""},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""},
        {"\xff", 1, "\"\xef\xbf\xbd\""},
        {"\xc3", 1, "\"\xef\xbf\xbd\""},
        {"\xc3(", 2, "\"\xef\xbf\xbd(\""},
        {"\xc0\x80", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xf4\x90\x80\x80", 4, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xe2\x82", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_buf text = {0};
        lb_jsonw w = {.out = &text};
        lb_jsonw_string_n(&w, cases[i].bytes, cases[i].length);
        assert_string_equal((char *)text.data, cases[i].want);
        lb_buf_free(&text);
    }
    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t bytes[4];
        lb_buf text = {0};
        lb_jsonw w = {.out = &text};
        lb_json *root = NULL;
        lb_rng_block(5, (uint32_t[4]){i, 0, 0, 0}, bytes);
        lb_jsonw_string_n(&w, (const char *)bytes, i % 17);
        assert_int_equal(lb_json_parse((char *)text.data, text.length, &root, NULL), LB_OK);
        assert_true(lb_json_is_string(root));
        lb_json_free(root);
        lb_buf_free(&text);
    }
}

static const char *write_f32(lb_buf *text, float value)
{
    lb_jsonw w = {.out = text};
    lb_buf_clear(text);
    lb_jsonw_f32(&w, value);
    return (const char *)text->data;
}

static void test_f32_texts(void **state)
{
    static const struct {
        float value;
        const char *want;
    } cases[] = {
        {0.0f, "0"}, {-0.0f, "-0.0"}, {1.0f, "1"}, {-1.0f, "-1"}, {0.1f, "0.1"}, {-2.5f, "-2.5"},
        {10.0f, "10"}, {100000.0f, "100000"}, {123456.0f, "123456"}, {0.001f, "0.001"},
        {999999.9375f, "999999.94"}, {1e6f, "1e+06"}, {16777216.0f, "16777216"},
        {0.00001f, "1e-05"}, {0.00002f, "0.00002"}, {-0.693147182f, "-0.6931472"},
        {3.14159274f, "3.1415927"}, {9.9999990f, "9.999999"}, {99999.9922f, "99999.99"},
        {(float)NAN, "null"}, {(float)INFINITY, "null"}, {(float)-INFINITY, "null"},
        {3.40282347e38f, "3.4028235e+38"}, {1.40129846e-45f, "1.4013e-45"},
    };
    (void)state;
    lb_buf text = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(write_f32(&text, cases[i].value), cases[i].want);
    lb_buf_free(&text);
}

/* The text as JSON (not only for strtof) gives the same bits, and no shorter %g would. */
static void expect_f32(lb_buf *text, float value)
{
    lb_json *root = NULL;
    const char *written = write_f32(text, value);
    char shorter[400];
    float back = strtof(written, NULL);
    assert_int_equal(lb_json_parse(written, text->length, &root, NULL), LB_OK);
    float read = (float)lb_json_number(root);
    lb_json_free(root);
    if (memcmp(&back, &value, sizeof back) != 0 || memcmp(&read, &value, sizeof read) != 0)
        fail_msg("%a became %s", (double)value, written);
    size_t digits = 0, zeros = 0;
    for (const char *c = written; *c && *c != 'e'; c++) {
        if (*c == '0' && digits == 0)
            continue;
        digits += *c >= '0' && *c <= '9';
        zeros = *c == '0' ? zeros + 1 : 0;
    }
    if (digits > 6 && value != 0.0f && !strchr(written, 'e') && strchr(written, '.')) {
        snprintf(shorter, sizeof shorter, "%.*g", (int)digits - 1, (double)value);
        if (strtof(shorter, NULL) == value)
            fail_msg("%s could be %s", written, shorter);
    }
}

static void test_f32_round_trip(void **state)
{
    (void)state;
    lb_buf text = {0};
    for (uint32_t i = 0; i < 100000; i++) {
        uint32_t words[4];
        float any, logprob;
        lb_rng_block(11, (uint32_t[4]){i, 0, 0, 0}, words);
        memcpy(&any, &words[0], sizeof any);
        if (isfinite(any))
            expect_f32(&text, any);
        logprob = -20.0f * lb_rng_uniform(words[1]);
        expect_f32(&text, logprob);
        expect_f32(&text, logprob * 0x1p-10f);
        expect_f32(&text, (float)(words[2] % 2000000) / 100.0f);
    }
    /* The edges of the fast path, and each power of ten with its neighbours. */
    for (int e = -12; e <= 12; e++) {
        float power = strtof("1", NULL) * (float)pow(10.0, e), at = power;
        for (int i = 0; i < 5; i++, at = nextafterf(at, INFINITY))
            expect_f32(&text, at);
        for (int i = 0; i < 5; i++, at = nextafterf(at, 0.0f))
            expect_f32(&text, -at);
    }
    lb_buf_free(&text);
}

static void test_f64_round_trip(void **state)
{
    (void)state;
    lb_buf text = {0};
    for (uint32_t i = 0; i < 50000; i++) {
        double value, back;
        uint32_t words[4];
        lb_jsonw w = {.out = &text};
        lb_rng_block(13, (uint32_t[4]){i, 0, 0, 0}, words);
        memcpy(&value, words, sizeof value);
        if (i == 0)
            value = -0.0;
        if (!isfinite(value))
            continue;
        lb_buf_clear(&text);
        lb_jsonw_f64(&w, value);
        back = strtod((char *)text.data, NULL);
        assert_memory_equal(&back, &value, sizeof back);
    }
    lb_buf_clear(&text);
    lb_jsonw w = {.out = &text};
    lb_jsonw_array(&w);
    lb_jsonw_f64(&w, NAN);
    lb_jsonw_f64(&w, -INFINITY);
    lb_jsonw_f64(&w, 0.1);
    lb_jsonw_f64(&w, 1e300);
    lb_jsonw_f64(&w, 3.0);
    lb_jsonw_array_end(&w);
    assert_string_equal((char *)text.data, "[null,null,0.1,1e+300,3]");
    lb_buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses_malformed_text),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_overflow_names_the_field),
        cmocka_unit_test(test_nodes_of_every_type),
        cmocka_unit_test(test_strings_may_hold_nul),
        cmocka_unit_test(test_each_in_order_until_stopped),
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_absent_members),
        cmocka_unit_test(test_dump),
        cmocka_unit_test(test_writer_places_commas),
        cmocka_unit_test(test_writer_nests),
        cmocka_unit_test(test_writer_strings),
        cmocka_unit_test(test_f32_texts),
        cmocka_unit_test(test_f32_round_trip),
        cmocka_unit_test(test_f64_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
