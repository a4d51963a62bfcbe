/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cli/cli.h"

#include "common/io/hub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES_MAX (4u << 20)     /* of one text */
#define LINE_BYTES_MAX (32u << 20)    /* of one line of --jsonl: each byte may be an escape */
#define CHUNK 65536u

typedef struct tokenize {
    const char *model;
    bool special;
    bool bos;
    bool offsets;
    bool json;
    bool jsonl;
    bool decode;
    lb_tokenizer *tokenizer;
} tokenize;

static void write_json(const tokenize *o, const lb_tokens *tokens, const lb_offsets *offsets,
                       lb_buf *out)
{
    lb_jsonw w = {.out = out};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "tokens");
    lb_jsonw_array(&w);
    for (size_t i = 0; i < tokens->count; i++)
        lb_jsonw_u64(&w, tokens->ids[i]);
    lb_jsonw_array_end(&w);
    if (o->offsets) {
        lb_jsonw_key(&w, "offsets");
        lb_jsonw_array(&w);
        for (size_t i = 0; i < offsets->count; i++) {
            lb_jsonw_array(&w);
            lb_jsonw_u64(&w, offsets->items[i].start);
            lb_jsonw_u64(&w, offsets->items[i].end);
            lb_jsonw_array_end(&w);
        }
        lb_jsonw_array_end(&w);
    }
    if (o->decode) {
        lb_buf text = {0};
        lb_tokenizer_decode(o->tokenizer, tokens->ids, tokens->count, true, &text);
        lb_jsonw_key(&w, "text");
        lb_jsonw_string_n(&w, text.data ? (const char *)text.data : "", text.length);
        if (text.status != LB_OK)
            out->status = text.status;
        lb_buf_free(&text);
    }
    lb_jsonw_object_end(&w);
    lb_buf_puts(out, "\n");
}

/* A line for each token with --offsets, otherwise one line of ids. */
static void write_plain(const tokenize *o, const lb_tokens *tokens, const lb_offsets *offsets,
                        lb_buf *out)
{
    for (size_t i = 0; i < tokens->count; i++) {
        if (o->offsets)
            lb_buf_printf(out, "%u %u %u\n", tokens->ids[i], offsets->items[i].start,
                          offsets->items[i].end);
        else
            lb_buf_printf(out, "%s%u", i == 0 ? "" : " ", tokens->ids[i]);
    }
    if (!o->offsets)
        lb_buf_puts(out, "\n");
}

static lb_status one_text(const tokenize *o, const char *text, size_t length, lb_err *err)
{
    lb_tokens tokens = {0};
    lb_offsets offsets = {0};
    lb_buf out = {0};
    unsigned flags = (o->special ? LB_ENCODE_SPECIAL : 0u) | (o->bos ? LB_ENCODE_BOS : 0u);
    lb_status status = lb_tokenizer_encode_offsets(o->tokenizer, text, length, flags, &tokens,
                                                   o->offsets ? &offsets : NULL, err);
    if (status == LB_OK) {
        if (o->json || o->jsonl)
            write_json(o, &tokens, &offsets, &out);
        else
            write_plain(o, &tokens, &offsets, &out);
        if (lb_cli_print(&out) != LB_EXIT_OK)
            status = lb_fail(err, LB_EIO, NULL, "the output could not be written");
    }
    lb_buf_free(&out);
    lb_offsets_free(&offsets);
    lb_tokens_free(&tokens);
    return status;
}

static lb_status one_line(const tokenize *o, const char *line, size_t length, lb_err *err)
{
    lb_json *node = NULL;
    lb_status status = lb_json_parse(line, length, &node, err);
    const lb_json *text = status == LB_OK ? lb_json_get(node, "text") : NULL;
    if (status == LB_OK && (text == NULL || !lb_json_is_string(text)))
        status = lb_fail(err, LB_EINVAL, "text", "is no string, or is missing");
    if (status == LB_OK)
        status = one_text(o, lb_json_string(text), lb_json_string_length(text), err);
    lb_json_free(node);
    return status;
}

static lb_status all_lines(const tokenize *o, lb_err *err)
{
    char *line = NULL;
    size_t capacity = 0, number = 0;
    ssize_t length;
    lb_status status = LB_OK;
    while (status == LB_OK && (length = getline(&line, &capacity, stdin)) >= 0) {
        number++;
        if ((size_t)length > LINE_BYTES_MAX)
            status = lb_fail(err, LB_ETOOBIG, "text", "has more than %u bytes", LINE_BYTES_MAX);
        else
            status = one_line(o, line, (size_t)length, err);
    }
    free(line);
    if (status == LB_OK && ferror(stdin))
        return lb_fail(err, LB_EIO, NULL, "the input could not be read");
    return status == LB_OK ? LB_OK : lb_err_wrap(err, "line %zu", number);
}

static lb_status whole_input(const tokenize *o, lb_err *err)
{
    lb_buf text = {.limit = TEXT_BYTES_MAX};
    char chunk[CHUNK];
    size_t got;
    lb_status status;
    while (text.status == LB_OK && (got = fread(chunk, 1, sizeof chunk, stdin)) > 0)
        lb_buf_append(&text, chunk, got);
    if (text.status == LB_ETOOBIG)
        status = lb_fail(err, LB_ETOOBIG, "text", "has more than %u bytes; give lines of --jsonl",
                         TEXT_BYTES_MAX);
    else if (text.status != LB_OK || ferror(stdin))
        status = lb_fail(err, LB_EIO, NULL, "the input could not be read");
    else
        status = one_text(o, text.length ? (const char *)text.data : "", text.length, err);
    lb_buf_free(&text);
    return status;
}

int lb_cmd_tokenize(int argc, char **argv)
{
    tokenize o = {0};
    const lb_option options[] = {
        {.name = "model", .type = LB_OPT_STRING, .out = &o.model, .value = "PATH",
         .help = "a folder with tokenizer.json, such a file, ORG/NAME in the Hugging Face "
                 "cache, or a .gguf file (required)"},
        {.name = "special", .type = LB_OPT_FLAG, .out = &o.special,
         .help = "text such as <|im_end|> becomes that token"},
        {.name = "bos", .type = LB_OPT_FLAG, .out = &o.bos,
         .help = "add what the post-processor adds"},
        {.name = "offsets", .type = LB_OPT_FLAG, .out = &o.offsets,
         .help = "print the bytes of the text that each token stands for: start, end"},
        {.name = "json", .type = LB_OPT_FLAG, .out = &o.json, .help = "print JSON"},
        {.name = "jsonl", .type = LB_OPT_FLAG, .out = &o.jsonl,
         .help = "read a {\"text\": ...} a line, print JSON a line"},
        {.name = "decode", .type = LB_OPT_FLAG, .out = &o.decode,
         .help = "in JSON, add the text of the tokens without special ones"},
    };
    const lb_command_line line = {
        .program = "limbeck tokenize",
        .summary = "Prints the token ids of the text on standard input.",
        .examples = "  limbeck tokenize --model DIR < text\n"
                    "  limbeck tokenize --model model.gguf --offsets --json < text\n",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, NULL, &code))
        return code;
    lb_err err = {0};
    char path[LB_PATH_MAX];
    lb_status status = LB_OK;
    if (!o.model)
        status = lb_fail(&err, LB_EINVAL, "model", "--model is required");
    if (status == LB_OK)
        status = lb_hub_find(getenv, o.model, path, sizeof path, &err);
    if (status == LB_OK)
        status = lb_tokenizer_load(path, &o.tokenizer, &err);
    if (status == LB_OK)
        status = o.jsonl ? all_lines(&o, &err) : whole_input(&o, &err);
    lb_tokenizer_free(o.tokenizer);
    return status == LB_OK ? LB_EXIT_OK : lb_cli_fail(&err);
}
