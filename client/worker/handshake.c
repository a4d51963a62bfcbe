/* SPDX-License-Identifier: Apache-2.0
 *
 * The handshake of a job: what the student is, what the teacher says it is, and a probe that holds
 * the teacher's logprobs against themselves.
 */
#include "client/worker/worker_impl.h"
#include "common/train/handshake.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROBE_ROWS 4u
#define PROBE_PROMPT 96u          /* tokens of a row's prompt */
#define PROBE_SAMPLED 16u
#define PROBE_STEP UINT32_MAX     /* a step that no job reaches: draws of its own */
#define CALL_TIMEOUT_MS 60000
#define REPLY_MAX (1u << 20)
#define PATH_BYTES 160

/* ---- what the two sides are ---- */

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void describe_student(const lb_student *student, lb_handshake_side *out)
{
    const lb_model_config *config = lb_model_get_config(student->model);
    snprintf(out->model, sizeof out->model, "%s", student->name);
    snprintf(out->model_sha, sizeof out->model_sha, "%s", lb_model_digest(student->model));
    snprintf(out->tokenizer_sha, sizeof out->tokenizer_sha, "%s",
             lb_tokenizer_digest(student->tokenizer));
    memcpy(out->template_sha, student->template_sha, sizeof out->template_sha);
    out->vocab = config->vocab;
    out->stop_count = config->eos_count;
    memcpy(out->stops, config->eos, config->eos_count * sizeof *out->stops);
    qsort(out->stops, out->stop_count, sizeof *out->stops, by_value);
}

static lb_status take_text(const lb_json *model, const char *key, bool need, char *out,
                           size_t size, lb_err *err)
{
    const char *text = NULL;
    if (!need && lb_json_is_null(lb_json_get(model, key)))
        return LB_OK;
    lb_status status = lb_json_need_string(model, "teacher", key, &text, err);
    if (status == LB_OK && strlen(text) >= size)
        status = lb_fail(err, LB_EDATA, key, "the teacher's %s has more than %zu bytes", key,
                         size - 1);
    if (status == LB_OK)
        memcpy(out, text, strlen(text) + 1);
    return status;
}

static lb_status read_teacher(const lb_json *model, lb_handshake_side *out, lb_err *err)
{
    const lb_json *stops = NULL;
    lb_status status = take_text(model, "id", true, out->model, sizeof out->model, err);
    if (status == LB_OK)
        status = take_text(model, "digest", true, out->model_sha, sizeof out->model_sha, err);
    if (status == LB_OK)
        status = take_text(model, "tokenizer_sha256", true, out->tokenizer_sha,
                           sizeof out->tokenizer_sha, err);
    if (status == LB_OK)
        status = take_text(model, "chat_template_sha256", false, out->template_sha,
                           sizeof out->template_sha, err);
    if (status == LB_OK)
        status = lb_json_need_u32(model, "teacher", "vocab", 1, LB_CONFIG_VOCAB_MAX, &out->vocab,
                                  err);
    if (status == LB_OK)
        status = lb_json_opt_array(model, "teacher", "eos_token_ids", &stops, err);
    for (size_t i = 0; status == LB_OK && i < lb_json_array_size(stops); i++) {
        const lb_json *id = lb_json_at(stops, i);
        if (i == LB_CONFIG_EOS_MAX || !lb_json_is_integer(id) || lb_json_integer(id) < 0 ||
            lb_json_integer(id) >= out->vocab)
            return lb_fail(err, LB_EDATA, "teacher.eos_token_ids", "entry %zu is no id", i);
        out->stops[out->stop_count++] = (uint32_t)lb_json_integer(id);
    }
    qsort(out->stops, out->stop_count, sizeof *out->stops, by_value);
    return status;
}

static lb_status describe_teacher(lb_worker *worker, const lb_job_view *view,
                                  lb_handshake_side *out, lb_err *err)
{
    lb_answer answer = {0};
    lb_json *json = NULL;
    lb_call call = {.method = "GET", .path = "/v1/models", .timeout_ms = CALL_TIMEOUT_MS,
                    .reply_max = REPLY_MAX};
    lb_status status = lb_score_connect(worker, view->teacher_url, err);
    if (status == LB_OK)
        status = lb_client_call(worker->teacher, &call, &answer, err);
    if (status == LB_OK)
        status = lb_answer_check(&answer, err);
    if (status == LB_OK)
        status = lb_json_parse((const char *)answer.body.data, answer.body.length, &json, err);
    if (status == LB_OK)
        status = read_teacher(lb_json_at(lb_json_get(json, "data"), 0), out, err);
    lb_json_free(json);
    lb_answer_free(&answer);
    return status == LB_OK ? LB_OK
                           : lb_err_wrap(err, "the teacher at %.100s", view->teacher_url);
}

/* ---- the probe ---- */

typedef struct probe_row {
    uint32_t tokens[PROBE_PROMPT + PROBE_SAMPLED];
    uint32_t prompt, count;
    float sampler[PROBE_PROMPT + PROBE_SAMPLED];  /* from prompt on */
    float student[PROBE_PROMPT + PROBE_SAMPLED];  /* from 1 on */
    float teacher[PROBE_PROMPT + PROBE_SAMPLED];
    float again[PROBE_PROMPT + PROBE_SAMPLED];
} probe_row;

typedef struct probe {
    lb_worker *worker;
    const lb_job_view *view;
    lb_score_source source;
    uint32_t count;
    probe_row rows[PROBE_ROWS];
} probe;

static lb_status sample(probe *p, lb_err *err)
{
    const lb_student *student = p->view->student;
    lb_sequence prompts[PROBE_ROWS];
    lb_rollout rollouts[PROBE_ROWS] = {0};
    for (uint32_t i = 0; i < p->count; i++) {
        const lb_prompt *prompt = &p->view->dataset.prompts[i];
        uint32_t count = prompt->count < PROBE_PROMPT ? prompt->count : PROBE_PROMPT;
        prompts[i] = (lb_sequence){prompt->tokens, count};
    }
    lb_generate_params params = {
        .sample = {.temperature = 1.0f, .top_p = 1.0f},
        .max_new_tokens = PROBE_SAMPLED,
        .seed = p->view->config.seed,
        .step = PROBE_STEP,
        .allowed = student->allowed,
        .cancelled = lb_worker_unit_cancelled,
        .cancel_arg = p->worker,
    };
    lb_status status = lb_model_generate(student->model, NULL, prompts, p->count, 1, 0, &params,
                                         rollouts, err);
    for (uint32_t i = 0; status == LB_OK && i < p->count; i++) {
        probe_row *row = &p->rows[i];
        row->prompt = prompts[i].count;
        row->count = prompts[i].count + rollouts[i].count;
        memcpy(row->tokens, prompts[i].tokens, row->prompt * sizeof *row->tokens);
        memcpy(row->tokens + row->prompt, rollouts[i].tokens,
               rollouts[i].count * sizeof *row->tokens);
        memcpy(row->sampler + row->prompt, rollouts[i].logprobs,
               rollouts[i].count * sizeof *row->sampler);
        lb_rollout_free(&rollouts[i]);
    }
    return status;
}

static lb_status score_student(probe *p, lb_err *err)
{
    lb_score_request requests[PROBE_ROWS];
    for (uint32_t i = 0; i < p->count; i++)
        requests[i] = (lb_score_request){
            .sequence = {p->rows[i].tokens, p->rows[i].count},
            .start = 1,
            .logprob = p->rows[i].student,
        };
    return lb_model_score(p->view->student->model, NULL, requests, p->count, err);
}

static lb_status check_logprobs(const probe_row *row, const float *logprob, lb_err *err)
{
    for (uint32_t t = 1; t < row->count; t++) {
        if (!(logprob[t] <= 0.0f) || !isfinite(logprob[t]))
            return lb_fail(err, LB_EDATA, "probe", "the teacher's logprob of token %u is %g", t,
                           (double)logprob[t]);
    }
    return LB_OK;
}

/* Asks the teacher about rows [first, first + count); the answers go to `again` or to `teacher`. */
static lb_status ask(probe *p, uint32_t first, uint32_t count, bool again, lb_err *err)
{
    lb_unit_query queries[PROBE_ROWS];
    for (uint32_t i = 0; i < count; i++) {
        probe_row *row = &p->rows[first + i];
        queries[i] = (lb_unit_query){{row->tokens, row->count}, 1,
                                     again ? row->again : row->teacher};
    }
    lb_status status = lb_score_remote(&p->source, queries, count, err);
    for (uint32_t i = 0; status == LB_OK && i < count; i++)
        status = check_logprobs(&p->rows[first + i], queries[i].logprobs, err);
    return status;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static double difference(float a, float b)
{
    return fabs((double)a - (double)b);
}

/* Asks again, each row alone, then each with its last token changed. */
static lb_status ask_again(probe *p, lb_handshake_probe *out, lb_err *err)
{
    lb_status status = LB_OK;
    for (uint32_t i = 0; status == LB_OK && i < p->count; i++) {
        probe_row *row = &p->rows[i];
        status = ask(p, i, 1, true, err);
        for (uint32_t t = 1; status == LB_OK && t < row->count; t++)
            out->teacher_noise = larger(out->teacher_noise,
                                        difference(row->teacher[t], row->again[t]));
        if (status != LB_OK || row->count < 2)
            continue;
        uint32_t last = row->count - 1, own = row->tokens[last];
        row->tokens[last] = own > 0 ? own - 1 : 1;
        status = ask(p, i, 1, true, err);
        row->tokens[last] = own;
        for (uint32_t t = 1; status == LB_OK && t < last; t++)
            out->before_change = larger(out->before_change,
                                        difference(row->teacher[t], row->again[t]));
        if (status == LB_OK)
            out->at_change = larger(out->at_change,
                                    difference(row->teacher[last], row->again[last]));
    }
    return status;
}

static void sum_up(const probe *p, lb_handshake_probe *out)
{
    double teacher = 0, student = 0;
    out->sequences = p->count;
    for (uint32_t i = 0; i < p->count; i++) {
        const probe_row *row = &p->rows[i];
        for (uint32_t t = 1; t < row->count; t++) {
            teacher += (double)row->teacher[t];
            student += (double)row->student[t];
            out->tokens++;
            if (t >= row->prompt)
                out->sampler_noise = larger(out->sampler_noise,
                                            difference(row->sampler[t], row->student[t]));
        }
    }
    if (out->tokens) {
        out->teacher_logprob = teacher / (double)out->tokens;
        out->student_logprob = student / (double)out->tokens;
    }
}

static lb_status measure(lb_worker *worker, const lb_job_view *view, lb_handshake *out,
                         lb_err *err)
{
    size_t rows = view->dataset.count;
    probe *p = calloc(1, sizeof *p);
    if (!p)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the handshake");
    *p = (probe){.worker = worker, .view = view, .source = {.worker = worker, .view = view}};
    p->count = rows < PROBE_ROWS ? (uint32_t)rows : PROBE_ROWS;
    describe_student(view->student, &out->student);
    lb_status status = describe_teacher(worker, view, &out->teacher, err);
    /* Another tokenizer makes a probe senseless, and our own teacher refuses it. */
    bool same = strcmp(out->student.tokenizer_sha, out->teacher.tokenizer_sha) == 0;
    if (status == LB_OK && same)
        status = sample(p, err);
    if (status == LB_OK && same)
        status = score_student(p, err);
    if (status == LB_OK && same)
        status = ask(p, 0, p->count, false, err);
    if (status == LB_OK && same)
        status = ask_again(p, &out->probe, err);
    if (status == LB_OK && same)
        sum_up(p, &out->probe);
    out->teacher_version = p->source.version;
    free(p);
    return status;
}

/* ---- telling the coordinator ---- */

bool lb_failure_is_final(lb_status status)
{
    return status == LB_EDATA || status == LB_EINVAL || status == LB_EUNSUPPORTED ||
           status == LB_ENUMERIC || status == LB_ECONFLICT || status == LB_ETOOBIG;
}

void lb_failure_write(const lb_err *failure, lb_jsonw *w)
{
    lb_jsonw_object(w);
    lb_jsonw_key(w, "field");
    lb_jsonw_string(w, failure->field);
    lb_jsonw_key(w, "message");
    lb_jsonw_string(w, failure->message);
    lb_jsonw_object_end(w);
}

static void write_failure(const lb_err *failure, lb_jsonw *w)
{
    lb_jsonw_object(w);
    lb_jsonw_key(w, "failure");
    lb_failure_write(failure, w);
    lb_jsonw_object_end(w);
}

static lb_status tell(lb_worker *worker, const char *job, const lb_buf *body, lb_err *err)
{
    char path[PATH_BYTES];
    lb_answer answer = {0};
    snprintf(path, sizeof path, "/v1/runs/%s/handshake", job);
    lb_call call = {.method = "POST", .path = path, .content_type = "application/json",
                    .body = body->data, .length = body->length, .timeout_ms = CALL_TIMEOUT_MS,
                    .reply_max = REPLY_MAX};
    lb_status status = lb_client_call(worker->client, &call, &answer, err);
    if (status == LB_OK)
        status = lb_answer_check(&answer, err);
    lb_answer_free(&answer);
    return status == LB_OK ? LB_OK : lb_err_wrap(err, "the handshake");
}

lb_status lb_handshake_hold(lb_worker *worker, const char *job, lb_job_view *view, lb_err *err)
{
    lb_handshake found = {0};
    lb_err failure = {0};
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_status measured = measure(worker, view, &found, &failure);
    if (measured != LB_OK && !lb_failure_is_final(measured)) {
        if (err)
            *err = failure;
        return measured;
    }
    if (measured == LB_OK)
        lb_handshake_write(&found, &w);
    else
        write_failure(&failure, &w);
    lb_status status = body.status != LB_OK
        ? lb_fail(err, body.status, NULL, "no memory for the handshake")
        : tell(worker, job, &body, err);
    if (status == LB_OK && measured != LB_OK) {
        if (err)
            *err = failure;
        status = measured;
    }
    view->teacher_version = found.teacher_version;
    view->has_version = status == LB_OK;
    lb_buf_free(&body);
    return status;
}
