/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/chat_impl.h"

#include <stdlib.h>
#include <string.h>

/* The tokens of a part of a rendered text, with the content ranges cut to it. */
static lb_status encode_part(const lb_tokenizer *tokenizer, const lb_chat_text *text, lb_range part,
                             lb_tokens *out, lb_err *err)
{
    lb_range *content = calloc(text->content_count + 1, sizeof *content);
    size_t count = 0;
    if (content == NULL)
        return lb_fail(err, LB_ENOMEM, "messages", "out of memory for a conversation");
    for (size_t i = 0; i < text->content_count; i++) {
        lb_range range = text->content[i];
        if (range.begin >= part.begin && range.end <= part.end)
            content[count++] = (lb_range){range.begin - part.begin, range.end - part.begin};
    }
    lb_status status = lb_tokenizer_encode_chat(tokenizer, (char *)text->text.data + part.begin,
                                                part.end - part.begin, content, count, out, err);
    free(content);
    return status;
}

/* What was asked must be what the answer is given to. Mistral's system message is the exception:
 * it is written into the last turn, which an answer that follows is not. */
static lb_status check_prefix(const lb_chat *chat, const lb_chat_text *prompt,
                              const lb_chat_text *whole, size_t begin, lb_err *err)
{
    if (chat->kind == LB_CHAT_MISTRAL_V3 ||
        (prompt->text.length == begin &&
         memcmp(prompt->text.data, whole->text.data, begin) == 0))
        return LB_OK;
    return lb_fail(err, LB_EINVAL, "messages", "the prompt for the last answer is not what comes "
                   "before it: it has a thought, and thinking is switched off");
}

static lb_status encode_answer(const lb_chat *chat, const lb_tokenizer *tokenizer,
                               const lb_chat_message *list, size_t count,
                               const lb_chat_options *options, const lb_chat_text *prompt,
                               lb_tokens *completion, lb_err *err)
{
    lb_chat_text whole = {0};
    lb_chat_options whole_options = *options;
    whole_options.add_generation_prompt = false;
    lb_status status = lb_chat_write(chat, list, count, &whole_options, &whole, err);
    if (status == LB_OK) {
        lb_range answer = whole.turns[whole.turn_count - 1].text;
        status = check_prefix(chat, prompt, &whole, answer.begin, err);
        if (status == LB_OK)
            status = encode_part(tokenizer, &whole, answer, completion, err);
    }
    lb_chat_text_free(&whole);
    return status;
}

lb_status lb_chat_encode(const lb_chat *chat, const lb_tokenizer *tokenizer,
                         const lb_json *messages, const lb_chat_options *options,
                         lb_tokens *prompt, lb_tokens *completion, lb_err *err)
{
    lb_chat_options ask = {0};
    lb_chat_message *list = NULL;
    lb_chat_text text = {0};
    size_t count = 0, prompt_count = prompt->count, completion_count = completion->count;
    if (options != NULL)
        ask = *options;
    ask.add_generation_prompt = true;
    lb_status status = lb_chat_read(messages, chat->kind == LB_CHAT_QWEN3, &list, &count, err);
    if (status != LB_OK)
        return status;
    bool answered = list[count - 1].role == LB_ROLE_ASSISTANT;
    if (answered && count == 1)
        status = lb_fail(err, LB_EINVAL, "messages", "has an answer and nothing before it");
    if (status == LB_OK)
        status = lb_chat_write(chat, list, answered ? count - 1 : count, &ask, &text, err);
    if (status == LB_OK && answered)
        status = encode_answer(chat, tokenizer, list, count, &ask, &text, completion, err);
    if (status == LB_OK)
        status = encode_part(tokenizer, &text, (lb_range){0, text.text.length}, prompt, err);
    if (status != LB_OK) {
        prompt->count = prompt_count;
        completion->count = completion_count;
    }
    lb_chat_text_free(&text);
    free(list);
    return status;
}
