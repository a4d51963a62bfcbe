/* SPDX-License-Identifier: Apache-2.0
 *
 * Every conversation of the recorded vectors, as jinja2 rendered it through Transformers.
 */
#include "common/base/json.h"
#include "common/io/file.h"
#include "common/text/chat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define VECTORS "tests/golden/chat_vectors.json"
#define VECTORS_BYTES_MAX (16u << 20)
#define CASES_MIN 30u

static lb_chat_options options_of(const lb_json *row)
{
    const lb_json *thinking = lb_json_get(row, "enable_thinking");
    lb_chat_options options = {
        .add_generation_prompt = lb_json_bool(lb_json_get(row, "add_generation_prompt")),
        .date = lb_json_string(lb_json_get(row, "date")),
    };
    if (thinking != NULL)
        options.thinking = lb_json_bool(thinking) ? LB_THINKING_ON : LB_THINKING_OFF;
    return options;
}

/* Content ranges are ascending and within the text, and so are the turns of the assistant, each
 * of which ends with the token that ends it. */
static void check_ranges(const lb_chat *chat, const lb_json *messages, const lb_chat_text *text)
{
    size_t at = 0, answers = 0, tail = strlen(chat->eos);
    for (size_t i = 0; i < text->content_count; i++) {
        assert_true(text->content[i].begin >= at);
        assert_true(text->content[i].end > text->content[i].begin);
        at = text->content[i].end;
    }
    assert_true(at <= text->text.length);
    at = 0;
    for (size_t i = 0; i < lb_json_array_size(messages); i++) {
        const lb_json *message = lb_json_at(messages, i);
        if (strcmp(lb_json_string(lb_json_get(message, "role")), "assistant") != 0)
            continue;
        const lb_chat_turn *turn = &text->turns[answers++];
        assert_int_equal(turn->message, i);
        assert_true(turn->text.begin >= at);
        assert_true(turn->text.end >= turn->text.begin + tail);
        assert_true(turn->text.end <= text->text.length);
        assert_memory_equal(text->text.data + turn->text.end - tail, chat->eos, tail);
        at = turn->text.end;
    }
    assert_int_equal(answers, text->turn_count);
}

static void check_case(const lb_chat *chat, const lb_json *row)
{
    const lb_json *messages = lb_json_get(row, "messages"), *want = lb_json_get(row, "text");
    lb_chat_options options = options_of(row);
    lb_chat_text text = {0};
    lb_err err = {0};
    lb_status status = lb_chat_render(chat, messages, &options, &text, &err);
    if (lb_json_is_null(want)) {
        assert_int_equal(status, LB_EINVAL);
        assert_memory_equal(err.field, "messages[", strlen("messages["));
        lb_chat_text_free(&text);
        return;
    }
    assert_int_equal(status, LB_OK);
    if (text.text.length != lb_json_string_length(want) ||
        memcmp(text.text.data, lb_json_string(want), text.text.length) != 0)
        fail_msg("%s:\n%s\nis not\n%s", lb_chat_name(chat->kind), (char *)text.text.data,
                 lb_json_string(want));
    check_ranges(chat, messages, &text);
    lb_chat_text_free(&text);
}

static void check_family(const lb_json *family)
{
    const lb_json *cases = lb_json_get(family, "cases"), *digests = lb_json_get(family, "digests");
    lb_chat_kind kind, found;
    lb_err err = {0};
    assert_int_equal(lb_chat_parse_name(lb_json_string(lb_json_get(family, "name")), &kind, &err),
                     LB_OK);
    assert_true(lb_json_array_size(digests) > 0);
    for (size_t i = 0; i < lb_json_array_size(digests); i++) {
        assert_true(lb_chat_find_digest(lb_json_string(lb_json_at(digests, i)), &found));
        assert_int_equal(found, kind);
    }
    lb_chat chat = lb_chat_of(kind);
    assert_true(lb_json_array_size(cases) >= CASES_MIN);
    for (size_t i = 0; i < lb_json_array_size(cases); i++)
        check_case(&chat, lb_json_at(cases, i));
}

static void test_vectors(void **state)
{
    (void)state;
    lb_buf text = {0};
    lb_json *root = NULL;
    lb_err err = {0};
    assert_int_equal(lb_file_read(VECTORS, VECTORS_BYTES_MAX, &text, &err), LB_OK);
    assert_int_equal(lb_json_parse((const char *)text.data, text.length, &root, &err), LB_OK);
    const lb_json *families = lb_json_get(root, "families");
    assert_int_equal(lb_json_array_size(families), LB_CHAT_KINDS);
    for (size_t i = 0; i < lb_json_array_size(families); i++)
        check_family(lb_json_at(families, i));
    lb_json_free(root);
    lb_buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
