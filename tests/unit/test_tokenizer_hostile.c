/* SPDX-License-Identifier: Apache-2.0
 *
 * Every number of tokenizer.json at its borders and beyond: it is accepted, or refused with a name
 * of the field; and lengths that multiply.
 */
#include "common/base/buf.h"
#include "common/text/tokenizer.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const values[] = {
    "0", "1", "1024", "1025", "1048575", "1048576", "-1", "2147483648", "4294967296",
    "9223372036854775807", "9223372036854775808", "1.5", "1e2", "\"1\"", "null", "true", "[]",
};
#define VALUES (sizeof values / sizeof values[0])
#define BIT(i) (1u << (i))

#define HEAD "{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},"
#define VOCAB                                                                                 \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define PLAIN HEAD "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"

/* What stands before and after the value, the field, and the values that are accepted. */
static const struct {
    const char *before, *after, *field;
    uint32_t accepted;
} rows[] = {
    {PLAIN "\"model\":{\"vocab\":{\"a\":0,\"b\":", "},\"merges\":[]}}", "model.vocab",
     BIT(1) | BIT(2) | BIT(3) | BIT(4)},
    {PLAIN "\"added_tokens\":[{\"content\":\"<s>\",\"id\":", "}]," VOCAB "}", "added_tokens[0]",
     BIT(2) | BIT(3) | BIT(4)},
    {PLAIN "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
     "{\"id\":\"x\"}},{\"Sequence\":{}}],\"special_tokens\":{\"x\":{\"ids\":[",
     "]}}}," VOCAB "}", "post_processor", BIT(0) | BIT(1)},
    {HEAD "{\"type\":\"Strip\",\"content\":\" \",\"stop\":0,\"start\":", "}]}," VOCAB "}",
     "decoder.decoders[1].start", BIT(0) | BIT(1) | BIT(2)},
    {HEAD "{\"type\":\"Strip\",\"content\":\" \",\"start\":0,\"stop\":", "}]}," VOCAB "}",
     "decoder.decoders[1].stop", BIT(0) | BIT(1) | BIT(2)},
    {PLAIN "\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":", "}}", "model.dropout",
     BIT(0) | BIT(14)},
    {PLAIN "\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"byte_fallback\":", "}}",
     "model.byte_fallback", BIT(14) | BIT(15)},
    {PLAIN "\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"fuse_unk\":", "}}", "model.fuse_unk",
     BIT(14) | BIT(15)},
    {PLAIN "\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":", "}}", "model.unk_token",
     BIT(14)},
    {PLAIN "\"model\":{\"vocab\":{\"a\":0},\"merges\":", "}}", "model.merges", BIT(16)},
    {PLAIN "\"model\":{\"merges\":[],\"vocab\":", "}}", "model.vocab", 0},
    {PLAIN "\"normalizer\":{\"type\":\"Prepend\",\"prepend\":", "}," VOCAB "}",
     "normalizer.prepend",
     BIT(13)},
    {PLAIN "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"x\"},\"content\":",
     "}," VOCAB "}", "normalizer.content", BIT(13)},
    {PLAIN "\"normalizer\":{\"type\":\"Replace\",\"content\":\"x\",\"pattern\":{\"String\":",
     "}}," VOCAB "}", "normalizer.String", BIT(13)},
    {PLAIN "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":", "}," VOCAB "}",
     "pre_tokenizer.replacement", BIT(13)},
    {PLAIN "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"split\":",
     "}," VOCAB "}", "pre_tokenizer.split", BIT(14) | BIT(15)},
    {PLAIN "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":",
     "}," VOCAB "}", "pre_tokenizer", BIT(14)},
};

static void check(const char *json, const char *field, bool accepted)
{
    lb_tokenizer *tokenizer = NULL;
    lb_err err = {0};
    lb_status status = lb_tokenizer_parse(json, strlen(json), &tokenizer, &err);
    bool too_big = strstr(json, "9223372036854775808") != NULL;
    if ((status == LB_OK) != accepted)
        fail_msg("%s: status %d, %s: %s", json, (int)status, err.field, err.message);
    /* A number beyond 64 bits fails while parsing, where the field is its key. */
    if (status != LB_OK && !too_big && strncmp(err.field, field, strlen(field)) != 0)
        fail_msg("%s: field %s: %s", json, err.field, err.message);
    assert_true(status == LB_OK || tokenizer == NULL);
    lb_tokenizer_free(tokenizer);
}

static void test_numbers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t k = 0; k < VALUES; k++) {
            lb_buf json = {0};
            lb_buf_printf(&json, "%s%s%s", rows[i].before, values[k], rows[i].after);
            check((const char *)json.data, rows[i].field, (rows[i].accepted & BIT(k)) != 0);
            lb_buf_free(&json);
        }
    }
}

static const struct {
    const char *json, *field;
} refused[] = {
    {HEAD "{\"type\":\"Strip\",\"content\":\"ab\",\"start\":0,\"stop\":0}]}," VOCAB "}",
     "decoder.decoders[1]"},
    {HEAD "{\"type\":\"Strip\",\"content\":\"\",\"start\":0,\"stop\":0}]}," VOCAB "}",
     "decoder.decoders[1]"},
    {HEAD "{\"type\":\"ByteFallback\"}]}," VOCAB "}", "decoder.decoders[1]"},
    {HEAD "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"b\"}]}," VOCAB "}",
     "decoder.decoders[1]"},
    {"{\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}," VOCAB "}",
     "decoder"},
    {"{\"decoder\":{\"type\":\"Metaspace\"}," VOCAB "}", "decoder"},
    {"{" VOCAB "}", "decoder"},
    {PLAIN "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"},\"content\":\"\"},"
     VOCAB "}", "normalizer"},
    {PLAIN "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"},"
     VOCAB "}", "normalizer"},
    {PLAIN "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"q\"},\"content\":\"\"},"
     "\"added_tokens\":[{\"id\":9,\"content\":\"q\",\"normalized\":true}]," VOCAB "}",
     "added_tokens[0]"},
    {PLAIN "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}," VOCAB "}",
     "pre_tokenizer"},
    {PLAIN "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":"
     "false,\"prepend_scheme\":\"first\"}," VOCAB "}", "pre_tokenizer"},
    {PLAIN "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Metaspace\","
     "\"replacement\":\"_\"},{\"type\":\"Metaspace\",\"replacement\":\"_\"}]}," VOCAB "}",
     "pre_tokenizer.pretokenizers[1]"},
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        check(refused[i].json, refused[i].field, false);
}

/* Old files say add_prefix_space where newer ones have a prepend_scheme. */
static void test_old_metaspace(void **state)
{
    static const char json[] = PLAIN "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":"
                               "\"b\",\"add_prefix_space\":%s}," VOCAB "}";
    (void)state;
    for (unsigned prefix = 0; prefix < 2; prefix++) {
        lb_buf text = {0};
        lb_tokens tokens = {0};
        lb_tokenizer *tokenizer = NULL;
        lb_buf_printf(&text, json, prefix ? "true" : "false");
        assert_int_equal(lb_tokenizer_parse((const char *)text.data, text.length, &tokenizer, NULL),
                         LB_OK);
        assert_int_equal(lb_tokenizer_encode(tokenizer, "a", 1, false, false, &tokens, NULL),
                         LB_OK);
        assert_int_equal(tokens.count, 1 + prefix);
        lb_tokens_free(&tokens);
        lb_tokenizer_free(tokenizer);
        lb_buf_free(&text);
    }
}

/* Two steps that each make a text longer by a thousand times. */
static void test_growth(void **state)
{
    (void)state;
    lb_buf json = {0};
    lb_tokens tokens = {0};
    lb_tokenizer *tokenizer = NULL;
    lb_err err = {0};
    static char text[4096];
    memset(text, 'a', sizeof text);
    lb_buf_puts(&json, PLAIN "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[");
    for (unsigned i = 0; i < 2; i++) {
        lb_buf_printf(&json, "%s{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},"
                      "\"content\":\"", i > 0 ? "," : "");
        for (unsigned k = 0; k < 1000; k++)
            lb_buf_puts(&json, "a");
        lb_buf_puts(&json, "\"}");
    }
    lb_buf_puts(&json, "]}," VOCAB "}");
    assert_int_equal(lb_tokenizer_parse((const char *)json.data, json.length, &tokenizer, &err),
                     LB_OK);
    assert_int_equal(lb_tokenizer_encode(tokenizer, text, sizeof text, false, false, &tokens, &err),
                     LB_ETOOBIG);
    assert_string_equal(err.field, "text");
    lb_tokens_free(&tokens);
    lb_tokenizer_free(tokenizer);
    lb_buf_free(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_old_metaspace),
        cmocka_unit_test(test_growth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
