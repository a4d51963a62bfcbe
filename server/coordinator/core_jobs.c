/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of jobs and files: created, made ready, ended, and what may then be forgotten.
 */
#include "server/coordinator/core_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID_RANDOM_BYTES 12
#define ID_HEX_OF_SUFFIX 6
#define FRAME_FIXED_BYTES 128u          /* generous: header of a unit frame without its arrays */
#define GROW_MIN 16u

/* ---- arrays ---- */

static bool grow(void **items, size_t *capacity, size_t count, size_t size)
{
    if (count < *capacity)
        return true;
    size_t wanted = *capacity ? *capacity * 2 : GROW_MIN, bytes = 0;
    if (!lb_size_mul(wanted, size, &bytes))
        return false;
    void *bigger = realloc(*items, bytes);
    if (!bigger)
        return false;
    *items = bigger;
    *capacity = wanted;
    return true;
}

/* Room for one more job, so that nothing can fail after the row is in the store. */
static lb_status reserve_job(lb_core *core, lb_err *err)
{
    void *items = core->jobs;
    if (core->job_count == LB_CORE_JOBS_MAX)
        return lb_fail(err, LB_EBUSY, NULL, "the store holds %u jobs, which is its limit",
                       LB_CORE_JOBS_MAX);
    if (!grow(&items, &core->job_capacity, core->job_count, sizeof *core->jobs))
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for another job");
    core->jobs = items;
    return LB_OK;
}

lb_status lb_core_job_append(lb_core *core, core_job *job, lb_err *err)
{
    lb_status status = reserve_job(core, err);
    if (status == LB_OK)
        core->jobs[core->job_count++] = job;
    return status;
}

static lb_status reserve_file(lb_core *core, lb_err *err)
{
    void *items = core->files;
    if (core->file_count == LB_CORE_FILES_MAX)
        return lb_fail(err, LB_EBUSY, NULL, "the store holds %u files, which is its limit",
                       LB_CORE_FILES_MAX);
    if (!grow(&items, &core->file_capacity, core->file_count, sizeof *core->files))
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for another file");
    core->files = items;
    return LB_OK;
}

lb_status lb_core_file_append(lb_core *core, const lb_file_row *row, lb_err *err)
{
    lb_status status = reserve_file(core, err);
    if (status == LB_OK)
        core->files[core->file_count++] = *row;
    return status;
}

/* ---- a job in memory ---- */

const lb_core_model *lb_core_find_model(const lb_core *core, const char *name)
{
    for (size_t i = 0; i < core->config.model_count; i++) {
        if (strcmp(core->config.models[i].name, name) == 0)
            return &core->config.models[i];
    }
    return NULL;
}

static bool has_teacher(const lb_core *core, const char *name)
{
    for (size_t i = 0; i < core->config.teacher_count; i++) {
        if (strcmp(core->config.teachers[i].name, name) == 0)
            return true;
    }
    return false;
}

size_t lb_core_active_jobs(const lb_core *core)
{
    size_t count = 0;
    for (size_t i = 0; i < core->job_count; i++)
        count += lb_job_state_active(core->jobs[i]->row.state);
    return count;
}

size_t lb_core_frame_bytes(size_t elements)
{
    size_t bytes = 0;
    if (!lb_size_mul(elements, sizeof(float), &bytes) ||
        !lb_size_add(bytes, FRAME_FIXED_BYTES + LB_UNIT_METRIC_COUNT * sizeof(double), &bytes))
        return SIZE_MAX;
    return bytes;
}

void lb_core_job_unload(core_job *job)
{
    lb_lora_layout_free(&job->layout);
    lb_adam_free(&job->adam);
    free(job->weights);
    free(job->units);
    job->layout = (lb_lora_layout){0};
    job->weights = NULL;
    job->units = NULL;
    job->done = 0;
    job->commit_ms = LB_CORE_NEVER;
    job->live = false;
}

void lb_core_job_free(core_job *job)
{
    if (!job)
        return;
    lb_core_job_unload(job);
    free(job->metrics);
    lb_job_row_free(&job->row);
    free(job);
}

lb_status lb_core_job_configure(core_job *job, lb_err *err)
{
    lb_json *json = NULL;
    lb_method method = LB_METHOD_DISTILLATION;
    lb_status status = lb_json_parse(job->row.hyperparameters, strlen(job->row.hyperparameters),
                                     &json, err);
    if (status == LB_OK)
        status = lb_method_parse(job->row.method, &method, err);
    if (status == LB_OK)
        status = lb_job_config_parse(json, "hyperparameters", method, job->row.seed, &job->config,
                                     err);
    job->configured = status == LB_OK;
    lb_json_free(json);
    return status;
}

lb_status lb_core_job_enliven(lb_core *core, core_job *job, lb_err *err)
{
    lb_status status = lb_core_job_configure(job, err);
    if (status != LB_OK)
        return status;
    const lb_core_model *model = lb_core_find_model(core, job->row.model);
    if (!model)
        return lb_fail(err, LB_ENOTFOUND, "model", "this coordinator does not serve model '%.100s'",
                       job->row.model);
    if (model->config.vocab != job->row.vocab ||
        strcmp(model->tokenizer_sha, job->row.tokenizer_sha) != 0)
        return lb_fail(err, LB_ECONFLICT, "model",
                       "model '%.100s' has another vocabulary or tokenizer than at creation",
                       job->row.model);
    status = lb_lora_layout_create(&model->config, &job->config.lora, &job->layout, err);
    if (status != LB_OK)
        return status;
    if (lb_core_frame_bytes(job->layout.elements) > LB_LIMIT_GRADIENT_BODY)
        status = lb_fail(err, LB_ETOOBIG, "hyperparameters.lora.r",
                         "a gradient of %zu values is larger than %u bytes", job->layout.elements,
                         LB_LIMIT_GRADIENT_BODY);
    if (status == LB_OK)
        status = lb_adam_create(job->layout.elements, &job->adam, err);
    if (status == LB_OK) {
        job->weights = calloc(job->layout.elements, sizeof *job->weights);
        job->units = calloc(job->config.units_per_step, sizeof *job->units);
        if (!job->weights || !job->units)
            status = lb_fail(err, LB_ENOMEM, NULL, "no memory for a job of %zu parameters",
                             job->layout.elements);
    }
    job->commit_ms = LB_CORE_NEVER;
    job->live = true;
    if (status != LB_OK)
        lb_core_job_unload(job);
    return status;
}

/* ---- ending ---- */

static lb_status collect_digest(void *arg, const char *sha)
{
    lb_buf *list = arg;
    lb_buf_append(list, sha, strlen(sha) + 1);
    return list->status;
}

static void drop_listed(lb_core *core, const lb_buf *list)
{
    for (size_t at = 0; at < list->length; at += strlen((const char *)list->data + at) + 1)
        lb_core_drop_if_unneeded(core, (const char *)list->data + at);
}

/* Active jobs keep what a replay from the last snapshot but one needs: should the newest prove
 * damaged, the one before and its gradients still lead to the head. */
void lb_core_job_forget(lb_core *core, core_job *job)
{
    lb_store *store = core->env.store;
    lb_buf list = {0};
    lb_err err = {0};
    lb_status status = LB_OK;
    uint32_t head = job->row.head;
    if (lb_job_state_active(job->row.state)) {
        uint32_t below = job->replay_from;
        status = store->forget(store->impl, job->row.id, below, below > 0 ? below - 1 : 0,
                               collect_digest, &list, &err);
    } else {
        status = store->forget(store->impl, job->row.id, head, head > 0 ? head - 1 : 0,
                               collect_digest, &list, &err);
        if (status == LB_OK)
            status = store->forget_pushes(store->impl, job->row.id, collect_digest, &list, &err);
    }
    if (status == LB_OK)
        drop_listed(core, &list);
    else
        lb_core_storage_failed(core, &err);
    lb_buf_free(&list);
}

lb_status lb_core_job_end(lb_core *core, core_job *job, lb_job_state state, const char *code,
                          const char *message, lb_err *err)
{
    static const struct { const char *level, *message; } events[LB_JOB_STATE_COUNT] = {
        [LB_JOB_FAILED] = {"error", "The job failed"},
        [LB_JOB_CANCELLED] = {"info", "The job was cancelled"},
    };
    lb_store *store = core->env.store;
    int64_t now = core->env.wall_seconds(core->env.arg);
    char text[LB_ERR_MESSAGE_MAX];
    snprintf(text, sizeof text, "%s%s%.280s", events[state].message, message[0] ? ": " : "",
             message);
    lb_event_row event = {.created_at = now, .level = events[state].level, .type = "message",
                          .message = text};
    lb_job_change change = {.state = state, .error_code = code, .error_message = message,
                            .started_at = job->row.started_at, .finished_at = now,
                            .event = &event};
    lb_status status = store->job_change(store->impl, job->row.id, &change, err);
    if (status != LB_OK)
        return status;
    job->row.state = state;
    job->row.finished_at = now;
    snprintf(job->row.error_code, sizeof job->row.error_code, "%s", code);
    snprintf(job->row.error_message, sizeof job->row.error_message, "%s", message);
    lb_core_job_unload(job);
    char quoted[LB_ERR_MESSAGE_MAX];
    lb_core_note_f(core, state == LB_JOB_FAILED ? LB_LOG_ERROR : LB_LOG_INFO, "job_ended",
                   "job=%s state=%s message=%s", job->row.id, lb_job_state_name(state),
                   lb_log_quote(quoted, sizeof quoted, message));
    /* Of a failed job everything stays: it is the evidence. */
    if (state != LB_JOB_FAILED)
        lb_core_job_forget(core, job);
    lb_core_wake_metrics(core, job);
    return LB_OK;
}

/* ---- creating ---- */

static void random_hex(lb_core *core, size_t bytes, char *out)
{
    uint8_t random[LB_SHA256_BYTES];
    core->env.random(core->env.arg, random, bytes);
    for (size_t i = 0; i < bytes; i++)
        snprintf(out + 2 * i, 3, "%02x", random[i]);
}

static bool suffix_taken(const lb_core *core, const char *suffix)
{
    for (size_t i = 0; i < core->job_count; i++) {
        if (strcmp(core->jobs[i]->row.suffix, suffix) == 0)
            return true;
    }
    return false;
}

/* The suffix asked for, or with as much of the job's id as it takes to be unique. */
static lb_status choose_suffix(const lb_core *core, lb_job_row *row, lb_err *err)
{
    char wanted[LB_ID_SIZE];
    const char *hex = strchr(row->id, '-');
    hex = hex ? hex + 1 : row->id;
    snprintf(wanted, sizeof wanted, "%.40s", row->suffix);
    for (size_t length = ID_HEX_OF_SUFFIX; suffix_taken(core, row->suffix); length++) {
        if (length > strlen(hex))
            return lb_fail(err, LB_ECONFLICT, "suffix", "the suffix '%s' is taken", wanted);
        int written = snprintf(row->suffix, sizeof row->suffix, "%s-%.*s", wanted, (int)length,
                               hex);
        if (written < 0 || (size_t)written >= sizeof row->suffix)
            return lb_fail(err, LB_ECONFLICT, "suffix", "the suffix '%s' is taken", wanted);
    }
    return LB_OK;
}

/* Over everything that decides the result, so that equal digests mean equal adapters. */
lb_status lb_core_config_digest(const lb_job_row *row, char out[LB_SHA256_HEX], lb_err *err)
{
    uint8_t digest[LB_SHA256_BYTES];
    lb_buf text = {0};
    lb_buf_printf(&text, "limbeck-config-2\nmethod=%s\nmodel=%s\nstart=%s\nteacher=%s\n"
                  "seed=%" PRIu64 "\ndataset=%s\ntokenizer=%s\nvocab=%u\nhyperparameters=%s\n",
                  row->method, row->model, row->from_adapter[0] ? row->adapter_sha : "",
                  row->teacher, row->seed, row->dataset_sha, row->tokenizer_sha, row->vocab,
                  row->hyperparameters);
    lb_status status = text.status;
    if (status == LB_OK) {
        lb_sha256_of(text.data, text.length, digest);
        lb_sha256_hex(digest, out);
    } else {
        (void)lb_fail(err, status, NULL, "no memory for the configuration's digest");
    }
    lb_buf_free(&text);
    return status;
}

/* The adapter that the job goes on from: of the same model and of the same layout. "-latest" is
 * turned into the version that it is now. */
static lb_status load_other(lb_core *core, core_job *job, lb_err *err)
{
    lb_job_row *row = &job->row;
    lb_store *store = core->env.store;
    lb_step_row step = {0};
    lb_buf adapter = {0};
    uint32_t version = 0;
    const core_job *other = lb_core_find_adapter(core, row->from_adapter, &version);
    if (!other)
        return lb_fail(err, LB_ENOTFOUND, "from_adapter", "there is no adapter '%.100s'",
                       row->from_adapter);
    if (strcmp(other->row.model, row->model) != 0)
        return lb_fail(err, LB_EINVAL, "from_adapter", "'%.60s' is an adapter of model '%.60s', "
                       "not of '%.60s'", row->from_adapter, other->row.model, row->model);
    lb_status status = version == 0 ? LB_OK : store->step_get(store->impl, other->row.id,
                                                              version - 1, &step, err);
    const char *sha = version == 0 ? other->row.adapter_sha : step.adapter_sha;
    if (status == LB_OK)
        status = core->env.blob_get(core->env.arg, sha, &adapter, err);
    if (status == LB_OK) {
        status = lb_lora_decode(&job->layout, adapter.data, adapter.length, job->weights, err);
        if (status != LB_OK)
            status = lb_fail(err, LB_EINVAL, "from_adapter", "'%.60s' has other targets or "
                             "another rank than this job's hyperparameters.lora",
                             row->from_adapter);
    }
    snprintf(row->from_adapter, sizeof row->from_adapter, "%s-v%u", other->row.suffix, version);
    lb_buf_free(&adapter);
    return status;
}

/* Version 0: the initial adapter and the adapter_config.json of all versions, as blobs. */
static lb_status write_version_0(lb_core *core, core_job *job, lb_err *err)
{
    lb_buf adapter = {0}, config = {0};
    lb_status status = LB_OK;
    if (job->row.from_adapter[0])
        status = load_other(core, job, err);
    else
        lb_lora_init(&job->layout, job->row.seed, job->weights);
    if (status == LB_OK)
        status = lb_lora_encode(&job->layout, job->weights, &adapter, err);
    if (status == LB_OK)
        status = core->env.blob_put(core->env.arg, adapter.data, adapter.length,
                                    job->row.adapter_sha, err);
    if (status == LB_OK) {
        lb_lora_encode_config(&job->config.lora, job->row.model, &config);
        status = config.status;
    }
    if (status == LB_OK)
        status = core->env.blob_put(core->env.arg, config.data, config.length,
                                    job->row.adapter_config_sha, err);
    job->row.adapter_bytes = adapter.length;
    memcpy(job->adapter_sha, job->row.adapter_sha, sizeof job->adapter_sha);
    lb_buf_free(&adapter);
    lb_buf_free(&config);
    return status;
}

static lb_status create_job(lb_core *core, core_job *job, lb_err *err)
{
    lb_store *store = core->env.store;
    lb_job_row *row = &job->row;
    char text[LB_ERR_MESSAGE_MAX];
    lb_status status = lb_core_job_enliven(core, job, err);
    if (status == LB_OK)
        status = choose_suffix(core, row, err);
    if (status == LB_OK)
        status = write_version_0(core, job, err);
    if (status == LB_OK)
        status = lb_core_config_digest(row, row->config_sha, err);
    if (status == LB_OK)
        status = lb_core_chain_start(row, row->head_hash, err);
    if (status != LB_OK)
        return status;
    row->handshake = strdup("");
    if (!row->handshake)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a job");
    row->created_at = core->env.wall_seconds(core->env.arg);
    row->state = LB_JOB_QUEUED;
    snprintf(text, sizeof text, "Created: %u prompts, %zu LoRA parameters, %u steps of %u units",
             row->dataset_rows, job->layout.elements, job->config.max_steps,
             job->config.units_per_step);
    lb_event_row event = {.created_at = row->created_at, .level = "info", .type = "message",
                          .message = text};
    return store->job_insert(store->impl, row, &event, err);
}

/* A repeated request with an Idempotency-Key finds the job that the first one made. */
static bool answer_repeated(lb_core *core, lb_core_event *event)
{
    const core_job *job = event->job.id[0] ? lb_core_find_job(core, event->job.id) : NULL;
    if (!job)
        return false;
    if (strcmp(job->row.request_sha, event->job.request_sha) != 0) {
        lb_core_answer_refusal(core, event->ticket, lb_status_http(LB_ECONFLICT),
                               "idempotency_conflict", "Idempotency-Key",
                               "the key was used with another request");
        return true;
    }
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_core_view_job(core, job, &w);
    lb_core_answer_json(core, event->ticket, lb_status_http(LB_OK), &body);
    return true;
}

void lb_core_on_job_create(lb_core *core, lb_core_event *event)
{
    lb_err err = {0};
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    core_job *job = NULL;
    lb_status status = LB_OK;
    if (answer_repeated(core, event))
        return;
    if (lb_core_active_jobs(core) >= LB_CORE_ACTIVE_MAX)
        status = lb_fail(&err, LB_EBUSY, NULL, "%u jobs are active, which is the limit",
                         LB_CORE_ACTIVE_MAX);
    bool distils = strcmp(event->job.method, lb_method_name(LB_METHOD_SUPERVISED)) != 0;
    if (status == LB_OK && distils && !has_teacher(core, event->job.teacher))
        status = lb_fail(&err, LB_ENOTFOUND, "method.on_policy_distillation.teacher.model",
                         "there is no teacher '%.100s'", event->job.teacher);
    if (status == LB_OK)
        status = reserve_job(core, &err);
    if (status == LB_OK && !(job = calloc(1, sizeof *job)))
        status = lb_fail(&err, LB_ENOMEM, NULL, "no memory for a job");
    if (status != LB_OK)
        goto done;
    job->row = event->job;
    event->job = (lb_job_row){0};
    if (!job->row.id[0]) {
        memcpy(job->row.id, "ftjob-", sizeof "ftjob-");
        random_hex(core, ID_RANDOM_BYTES, job->row.id + strlen("ftjob-"));
    }
    status = create_job(core, job, &err);
    if (status != LB_OK) {
        lb_core_storage_failed(core, &err);
        goto done;
    }
    core->jobs[core->job_count++] = job;
    lb_core_note_f(core, LB_LOG_INFO, "job_created", "job=%s method=%s model=%s teacher=%s "
                   "suffix=%s", job->row.id, job->row.method, job->row.model,
                   job->row.teacher[0] ? job->row.teacher : "-", job->row.suffix);
    lb_core_view_job(core, job, &w);
    job = NULL;
    lb_core_answer_json(core, event->ticket, lb_status_http(LB_OK), &body);
    lb_core_serve_waiters(core, core->env.now_ms(core->env.arg));
done:
    if (status != LB_OK)
        lb_core_answer_err(core, event->ticket, &err);
    lb_core_job_free(job);
    lb_buf_free(&body);
}

void lb_core_on_job_cancel(lb_core *core, lb_core_event *event)
{
    lb_err err = {0};
    core_job *job = lb_core_find_job(core, event->id);
    lb_status status = LB_OK;
    if (!job)
        status = lb_fail(&err, LB_ENOTFOUND, "job", "there is no job '%.64s'", event->id);
    else if (!lb_job_state_active(job->row.state))
        status = lb_fail(&err, LB_EINVAL, "job", "job %s has %s already", job->row.id,
                         lb_job_state_name(job->row.state));
    if (status == LB_OK) {
        status = lb_core_job_end(core, job, LB_JOB_CANCELLED, "", "", &err);
        if (status != LB_OK)
            lb_core_storage_failed(core, &err);
    }
    if (status != LB_OK) {
        lb_core_answer_err(core, event->ticket, &err);
        return;
    }
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_core_view_job(core, job, &w);
    lb_core_answer_json(core, event->ticket, lb_status_http(LB_OK), &body);
}

/* ---- files ---- */

void lb_core_on_file_add(lb_core *core, lb_core_event *event)
{
    lb_store *store = core->env.store;
    const lb_file_row *found = NULL;
    lb_err err = {0};
    for (size_t i = 0; !found && i < core->file_count; i++) {
        if (strcmp(core->files[i].id, event->file.id) == 0)
            found = &core->files[i];
    }
    if (!found) {
        event->file.created_at = core->env.wall_seconds(core->env.arg);
        lb_status status = reserve_file(core, &err);
        if (status == LB_OK) {
            status = store->file_insert(store->impl, &event->file, &err);
            if (status != LB_OK)
                lb_core_storage_failed(core, &err);
        }
        if (status != LB_OK) {
            lb_core_answer_err(core, event->ticket, &err);
            return;
        }
        core->files[core->file_count] = event->file;
        found = &core->files[core->file_count++];
    }
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_core_view_file(found, &w);
    lb_core_answer_json(core, event->ticket, lb_status_http(LB_OK), &body);
}
