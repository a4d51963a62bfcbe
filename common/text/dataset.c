/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/dataset.h"

#include "common/text/dataset_impl.h"
#include "common/text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- the builder ---- */

typedef struct lb_dataset_storage {
    lb_tokens tokens;
    lb_buf answers;
} lb_dataset_storage;

lb_status lb_dataset_add_row(lb_dataset_builder *builder, size_t first, size_t completion,
                             const char *answer, size_t length, lb_err *err)
{
    lb_dataset_row row = {.first = first, .count = (uint32_t)(completion - first),
                          .completion = (uint32_t)(builder->tokens.count - completion),
                          .answer = LB_NO_ANSWER};
    if (builder->count == LB_DATASET_ROWS_MAX)
        return lb_fail(err, LB_ETOOBIG, NULL, "the data set has more than %u rows",
                       LB_DATASET_ROWS_MAX);
    if (builder->tokens.count - first > UINT32_MAX / 2)
        return lb_fail(err, LB_ETOOBIG, "prompt", "has too many tokens");
    if (length > 0) {
        row.answer = builder->answers.length;
        lb_buf_append(&builder->answers, answer, length);
        lb_buf_append(&builder->answers, "", 1);
    }
    lb_buf_append(&builder->rows, &row, sizeof row);
    if (builder->answers.status != LB_OK || builder->rows.status != LB_OK)
        return lb_fail(err, LB_ENOMEM, NULL, "out of memory for row %zu", builder->count + 1);
    builder->count++;
    return LB_OK;
}

lb_status lb_dataset_finish(lb_dataset_builder *builder, lb_dataset *out, lb_err *err)
{
    lb_dataset_storage *storage = calloc(1, sizeof *storage);
    lb_prompt *prompts = calloc(builder->count, sizeof *prompts);
    uint32_t longest = 0, longest_row = 0;
    if (storage == NULL || prompts == NULL) {
        free(storage);
        free(prompts);
        return lb_fail(err, LB_ENOMEM, NULL, "out of memory for %zu prompts", builder->count);
    }
    const lb_dataset_row *rows = (const lb_dataset_row *)(const void *)builder->rows.data;
    for (size_t i = 0; i < builder->count; i++) {
        prompts[i].tokens = builder->tokens.ids + rows[i].first;
        prompts[i].count = rows[i].count;
        prompts[i].completion = prompts[i].tokens + rows[i].count;
        prompts[i].completion_count = rows[i].completion;
        if (rows[i].answer != LB_NO_ANSWER)
            prompts[i].answer = (const char *)builder->answers.data + rows[i].answer;
        if (rows[i].count > longest)
            longest = rows[i].count;
        if (rows[i].count + rows[i].completion > longest_row)
            longest_row = rows[i].count + rows[i].completion;
    }
    storage->tokens = builder->tokens;
    storage->answers = builder->answers;
    builder->tokens = (lb_tokens){0};
    builder->answers = (lb_buf){0};
    *out = (lb_dataset){.prompts = prompts, .count = builder->count, .longest = longest,
                        .longest_row = longest_row, .storage = storage};
    return LB_OK;
}

void lb_dataset_builder_free(lb_dataset_builder *builder)
{
    lb_tokens_free(&builder->tokens);
    lb_buf_free(&builder->answers);
    lb_buf_free(&builder->rows);
}

void lb_dataset_free(lb_dataset *dataset)
{
    if (dataset == NULL)
        return;
    lb_dataset_storage *storage = dataset->storage;
    if (storage != NULL) {
        lb_tokens_free(&storage->tokens);
        lb_buf_free(&storage->answers);
        free(storage);
    }
    free(dataset->prompts);
    *dataset = (lb_dataset){0};
}

/* ---- JSONL ---- */

typedef struct lb_jsonl {
    const lb_dataset_options *options;
    lb_dataset_builder builder;
} lb_jsonl;

/* A member that is text or, under another name, token ids. */
typedef struct text_or_ids {
    const char *text, *ids;    /* the two names */
} text_or_ids;

static const text_or_ids prompt_names = {"prompt", "prompt_ids"};
static const text_or_ids completion_names = {"completion", "completion_ids"};

static lb_status read_text(lb_jsonl *jsonl, const lb_json *text, const text_or_ids *names,
                           bool add_bos, lb_err *err)
{
    const lb_tokenizer *tokenizer = jsonl->options->tokenizer;
    if (!lb_json_is_string(text))
        return lb_fail(err, LB_EINVAL, names->text, "is not a string");
    if (tokenizer == NULL)
        return lb_fail(err, LB_EINVAL, names->text, "is text, and there is no tokenizer; give %s",
                       names->ids);
    return lb_tokenizer_encode(tokenizer, lb_json_string(text), lb_json_string_length(text), false,
                               add_bos, &jsonl->builder.tokens, err);
}

static lb_status read_ids(lb_jsonl *jsonl, const lb_json *ids, const char *field, lb_err *err)
{
    if (!lb_json_is_array(ids))
        return lb_fail(err, LB_EINVAL, field, "is not an array");
    for (size_t i = 0; i < lb_json_array_size(ids); i++) {
        const lb_json *node = lb_json_at(ids, i);
        int64_t id = lb_json_is_integer(node) ? lb_json_integer(node) : -1;
        if (id < 0 || id > UINT32_MAX)
            return lb_fail(err, LB_EINVAL, field, "entry %zu is not a token id", i);
        if (!lb_tokens_push(&jsonl->builder.tokens, (uint32_t)id))
            return lb_fail(err, LB_ENOMEM, field, "out of memory for tokens");
    }
    return LB_OK;
}

/* Members that are null count as absent. */
static const lb_json *member(const lb_json *object, const char *key)
{
    const lb_json *node = lb_json_get(object, key);
    return node == NULL || lb_json_is_null(node) ? NULL : node;
}

/* The tokens from first on. */
static lb_status check_ids(const lb_jsonl *jsonl, size_t first, const char *field, lb_err *err)
{
    const lb_tokens *tokens = &jsonl->builder.tokens;
    for (size_t i = first; i < tokens->count; i++)
        if (tokens->ids[i] >= jsonl->options->vocab)
            return lb_fail(err, LB_EINVAL, field, "token %u is not below the vocabulary's %u",
                           tokens->ids[i], jsonl->options->vocab);
    return LB_OK;
}

/* Appends the tokens of whichever of the two names the row has; *field is that name, NULL without
 * either. */
static lb_status read_tokens(lb_jsonl *jsonl, const lb_json *row, const text_or_ids *names,
                             bool add_bos, const char **field, lb_err *err)
{
    const lb_json *text = member(row, names->text), *ids = member(row, names->ids);
    const lb_tokens *tokens = &jsonl->builder.tokens;
    size_t first = tokens->count;
    *field = text != NULL ? names->text : ids != NULL ? names->ids : NULL;
    if (*field == NULL)
        return LB_OK;
    if (text != NULL && ids != NULL)
        return lb_fail(err, LB_EINVAL, names->text, "stands beside %s; one of them is enough",
                       names->ids);
    lb_status status = text != NULL ? read_text(jsonl, text, names, add_bos, err)
                                    : read_ids(jsonl, ids, *field, err);
    if (status != LB_OK)
        return status;
    if (tokens->count == first)
        return lb_fail(err, LB_EINVAL, *field, "is empty");
    return check_ids(jsonl, first, *field, err);
}

static lb_status read_prompt(lb_jsonl *jsonl, const lb_json *row, lb_err *err)
{
    const char *field = NULL;
    lb_status status = read_tokens(jsonl, row, &prompt_names, true, &field, err);
    if (status == LB_OK && field == NULL)
        status = lb_fail(err, LB_EINVAL, "prompt", "is missing; give one, prompt_ids or messages");
    return status;
}

static lb_status read_completion(lb_jsonl *jsonl, const lb_json *row, lb_err *err)
{
    const lb_dataset_options *options = jsonl->options;
    const char *field = NULL;
    lb_status status = read_tokens(jsonl, row, &completion_names, false, &field, err);
    if (status == LB_OK && field == NULL && options->completions)
        status = lb_fail(err, LB_EINVAL, "completion", "is missing");
    if (status == LB_OK && field == completion_names.text && options->end != LB_DATASET_NO_END &&
        !lb_tokens_push(&jsonl->builder.tokens, options->end))
        status = lb_fail(err, LB_ENOMEM, field, "out of memory for tokens");
    return status;
}

/* Appends the tokens of the prompt and of the completion, which begins at *completion. */
static lb_status read_both(lb_jsonl *jsonl, const lb_json *row, size_t *completion, lb_err *err)
{
    lb_tokens *tokens = &jsonl->builder.tokens;
    size_t first = tokens->count;
    if (member(row, "messages") != NULL) {
        lb_status status = lb_dataset_read_messages(jsonl->options, row, tokens, completion, err);
        return status == LB_OK ? check_ids(jsonl, first, "messages", err) : status;
    }
    lb_status status = read_prompt(jsonl, row, err);
    *completion = tokens->count;
    return status == LB_OK ? read_completion(jsonl, row, err) : status;
}

static lb_status read_row(lb_jsonl *jsonl, const lb_json *row, lb_err *err)
{
    size_t first = jsonl->builder.tokens.count;
    if (!lb_json_is_object(row))
        return lb_fail(err, LB_EINVAL, NULL, "is not a JSON object");
    const lb_json *answer = member(row, "answer");
    if (answer != NULL && !lb_json_is_string(answer))
        return lb_fail(err, LB_EINVAL, "answer", "is not a string");
    const char *text = answer == NULL ? "" : lb_json_string(answer);
    size_t length = answer == NULL ? 0 : lb_json_string_length(answer);
    if (memchr(text, '\0', length) != NULL)
        return lb_fail(err, LB_EINVAL, "answer", "holds a NUL");
    size_t completion = first;
    lb_status status = read_both(jsonl, row, &completion, err);
    if (status != LB_OK)
        return status;
    return lb_dataset_add_row(&jsonl->builder, first, completion, text, length, err);
}

static bool is_blank(const char *line, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    return true;
}

static lb_status read_line(lb_jsonl *jsonl, const char *line, size_t length, lb_err *err)
{
    lb_json *row = NULL;
    if (length > LB_DATASET_LINE_MAX)
        return lb_fail(err, LB_ETOOBIG, NULL, "has %zu bytes; the limit is %u", length,
                       LB_DATASET_LINE_MAX);
    lb_status status = lb_json_parse(line, length, &row, err);
    if (status == LB_OK)
        status = read_row(jsonl, row, err);
    lb_json_free(row);
    return status;
}

lb_status lb_dataset_parse_jsonl(const char *text, size_t length,
                                 const lb_dataset_options *options, lb_dataset *out, lb_err *err)
{
    lb_jsonl jsonl = {.options = options};
    lb_err local = {0};  /* the line is put before the message, even for a caller without an err */
    lb_status status = LB_OK;
    size_t number = 0;
    for (size_t offset = 0; status == LB_OK && offset < length; number++) {
        const char *line = text + offset;
        const char *newline = memchr(line, '\n', length - offset);
        size_t size = newline == NULL ? length - offset : (size_t)(newline - line);
        offset += size + 1;
        if (!is_blank(line, size))
            status = read_line(&jsonl, line, size, &local);
    }
    if (status != LB_OK) {
        (void)lb_err_wrap(&local, "line %zu", number);
        if (err != NULL)
            *err = local;
        goto done;
    }
    if (jsonl.builder.count == 0) {
        status = lb_fail(err, LB_EINVAL, NULL, "the data set has no rows");
        goto done;
    }
    status = lb_dataset_finish(&jsonl.builder, out, err);
done:
    lb_dataset_builder_free(&jsonl.builder);
    return status;
}
