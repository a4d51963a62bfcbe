/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of a data set that are conversations.
 */
#include "common/text/chat.h"
#include "common/text/dataset_impl.h"
#include "common/text/tokenizer_impl.h"

#include <stdio.h>
#include <string.h>

static lb_status read_thinking(void *arg, const char *key, const lb_json *value)
{
    lb_chat_options *options = arg;
    if (strcmp(key, "enable_thinking") != 0 || !lb_json_is_bool(value))
        return LB_EUNSUPPORTED;
    options->thinking = lb_json_bool(value) ? LB_THINKING_ON : LB_THINKING_OFF;
    return LB_OK;
}

static bool is_absent(const lb_json *node)
{
    return node == NULL || lb_json_is_null(node);
}

/* What the row says beside its messages about how to render them. */
static lb_status read_row_options(const lb_json *row, lb_chat_options *options, lb_err *err)
{
    static const char *const others[] = {"prompt", "prompt_ids", "completion", "completion_ids"};
    const lb_json *kwargs = lb_json_get(row, "chat_template_kwargs");
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (!is_absent(lb_json_get(row, others[i])))
            return lb_fail(err, LB_EINVAL, others[i], "stands beside messages, which hold both "
                           "what is asked and the answer");
    }
    if (!is_absent(lb_json_get(row, "tools")))
        return lb_fail(err, LB_EUNSUPPORTED, "tools", "are not supported; give the rendered text "
                       "as \"prompt\"");
    if (is_absent(kwargs))
        return LB_OK;
    if (!lb_json_is_object(kwargs))
        return lb_fail(err, LB_EINVAL, "chat_template_kwargs", "is not an object");
    if (lb_json_each(kwargs, read_thinking, options) != LB_OK)
        return lb_fail(err, LB_EUNSUPPORTED, "chat_template_kwargs",
                       "can only have enable_thinking, true or false");
    return LB_OK;
}

static lb_status check_options(const lb_dataset_options *options, lb_err *err)
{
    if (options->tokenizer == NULL)
        return lb_fail(err, LB_EINVAL, "messages", "are text, and there is no tokenizer; give "
                       "prompt_ids");
    if (options->chat == NULL && options->no_chat != NULL)
        return lb_fail(err, LB_EUNSUPPORTED, "messages", "%s", options->no_chat->message);
    if (options->chat == NULL)
        return lb_fail(err, LB_EUNSUPPORTED, "messages", "there is no chat template");
    return LB_OK;
}

static bool ends_with_system(const lb_json *messages)
{
    size_t count = lb_json_is_array(messages) ? lb_json_array_size(messages) : 0;
    const lb_json *last = count == 0 ? NULL : lb_json_at(messages, count - 1);
    const char *role = lb_json_string(lb_json_get(last, "role"));
    return role != NULL && strcmp(role, "system") == 0;
}

lb_status lb_dataset_read_messages(const lb_dataset_options *options, const lb_json *row,
                                   lb_tokens *tokens, size_t *completion, lb_err *err)
{
    const lb_json *messages = lb_json_get(row, "messages");
    lb_chat_options chat_options = options->chat_options;
    lb_tokens answer = {0};
    lb_status status = check_options(options, err);
    if (status == LB_OK)
        status = read_row_options(row, &chat_options, err);
    if (status == LB_OK && ends_with_system(messages))
        status = lb_fail(err, LB_EINVAL, "messages", "end with a system message, which asks for "
                         "nothing and answers nothing");
    if (status == LB_OK)
        status = lb_chat_encode(options->chat, options->tokenizer, messages, &chat_options, tokens,
                                &answer, err);
    size_t count = tokens->count;
    for (size_t i = 0; status == LB_OK && i < answer.count; i++) {
        if (!lb_tokens_push(tokens, answer.ids[i]))
            status = lb_fail(err, LB_ENOMEM, "messages", "out of memory for tokens");
    }
    if (status == LB_OK && answer.count == 0 && options->completions)
        status = lb_fail(err, LB_EINVAL, "messages", "do not end with an answer of the assistant");
    if (status == LB_OK)
        *completion = count;
    lb_tokens_free(&answer);
    return status;
}
