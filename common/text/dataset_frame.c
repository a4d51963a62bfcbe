/* SPDX-License-Identifier: Apache-2.0
 *
 * The "prompts" frame of dataset.h.
 */
#include "common/text/dataset.h"

#include "common/text/dataset_impl.h"
#include "common/text/tokenizer_impl.h"

#include <string.h>

#define FRAME_MAGIC "LBPR"
#define FRAME_MAGIC_BYTES 4
#define FRAME_VERSION 2u
#define ROW_HEAD_BYTES 12u

lb_status lb_dataset_encode(const lb_dataset *dataset, lb_buf *out, lb_err *err)
{
    if (dataset->count == 0 || dataset->count > LB_DATASET_ROWS_MAX)
        return lb_fail(err, LB_EINVAL, "rows", "%zu is not from 1 to %u", dataset->count,
                       LB_DATASET_ROWS_MAX);
    lb_buf_append(out, FRAME_MAGIC, FRAME_MAGIC_BYTES);
    lb_buf_u16(out, FRAME_VERSION);
    lb_buf_u16(out, 0);
    lb_buf_u32(out, (uint32_t)dataset->count);
    for (size_t i = 0; i < dataset->count; i++) {
        const lb_prompt *prompt = &dataset->prompts[i];
        size_t answer = prompt->answer == NULL ? 0 : strlen(prompt->answer);
        if (prompt->count == 0 || answer > LB_DATASET_LINE_MAX)
            return lb_fail(err, LB_EINVAL, "rows", "row %zu has %u tokens and %zu bytes of answer",
                           i, prompt->count, answer);
        lb_buf_u32(out, prompt->count);
        lb_buf_u32(out, prompt->completion_count);
        lb_buf_u32(out, (uint32_t)answer);
        for (uint32_t token = 0; token < prompt->count; token++)
            lb_buf_u32(out, prompt->tokens[token]);
        for (uint32_t token = 0; token < prompt->completion_count; token++)
            lb_buf_u32(out, prompt->completion[token]);
        lb_buf_append(out, prompt->answer, answer);
    }
    if (out->status != LB_OK)
        return lb_fail(err, out->status, NULL, "the prompts frame: %s",
                       lb_status_text(out->status));
    return LB_OK;
}

static lb_status read_head(lb_reader *reader, uint32_t *rows, lb_err *err)
{
    const uint8_t *magic = lb_read_bytes(reader, FRAME_MAGIC_BYTES);
    uint16_t version = lb_read_u16(reader), zero = lb_read_u16(reader);
    *rows = lb_read_u32(reader);
    if (reader->failed)
        return lb_fail(err, LB_EDATA, NULL, "the prompts frame is cut short");
    if (memcmp(magic, FRAME_MAGIC, FRAME_MAGIC_BYTES) != 0)
        return lb_fail(err, LB_EDATA, "magic", "this is not a prompts frame");
    if (version != FRAME_VERSION || zero != 0)
        return lb_fail(err, LB_EUNSUPPORTED, "version",
                       "prompts frame of version %u, flags %u; this program reads version %u",
                       version, zero, FRAME_VERSION);
    /* Each row takes bytes of the frame, so a count that the frame cannot hold ends here. */
    if (*rows == 0 || *rows > LB_DATASET_ROWS_MAX ||
        *rows > lb_reader_left(reader) / (ROW_HEAD_BYTES + sizeof(uint32_t)))
        return lb_fail(err, LB_EDATA, "rows", "%u rows in a prompts frame of %zu bytes", *rows,
                       reader->length);
    return LB_OK;
}

static lb_status read_tokens(lb_reader *reader, uint32_t count, const char *field,
                             lb_dataset_builder *builder, lb_err *err)
{
    if (count > lb_reader_left(reader) / sizeof(uint32_t))
        return lb_fail(err, LB_EDATA, field, "%u tokens, where %zu bytes are left", count,
                       lb_reader_left(reader));
    for (uint32_t i = 0; i < count; i++)
        if (!lb_tokens_push(&builder->tokens, lb_read_u32(reader)))
            return lb_fail(err, LB_ENOMEM, field, "out of memory");
    return LB_OK;
}

static lb_status read_row(lb_reader *reader, lb_dataset_builder *builder, lb_err *err)
{
    uint32_t count = lb_read_u32(reader), completion = lb_read_u32(reader);
    uint32_t answer = lb_read_u32(reader);
    size_t first = builder->tokens.count;
    if (reader->failed)
        return lb_fail(err, LB_EDATA, NULL, "is cut short");
    if (count == 0)
        return lb_fail(err, LB_EDATA, "tokens", "the prompt is empty");
    lb_status status = read_tokens(reader, count, "tokens", builder, err);
    size_t middle = builder->tokens.count;
    if (status == LB_OK)
        status = read_tokens(reader, completion, "completion", builder, err);
    if (status != LB_OK)
        return status;
    if (answer > LB_DATASET_LINE_MAX || answer > lb_reader_left(reader))
        return lb_fail(err, LB_EDATA, "answer_bytes", "%u bytes, where %zu are left", answer,
                       lb_reader_left(reader));
    const char *text = (const char *)lb_read_bytes(reader, answer);
    if (answer > 0 && (memchr(text, '\0', answer) != NULL ||
                       lb_utf8_valid_prefix(text, answer) != answer))
        return lb_fail(err, LB_EDATA, "answer", "is not UTF-8 text without NUL");
    return lb_dataset_add_row(builder, first, middle, text, answer, err);
}

lb_status lb_dataset_decode(const uint8_t *frame, size_t length, lb_dataset *out, lb_err *err)
{
    lb_reader reader = {.data = frame, .length = length};
    lb_dataset_builder builder = {0};
    lb_err local = {0};
    uint32_t rows = 0;
    lb_status status = read_head(&reader, &rows, &local);
    if (status != LB_OK)
        goto done;
    for (uint32_t i = 0; i < rows; i++) {
        status = read_row(&reader, &builder, &local);
        if (status != LB_OK) {
            (void)lb_err_wrap(&local, "row %u of the prompts frame", i);
            goto done;
        }
    }
    if (lb_reader_left(&reader) != 0) {
        status = lb_fail(&local, LB_EDATA, NULL, "%zu bytes follow the prompts frame",
                         lb_reader_left(&reader));
        goto done;
    }
    status = lb_dataset_finish(&builder, out, &local);
done:
    if (status != LB_OK && err != NULL)
        *err = local;
    lb_dataset_builder_free(&builder);
    return status;
}
