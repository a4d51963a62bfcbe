/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/buf.h"
#include "common/text/dataset.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define VOCAB 1000u
#define END 8u

/* Tokens a and b, their merge, and a space; the post-processor puts token 9 before a text. */
static const char tokenizer_json[] =
    "{\"added_tokens\":[{\"id\":9,\"content\":\"<s>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
    "{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[9]}}},"
    "\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<\":3,\"s\":4,\">\":5},"
    "\"merges\":[\"a b\"]}}";

static lb_tokenizer *make_tokenizer(void)
{
    lb_tokenizer *tokenizer = NULL;
    lb_err err = {0};
    if (lb_tokenizer_parse(tokenizer_json, strlen(tokenizer_json), &tokenizer, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    return tokenizer;
}

static void parse(const char *text, const lb_tokenizer *tokenizer, lb_dataset *out)
{
    lb_err err = {0};
    lb_dataset_options options = {.tokenizer = tokenizer, .vocab = VOCAB, .end = END};
    if (lb_dataset_parse_jsonl(text, strlen(text), &options, out, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
}

static void check_row(const lb_prompt *prompt, const uint32_t *tokens, uint32_t count,
                      const char *answer)
{
    assert_int_equal(prompt->count, count);
    assert_memory_equal(prompt->tokens, tokens, count * sizeof *tokens);
    if (answer == NULL)
        assert_null(prompt->answer);
    else
        assert_string_equal(prompt->answer, answer);
}

/* ---- JSONL ---- */

static void test_rows(void **state)
{
    (void)state;
    lb_tokenizer *tokenizer = make_tokenizer();
    lb_dataset dataset = {0};
    parse("{\"prompt\":\"aba\",\"answer\":\"17\",\"source\":[1]}\r\n\n  \t\r\n"
          "{\"prompt_ids\":[7,999,0,1],\"answer\":null}\n"
          "{\"prompt\":\"<s>\",\"answer\":\"\"}", tokenizer, &dataset);
    assert_int_equal(dataset.count, 3);
    assert_int_equal(dataset.longest, 4);
    check_row(&dataset.prompts[0], (uint32_t[]){9, 2, 0}, 3, "17");
    check_row(&dataset.prompts[1], (uint32_t[]){7, 999, 0, 1}, 4, NULL);
    check_row(&dataset.prompts[2], (uint32_t[]){9, 3, 4, 5}, 4, NULL);
    lb_dataset_free(&dataset);
    lb_dataset_free(&dataset);
    lb_dataset_free(NULL);
    lb_tokenizer_free(tokenizer);
}

/* Text gets the end token and no begin token; ids stay as they are. */
static void test_completions(void **state)
{
    (void)state;
    lb_tokenizer *tokenizer = make_tokenizer();
    lb_dataset dataset = {0};
    parse("{\"prompt\":\"a\",\"completion\":\"ab\"}\n"
          "{\"prompt_ids\":[7],\"completion_ids\":[1,2,3,4],\"answer\":\"5\"}\n"
          "{\"prompt\":\"ab\",\"completion\":null}", tokenizer, &dataset);
    assert_int_equal(dataset.longest, 2);
    assert_int_equal(dataset.longest_row, 5);
    check_row(&dataset.prompts[0], (uint32_t[]){9, 0}, 2, NULL);
    assert_int_equal(dataset.prompts[0].completion_count, 2);
    assert_memory_equal(dataset.prompts[0].completion, ((uint32_t[]){2, END}), 8);
    check_row(&dataset.prompts[1], (uint32_t[]){7}, 1, "5");
    assert_int_equal(dataset.prompts[1].completion_count, 4);
    assert_memory_equal(dataset.prompts[1].completion, ((uint32_t[]){1, 2, 3, 4}), 16);
    check_row(&dataset.prompts[2], (uint32_t[]){9, 2}, 2, NULL);
    assert_int_equal(dataset.prompts[2].completion_count, 0);
    lb_dataset_free(&dataset);
    lb_err err = {0};
    lb_dataset_options options = {.tokenizer = tokenizer, .vocab = VOCAB, .end = END,
                                  .completions = true};
    const char *bare = "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"a\"}";
    assert_int_equal(lb_dataset_parse_jsonl(bare, strlen(bare), &options, &dataset, &err),
                     LB_EINVAL);
    assert_string_equal(err.field, "completion");
    assert_non_null(strstr(err.message, "line 2"));
    lb_tokenizer_free(tokenizer);
}

static void test_row_errors(void **state)
{
    static const struct {
        const char *text, *line, *field;
        bool tokenizer;
    } rows[] = {
        {"", "no rows", "", true},
        {"\n \n", "no rows", "", true},
        {"{\"prompt\":\"a\"}\n{", "line 2", "", true},
        {"{\"prompt\":\"a\"}\n\n[]", "line 3", "", true},
        {"{}", "line 1", "prompt", true},
        {"{\"prompt\":null}", "line 1", "prompt", true},
        {"{\"prompt\":3}", "line 1", "prompt", true},
        {"{\"prompt\":\"a\"}", "line 1", "prompt", false},
        {"{\"prompt\":\"a\",\"prompt_ids\":[1]}", "line 1", "prompt", true},
        {"{\"prompt_ids\":[1]}\n{\"prompt_ids\":[]}", "line 2", "prompt_ids", true},
        {"{\"prompt_ids\":3}", "line 1", "prompt_ids", true},
        {"{\"prompt_ids\":[1,-1]}", "line 1", "prompt_ids", true},
        {"{\"prompt_ids\":[1.5]}", "line 1", "prompt_ids", true},
        {"{\"prompt_ids\":[4294967296]}", "line 1", "prompt_ids", true},
        {"{\"prompt_ids\":[1000]}", "below", "prompt_ids", true},
        {"{\"prompt\":\"a\",\"answer\":12}", "line 1", "answer", true},
        {"{\"prompt\":\"a\",\"answer\":\"1\\u0000\"}", "line 1", "answer", true},
        {"{\"prompt\":\"\"}", "line 1", "prompt", false},
        {"{\"prompt\":\"a\",\"completion\":3}", "line 1", "completion", true},
        {"{\"prompt\":\"a\",\"completion\":\"\"}", "line 1", "completion", true},
        {"{\"prompt\":\"a\",\"completion_ids\":[1000]}", "below", "completion_ids", true},
        {"{\"prompt\":\"a\",\"completion\":\"b\",\"completion_ids\":[1]}", "line 1",
         "completion", true},
    };
    (void)state;
    lb_tokenizer *tokenizer = make_tokenizer();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        lb_dataset dataset = {0};
        lb_err err = {0};
        lb_dataset_options options = {.tokenizer = rows[i].tokenizer ? tokenizer : NULL,
                                      .vocab = VOCAB, .end = END};
        lb_status status = lb_dataset_parse_jsonl(rows[i].text, strlen(rows[i].text), &options,
                                                  &dataset, &err);
        if (status == LB_OK || status != err.status || dataset.count != 0 ||
            strstr(err.message, rows[i].line) == NULL || strcmp(err.field, rows[i].field) != 0)
            fail_msg("row %zu: status %d, field \"%s\", message \"%s\"", i, (int)status, err.field,
                     err.message);
        options = (lb_dataset_options){.vocab = 1, .end = END};
        assert_int_equal(lb_dataset_parse_jsonl(rows[i].text, strlen(rows[i].text), &options,
                                                &dataset, NULL) != LB_OK, true);
    }
    lb_tokenizer_free(tokenizer);
}

static void test_long_line(void **state)
{
    (void)state;
    static const char good[] = "{\"prompt_ids\":[1]}\n";
    size_t length = strlen(good) + LB_DATASET_LINE_MAX + 1;
    char *text = malloc(length);
    lb_dataset dataset = {0};
    lb_err err = {0};
    assert_non_null(text);
    memset(text, 'x', length);
    memcpy(text, good, strlen(good));
    lb_dataset_options options = {.vocab = VOCAB, .end = LB_DATASET_NO_END};
    assert_int_equal(lb_dataset_parse_jsonl(text, length, &options, &dataset, &err), LB_ETOOBIG);
    assert_non_null(strstr(err.message, "line 2"));
    free(text);
}

/* ---- the frame ---- */

static void make_frame(lb_buf *frame)
{
    lb_dataset dataset = {0};
    parse("{\"prompt_ids\":[1,2,3],\"answer\":\"\\u00e9\"}\n"
          "{\"prompt_ids\":[4],\"completion_ids\":[11,12]}\n"
          "{\"prompt_ids\":[5,6],\"answer\":\"7\"}", NULL, &dataset);
    assert_int_equal(lb_dataset_encode(&dataset, frame, NULL), LB_OK);
    lb_dataset_free(&dataset);
}

static void test_frame(void **state)
{
    (void)state;
    lb_buf frame = {0}, again = {0};
    lb_dataset dataset = {0};
    lb_err err = {0};
    make_frame(&frame);
    assert_int_equal(frame.length, 12 + 3 * 12 + 8 * 4 + 3);
    assert_memory_equal(frame.data, "LBPR\2\0\0\0\3\0\0\0\3\0\0\0\0\0\0\0\2\0\0\0", 24);
    assert_int_equal(lb_dataset_decode(frame.data, frame.length, &dataset, &err), LB_OK);
    assert_int_equal(dataset.count, 3);
    assert_int_equal(dataset.longest, 3);
    check_row(&dataset.prompts[0], (uint32_t[]){1, 2, 3}, 3, "\xc3\xa9");
    check_row(&dataset.prompts[1], (uint32_t[]){4}, 1, NULL);
    assert_int_equal(dataset.prompts[1].completion_count, 2);
    assert_memory_equal(dataset.prompts[1].completion, ((uint32_t[]){11, 12}), 8);
    check_row(&dataset.prompts[2], (uint32_t[]){5, 6}, 2, "7");
    assert_int_equal(lb_dataset_encode(&dataset, &again, &err), LB_OK);
    assert_int_equal(again.length, frame.length);
    assert_memory_equal(again.data, frame.data, frame.length);
    lb_dataset_free(&dataset);
    lb_buf_free(&frame);
    lb_buf_free(&again);
}

static void test_frame_limits(void **state)
{
    (void)state;
    lb_dataset empty = {0};
    lb_buf small = {.limit = 20};
    lb_err err = {0};
    uint32_t tokens[] = {1, 2, 3};
    lb_prompt prompt = {.tokens = tokens, .count = 3};
    lb_dataset one = {.prompts = &prompt, .count = 1, .longest = 3};
    assert_int_equal(lb_dataset_encode(&empty, &small, &err), LB_EINVAL);
    assert_int_equal(lb_dataset_encode(&one, &small, &err), LB_ETOOBIG);
    lb_buf_free(&small);
}

/* A copy of the exact length lets the address sanitizer see a read past its end. */
static lb_status decode_copy(const uint8_t *frame, size_t length, lb_err *err)
{
    uint8_t *copy = malloc(length == 0 ? 1 : length);
    lb_dataset dataset = {0};
    assert_non_null(copy);
    memcpy(copy, frame, length);
    lb_status status = lb_dataset_decode(copy, length, &dataset, err);
    lb_dataset_free(&dataset);
    free(copy);
    return status;
}

static void test_truncated_frames(void **state)
{
    (void)state;
    lb_buf frame = {0};
    make_frame(&frame);
    for (size_t length = 0; length < frame.length; length++) {
        lb_err err = {0};
        assert_int_equal(decode_copy(frame.data, length, &err), LB_EDATA);
        assert_true(err.message[0] != '\0');
    }
    lb_buf_append(&frame, "x", 1);
    assert_int_equal(decode_copy(frame.data, frame.length, NULL), LB_EDATA);
    lb_buf_free(&frame);
}

static void test_frame_lies(void **state)
{
    static const struct {
        size_t offset;
        uint32_t value;
        const char *field;
    } rows[] = {
        {0, 0, "magic"},
        {4, 1, "version"},
        {4, 3, "version"},
        {4, 0x10002, "version"},
        {8, 0, "rows"},
        {8, UINT32_MAX, "rows"},
        {8, LB_DATASET_ROWS_MAX, "rows"},
        {8, 4, ""},
        {12, 0, "tokens"},
        {12, UINT32_MAX, "tokens"},
        {12, 0x40000003, "tokens"},
        {16, UINT32_MAX, "completion"},
        {16, 0x40000003, "completion"},
        {20, UINT32_MAX, "answer_bytes"},
        {20, LB_DATASET_LINE_MAX + 1, "answer_bytes"},
        {34, 0xc3a90000, "answer"},  /* the two bytes of its letter, swapped */
        {34, 0x00610000, "answer"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        lb_buf frame = {0};
        lb_err err = {0};
        make_frame(&frame);
        for (size_t byte = 0; byte < 4; byte++)
            frame.data[rows[i].offset + byte] = (uint8_t)(rows[i].value >> 8 * byte);
        lb_status status = decode_copy(frame.data, frame.length, &err);
        if (status == LB_OK || strcmp(err.field, rows[i].field) != 0)
            fail_msg("row %zu: status %d, field \"%s\", message \"%s\"", i, (int)status, err.field,
                     err.message);
        lb_buf_free(&frame);
    }
}

/* ---- grading ---- */

static void test_grade(void **state)
{
    static const struct {
        const char *text, *answer;
        bool right;
    } rows[] = {
        {"933", "933", true},          {"7+6=13;933", "933", true}, {"933 is it.", "933", true},
        {"0933", "933", true},         {"933", "00933", true},      {"933", "93", false},
        {"1933", "933", false},        {"", "933", false},          {"no digits", "933", false},
        {"933", "", false},            {"000", "0", false},         {"", "", false},
        {"933 1", "933", false},       {"-5", "5", true},           {"-5", "-5", false},
        {"x", "x", false},             {"933", NULL, false},        {"1 2", "1 2", false},
        {"\xd9\xa3", "3", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (lb_grade_exact_numeric(rows[i].text, strlen(rows[i].text), rows[i].answer) !=
            rows[i].right)
            fail_msg("\"%s\" for \"%s\"", rows[i].text, rows[i].answer);
    assert_true(lb_grade_exact_numeric("12345", 2, "12"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),         cmocka_unit_test(test_row_errors),
        cmocka_unit_test(test_completions),
        cmocka_unit_test(test_long_line),    cmocka_unit_test(test_frame),
        cmocka_unit_test(test_frame_limits), cmocka_unit_test(test_truncated_frames),
        cmocka_unit_test(test_frame_lies),   cmocka_unit_test(test_grade),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
