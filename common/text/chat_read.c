/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/chat_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHERE_MAX 48
#define FIELD_MAX 96

static const char *const role_names[] = {
    [LB_ROLE_SYSTEM] = "system",
    [LB_ROLE_USER] = "user",
    [LB_ROLE_ASSISTANT] = "assistant",
};

static lb_status read_role(const lb_json *node, const char *where, lb_chat_role *out, lb_err *err)
{
    char field[FIELD_MAX];
    const char *name;
    lb_status status = lb_json_need_string(node, where, "role", &name, err);
    if (status != LB_OK)
        return status;
    for (unsigned i = 0; i < sizeof role_names / sizeof role_names[0]; i++) {
        if (strcmp(name, role_names[i]) == 0) {
            *out = (lb_chat_role)i;
            return LB_OK;
        }
    }
    snprintf(field, sizeof field, "%s.role", where);
    if (strcmp(name, "tool") == 0)
        return lb_fail(err, LB_EUNSUPPORTED, field,
                       "results of tools are not supported; give the rendered text as \"prompt\"");
    return lb_fail(err, LB_EINVAL, field, "is \"%.32s\"; it can be system, user or assistant",
                   name);
}

/* Unlike lb_json_need_string, takes texts with a NUL. */
static lb_status read_text(const lb_json *node, const char *where, const char *key, lb_span *out,
                           lb_err *err)
{
    const lb_json *text = lb_json_get(node, key);
    char field[FIELD_MAX];
    if (lb_json_is_string(text)) {
        *out = (lb_span){lb_json_string(text), lb_json_string_length(text)};
        return LB_OK;
    }
    snprintf(field, sizeof field, "%s.%s", where, key);
    if (lb_json_is_array(text))
        return lb_fail(err, LB_EUNSUPPORTED, field, "is a list of parts; only text is supported");
    return lb_fail(err, LB_EINVAL, field, text == NULL ? "is missing" : "is not a text");
}

static bool is_absent(const lb_json *node)
{
    return node == NULL || lb_json_is_null(node);
}

static lb_status refuse_tools(const lb_json *node, const char *where, lb_err *err)
{
    const lb_json *calls = lb_json_get(node, "tool_calls");
    char field[FIELD_MAX];
    if (is_absent(calls) || (lb_json_is_array(calls) && lb_json_array_size(calls) == 0))
        return LB_OK;
    snprintf(field, sizeof field, "%s.tool_calls", where);
    return lb_fail(err, LB_EUNSUPPORTED, field,
                   "calls of tools are not supported; give the rendered text as \"prompt\"");
}

static lb_status read_thought(const lb_json *node, const char *where, bool thoughts,
                              lb_chat_message *out, lb_err *err)
{
    char field[FIELD_MAX];
    if (is_absent(lb_json_get(node, "reasoning_content")))
        return LB_OK;
    if (thoughts && out->role == LB_ROLE_ASSISTANT)
        return read_text(node, where, "reasoning_content", &out->thought, err);
    snprintf(field, sizeof field, "%s.reasoning_content", where);
    return lb_fail(err, LB_EUNSUPPORTED, field, "the chat template leaves it out here");
}

static lb_status read_message(const lb_json *node, const char *where, bool thoughts,
                              lb_chat_message *out, lb_err *err)
{
    if (!lb_json_is_object(node))
        return lb_fail(err, LB_EINVAL, where, "is not an object");
    lb_status status = read_role(node, where, &out->role, err);
    if (status == LB_OK)
        status = refuse_tools(node, where, err);
    if (status == LB_OK)
        status = read_text(node, where, "content", &out->content, err);
    if (status == LB_OK)
        status = read_thought(node, where, thoughts, out, err);
    return status;
}

lb_status lb_chat_read(const lb_json *messages, bool thoughts, lb_chat_message **out,
                       size_t *count, lb_err *err)
{
    if (messages == NULL || !lb_json_is_array(messages))
        return lb_fail(err, LB_EINVAL, "messages", "is not an array");
    size_t size = lb_json_array_size(messages);
    if (size == 0 || size > LB_CHAT_MESSAGES_MAX)
        return lb_fail(err, LB_EINVAL, "messages", "has %zu messages; 1 to %u are allowed", size,
                       LB_CHAT_MESSAGES_MAX);
    lb_chat_message *list = calloc(size, sizeof *list);
    if (list == NULL)
        return lb_fail(err, LB_ENOMEM, "messages", "out of memory for %zu messages", size);
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && i < size; i++) {
        char where[WHERE_MAX];
        snprintf(where, sizeof where, "messages[%zu]", i);
        status = read_message(lb_json_at(messages, i), where, thoughts, &list[i], err);
    }
    if (status != LB_OK) {
        free(list);
        return status;
    }
    *out = list;
    *count = size;
    return LB_OK;
}

static bool is_space(int32_t character)
{
    /* Python counts the four separators of ASCII as white space, Unicode's White_Space does not. */
    return lb_char_is_space(character) || (character >= 0x1c && character <= 0x1f);
}

lb_span lb_chat_trim(lb_span text)
{
    size_t start = 0, end = text.length, bytes;
    while (start < end && is_space(lb_utf8_at(text, start, &bytes)))
        start += bytes;
    while (end > start && is_space(lb_utf8_before(text, end, &bytes)))
        end -= bytes;
    return (lb_span){text.data + start, end - start};
}
