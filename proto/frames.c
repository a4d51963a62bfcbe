/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/frames.h"

#include "proto/limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 1u
#define FLAG_ENTROPY 1u
#define ANSWER_RESERVED 16u
#define ANSWER_HEADER 64u
#define NAME_BYTES 48

/* Reads a frame's magic and version. */
static lb_status read_magic(lb_reader *r, const char *magic, uint16_t *flags, lb_err *err)
{
    const uint8_t *bytes = lb_read_bytes(r, 4);
    if (!bytes || memcmp(bytes, magic, 4) != 0)
        return lb_fail(err, LB_EDATA, "magic", "the frame does not begin with \"%s\"", magic);
    uint16_t version = lb_read_u16(r);
    *flags = lb_read_u16(r);
    if (r->failed || version != VERSION)
        return lb_fail(err, LB_EUNSUPPORTED, "version", "the frame's version is %u, not %u",
                       version, VERSION);
    return LB_OK;
}

static void write_magic(lb_buf *out, const char *magic, uint16_t flags)
{
    lb_buf_append(out, magic, 4);
    lb_buf_u16(out, VERSION);
    lb_buf_u16(out, flags);
}

static lb_status cut_short(lb_err *err, const char *field)
{
    return lb_fail(err, LB_EDATA, field, "the frame ends within %s", field);
}

static lb_status expect_end(const lb_reader *r, lb_err *err)
{
    if (lb_reader_left(r) != 0)
        return lb_fail(err, LB_EDATA, "frame", "%zu bytes follow its end", lb_reader_left(r));
    return LB_OK;
}

/* ---- score request ---- */

void lb_score_query_encode(const lb_score_query *query, lb_buf *out)
{
    write_magic(out, "LBSQ", 0);
    lb_buf_u32(out, query->count);
    lb_buf_u32(out, query->k);
    lb_buf_u32(out, query->deadline_ms);
    lb_buf_append(out, query->tokenizer_digest, LB_SHA256_BYTES);
    for (uint32_t s = 0; s < query->count; s++) {
        const lb_frame_sequence *q = &query->sequences[s];
        lb_buf_u32(out, q->count);
        lb_buf_u32(out, q->start);
        for (uint32_t t = 0; t < q->count; t++)
            lb_buf_u32(out, q->tokens[t]);
    }
}

static lb_status query_sequence(lb_reader *r, uint32_t index, lb_frame_sequence *out,
                                uint32_t **tokens, lb_err *err)
{
    char field[NAME_BYTES];
    uint32_t count = lb_read_u32(r), start = lb_read_u32(r);
    const uint8_t *bytes = count <= lb_reader_left(r) / sizeof(uint32_t)
                               ? lb_read_bytes(r, (size_t)count * sizeof(uint32_t)) : NULL;
    snprintf(field, sizeof field, "sequences[%u]", index);
    if (r->failed || !bytes)
        return cut_short(err, field);
    if (count == 0)
        return lb_fail(err, LB_EDATA, field, "%s has no tokens", field);
    if (start < 1 || start > count) {
        snprintf(field, sizeof field, "sequences[%u].start", index);
        return lb_fail(err, LB_EDATA, field, "%s is %u, which is outside 1 .. %u", field, start,
                       count);
    }
    lb_reader ids = {.data = bytes, .length = (size_t)count * sizeof(uint32_t)};
    for (uint32_t t = 0; t < count; t++)
        (*tokens)[t] = lb_read_u32(&ids);
    *out = (lb_frame_sequence){*tokens, count, start};
    *tokens += count;
    return LB_OK;
}

lb_status lb_score_query_decode(const uint8_t *bytes, size_t length, lb_score_query *out,
                                lb_err *err)
{
    lb_reader r = {.data = bytes, .length = length};
    lb_score_query q = {0};
    uint16_t flags = 0;
    lb_status status = read_magic(&r, "LBSQ", &flags, err);
    if (status != LB_OK)
        return status;
    q.count = lb_read_u32(&r);
    q.k = lb_read_u32(&r);
    q.deadline_ms = lb_read_u32(&r);
    const uint8_t *digest = lb_read_bytes(&r, LB_SHA256_BYTES);
    if (!digest)
        return cut_short(err, "header");
    memcpy(q.tokenizer_digest, digest, LB_SHA256_BYTES);
    if (flags != 0)
        return lb_fail(err, LB_EUNSUPPORTED, "flags", "flags %u are not known", flags);
    if (q.count < 1 || q.count > LB_LIMIT_SEQUENCES)
        return lb_fail(err, LB_ETOOBIG, "sequences", "there are %u sequences, 1 .. %u are allowed",
                       q.count, LB_LIMIT_SEQUENCES);
    if (q.k > LB_LIMIT_TOP_K)
        return lb_fail(err, LB_EINVAL, "k", "k is %u, the limit is %u", q.k, LB_LIMIT_TOP_K);
    /* All tokens together cannot be more than the bytes that are left. */
    uint32_t *tokens = malloc(lb_reader_left(&r) + sizeof *tokens);
    q.storage = tokens;
    q.sequences = calloc(q.count, sizeof *q.sequences);
    if (!tokens || !q.sequences)
        status = lb_fail(err, LB_ENOMEM, NULL, "no memory for %u sequences", q.count);
    for (uint32_t s = 0; status == LB_OK && s < q.count; s++)
        status = query_sequence(&r, s, &q.sequences[s], &tokens, err);
    if (status == LB_OK)
        status = expect_end(&r, err);
    if (status == LB_OK)
        *out = q;
    else
        lb_score_query_free(&q);
    return status;
}

void lb_score_query_free(lb_score_query *query)
{
    if (!query)
        return;
    free(query->sequences);
    free(query->storage);
    *query = (lb_score_query){0};
}

/* ---- score reply ---- */

static void write_floats(lb_buf *out, const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        lb_buf_f32(out, values[i]);
}

void lb_score_answer_encode(const lb_score_answer *a, lb_buf *out)
{
    static const uint8_t reserved[ANSWER_RESERVED] = {0};
    write_magic(out, "OPDL", a->has_entropy ? FLAG_ENTROPY : 0);
    lb_buf_u32(out, a->count);
    lb_buf_u32(out, a->k);
    lb_buf_u32(out, a->vocab);
    lb_buf_u32(out, 0);
    lb_buf_u64(out, a->teacher_version);
    lb_buf_f64(out, a->queue_seconds);
    lb_buf_f64(out, a->compute_seconds);
    lb_buf_append(out, reserved, sizeof reserved);
    for (uint32_t s = 0; s < a->count; s++) {
        const lb_score_rows *rows = &a->sequences[s];
        size_t top = (size_t)rows->rows * a->k;
        lb_buf_u32(out, rows->rows);
        write_floats(out, rows->actual, rows->rows);
        if (a->k > 0) {
            write_floats(out, rows->top_logprob, top);
            for (size_t i = 0; i < top; i++)
                lb_buf_u32(out, rows->top_id[i]);
            write_floats(out, rows->tail_mass, rows->rows);
        }
        if (a->has_entropy)
            write_floats(out, rows->entropy, rows->rows);
    }
}

/* count values of 4 bytes into the storage; NULL when the frame ends before them. */
static void *read_words(lb_reader *r, size_t count, uint32_t **storage)
{
    uint32_t *first = *storage;
    if (count > lb_reader_left(r) / sizeof *first) {
        r->failed = true;
        return NULL;
    }
    for (size_t i = 0; i < count; i++)
        first[i] = lb_read_u32(r);
    *storage += count;
    return first;
}

static lb_status answer_rows(lb_reader *r, const lb_score_answer *a, uint32_t index,
                             lb_score_rows *out, uint32_t **storage, lb_err *err)
{
    char field[NAME_BYTES];
    out->rows = lb_read_u32(r);
    size_t top = 0;
    r->failed |= !lb_size_mul(out->rows, a->k, &top);
    if (!r->failed) {
        out->actual = read_words(r, out->rows, storage);
        if (a->k > 0) {
            out->top_logprob = read_words(r, top, storage);
            out->top_id = read_words(r, top, storage);
            out->tail_mass = read_words(r, out->rows, storage);
        }
        if (a->has_entropy)
            out->entropy = read_words(r, out->rows, storage);
    }
    snprintf(field, sizeof field, "sequences[%u]", index);
    return r->failed ? cut_short(err, field) : LB_OK;
}

lb_status lb_score_answer_decode(const uint8_t *bytes, size_t length, lb_score_answer *out,
                                 lb_err *err)
{
    lb_reader r = {.data = bytes, .length = length};
    lb_score_answer a = {0};
    uint16_t flags = 0;
    lb_status status = read_magic(&r, "OPDL", &flags, err);
    if (status != LB_OK)
        return status;
    a.has_entropy = flags & FLAG_ENTROPY;
    a.count = lb_read_u32(&r);
    a.k = lb_read_u32(&r);
    a.vocab = lb_read_u32(&r);
    lb_read_u32(&r);
    a.teacher_version = lb_read_u64(&r);
    a.queue_seconds = lb_read_f64(&r);
    a.compute_seconds = lb_read_f64(&r);
    lb_read_bytes(&r, ANSWER_RESERVED);
    if (r.failed || r.offset != ANSWER_HEADER)
        return cut_short(err, "header");
    if (a.count < 1 || a.count > LB_LIMIT_SEQUENCES || a.k > LB_LIMIT_TOP_K)
        return lb_fail(err, LB_EDATA, "sequences", "%u sequences with k %u are out of bounds",
                       a.count, a.k);
    uint32_t *storage = malloc(lb_reader_left(&r) + sizeof *storage);
    a.storage = storage;
    a.sequences = calloc(a.count, sizeof *a.sequences);
    if (!storage || !a.sequences)
        status = lb_fail(err, LB_ENOMEM, NULL, "no memory for %u sequences", a.count);
    for (uint32_t s = 0; status == LB_OK && s < a.count; s++)
        status = answer_rows(&r, &a, s, &a.sequences[s], &storage, err);
    if (status == LB_OK)
        status = expect_end(&r, err);
    if (status == LB_OK)
        *out = a;
    else
        lb_score_answer_free(&a);
    return status;
}

void lb_score_answer_free(lb_score_answer *answer)
{
    if (!answer)
        return;
    free(answer->sequences);
    free(answer->storage);
    *answer = (lb_score_answer){0};
}
