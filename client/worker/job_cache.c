/* SPDX-License-Identifier: Apache-2.0
 *
 * What a worker keeps of jobs: their configuration, prompts and adapter versions. Whatever comes
 * under a digest is held against it; what does not fit this worker's model is refused with figures.
 */
#include "client/worker/worker_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALL_TIMEOUT_MS 60000
#define BLOB_TIMEOUT_MS 300000
#define RUN_REPLY_MAX (1u << 20)
#define PATH_BYTES 160

static lb_status get(lb_worker *worker, const char *path, uint32_t timeout_ms, size_t reply_max,
                     lb_answer *answer, lb_err *err)
{
    lb_call call = {.method = "GET", .path = path, .timeout_ms = timeout_ms,
                    .reply_max = reply_max};
    lb_status status = lb_client_call(worker->client, &call, answer, err);
    if (status == LB_OK)
        status = lb_answer_check(answer, err);
    if (status != LB_OK)
        lb_err_wrap(err, "GET %.120s", path);
    return status;
}

/* Fetches a blob and holds it against its name. */
static lb_status get_blob(lb_worker *worker, const char *sha, lb_answer *answer, lb_err *err)
{
    char path[PATH_BYTES];
    uint8_t named[LB_SHA256_BYTES], real[LB_SHA256_BYTES];
    if (!lb_sha256_parse(sha, named))
        return lb_fail(err, LB_EDATA, "sha256", "'%.70s' is not a SHA-256", sha);
    snprintf(path, sizeof path, "/v1/blobs/%s", sha);
    lb_status status = get(worker, path, BLOB_TIMEOUT_MS, LB_LIMIT_GRADIENT_BODY, answer, err);
    if (status != LB_OK)
        return status;
    lb_sha256_of(answer->body.data, answer->body.length, real);
    if (memcmp(named, real, sizeof real) != 0)
        return lb_fail(err, LB_EDATA, "sha256", "blob %s arrived with other bytes (%zu of them)",
                       sha, answer->body.length);
    return LB_OK;
}

/* ---- views ---- */

static void drop_view(lb_job_view *view)
{
    lb_dataset_free(&view->dataset);
    lb_lora_layout_free(&view->layout);
    *view = (lb_job_view){0};
}

static lb_student *find_student(lb_worker *worker, const char *name)
{
    for (size_t i = 0; i < worker->student_count; i++) {
        if (strcmp(worker->students[i].name, name) == 0)
            return &worker->students[i];
    }
    return NULL;
}

/* The student that a run is about, if it is the same here as at the coordinator. */
static lb_status match_student(lb_worker *worker, const lb_json *run, lb_job_view *view,
                               lb_err *err)
{
    const char *model = NULL, *digest = NULL;
    uint32_t vocab = 0;
    lb_status status = lb_json_need_string(run, "", "model", &model, err);
    if (status == LB_OK)
        status = lb_json_need_string(run, "", "tokenizer_sha256", &digest, err);
    if (status == LB_OK)
        status = lb_json_need_u32(run, "", "vocab", 1, LB_CONFIG_VOCAB_MAX, &vocab, err);
    if (status != LB_OK)
        return status;
    view->student = find_student(worker, model);
    if (!view->student)
        return lb_fail(err, LB_ENOTFOUND, "model", "this worker has no model '%.64s'", model);
    const char *own = lb_tokenizer_digest(view->student->tokenizer);
    uint32_t own_vocab = lb_model_get_config(view->student->model)->vocab;
    if (strcmp(digest, own) != 0)
        return lb_fail(err, LB_ECONFLICT, "tokenizer_sha256",
                       "the job's tokenizer is %.64s, this worker's is %.64s", digest, own);
    if (vocab != own_vocab)
        return lb_fail(err, LB_ECONFLICT, "vocab", "is %u for the job and %u for this worker",
                       vocab, own_vocab);
    return LB_OK;
}

static lb_status read_config(const lb_json *run, lb_job_view *view, lb_err *err)
{
    const lb_json *hyperparameters = NULL;
    const char *grader = NULL, *name = NULL;
    lb_method method = LB_METHOD_DISTILLATION;
    uint64_t seed = 0;
    lb_status status = lb_json_need_u64(run, "", "seed", 0, INT64_MAX, &seed, err);
    if (status == LB_OK)
        status = lb_json_need_string(run, "", "method", &name, err);
    if (status == LB_OK)
        status = lb_method_parse(name, &method, err);
    if (status == LB_OK)
        status = lb_json_need_object(run, "", "hyperparameters", &hyperparameters, err);
    if (status == LB_OK)
        status = lb_job_config_parse(hyperparameters, "hyperparameters", method, seed,
                                     &view->config, err);
    if (status == LB_OK)
        status = lb_json_opt_string(run, "", "grader", &grader, err);
    if (status == LB_OK && grader && strcmp(grader, "exact_numeric") != 0)
        status = lb_fail(err, LB_EUNSUPPORTED, "grader", "'%.40s' is not known", grader);
    view->grade = grader != NULL;
    return status;
}

static lb_status read_teacher(const lb_worker *worker, const lb_json *run, lb_job_view *view,
                              lb_err *err)
{
    const lb_json *teacher = NULL;
    const char *url = worker->config.teacher;
    if (view->config.method == LB_METHOD_SUPERVISED)
        return LB_OK;
    lb_status status = lb_json_need_object(run, "", "teacher", &teacher, err);
    if (status == LB_OK && !url)
        status = lb_json_need_string(teacher, "teacher", "url", &url, err);
    if (status == LB_OK && strlen(url) >= sizeof view->teacher_url)
        status = lb_fail(err, LB_EDATA, "teacher.url", "has more than %zu bytes",
                         sizeof view->teacher_url - 1);
    if (status == LB_OK)
        memcpy(view->teacher_url, url, strlen(url) + 1);
    return status;
}

static lb_status read_dataset(lb_worker *worker, const lb_json *run, lb_job_view *view,
                              lb_err *err)
{
    lb_answer blob = {0};
    const char *sha = NULL;
    uint64_t rows = 0;
    lb_status status = lb_json_need_string(run, "", "dataset_sha256", &sha, err);
    if (status == LB_OK)
        status = lb_json_need_u64(run, "", "dataset_rows", 1, LB_DATASET_ROWS_MAX, &rows, err);
    if (status == LB_OK)
        status = get_blob(worker, sha, &blob, err);
    if (status == LB_OK)
        status = lb_dataset_decode(blob.body.data, blob.body.length, &view->dataset, err);
    if (status == LB_OK && view->dataset.count != rows)
        status = lb_fail(err, LB_EDATA, "dataset_rows", "is %llu, the data set has %zu",
                         (unsigned long long)rows, view->dataset.count);
    lb_answer_free(&blob);
    return status;
}

static lb_status fetch_view(lb_worker *worker, const char *job, lb_job_view *view, lb_err *err)
{
    char path[PATH_BYTES];
    lb_answer answer = {0};
    lb_json *run = NULL;
    snprintf(path, sizeof path, "/v1/runs/%s", job);
    lb_status status = get(worker, path, CALL_TIMEOUT_MS, RUN_REPLY_MAX, &answer, err);
    if (status == LB_OK)
        status = lb_json_parse((const char *)answer.body.data, answer.body.length, &run, err);
    if (status == LB_OK)
        status = match_student(worker, run, view, err);
    if (status == LB_OK)
        status = read_config(run, view, err);
    if (status == LB_OK)
        status = read_teacher(worker, run, view, err);
    if (status == LB_OK)
        status = lb_lora_layout_create(lb_model_get_config(view->student->model),
                                       &view->config.lora, &view->layout, err);
    if (status == LB_OK)
        status = read_dataset(worker, run, view, err);
    lb_json_free(run);
    lb_answer_free(&answer);
    return status;
}

lb_status lb_cache_view(lb_worker *worker, const char *job, lb_job_view **out, lb_err *err)
{
    lb_job_view *slot = &worker->views[0];
    for (size_t i = 0; i < LB_WORKER_VIEWS; i++) {
        lb_job_view *view = &worker->views[i];
        if (strcmp(view->job, job) == 0) {
            view->used = ++worker->clock;
            *out = view;
            return LB_OK;
        }
        slot = view->used < slot->used ? view : slot;
    }
    drop_view(slot);
    lb_status status = fetch_view(worker, job, slot, err);
    if (status == LB_OK && slot->config.method == LB_METHOD_DISTILLATION)
        status = lb_handshake_hold(worker, job, slot, err);
    if (status != LB_OK) {
        drop_view(slot);
        return status;
    }
    memcpy(slot->job, job, strlen(job) + 1);   /* a lease's job fits: its text has this size */
    slot->used = ++worker->clock;
    *out = slot;
    return LB_OK;
}

/* ---- adapters ---- */

static void drop_adapter(lb_cached_adapter *slot)
{
    lb_adapter_free(slot->adapter);
    *slot = (lb_cached_adapter){0};
}

static lb_status fetch_adapter(lb_worker *worker, const lb_job_view *view, const char *sha,
                               lb_adapter **out, lb_err *err)
{
    lb_answer blob = {0};
    float *flat = calloc(view->layout.elements, sizeof *flat);
    lb_status status = LB_OK;
    if (!flat)
        status = lb_fail(err, LB_ENOMEM, NULL, "no memory for an adapter of %zu elements",
                         view->layout.elements);
    if (status == LB_OK)
        status = get_blob(worker, sha, &blob, err);
    if (status == LB_OK)
        status = lb_lora_decode(&view->layout, blob.body.data, blob.body.length, flat, err);
    if (status == LB_OK)
        status = lb_adapter_create(view->student->model, &view->layout, flat, out, err);
    lb_answer_free(&blob);
    free(flat);
    return status;
}

lb_status lb_cache_adapter(lb_worker *worker, const lb_job_view *view, const char *sha,
                           const lb_adapter **out, lb_err *err)
{
    lb_cached_adapter *slot = &worker->adapters[0];
    for (size_t i = 0; i < LB_WORKER_ADAPTERS; i++) {
        lb_cached_adapter *cached = &worker->adapters[i];
        if (strcmp(cached->sha, sha) == 0 && strcmp(cached->job, view->job) == 0) {
            cached->used = ++worker->clock;
            *out = cached->adapter;
            return LB_OK;
        }
        slot = cached->used < slot->used ? cached : slot;
    }
    drop_adapter(slot);
    lb_status status = fetch_adapter(worker, view, sha, &slot->adapter, err);
    if (status != LB_OK)
        return status;
    memcpy(slot->sha, sha, strlen(sha) + 1);   /* 64 digits, or get_blob had refused it */
    memcpy(slot->job, view->job, sizeof slot->job);
    slot->used = ++worker->clock;
    *out = slot->adapter;
    return LB_OK;
}

void lb_cache_forget(lb_worker *worker, const char *job)
{
    for (size_t i = 0; i < LB_WORKER_VIEWS; i++) {
        if (strcmp(worker->views[i].job, job) == 0)
            drop_view(&worker->views[i]);
    }
    for (size_t i = 0; i < LB_WORKER_ADAPTERS; i++) {
        if (strcmp(worker->adapters[i].job, job) == 0)
            drop_adapter(&worker->adapters[i]);
    }
}

void lb_cache_free(lb_worker *worker)
{
    for (size_t i = 0; i < LB_WORKER_VIEWS; i++)
        drop_view(&worker->views[i]);
    for (size_t i = 0; i < LB_WORKER_ADAPTERS; i++)
        drop_adapter(&worker->adapters[i]);
}
