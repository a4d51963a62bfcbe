/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/chat_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD_MAX 64
#define DATE_LLAMA3_1 "26 Jul 2024"
#define NO_THOUGHT "<think>\n\n</think>\n\n"

typedef struct writer {
    const lb_chat *chat;
    const lb_chat_message *messages;
    size_t count;
    const lb_chat_options *options;
    lb_chat_text *out;
} writer;

static void put(writer *w, const char *text)
{
    lb_buf_puts(&w->out->text, text);
}

static void put_content(writer *w, lb_span text)
{
    lb_buf *buf = &w->out->text;
    if (text.length == 0)
        return;
    w->out->content[w->out->content_count++] = (lb_range){buf->length, buf->length + text.length};
    lb_buf_append(buf, text.data, text.length);
}

/* begin_turn is called where the learnt part of message i begins; end_turn where it ends. */
static void begin_turn(writer *w, size_t i)
{
    if (w->messages[i].role == LB_ROLE_ASSISTANT)
        w->out->turns[w->out->turn_count++] =
            (lb_chat_turn){.message = i, .text.begin = w->out->text.length};
}

static void end_turn(writer *w, size_t i)
{
    if (w->messages[i].role == LB_ROLE_ASSISTANT)
        w->out->turns[w->out->turn_count - 1].text.end = w->out->text.length;
}

static const char *role_name(lb_chat_role role)
{
    return role == LB_ROLE_SYSTEM ? "system" : role == LB_ROLE_USER ? "user" : "assistant";
}

/* ---- <|im_start|> ---- */

static void chatml_head(writer *w, const char *role)
{
    put(w, "<|im_start|>");
    put(w, role);
    put(w, "\n");
}

static void chatml_turn(writer *w, size_t i)
{
    chatml_head(w, role_name(w->messages[i].role));
    begin_turn(w, i);
    put_content(w, w->messages[i].content);
    put(w, "<|im_end|>");
    end_turn(w, i);
    put(w, "\n");
}

static void chatml(writer *w, const char *default_system)
{
    if (default_system != NULL && w->messages[0].role != LB_ROLE_SYSTEM) {
        chatml_head(w, "system");
        put(w, default_system);
        put(w, "<|im_end|>\n");
    }
    for (size_t i = 0; i < w->count; i++)
        chatml_turn(w, i);
    if (w->options->add_generation_prompt)
        chatml_head(w, "assistant");
}

static lb_status render_chatml(writer *w, lb_err *err)
{
    (void)err;
    chatml(w, NULL);
    return LB_OK;
}

static lb_status render_qwen2_5(writer *w, lb_err *err)
{
    (void)err;
    chatml(w, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.");
    return LB_OK;
}

static lb_status render_smollm2(writer *w, lb_err *err)
{
    (void)err;
    chatml(w, "You are a helpful AI assistant named SmolLM, trained by Hugging Face");
    return LB_OK;
}

/* ---- Qwen3 ---- */

static const char *find(lb_span text, const char *word)
{
    return text.length == 0 ? NULL : memmem(text.data, text.length, word, strlen(word));
}

static lb_span before_first(lb_span text, const char *word)
{
    const char *at = find(text, word);
    return at == NULL ? text : (lb_span){text.data, (size_t)(at - text.data)};
}

static lb_span after_last(lb_span text, const char *word)
{
    for (const char *at = find(text, word); at != NULL; at = find(text, word)) {
        const char *rest = at + strlen(word);
        text = (lb_span){rest, text.length - (size_t)(rest - text.data)};
    }
    return text;
}

static lb_span strip_newlines_left(lb_span text)
{
    while (text.length > 0 && text.data[0] == '\n')
        text = (lb_span){text.data + 1, text.length - 1};
    return text;
}

static lb_span strip_newlines_right(lb_span text)
{
    while (text.length > 0 && text.data[text.length - 1] == '\n')
        text.length--;
    return text;
}

static bool is_query(const lb_chat_message *message)
{
    static const char head[] = "<tool_response>", tail[] = "</tool_response>";
    const size_t head_length = sizeof head - 1, tail_length = sizeof tail - 1;
    lb_span text = message->content;
    if (message->role != LB_ROLE_USER)
        return false;
    return text.length < tail_length || memcmp(text.data, head, head_length) != 0 ||
           memcmp(text.data + text.length - tail_length, tail, tail_length) != 0;
}

static void qwen3_answer(writer *w, size_t i, bool after_query)
{
    lb_span content = w->messages[i].content, thought = w->messages[i].thought;
    if (thought.data == NULL) {
        thought = (lb_span){"", 0};
        if (find(content, "</think>") != NULL) {
            thought = strip_newlines_right(before_first(content, "</think>"));
            thought = strip_newlines_left(after_last(thought, "<think>"));
            content = strip_newlines_left(after_last(content, "</think>"));
        }
    }
    chatml_head(w, "assistant");
    /* The template asks whether there is a thought before it strips the newlines. */
    bool written = after_query && (i + 1 == w->count || thought.length > 0);
    thought = strip_newlines_left(strip_newlines_right(thought));
    bool given = written && thought.length == 0 && w->options->thinking == LB_THINKING_OFF;
    if (!given)
        begin_turn(w, i);
    if (written) {
        put(w, "<think>\n");
        put_content(w, thought);
        put(w, "\n</think>\n\n");
        content = strip_newlines_left(content);
    }
    if (given)
        begin_turn(w, i);
    put_content(w, content);
    put(w, "<|im_end|>");
    end_turn(w, i);
    put(w, "\n");
}

static lb_status render_qwen3(writer *w, lb_err *err)
{
    (void)err;
    size_t last_query = w->count;
    while (last_query > 0 && !is_query(&w->messages[last_query - 1]))
        last_query--;
    for (size_t i = 0; i < w->count; i++) {
        if (w->messages[i].role == LB_ROLE_ASSISTANT)
            qwen3_answer(w, i, last_query > 0 && i >= last_query);
        else
            chatml_turn(w, i);
    }
    if (w->options->add_generation_prompt) {
        chatml_head(w, "assistant");
        if (w->options->thinking == LB_THINKING_OFF)
            put(w, NO_THOUGHT);
    }
    return LB_OK;
}

/* ---- Llama 3 ---- */

static void llama_head(writer *w, const char *role)
{
    put(w, "<|start_header_id|>");
    put(w, role);
    put(w, "<|end_header_id|>\n\n");
}

static void llama_turn(writer *w, size_t i)
{
    llama_head(w, role_name(w->messages[i].role));
    begin_turn(w, i);
    put_content(w, lb_chat_trim(w->messages[i].content));
    put(w, "<|eot_id|>");
    end_turn(w, i);
}

static void llama(writer *w, size_t first, bool ask)
{
    for (size_t i = first; i < w->count; i++)
        llama_turn(w, i);
    if (ask)
        llama_head(w, "assistant");
}

static lb_status render_llama3(writer *w, lb_err *err)
{
    (void)err;
    put(w, w->chat->bos);
    llama(w, 0, w->options->add_generation_prompt);
    return LB_OK;
}

static lb_status render_llama3_first(writer *w, lb_err *err)
{
    (void)err;
    put(w, w->chat->bos);
    llama(w, 0, true);
    return LB_OK;
}

static lb_status llama_dated(writer *w, const char *date, lb_err *err)
{
    size_t length = strlen(date);
    if (length > LB_CHAT_DATE_MAX || lb_utf8_valid_prefix(date, length) != length)
        return lb_fail(err, LB_EINVAL, "date", "is longer than %u bytes or not UTF-8",
                       LB_CHAT_DATE_MAX);
    bool system = w->messages[0].role == LB_ROLE_SYSTEM;
    put(w, w->chat->bos);
    llama_head(w, "system");
    put(w, "Cutting Knowledge Date: December 2023\nToday Date: ");
    put_content(w, (lb_span){date, length});
    put(w, "\n\n");
    if (system)
        put_content(w, lb_chat_trim(w->messages[0].content));
    put(w, "<|eot_id|>");
    llama(w, system ? 1 : 0, w->options->add_generation_prompt);
    return LB_OK;
}

static lb_status render_llama3_1(writer *w, lb_err *err)
{
    return llama_dated(w, w->options->date != NULL ? w->options->date : DATE_LLAMA3_1, err);
}

static lb_status render_llama3_2(writer *w, lb_err *err)
{
    if (w->options->date == NULL)
        return lb_fail(err, LB_EINVAL, "date",
                       "is needed: the template of Llama 3.2 writes today's date; give one, such "
                       "as \"" DATE_LLAMA3_1 "\", so that the text stays the same tomorrow");
    return llama_dated(w, w->options->date, err);
}

/* ---- Mistral ---- */

static lb_status check_mistral(const writer *w, size_t first, lb_err *err)
{
    char field[FIELD_MAX];
    for (size_t i = first; i < w->count; i++) {
        lb_chat_role due = (i - first) % 2 == 0 ? LB_ROLE_USER : LB_ROLE_ASSISTANT;
        if (w->messages[i].role == due)
            continue;
        snprintf(field, sizeof field, "messages[%zu].role", i);
        return lb_fail(err, LB_EINVAL, field,
                       "is \"%s\" where \"%s\" is due: after an optional system message, user and "
                       "assistant take turns", role_name(w->messages[i].role), role_name(due));
    }
    return LB_OK;
}

/* The system message is written into the last turn, if that is the user's, and nowhere else. */
static lb_status render_mistral_v3(writer *w, lb_err *err)
{
    const lb_chat_message *messages = w->messages;
    size_t first = messages[0].role == LB_ROLE_SYSTEM ? 1 : 0;
    lb_status status = check_mistral(w, first, err);
    if (status != LB_OK)
        return status;
    put(w, w->chat->bos);
    for (size_t i = first; i < w->count; i++) {
        if (messages[i].role == LB_ROLE_USER) {
            put(w, "[INST] ");
            if (first == 1 && i + 1 == w->count) {
                put_content(w, messages[0].content);
                put(w, "\n\n");
            }
            put_content(w, messages[i].content);
            put(w, "[/INST]");
            continue;
        }
        begin_turn(w, i);
        put(w, " ");
        put_content(w, lb_chat_trim(messages[i].content));
        put(w, w->chat->eos);
        end_turn(w, i);
    }
    return LB_OK;
}

/* ---- all of them ---- */

static lb_status (*const renderers[LB_CHAT_KINDS])(writer *w, lb_err *err) = {
    [LB_CHAT_CHATML] = render_chatml,
    [LB_CHAT_QWEN2_5] = render_qwen2_5,
    [LB_CHAT_QWEN3] = render_qwen3,
    [LB_CHAT_SMOLLM2] = render_smollm2,
    [LB_CHAT_LLAMA3] = render_llama3,
    [LB_CHAT_LLAMA3_FIRST] = render_llama3_first,
    [LB_CHAT_LLAMA3_1] = render_llama3_1,
    [LB_CHAT_LLAMA3_2] = render_llama3_2,
    [LB_CHAT_MISTRAL_V3] = render_mistral_v3,
};

lb_status lb_chat_write(const lb_chat *chat, const lb_chat_message *messages, size_t count,
                        const lb_chat_options *options, lb_chat_text *out, lb_err *err)
{
    static const lb_chat_options none = {0};
    /* A turn writes at most two contents, a thought and an answer; a date adds one. */
    out->content = calloc(2 * count + 1, sizeof *out->content);
    out->turns = calloc(count, sizeof *out->turns);
    if (out->content == NULL || out->turns == NULL)
        return lb_fail(err, LB_ENOMEM, "messages", "out of memory for %zu messages", count);
    out->text.limit = LB_CHAT_TEXT_MAX;
    writer w = {.chat = chat, .messages = messages, .count = count, .out = out,
                .options = options != NULL ? options : &none};
    lb_status status = renderers[chat->kind](&w, err);
    if (status != LB_OK)
        return status;
    if (out->text.status == LB_ETOOBIG)
        return lb_fail(err, LB_ETOOBIG, "messages", "the conversation is longer than %u bytes",
                       LB_CHAT_TEXT_MAX);
    if (out->text.status != LB_OK)
        return lb_fail(err, out->text.status, "messages", "out of memory for the conversation");
    return LB_OK;
}

lb_status lb_chat_render(const lb_chat *chat, const lb_json *messages,
                         const lb_chat_options *options, lb_chat_text *out, lb_err *err)
{
    lb_chat_message *list = NULL;
    size_t count = 0;
    lb_status status = lb_chat_read(messages, chat->kind == LB_CHAT_QWEN3, &list, &count, err);
    if (status == LB_OK)
        status = lb_chat_write(chat, list, count, options, out, err);
    free(list);
    return status;
}

void lb_chat_text_free(lb_chat_text *text)
{
    if (text == NULL)
        return;
    lb_buf_free(&text->text);
    free(text->content);
    free(text->turns);
    *text = (lb_chat_text){0};
}
