/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_chat - conversations as the text a model was trained on. Each family's chat template is
 * rendered by code of its own, chosen by the SHA-256 of the template's bytes: a template is
 * rendered exactly or refused, never guessed. Tools and parts other than text are refused by name.
 *
 * What users wrote is never read as special tokens: the rendered text comes with the ranges of it
 * that are content, and lb_tokenizer_encode_chat looks for special tokens only outside of them.
 * Everything here is stateless; call it from any thread.
 */
#ifndef LB_COMMON_TEXT_CHAT_H
#define LB_COMMON_TEXT_CHAT_H

#include "common/base/buf.h"
#include "common/base/digest.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>

#define LB_CHAT_MESSAGES_MAX 4096u
#define LB_CHAT_TEXT_MAX (4u << 20)      /* bytes of a rendered conversation */
#define LB_CHAT_TEMPLATE_MAX (1u << 20)  /* bytes of a template */
#define LB_CHAT_TOKEN_MAX 64             /* bytes of bos and eos, with the NUL */
#define LB_CHAT_DATE_MAX 64u

typedef enum lb_chat_kind {
    LB_CHAT_CHATML,       /* "chatml": no default system message */
    LB_CHAT_QWEN2_5,      /* "qwen2.5" */
    LB_CHAT_QWEN3,        /* "qwen3": thoughts of earlier turns are left out */
    LB_CHAT_SMOLLM2,      /* "smollm2" */
    LB_CHAT_LLAMA3,       /* "llama3" */
    LB_CHAT_LLAMA3_FIRST, /* "llama3-first": its first revision; it always asks for an answer */
    LB_CHAT_LLAMA3_1,     /* "llama3.1", also of 3.3; with a date, "26 Jul 2024" unless given */
    LB_CHAT_LLAMA3_2,     /* "llama3.2"; with today's date, which the caller must give */
    LB_CHAT_MISTRAL_V3,   /* "mistral-v3": Mistral 7B Instruct v0.3 */
    LB_CHAT_KINDS
} lb_chat_kind;

typedef struct lb_chat {
    lb_chat_kind kind;
    char bos[LB_CHAT_TOKEN_MAX];  /* what the template writes for bos_token and eos_token; */
    char eos[LB_CHAT_TOKEN_MAX];  /* only Llama and Mistral do */
} lb_chat;

const char *lb_chat_name(lb_chat_kind kind);
/* A kind with the tokens of its family. */
lb_chat lb_chat_of(lb_chat_kind kind);
/* LB_EINVAL for an unknown name, with the known ones; field is "chat_template". */
LB_NODISCARD lb_status lb_chat_parse_name(const char *name, lb_chat_kind *out, lb_err *err);
/* The kind of a template's text. LB_EUNSUPPORTED: the message has its digest and what to do. */
LB_NODISCARD lb_status lb_chat_find(const char *text, size_t length, lb_chat_kind *out,
                                    lb_err *err);
/* The same by the lower-case hex of the digest; false when unknown. */
bool lb_chat_find_digest(const char *hex, lb_chat_kind *out);
/* The template of a model: of a folder, chat_template.jinja if there is one, otherwise
 * chat_template of tokenizer_config.json (a text, or a list with one named "default"), which also
 * has bos and eos; of a .gguf file, tokenizer.chat_template. LB_ENOTFOUND: it has no template. */
LB_NODISCARD lb_status lb_chat_load(const char *model, lb_chat *out, lb_err *err);
/* The same with a kind that was named: only bos and eos are read from the model. */
LB_NODISCARD lb_status lb_chat_load_named(const char *model, const char *name,
                                          lb_chat *out, lb_err *err);

/* Hex of the SHA-256 of a model's template, known or not; "" when it has none. */
LB_NODISCARD lb_status lb_chat_template_digest(const char *model, char out[LB_SHA256_HEX],
                                               lb_err *err);

typedef enum lb_chat_thinking {
    LB_THINKING_UNSET,    /* as the template does without being told */
    LB_THINKING_ON,
    LB_THINKING_OFF,
} lb_chat_thinking;

typedef struct lb_chat_options {
    bool add_generation_prompt;
    lb_chat_thinking thinking;   /* read by qwen3 */
    const char *date;            /* "26 Jul 2024"; read by llama3.1 and llama3.2; NULL: not given */
} lb_chat_options;

/* The part of an assistant's turn that a model learns: from the first byte after what the
 * generation prompt would have given, to the end of the token that ends the turn. */
typedef struct lb_chat_turn {
    size_t message;              /* index */
    lb_range text;
} lb_chat_turn;

typedef struct lb_chat_text {
    lb_buf text;                 /* UTF-8 */
    lb_range *content;           /* [content_count], ascending: what came with the messages */
    size_t content_count;
    lb_chat_turn *turns;         /* [turn_count], ascending */
    size_t turn_count;
} lb_chat_text;

/* Renders an array of {"role": "system"|"user"|"assistant", "content": text}. options may be NULL.
 * *out must be zeroed; free it with lb_chat_text_free, also after a failure.
 * LB_EINVAL names the member, such as messages[3].role: a role or an order which the template
 * refuses, content that is no text. LB_EUNSUPPORTED: tools. */
LB_NODISCARD lb_status lb_chat_render(const lb_chat *chat, const lb_json *messages,
                                      const lb_chat_options *options, lb_chat_text *out,
                                      lb_err *err);
void lb_chat_text_free(lb_chat_text *text);

/* Appends the tokens of a conversation. If its last message is the assistant's, prompt gets what
 * comes before that answer and completion the answer with its end token; otherwise prompt ends
 * with the generation prompt and completion stays as it is. The prompt is tokenised on its own, as
 * it is when a model is asked. options->add_generation_prompt is not read. */
LB_NODISCARD lb_status lb_chat_encode(const lb_chat *chat, const lb_tokenizer *tokenizer,
                                      const lb_json *messages, const lb_chat_options *options,
                                      lb_tokens *prompt, lb_tokens *completion, lb_err *err);

#endif
