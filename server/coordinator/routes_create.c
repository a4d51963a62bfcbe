/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/fine_tuning/jobs: the body is checked, and the prompts are tokenised, here on the HTTP
 * thread; the owner only gets what is known to be sound.
 */
#include "server/coordinator/daemon_impl.h"

#include "common/text/dataset.h"
#include "common/train/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 64
#define DEFAULT_SUFFIX "distill"
#define METADATA_KEY_MAX 64u
#define METADATA_VALUE_MAX 512u
#define IDEMPOTENCY_KEY_MAX 255u
#define ID_HEX 24

typedef struct request_parts {
    const lb_json *body, *hyperparameters;
    const lb_core_model *model;
    const lb_catalog_text *text;
    lb_chat chat;
    lb_err no_chat;            /* why messages are refused */
    lb_chat_options chat_options;
    char file_sha[LB_SHA256_HEX];
    lb_method method;
    char where[PATH_BYTES], hyper_where[PATH_BYTES];   /* paths of their objects */
    lb_job_config config;
} request_parts;

static lb_status find_model(const lb_coordinator *c, request_parts *parts, lb_job_row *job,
                            lb_err *err)
{
    const char *name = NULL;
    lb_status status = lb_json_need_string(parts->body, "", "model", &name, err);
    if (status != LB_OK)
        return status;
    for (size_t i = 0; i < c->config.model_count; i++) {
        if (strcmp(c->config.models[i].name, name) == 0) {
            parts->model = &c->config.models[i];
            parts->text = &c->texts[i];
        }
    }
    if (!parts->model)
        return lb_fail(err, LB_ENOTFOUND, "model", "this coordinator does not serve model '%.100s'",
                       name);
    snprintf(job->model, sizeof job->model, "%s", name);
    snprintf(job->tokenizer_sha, sizeof job->tokenizer_sha, "%s", parts->model->tokenizer_sha);
    job->vocab = parts->model->config.vocab;
    return LB_OK;
}

static lb_status find_file(lb_coordinator *c, request_parts *parts, lb_job_row *job, lb_err *err)
{
    const char *id = NULL;
    lb_status status = lb_json_need_string(parts->body, "", "training_file", &id, err);
    if (status != LB_OK)
        return status;
    if (!lb_route_is_id(id, LB_LIMIT_ID) || !lb_coordinator_find_file(c, id, parts->file_sha))
        return lb_fail(err, LB_ENOTFOUND, "training_file", "there is no file '%.64s'", id);
    snprintf(job->training_file, sizeof job->training_file, "%s", id);
    return LB_OK;
}

static lb_status read_suffix(const lb_json *body, lb_job_row *job, lb_err *err)
{
    const char *suffix = DEFAULT_SUFFIX;
    lb_status status = LB_OK;
    if (!lb_json_is_null(lb_json_get(body, "suffix")))
        status = lb_json_opt_string(body, "", "suffix", &suffix, err);
    if (status == LB_OK && !lb_route_is_id(suffix, LB_SUFFIX_MAX))
        status = lb_fail(err, LB_EINVAL, "suffix", "suffix must be 1 to %u letters, digits or _.-",
                         LB_SUFFIX_MAX);
    if (status == LB_OK)
        snprintf(job->suffix, sizeof job->suffix, "%s", suffix);
    return status;
}

static lb_status check_pair(void *arg, const char *key, const lb_json *value)
{
    lb_err *err = arg;
    if (strlen(key) == 0 || strlen(key) > METADATA_KEY_MAX)
        return lb_fail(err, LB_EINVAL, "metadata", "a key must have 1 to %u bytes",
                       METADATA_KEY_MAX);
    if (!lb_json_is_string(value) || lb_json_string_length(value) > METADATA_VALUE_MAX)
        return lb_fail(err, LB_EINVAL, "metadata", "the value of '%.40s' must be a string of at "
                       "most %u bytes", key, METADATA_VALUE_MAX);
    return LB_OK;
}

/* The text of a JSON value, for the row. */
static lb_status keep_text(lb_buf *text, char **out, lb_err *err)
{
    if (text->status != LB_OK) {
        lb_status status = lb_fail(err, text->status, NULL, "no memory for the job");
        lb_buf_free(text);
        return status;
    }
    *out = (char *)lb_buf_take(text, NULL);
    return LB_OK;
}

static lb_status read_metadata(const lb_json *body, lb_job_row *job, lb_err *err)
{
    const lb_json *metadata = NULL;
    lb_buf text = {0};
    lb_status status = LB_OK;
    if (!lb_json_is_null(lb_json_get(body, "metadata")))
        status = lb_json_opt_object(body, "", "metadata", &metadata, err);
    if (status == LB_OK && metadata && lb_json_object_size(metadata) > LB_LIMIT_METADATA)
        status = lb_fail(err, LB_EINVAL, "metadata", "at most %u pairs", LB_LIMIT_METADATA);
    if (status == LB_OK && metadata)
        status = lb_json_each(metadata, check_pair, err);
    if (status != LB_OK)
        return status;
    if (metadata)
        lb_json_dump(&text, metadata, false);
    else
        lb_buf_puts(&text, "{}");
    return keep_text(&text, &job->metadata, err);
}

/* The version of another job that this one goes on from. Whether it exists the owner knows. */
static lb_status read_start(const lb_json *body, lb_job_row *job, lb_err *err)
{
    const char *id = NULL;
    lb_status status = LB_OK;
    if (!lb_json_is_null(lb_json_get(body, "from_adapter")))
        status = lb_json_opt_string(body, "", "from_adapter", &id, err);
    if (status == LB_OK && id && !lb_route_is_id(id, sizeof job->from_adapter - 1))
        status = lb_fail(err, LB_EINVAL, "from_adapter", "'%.100s' is no id of an adapter", id);
    if (status == LB_OK && id)
        snprintf(job->from_adapter, sizeof job->from_adapter, "%s", id);
    return status;
}

/* How messages become text: the model's own template unless the job names another. */
static lb_status read_chat(request_parts *parts, lb_err *err)
{
    const lb_json *chat = NULL;
    const char *name = NULL;
    bool thinking = false;
    parts->chat = parts->text->chat;
    parts->no_chat = parts->text->no_chat;
    lb_status status = LB_OK;
    if (!lb_json_is_null(lb_json_get(parts->body, "chat")))
        status = lb_json_opt_object(parts->body, "", "chat", &chat, err);
    if (status != LB_OK || !chat)
        return status;
    status = lb_json_opt_string(chat, "chat", "template", &name, err);
    if (status == LB_OK)
        status = lb_json_opt_string(chat, "chat", "date", &parts->chat_options.date, err);
    if (status == LB_OK && lb_json_get(chat, "enable_thinking")) {
        status = lb_json_opt_bool(chat, "chat", "enable_thinking", &thinking, err);
        parts->chat_options.thinking = thinking ? LB_THINKING_ON : LB_THINKING_OFF;
    }
    if (status == LB_OK && name) {
        status = lb_chat_load_named(parts->text->path, name, &parts->chat, err);
        parts->no_chat = (lb_err){0};
        if (status != LB_OK && err)
            snprintf(err->field, sizeof err->field, "chat.template");
    }
    return status;
}

/* The teacher that the job names; with a single teacher there is nothing to name. */
static lb_status read_teacher(const lb_coordinator *c, const request_parts *parts,
                              const lb_json *method, lb_job_row *job, lb_err *err)
{
    const lb_json *teacher = NULL;
    const char *name = NULL;
    char field[PATH_BYTES + sizeof ".teacher.model"];
    snprintf(field, sizeof field, "%s.teacher", parts->where);
    lb_status status = lb_json_opt_object(method, parts->where, "teacher", &teacher, err);
    if (status == LB_OK && teacher && parts->method == LB_METHOD_SUPERVISED)
        return lb_fail(err, LB_EINVAL, field, "a supervised job has no teacher");
    if (status == LB_OK && teacher)
        status = lb_json_need_string(teacher, field, "model", &name, err);
    if (status != LB_OK || parts->method == LB_METHOD_SUPERVISED)
        return status;
    if (!name && c->config.teacher_count == 1)
        name = c->config.teachers[0].name;
    if (!name)
        return lb_fail(err, LB_EINVAL, field, "a job must name its teacher");
    for (size_t i = 0; i < c->config.teacher_count; i++) {
        if (strcmp(c->config.teachers[i].name, name) == 0) {
            snprintf(job->teacher, sizeof job->teacher, "%s", name);
            return LB_OK;
        }
    }
    snprintf(field, sizeof field, "%s.teacher.model", parts->where);
    return lb_fail(err, LB_ENOTFOUND, field, "there is no teacher '%.100s'", name);
}

static lb_status read_method(const lb_coordinator *c, request_parts *parts, lb_job_row *job,
                             lb_err *err)
{
    const lb_json *method = NULL, *settings = NULL;
    const char *type = NULL;
    lb_status status = lb_json_need_object(parts->body, "", "method", &method, err);
    if (status == LB_OK)
        status = lb_json_need_string(method, "method", "type", &type, err);
    if (status == LB_OK)
        status = lb_method_parse(type, &parts->method, err);
    if (status != LB_OK)
        return status;
    snprintf(job->method, sizeof job->method, "%s", type);
    snprintf(parts->where, sizeof parts->where, "method.%s", type);
    snprintf(parts->hyper_where, sizeof parts->hyper_where, "method.%.32s.hyperparameters", type);
    /* A supervised job may leave its settings out; a distillation has at least a teacher to say. */
    status = parts->method == LB_METHOD_SUPERVISED
                 ? lb_json_opt_object(method, "method", type, &settings, err)
                 : lb_json_need_object(method, "method", type, &settings, err);
    if (status == LB_OK && settings)
        status = read_teacher(c, parts, settings, job, err);
    if (status == LB_OK && settings)
        status = lb_json_opt_object(settings, parts->where, "hyperparameters",
                                    &parts->hyperparameters, err);
    return status;
}

static lb_status read_config(request_parts *parts, lb_job_row *job, lb_err *err)
{
    uint64_t seed = 0;
    uint32_t random = 0;
    lb_coordinator_random(&random, sizeof random);
    seed = random >> 1;
    lb_status status = LB_OK;
    if (!lb_json_is_null(lb_json_get(parts->body, "seed")))
        status = lb_json_opt_u64(parts->body, "", "seed", 0, INT64_MAX, &seed, err);
    job->seed = seed;
    if (status == LB_OK)
        status = lb_job_config_parse(parts->hyperparameters, parts->hyper_where, parts->method,
                                     seed, &parts->config, err);
    return status;
}

/* The configuration with all defaults and the steps that its epochs are. */
static lb_status write_config(request_parts *parts, lb_job_row *job, lb_err *err)
{
    lb_buf text = {0};
    lb_jsonw w = {.out = &text};
    lb_status status = lb_job_config_resolve(&parts->config, job->dataset_rows, err);
    if (status != LB_OK)
        return status;
    lb_job_config_write(&parts->config, &w);
    return keep_text(&text, &job->hyperparameters, err);
}

static lb_status check_lengths(const request_parts *parts, const lb_dataset *dataset, lb_err *err)
{
    char field[PATH_BYTES + sizeof ".max_completion_tokens"];
    uint32_t positions = parts->model->config.max_positions;
    uint64_t longest = (uint64_t)dataset->longest + parts->config.max_completion_tokens;
    if (parts->method == LB_METHOD_SUPERVISED)
        return dataset->longest_row <= positions
                   ? LB_OK
                   : lb_fail(err, LB_EINVAL, "training_file", "the longest row (%u tokens) does "
                             "not fit into the model's %u positions", dataset->longest_row,
                             positions);
    if (longest <= positions)
        return LB_OK;
    snprintf(field, sizeof field, "%s.max_completion_tokens", parts->hyper_where);
    return lb_fail(err, LB_EINVAL, field, "the longest prompt (%u tokens) and %u new tokens do not "
                   "fit into the model's %u positions", dataset->longest,
                   parts->config.max_completion_tokens, positions);
}

/* The file's prompts as tokens, stored as a "prompts" frame. */
static lb_status tokenise(lb_coordinator *c, const request_parts *parts, lb_job_row *job,
                          lb_err *err)
{
    lb_buf text = {0}, frame = {0};
    lb_dataset dataset = {0};
    const lb_model_config *model = &parts->model->config;
    lb_dataset_options options = {
        .tokenizer = parts->text->tokenizer,
        .vocab = job->vocab,
        .end = model->eos_count ? model->eos[0] : LB_DATASET_NO_END,
        .completions = parts->method == LB_METHOD_SUPERVISED,
        .chat = parts->no_chat.status == LB_OK ? &parts->chat : NULL,
        .no_chat = &parts->no_chat,
        .chat_options = parts->chat_options,
    };
    lb_status status = lb_blobs_get(c->blobs, parts->file_sha, &text, err);
    if (status != LB_OK)
        goto done;
    status = lb_dataset_parse_jsonl((const char *)text.data, text.length, &options, &dataset, err);
    if (status != LB_OK) {
        if (err)
            snprintf(err->field, sizeof err->field, "training_file");
        goto done;
    }
    status = check_lengths(parts, &dataset, err);
    if (status == LB_OK)
        status = lb_dataset_encode(&dataset, &frame, err);
    if (status == LB_OK)
        status = lb_coordinator_put(c, frame.data, frame.length, job->dataset_sha, err);
    job->dataset_rows = (uint32_t)dataset.count;
    for (size_t i = 0; i < dataset.count; i++)
        job->graded |= dataset.prompts[i].answer != NULL;
done:
    lb_dataset_free(&dataset);
    lb_buf_free(&frame);
    lb_buf_free(&text);
    return status;
}

/* With a key the id is made of it, so that a repeated request finds the same job, also after a
 * restart. */
static lb_status read_idempotency(const lb_request *request, lb_job_row *job, lb_err *err)
{
    static const char purpose[] = "limbeck-idempotency:";
    const char *key = lb_request_header(request, "Idempotency-Key");
    uint8_t digest[LB_SHA256_BYTES];
    char hex[LB_SHA256_HEX];
    size_t length = 0;
    const uint8_t *body = lb_request_body(request, &length);
    lb_sha256_of(body, length, digest);
    lb_sha256_hex(digest, job->request_sha);
    if (!key)
        return LB_OK;
    if (!key[0] || strlen(key) > IDEMPOTENCY_KEY_MAX)
        return lb_fail(err, LB_EINVAL, "Idempotency-Key", "must have 1 to %u bytes",
                       IDEMPOTENCY_KEY_MAX);
    lb_buf text = {0};
    lb_buf_printf(&text, "%s%s", purpose, key);
    lb_status status = text.status;
    if (status == LB_OK) {
        lb_sha256_of(text.data, text.length, digest);
        lb_sha256_hex(digest, hex);
        snprintf(job->id, sizeof job->id, "ftjob-%.*s", ID_HEX, hex);
    } else {
        (void)lb_fail(err, status, NULL, "no memory for the request");
    }
    lb_buf_free(&text);
    return status;
}

void lb_route_job_create(void *daemon, lb_request *request)
{
    lb_coordinator *c = daemon;
    lb_err err = {0};
    request_parts parts = {.body = lb_request_json(request)};
    if (!parts.body)
        return;
    lb_core_event *event = lb_route_event(request, LB_EVENT_JOB_CREATE);
    if (!event)
        return;
    lb_job_row *job = &event->job;
    lb_status status = find_model(c, &parts, job, &err);
    if (status == LB_OK)
        status = find_file(c, &parts, job, &err);
    if (status == LB_OK)
        status = read_suffix(parts.body, job, &err);
    if (status == LB_OK)
        status = read_metadata(parts.body, job, &err);
    if (status == LB_OK)
        status = read_chat(&parts, &err);
    if (status == LB_OK)
        status = read_start(parts.body, job, &err);
    if (status == LB_OK)
        status = read_method(c, &parts, job, &err);
    if (status == LB_OK)
        status = read_config(&parts, job, &err);
    if (status == LB_OK)
        status = read_idempotency(request, job, &err);
    if (status == LB_OK)
        status = tokenise(c, &parts, job, &err);
    if (status == LB_OK)
        status = write_config(&parts, job, &err);
    if (status == LB_OK) {
        lb_route_submit(c, request, event);
        return;
    }
    lb_core_event_free(event);
    free(event);
    lb_reply_err(request, &err);
}
