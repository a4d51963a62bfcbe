/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/teacher/logprobs: log p(token | the tokens before it), as the frames of proto/frames.h
 * or as JSON. The two differ in spelling only: the values have the same bits.
 */
#include "proto/frames.h"
#include "proto/limits.h"
#include "server/teacher/teacher_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define OCTETS "application/octet-stream"
#define FIELD_BYTES 48

typedef struct native_call {
    lb_call base;              /* first */
    lb_score_query query;      /* owns the tokens of a frame; zeroed for JSON */
    bool binary, entropy, tail;
} native_call;

static bool has_type(const char *header, const char *type)
{
    return header && strcasestr(header, type) != NULL;
}

/* The reply's format follows Accept, and without a clear word there the request's. */
static bool wants_binary(const lb_request *request, bool asked_in_binary)
{
    const char *accept = lb_request_header(request, "Accept");
    if (has_type(accept, OCTETS))
        return true;
    return asked_in_binary && !has_type(accept, "application/json");
}

static void release(lb_job *job)
{
    native_call *call = (native_call *)job;
    lb_score_query_free(&call->query);
    lb_call_free(&call->base);
}

/* ---- replies, on the answer thread ---- */

static void fill_tail(const lb_score_request *r, float *tail)
{
    for (uint32_t t = r->start; t < r->sequence.count; t++) {
        double mass = 0;
        for (uint32_t i = 0; i < r->k; i++)
            mass += exp((double)r->top_logprob[(size_t)t * r->k + i]);
        tail[t] = mass < 1 ? (float)(1 - mass) : 0;
    }
}

static void reply_binary(native_call *call)
{
    const lb_job *job = &call->base.job;
    lb_buf out = {0};
    size_t total = 0;
    for (size_t i = 0; i < job->request_count; i++)
        total += job->requests[i].sequence.count;
    lb_score_rows *rows = calloc(job->request_count, sizeof *rows);
    float *tail = call->base.k > 0 ? calloc(total, sizeof *tail) : NULL;
    if (!rows || (call->base.k > 0 && !tail))
        out.status = LB_ENOMEM;
    float *at = tail;
    for (size_t i = 0; out.status == LB_OK && i < job->request_count; i++) {
        const lb_score_request *r = &job->requests[i];
        rows[i].rows = r->sequence.count - r->start;
        rows[i].actual = r->logprob + r->start;
        rows[i].entropy = r->entropy ? r->entropy + r->start : NULL;
        if (r->k == 0)
            continue;
        rows[i].top_logprob = r->top_logprob + (size_t)r->start * r->k;
        rows[i].top_id = r->top_id + (size_t)r->start * r->k;
        rows[i].tail_mass = at + r->start;
        fill_tail(r, at);
        at += r->sequence.count;
    }
    lb_score_answer answer = {
        .sequences = rows,
        .count = (uint32_t)job->request_count,
        .k = call->base.k,
        .vocab = call->base.teacher->model_config->vocab,
        .teacher_version = call->base.teacher->version,
        .queue_seconds = job->queue_seconds,
        .compute_seconds = job->compute_seconds,
        .has_entropy = call->entropy,
    };
    if (out.status == LB_OK)
        lb_score_answer_encode(&answer, &out);
    lb_call_reply(&call->base, OCTETS, &out);
    free(rows);
    free(tail);
}

/* A value per entry; null below start, where there is none. */
static void write_values(lb_jsonw *w, const char *key, const lb_score_request *r,
                         const float *values)
{
    lb_jsonw_key(w, key);
    lb_jsonw_array(w);
    for (uint32_t t = 0; t < r->sequence.count; t++) {
        if (t < r->start)
            lb_jsonw_null(w);
        else
            lb_jsonw_f32(w, isinf(values[t]) ? LB_LOGPROB_MIN : values[t]);
    }
    lb_jsonw_array_end(w);
}

static void write_top(lb_jsonw *w, const lb_score_request *r, bool ids)
{
    lb_jsonw_key(w, ids ? "top_ids" : "top_logprobs");
    lb_jsonw_array(w);
    for (uint32_t t = 0; t < r->sequence.count; t++) {
        if (t < r->start) {
            lb_jsonw_null(w);
            continue;
        }
        lb_jsonw_array(w);
        for (size_t i = (size_t)t * r->k; i < ((size_t)t + 1) * r->k; i++) {
            if (ids)
                lb_jsonw_u64(w, r->top_id[i]);
            else
                lb_jsonw_f32(w, isinf(r->top_logprob[i]) ? LB_LOGPROB_MIN : r->top_logprob[i]);
        }
        lb_jsonw_array_end(w);
    }
    lb_jsonw_array_end(w);
}

static void write_sequence(lb_jsonw *w, const native_call *call, const lb_score_request *r,
                           float *scratch)
{
    lb_jsonw_object(w);
    lb_jsonw_key(w, "start");
    lb_jsonw_u64(w, r->start);
    write_values(w, "logprobs", r, r->logprob);
    if (r->k > 0) {
        write_top(w, r, true);
        write_top(w, r, false);
    }
    if (r->k > 0 && call->tail) {
        fill_tail(r, scratch);
        write_values(w, "tail_mass", r, scratch);
    }
    if (r->entropy)
        write_values(w, "entropy", r, r->entropy);
    lb_jsonw_object_end(w);
}

static void reply_json(native_call *call)
{
    const lb_teacher *teacher = call->base.teacher;
    const lb_job *job = &call->base.job;
    char version[24];
    lb_buf out = {0};
    lb_jsonw w = {.out = &out};
    float *scratch = calloc(teacher->model_config->max_positions, sizeof *scratch);
    if (!scratch)
        out.status = LB_ENOMEM;
    snprintf(version, sizeof version, "%016llx", (unsigned long long)teacher->version);
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "model");
    lb_jsonw_string(&w, teacher->name);
    lb_jsonw_key(&w, "teacher_version");
    lb_jsonw_string(&w, version);
    lb_jsonw_key(&w, "vocab");
    lb_jsonw_u64(&w, teacher->model_config->vocab);
    lb_jsonw_key(&w, "sequences");
    lb_jsonw_array(&w);
    for (size_t i = 0; out.status == LB_OK && i < job->request_count; i++)
        write_sequence(&w, call, &job->requests[i], scratch);
    lb_jsonw_array_end(&w);
    lb_jsonw_key(&w, "usage");
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "prompt_tokens");
    lb_jsonw_u64(&w, job->tokens);
    lb_jsonw_object_end(&w);
    lb_jsonw_key(&w, "queue_seconds");
    lb_jsonw_f64(&w, job->queue_seconds);
    lb_jsonw_key(&w, "compute_seconds");
    lb_jsonw_f64(&w, job->compute_seconds);
    lb_jsonw_object_end(&w);
    lb_call_reply(&call->base, "application/json", &out);
    free(scratch);
}

static void answer(lb_job *job)
{
    native_call *call = (native_call *)job;
    if (!lb_call_succeeded(&call->base))
        return;
    if (call->binary)
        reply_binary(call);
    else
        reply_json(call);
}

/* ---- requests, on an HTTP thread ---- */

static native_call *create(lb_teacher *teacher, lb_request *request, size_t sequences)
{
    native_call *call = lb_call_create(sizeof *call, teacher, request, sequences);
    if (call) {
        call->base.k_field = "k";
        call->base.job.answer = answer;
        call->base.job.release = release;
    }
    return call;
}

static lb_status check_k(const lb_teacher *teacher, uint32_t k, lb_err *err)
{
    uint32_t vocab = teacher->model_config->vocab;
    uint32_t most = teacher->max_logprobs < vocab ? teacher->max_logprobs : vocab;
    if (k > most)
        return lb_fail(err, LB_EINVAL, "k", "is %u; this teacher gives at most %u", k, most);
    return LB_OK;
}

/* digest: hex, or NULL when the client does not say. */
static lb_status check_tokenizer(const lb_teacher *teacher, const char *digest, lb_err *err)
{
    const char *field = "tokenizer_sha256";
    if (!digest)
        return LB_OK;
    if (!teacher->tokenizer)
        return lb_fail(err, LB_EINVAL, field,
                       "the teacher's folder has no tokenizer.json to compare with");
    if (strcasecmp(digest, lb_tokenizer_digest(teacher->tokenizer)) != 0)
        return lb_fail(err, LB_EINVAL, field,
                       "is %.64s, the teacher's tokenizer is %.64s: their tokens do not mean the "
                       "same", digest, lb_tokenizer_digest(teacher->tokenizer));
    return LB_OK;
}

/* Checks the sequences that the parsers laid into job.requests, and reserves their results. */
static lb_status check_sequences(native_call *call, lb_err *err)
{
    lb_job *job = &call->base.job;
    char field[FIELD_BYTES];
    for (size_t i = 0; i < job->request_count; i++) {
        lb_score_request *r = &job->requests[i];
        snprintf(field, sizeof field, "sequences[%zu]", i);
        lb_status status = lb_teacher_check_tokens(call->base.teacher, r->sequence.tokens,
                                                   r->sequence.count, field, err);
        if (status != LB_OK)
            return status;
        if (r->start < 1 || r->start > r->sequence.count) {
            snprintf(field, sizeof field, "sequences[%zu].start", i);
            return lb_fail(err, LB_EINVAL, field, "is %u, outside 1 .. %u", r->start,
                           r->sequence.count);
        }
        call->base.capacities[i] = r->sequence.count;
        job->tokens += r->sequence.count;
    }
    lb_call_results results = {.entropy = call->entropy};
    return lb_call_reserve(&call->base, &results, err);
}

static lb_status parse_frame(lb_teacher *teacher, lb_request *request, native_call **out,
                             lb_err *err)
{
    static const uint8_t unchecked[LB_SHA256_BYTES];
    size_t length = 0;
    char digest[LB_SHA256_HEX];
    lb_score_query query = {0};
    const uint8_t *body = lb_request_body(request, &length);
    lb_status status = lb_score_query_decode(body, length, &query, err);
    if (status != LB_OK)
        return status;
    native_call *call = create(teacher, request, query.count);
    if (!call) {
        lb_score_query_free(&query);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the request");
    }
    *out = call;
    call->query = query;
    call->base.k = query.k;
    for (uint32_t i = 0; i < query.count; i++) {
        lb_score_request *r = &call->base.job.requests[i];
        r->sequence = (lb_sequence){query.sequences[i].tokens, query.sequences[i].count};
        r->start = query.sequences[i].start;
    }
    lb_sha256_hex(query.tokenizer_digest, digest);
    bool named = memcmp(query.tokenizer_digest, unchecked, sizeof unchecked) != 0;
    status = check_tokenizer(teacher, named ? digest : NULL, err);
    if (status == LB_OK)
        status = lb_call_deadline(&call->base, query.deadline_ms, err);
    return status;
}

/* "return": which results are wanted besides the actual token's. */
static lb_status parse_return(native_call *call, const lb_json *body, lb_err *err)
{
    const lb_json *list = NULL;
    lb_status status = lb_json_opt_array(body, "", "return", &list, err);
    for (size_t i = 0; status == LB_OK && list && i < lb_json_array_size(list); i++) {
        const char *word = lb_json_string(lb_json_at(list, i));
        if (word && strcmp(word, "entropy") == 0)
            call->entropy = true;
        else if (word && strcmp(word, "tail") == 0)
            call->tail = true;
        else if (!word || (strcmp(word, "actual") != 0 && strcmp(word, "topk") != 0))
            status = lb_fail(err, LB_EINVAL, "return",
                             "entry %zu is none of actual, topk, entropy, tail", i);
    }
    return status;
}

static lb_status parse_starts(native_call *call, const lb_json *body, lb_err *err)
{
    lb_job *job = &call->base.job;
    const lb_json *lengths = NULL;
    uint32_t start = 1;
    lb_status status = lb_json_opt_array(body, "", "prompt_lengths", &lengths, err);
    if (status == LB_OK)
        status = lb_json_opt_u32(body, "", "start", 1, UINT32_MAX, &start, err);
    if (status != LB_OK)
        return status;
    if (lengths && lb_json_array_size(lengths) != job->request_count)
        return lb_fail(err, LB_EINVAL, "prompt_lengths", "has %zu entries for %zu sequences",
                       lb_json_array_size(lengths), job->request_count);
    if (lengths)
        status = lb_teacher_parse_ids(lengths, "prompt_lengths", call->base.capacities, err);
    for (size_t i = 0; status == LB_OK && i < job->request_count; i++)
        job->requests[i].start = lengths ? call->base.capacities[i] : start;
    return status;
}

static lb_status parse_sequences(native_call *call, const lb_json *sequences, lb_err *err)
{
    lb_job *job = &call->base.job;
    char field[FIELD_BYTES];
    size_t total = 0;
    for (size_t i = 0; i < job->request_count; i++) {
        const lb_json *ids = lb_json_at(sequences, i);
        snprintf(field, sizeof field, "sequences[%zu]", i);
        if (!lb_json_is_array(ids))
            return lb_fail(err, LB_EINVAL, field, "must be an array of token ids");
        total += lb_json_array_size(ids);
    }
    /* The body's limit bounds the total. */
    call->base.tokens = calloc(total ? total : 1, sizeof *call->base.tokens);
    if (!call->base.tokens)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the request");
    uint32_t *at = call->base.tokens;
    for (size_t i = 0; i < job->request_count; i++) {
        const lb_json *ids = lb_json_at(sequences, i);
        snprintf(field, sizeof field, "sequences[%zu]", i);
        lb_status status = lb_teacher_parse_ids(ids, field, at, err);
        if (status != LB_OK)
            return status;
        job->requests[i].sequence = (lb_sequence){at, (uint32_t)lb_json_array_size(ids)};
        at += lb_json_array_size(ids);
    }
    return LB_OK;
}

static lb_status parse_json(lb_teacher *teacher, lb_request *request, const lb_json *body,
                            native_call **out, lb_err *err)
{
    const lb_json *sequences = NULL;
    const char *digest = NULL;
    uint32_t deadline_ms = 0;
    lb_status status = lb_json_need_array(body, "", "sequences", &sequences, err);
    if (status != LB_OK)
        return status;
    size_t count = lb_json_array_size(sequences);
    if (count < 1 || count > LB_LIMIT_SEQUENCES)
        return lb_fail(err, LB_EINVAL, "sequences", "has %zu entries, outside 1 .. %u", count,
                       LB_LIMIT_SEQUENCES);
    native_call *call = create(teacher, request, count);
    if (!call)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the request");
    *out = call;
    status = parse_sequences(call, sequences, err);
    if (status == LB_OK)
        status = parse_starts(call, body, err);
    if (status == LB_OK)
        status = lb_json_opt_u32(body, "", "k", 0, LB_LIMIT_TOP_K, &call->base.k, err);
    if (status == LB_OK)
        status = parse_return(call, body, err);
    if (status == LB_OK)
        status = lb_json_opt_string(body, "", "tokenizer_sha256", &digest, err);
    if (status == LB_OK)
        status = check_tokenizer(teacher, digest, err);
    if (status == LB_OK)
        status = lb_json_opt_u32(body, "", "deadline_ms", 1, UINT32_MAX, &deadline_ms, err);
    if (status == LB_OK)
        status = lb_call_deadline(&call->base, deadline_ms, err);
    return status;
}

void lb_teacher_post_logprobs(void *daemon, lb_request *request)
{
    lb_teacher *teacher = daemon;
    native_call *call = NULL;
    lb_err err = {0};
    lb_status status = LB_OK;
    size_t length = 0;
    bool binary = has_type(lb_request_header(request, "Content-Type"), OCTETS);
    lb_request_body(request, &length);
    if (binary) {
        status = parse_frame(teacher, request, &call, &err);
    } else if (length > LB_LIMIT_JSON_BODY) {
        status = lb_fail(&err, LB_ETOOBIG, NULL, "a JSON body may have %u bytes; send a frame",
                         LB_LIMIT_JSON_BODY);
    } else {
        const lb_json *body = lb_request_json(request);
        if (!body || !lb_teacher_serves(teacher, request, body))
            return;
        status = parse_json(teacher, request, body, &call, &err);
    }
    if (status == LB_OK)
        status = check_k(teacher, call->base.k, &err);
    if (status == LB_OK)
        status = check_sequences(call, &err);
    if (status != LB_OK) {
        lb_teacher_reject(teacher, request, &err);
        if (call)
            release(&call->base.job);
        return;
    }
    call->binary = wants_binary(request, binary);
    lb_call_submit(&call->base);
}
