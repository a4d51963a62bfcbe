/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/file.h"
#include "common/io/gguf.h"
#include "common/text/chat.h"

#include <stdio.h>
#include <string.h>

#define TEMPLATE_FILE "chat_template.jinja"
#define CONFIG_FILE "tokenizer_config.json"
#define CONFIG_BYTES_MAX (16u << 20)
#define DIGITS_MAX 18u

/* ---- a folder ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Blanks the last digits of integers that 64 bits do not hold: model_max_length is 10^30 in many
 * files, and no number is read here. */
static void shorten_integers(char *text, size_t length)
{
    bool in_string = false;
    for (size_t i = 0; i < length;) {
        char c = text[i];
        size_t end = i + 1;
        if (c == '"')
            in_string = !in_string;
        else if (in_string && c == '\\' && end < length)
            end++;
        while (!in_string && is_digit(c) && end < length && is_digit(text[end]))
            end++;
        bool whole = end == length || (text[end] != '.' && text[end] != 'e' && text[end] != 'E');
        if (end - i > DIGITS_MAX && whole && (i == 0 || text[i - 1] != '.'))
            memset(text + i + DIGITS_MAX, ' ', end - i - DIGITS_MAX);
        i = end;
    }
}

/* Leaves *out NULL when the folder has no such file. */
static lb_status read_config(const char *dir, lb_json **out, lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_buf text = {0};
    lb_status status = lb_path_join(path, sizeof path, dir, CONFIG_FILE, err);
    if (status != LB_OK || !lb_path_is_file(path))
        return status;
    status = lb_file_read(path, CONFIG_BYTES_MAX, &text, err);
    if (status == LB_OK) {
        shorten_integers((char *)text.data, text.length);
        status = lb_json_parse((const char *)text.data, text.length, out, err);
    }
    if (status == LB_OK && !lb_json_is_object(*out))
        status = lb_fail(err, LB_EDATA, NULL, "the file does not hold an object");
    lb_buf_free(&text);
    return status == LB_OK ? LB_OK : lb_err_wrap(err, "%s", path);
}

/* A token is a text, or an object with its text in "content". */
static lb_status read_token(const lb_json *config, const char *key, char *out, size_t size,
                            lb_err *err)
{
    const lb_json *node = lb_json_get(config, key);
    if (lb_json_is_object(node))
        node = lb_json_get(node, "content");
    if (!lb_json_is_string(node))
        return lb_fail(err, LB_EDATA, key, "%s has no text for it, which the chat template writes",
                       CONFIG_FILE);
    if (lb_json_string_length(node) >= size ||
        strlen(lb_json_string(node)) != lb_json_string_length(node))
        return lb_fail(err, LB_EDATA, key, "is longer than %zu bytes or has a NUL", size - 1);
    snprintf(out, size, "%s", lb_json_string(node));
    return LB_OK;
}

static lb_status read_tokens(const lb_json *config, lb_chat *chat, lb_err *err)
{
    lb_status status = LB_OK;
    if (config == NULL || chat->bos[0] == '\0')
        return LB_OK;
    status = read_token(config, "bos_token", chat->bos, sizeof chat->bos, err);
    if (status == LB_OK && chat->kind == LB_CHAT_MISTRAL_V3)
        status = read_token(config, "eos_token", chat->eos, sizeof chat->eos, err);
    return status;
}

/* What is done with a template's text once it is found. */
typedef struct template_use {
    lb_status (*call)(void *arg, const char *text, size_t length, lb_err *err);
    void *arg;
} template_use;

static lb_status take_kind(void *arg, const char *text, size_t length, lb_err *err)
{
    return lb_chat_find(text, length, arg, err);
}

static lb_status take_digest(void *arg, const char *text, size_t length, lb_err *err)
{
    uint8_t digest[LB_SHA256_BYTES];
    (void)err;
    lb_sha256_of(text, length, digest);
    lb_sha256_hex(digest, arg);
    return LB_OK;
}

/* The text of chat_template: a string, or the one named "default" of a list. */
static const lb_json *find_default(const lb_json *node)
{
    for (size_t i = 0; lb_json_is_array(node) && i < lb_json_array_size(node); i++) {
        const lb_json *entry = lb_json_at(node, i);
        const char *name = lb_json_string(lb_json_get(entry, "name"));
        if (name != NULL && strcmp(name, "default") == 0)
            return lb_json_get(entry, "template");
    }
    return node;
}

static lb_status find_in_config(const char *dir, const lb_json *config, const template_use *use,
                                lb_err *err)
{
    const lb_json *node = lb_json_get(config, "chat_template");
    if (node == NULL || lb_json_is_null(node))
        return lb_fail(err, LB_ENOTFOUND, "chat_template",
                       "%s has no template, in %s or in %s; name one with --chat-template", dir,
                       TEMPLATE_FILE, CONFIG_FILE);
    node = find_default(node);
    if (!lb_json_is_string(node))
        return lb_fail(err, LB_EDATA, "chat_template",
                       "is neither a text nor a list with a text named \"default\"");
    return use->call(use->arg, lb_json_string(node), lb_json_string_length(node), err);
}

static lb_status find_in_dir(const char *dir, const lb_json *config, const template_use *use,
                             lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_buf text = {0};
    lb_status status = lb_path_join(path, sizeof path, dir, TEMPLATE_FILE, err);
    if (status != LB_OK)
        return status;
    if (!lb_path_is_file(path))
        return find_in_config(dir, config, use, err);
    status = lb_file_read(path, LB_CHAT_TEMPLATE_MAX, &text, err);
    if (status == LB_OK)
        status = use->call(use->arg, (const char *)text.data, text.length, err);
    lb_buf_free(&text);
    return status;
}

/* ---- GGUF ---- */

#define GGUF_TEMPLATE "tokenizer.chat_template"

/* The token whose id is the value of id_key; the family's own without that key. */
static lb_status read_gguf_token(const lb_gguf *file, const char *id_key, char *out, size_t size,
                                 lb_err *err)
{
    lb_gguf_array tokens;
    const char *text = NULL;
    size_t length = 0;
    uint32_t id = 0;
    if (!lb_gguf_has(file, id_key))
        return LB_OK;
    lb_status status = lb_gguf_u32(file, id_key, true, UINT32_MAX - 1, &id, err);
    if (status == LB_OK)
        status = lb_gguf_strings(file, "tokenizer.ggml.tokens", true, &tokens, err);
    if (status != LB_OK)
        return status;
    bool found = true;
    for (uint64_t i = 0; found && i <= id; i++)
        found = lb_gguf_next_string(&tokens, &text, &length);
    if (!found || length >= size || memchr(text, '\0', length) != NULL)
        return lb_fail(err, LB_EDATA, id_key, "token %u is not in the file, is longer than %zu "
                       "bytes or has a NUL", id, size - 1);
    memcpy(out, text, length);
    out[length] = '\0';
    return LB_OK;
}

static lb_status read_gguf(const lb_gguf *file, const char *name, lb_chat *out, lb_err *err)
{
    const char *text = NULL;
    size_t length = 0;
    lb_chat_kind kind = LB_CHAT_CHATML;
    lb_status status = LB_OK;
    if (name != NULL)
        status = lb_chat_parse_name(name, &kind, err);
    else if (!lb_gguf_has(file, GGUF_TEMPLATE))
        status = lb_fail(err, LB_ENOTFOUND, "chat_template", "the file has no "
                         GGUF_TEMPLATE "; name one with --chat-template");
    else
        status = lb_gguf_string(file, GGUF_TEMPLATE, true, &text, &length, err);
    if (status == LB_OK && name == NULL)
        status = lb_chat_find(text, length, &kind, err);
    if (status != LB_OK)
        return status;
    lb_chat chat = lb_chat_of(kind);
    if (chat.bos[0] != '\0')
        status = read_gguf_token(file, "tokenizer.ggml.bos_token_id", chat.bos, sizeof chat.bos,
                                 err);
    if (status == LB_OK && kind == LB_CHAT_MISTRAL_V3)
        status = read_gguf_token(file, "tokenizer.ggml.eos_token_id", chat.eos, sizeof chat.eos,
                                 err);
    if (status == LB_OK)
        *out = chat;
    return status;
}

static lb_status load_gguf(const char *path, const char *name, lb_chat *out, lb_err *err)
{
    lb_gguf *file = NULL;
    lb_status status = lb_gguf_load(path, &file, err);
    if (status == LB_OK)
        status = read_gguf(file, name, out, err);
    lb_gguf_close(file);
    return status;
}

/* ---- either ---- */

static lb_status load(const char *model, const char *name, lb_chat *out, lb_err *err)
{
    lb_json *config = NULL;
    lb_chat_kind kind = LB_CHAT_CHATML;
    const template_use use = {take_kind, &kind};
    lb_status status = LB_OK;
    if (lb_path_is_gguf(model))
        return load_gguf(model, name, out, err);
    if (name != NULL)
        status = lb_chat_parse_name(name, &kind, err);
    if (status == LB_OK)
        status = read_config(model, &config, err);
    if (status == LB_OK && name == NULL)
        status = find_in_dir(model, config, &use, err);
    lb_chat chat = lb_chat_of(kind);
    if (status == LB_OK)
        status = read_tokens(config, &chat, err);
    if (status == LB_OK)
        *out = chat;
    lb_json_free(config);
    return status;
}

lb_status lb_chat_load(const char *model, lb_chat *out, lb_err *err)
{
    return load(model, NULL, out, err);
}

lb_status lb_chat_load_named(const char *model, const char *name, lb_chat *out, lb_err *err)
{
    return load(model, name, out, err);
}

static lb_status digest_gguf(const char *path, char out[LB_SHA256_HEX], lb_err *err)
{
    lb_gguf *file = NULL;
    const char *text = NULL;
    size_t length = 0;
    lb_status status = lb_gguf_load(path, &file, err);
    if (status == LB_OK)
        status = lb_gguf_string(file, GGUF_TEMPLATE, false, &text, &length, err);
    if (status == LB_OK && text != NULL)
        status = take_digest(out, text, length, err);
    lb_gguf_close(file);
    return status;
}

lb_status lb_chat_template_digest(const char *model, char out[LB_SHA256_HEX], lb_err *err)
{
    lb_json *config = NULL;
    const template_use use = {take_digest, out};
    lb_err local = {0};
    out[0] = '\0';
    if (lb_path_is_gguf(model))
        return digest_gguf(model, out, err);
    lb_status status = read_config(model, &config, &local);
    if (status == LB_OK)
        status = find_in_dir(model, config, &use, &local);
    lb_json_free(config);
    if (status == LB_ENOTFOUND)
        return LB_OK;
    if (status != LB_OK && err != NULL)
        *err = local;
    return status;
}
