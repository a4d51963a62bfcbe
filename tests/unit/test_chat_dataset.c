/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of messages in a data set.
 */
#include "common/base/buf.h"
#include "common/text/chat.h"
#include "common/text/dataset.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define VOCAB 100u
#define U "{\"role\":\"user\",\"content\":\"q\"}"
#define A "{\"role\":\"assistant\",\"content\":\"r\"}"
#define S "{\"role\":\"system\",\"content\":\"s\"}"
#define START "{\"id\":90,\"content\":\"<|im_start|>\",\"special\":true}"
#define END "{\"id\":91,\"content\":\"<|im_end|>\",\"special\":true}"
#define THOUGHT "{\"id\":92,\"content\":\"<think>\"},{\"id\":93,\"content\":\"</think>\"}"

/* a to z, a newline, and the tokens of the template. */
static lb_tokenizer *make_tokenizer(void)
{
    lb_buf json = {0};
    lb_err err = {0};
    lb_tokenizer *tokenizer = NULL;
    lb_buf_puts(&json, "{\"added_tokens\":[" START "," END "," THOUGHT "],"
                "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                "\"use_regex\":false},\"model\":{\"vocab\":{");
    for (int c = 'a'; c <= 'z'; c++)
        lb_buf_printf(&json, "\"%c\":%d,", c, c - 'a');
    lb_buf_puts(&json, "\"\\u010a\":26},\"merges\":[]}}");
    if (lb_tokenizer_parse((const char *)json.data, json.length, &tokenizer, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    lb_buf_free(&json);
    return tokenizer;
}

static void check_text(const lb_tokenizer *tokenizer, const uint32_t *tokens, uint32_t count,
                       const char *want)
{
    lb_buf text = {0};
    lb_tokenizer_decode(tokenizer, tokens, count, false, &text);
    lb_buf_append(&text, "", 1);
    assert_string_equal((const char *)text.data, want);
    lb_buf_free(&text);
}

static const struct {
    const char *row, *prompt, *completion;
} rows[] = {
    {"{\"messages\":[" U "],\"answer\":\"7\"}",
     "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", ""},
    {"{\"messages\":[" S "," U "," A "]}",
     "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
     "<think>\n\n</think>\n\nr<|im_end|>"},
    {"{\"messages\":[" U "," A "," U "],\"prompt\":null,\"tools\":null}",
     "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nr<|im_end|>\n"
     "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", ""},
    {"{\"messages\":[" U "," A "],\"chat_template_kwargs\":{\"enable_thinking\":false}}",
     "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
     "r<|im_end|>"},
    {"{\"messages\":[" U "],\"chat_template_kwargs\":{}}",
     "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", ""},
    {"{\"prompt\":\"abc\",\"messages\":null}", "abc", ""},
};

static void test_rows(void **state)
{
    (void)state;
    lb_tokenizer *tokenizer = make_tokenizer();
    lb_chat chat = lb_chat_of(LB_CHAT_QWEN3);
    lb_dataset_options options = {.tokenizer = tokenizer, .vocab = VOCAB, .chat = &chat,
                                  .end = LB_DATASET_NO_END};
    lb_dataset dataset = {0};
    lb_buf text = {0};
    lb_err err = {0};
    const size_t count = sizeof rows / sizeof rows[0];
    for (size_t i = 0; i < count; i++)
        lb_buf_printf(&text, "%s\n", rows[i].row);
    if (lb_dataset_parse_jsonl((char *)text.data, text.length, &options, &dataset, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    assert_int_equal(dataset.count, count);
    for (size_t i = 0; i < count; i++) {
        const lb_prompt *row = &dataset.prompts[i];
        check_text(tokenizer, row->tokens, row->count, rows[i].prompt);
        check_text(tokenizer, row->completion, row->completion_count, rows[i].completion);
    }
    assert_string_equal(dataset.prompts[0].answer, "7");
    lb_dataset_free(&dataset);
    lb_buf_free(&text);
    lb_tokenizer_free(tokenizer);
}

static const struct {
    const char *row, *field, *message;
    lb_status status;
    bool completions;
} refusals[] = {
    {"{\"messages\":3}", "messages", "line 2", LB_EINVAL, false},
    {"{\"messages\":[]}", "messages", "line 2", LB_EINVAL, false},
    {"{\"messages\":[" U "," U ",{\"role\":\"x\",\"content\":\"\"}]}", "messages[2].role",
     "line 2", LB_EINVAL, false},
    {"{\"messages\":[" U "],\"prompt\":\"a\"}", "prompt", "beside", LB_EINVAL, false},
    {"{\"messages\":[" U "],\"prompt_ids\":[1]}", "prompt_ids", "beside", LB_EINVAL, false},
    {"{\"messages\":[" U "],\"completion\":\"a\"}", "completion", "beside", LB_EINVAL, false},
    {"{\"messages\":[" U "],\"completion_ids\":[1]}", "completion_ids", "beside", LB_EINVAL, false},
    {"{\"messages\":[" U "," S "]}", "messages", "system", LB_EINVAL, false},
    {"{\"messages\":[" A "]}", "messages", "nothing before", LB_EINVAL, false},
    {"{\"messages\":[" U "]}", "messages", "line 2", LB_EINVAL, true},
    {"{\"messages\":[" U "],\"tools\":[]}", "tools", "line 2", LB_EUNSUPPORTED, false},
    {"{\"messages\":[" U "],\"chat_template_kwargs\":1}", "chat_template_kwargs", "line 2",
     LB_EINVAL, false},
    {"{\"messages\":[" U "],\"chat_template_kwargs\":{\"x\":1}}", "chat_template_kwargs",
     "enable_thinking", LB_EUNSUPPORTED, false},
    {"{\"messages\":[" U "],\"chat_template_kwargs\":{\"enable_thinking\":1}}",
     "chat_template_kwargs", "enable_thinking", LB_EUNSUPPORTED, false},
    {"{\"messages\":[" U ",{\"role\":\"assistant\",\"content\":\"<think>a</think>b\"}],"
     "\"chat_template_kwargs\":{\"enable_thinking\":false}}", "messages", "switched off",
     LB_EINVAL, false},
};

static void test_refusals(void **state)
{
    (void)state;
    lb_tokenizer *tokenizer = make_tokenizer();
    lb_chat chat = lb_chat_of(LB_CHAT_QWEN3);
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        lb_dataset_options options = {.tokenizer = tokenizer, .vocab = VOCAB, .chat = &chat,
                                      .end = LB_DATASET_NO_END,
                                      .completions = refusals[i].completions};
        char text[512];
        lb_dataset dataset = {0};
        lb_err err = {0};
        snprintf(text, sizeof text, "{\"messages\":[" U "," A "]}\n%s", refusals[i].row);
        lb_status status = lb_dataset_parse_jsonl(text, strlen(text), &options, &dataset, &err);
        if (status != refusals[i].status || strcmp(err.field, refusals[i].field) != 0 ||
            strstr(err.message, refusals[i].message) == NULL || !strstr(err.message, "line 2"))
            fail_msg("%s: %s of %s: %s", refusals[i].row, lb_status_name(status), err.field,
                     err.message);
    }
    lb_tokenizer_free(tokenizer);
}

/* Without a template, rows that need none are read all the same. */
static void test_without_template(void **state)
{
    (void)state;
    static const char plain[] = "{\"prompt\":\"a\"}", chat_row[] = "{\"messages\":[" U "]}";
    lb_tokenizer *tokenizer = make_tokenizer();
    lb_chat chat = lb_chat_of(LB_CHAT_CHATML);
    lb_err why = {.status = LB_EUNSUPPORTED, .message = "the digest is new"}, err = {0};
    lb_dataset_options options = {.tokenizer = tokenizer, .vocab = VOCAB, .no_chat = &why,
                                  .end = LB_DATASET_NO_END};
    lb_dataset dataset = {0};
    assert_int_equal(lb_dataset_parse_jsonl(plain, strlen(plain), &options, &dataset, &err),
                     LB_OK);
    lb_dataset_free(&dataset);
    assert_int_equal(lb_dataset_parse_jsonl(chat_row, strlen(chat_row), &options, &dataset, &err),
                     LB_EUNSUPPORTED);
    assert_string_equal(err.field, "messages");
    assert_non_null(strstr(err.message, "the digest is new"));
    options.no_chat = NULL;
    assert_int_equal(lb_dataset_parse_jsonl(chat_row, strlen(chat_row), &options, &dataset, &err),
                     LB_EUNSUPPORTED);
    options.chat = &chat;
    options.tokenizer = NULL;
    assert_int_equal(lb_dataset_parse_jsonl(chat_row, strlen(chat_row), &options, &dataset, &err),
                     LB_EINVAL);
    options.tokenizer = tokenizer;
    options.vocab = 91;
    assert_int_equal(lb_dataset_parse_jsonl(chat_row, strlen(chat_row), &options, &dataset, &err),
                     LB_EINVAL);
    assert_non_null(strstr(err.message, "not below"));
    lb_tokenizer_free(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_without_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
