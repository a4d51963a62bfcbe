/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of lb_chat share. Nobody else includes this.
 */
#ifndef LB_COMMON_TEXT_CHAT_IMPL_H
#define LB_COMMON_TEXT_CHAT_IMPL_H

#include "common/text/chat.h"
#include "common/text/tokenizer_impl.h"

typedef enum lb_chat_role {
    LB_ROLE_SYSTEM,
    LB_ROLE_USER,
    LB_ROLE_ASSISTANT,
} lb_chat_role;

typedef struct lb_chat_message {   /* borrows from the JSON */
    lb_chat_role role;
    lb_span content;
    lb_span thought;               /* "reasoning_content"; data is NULL when absent */
} lb_chat_message;

/* Checks and reads one or more messages into *out, which the caller frees with free(). */
LB_NODISCARD lb_status lb_chat_read(const lb_json *messages, bool thoughts,
                                    lb_chat_message **out, size_t *count, lb_err *err);
/* The first count messages; lb_chat_render without the reading. */
LB_NODISCARD lb_status lb_chat_write(const lb_chat *chat, const lb_chat_message *messages,
                                     size_t count, const lb_chat_options *options,
                                     lb_chat_text *out, lb_err *err);
/* As str.strip() of Python, which is what the templates' trim does. */
lb_span lb_chat_trim(lb_span text);

#endif
