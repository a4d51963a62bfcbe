/* SPDX-License-Identifier: Apache-2.0
 *
 * The first byte chooses the template, the generation prompt and thinking; the rest is the JSON of
 * the messages. What is rendered must have its ranges in order and within the text.
 */
#include "common/base/json.h"
#include "common/text/chat.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

static void check(const lb_chat_text *text)
{
    size_t at = 0;
    for (size_t i = 0; i < text->content_count; i++) {
        if (text->content[i].begin < at || text->content[i].end <= text->content[i].begin)
            abort();
        at = text->content[i].end;
    }
    if (at > text->text.length)
        abort();
    at = 0;
    for (size_t i = 0; i < text->turn_count; i++) {
        if (text->turns[i].text.begin < at || text->turns[i].text.end < text->turns[i].text.begin)
            abort();
        at = text->turns[i].text.end;
    }
    if (at > text->text.length)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    lb_json *messages = NULL;
    lb_chat_text text = {0};
    lb_err err = {0};
    if (length == 0 || lb_json_parse((const char *)data + 1, length - 1, &messages, &err) != LB_OK)
        return 0;
    lb_chat chat = lb_chat_of((lb_chat_kind)(data[0] / 6 % LB_CHAT_KINDS));
    lb_chat_options options = {
        .add_generation_prompt = data[0] % 2 != 0,
        .thinking = (lb_chat_thinking)(data[0] / 2 % 3),
        .date = "26 Jul 2024",
    };
    if (lb_chat_render(&chat, messages, &options, &text, &err) == LB_OK)
        check(&text);
    lb_chat_text_free(&text);
    lb_json_free(messages);
    return 0;
}
