/* SPDX-License-Identifier: Apache-2.0 */
#include "server/teacher/teacher.h"

#include "common/base/clock.h"
#include "common/base/digest.h"
#include "common/base/log.h"
#include "common/io/file.h"
#include "common/io/gguf.h"
#include "common/text/chat.h"
#include "server/teacher/teacher_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HTTP_STOP_MS 2000   /* every request is answered by then; what is left is sending */
#define VERSION_HEX 16      /* digits of the digest that make the teacher's version */

static lb_status score(void *arg, lb_score_request *requests, size_t count, lb_err *err)
{
    lb_teacher *teacher = arg;
    return lb_model_score(teacher->model, NULL, requests, count, err);
}

static lb_status generate(void *arg, const lb_sequence *prompts, size_t count, uint32_t row_base,
                          const lb_generate_params *params, lb_rollout *out, lb_err *err)
{
    lb_teacher *teacher = arg;
    return lb_model_generate(teacher->model, NULL, prompts, count, 1, row_base, params, out, err);
}

static void on_batch(void *arg, uint64_t tokens, double seconds)
{
    lb_teacher *teacher = arg;
    (void)seconds;
    lb_teacher_metrics_batch(&teacher->metrics, tokens);
}

/* The last part of the folder's path. */
static char *name_of(const lb_teacher_config *config)
{
    if (config->name)
        return strdup(config->name);
    size_t length = strlen(config->model_dir);
    while (length > 1 && config->model_dir[length - 1] == '/')
        length--;
    const char *end = config->model_dir + length, *start = end;
    while (start > config->model_dir && start[-1] != '/')
        start--;
    return strndup(start, (size_t)(end - start));
}

/* The model; before it, if its weights are to be integers, itself in f32 to compare with, so that
 * the two are not in memory at once. */
static lb_status load_model(lb_teacher *t, const lb_teacher_config *config, lb_err *err)
{
    lb_model_options options = {.dtype = config->dtype};
    lb_probe *probe = NULL;
    lb_status status = LB_OK;
    if (lb_dtype_is_integer(config->dtype) && !config->skip_error)
        status = lb_probe_create(t->backend, config->model_dir, &probe, err);
    if (status == LB_OK)
        status = lb_model_load(t->backend, config->model_dir, &options, &t->model, err);
    if (status == LB_OK && probe)
        status = lb_probe_compare(probe, t->model, &t->precision, err);
    if (status == LB_OK && probe)
        lb_log(LB_LOG_INFO, "precision", "dtype=%s mean_abs=%.3g max_abs=%.3g tokens=%u",
               lb_dtype_name(config->dtype), t->precision.mean_abs, t->precision.max_abs,
               t->precision.tokens);
    lb_probe_free(probe);
    return status;
}

/* Eight bytes that change with the weights, and with integers made of them. */
static uint64_t version_of(const lb_model *model, lb_dtype dtype)
{
    char text[LB_SHA256_HEX + 16], head[VERSION_HEX + 1] = "";
    uint8_t digest[LB_SHA256_BYTES];
    uint64_t version = 0;
    if (!lb_dtype_is_integer(dtype)) {
        memcpy(head, lb_model_digest(model), VERSION_HEX);
        return strtoull(head, NULL, 16);
    }
    int n = snprintf(text, sizeof text, "%s %s", lb_model_digest(model), lb_dtype_name(dtype));
    lb_sha256_of(text, n > 0 ? (size_t)n : 0, digest);
    for (int i = 0; i < 8; i++)
        version = version << 8 | digest[i];
    return version;
}

static lb_status load(lb_teacher *t, const lb_teacher_config *config, lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_status status = lb_backend_open("cpu", config->threads, NULL, &t->backend, err);
    if (status == LB_OK)
        status = load_model(t, config, err);
    if (status == LB_OK)
        status = lb_path_join(path, sizeof path, config->model_dir, "tokenizer.json", err);
    if (status == LB_OK && (lb_path_is_gguf(config->model_dir) || lb_path_is_file(path)))
        status = lb_tokenizer_load(config->model_dir, &t->tokenizer, err);
    if (status == LB_OK)
        status = lb_chat_template_digest(config->model_dir, t->template_sha, err);
    if (status != LB_OK)
        return status;
    t->model_config = lb_model_get_config(t->model);
    t->dtype = lb_dtype_name(config->dtype);
    t->version = version_of(t->model, config->dtype);
    return LB_OK;
}

static lb_status start_parts(lb_teacher *t, const lb_teacher_config *config, lb_err *err)
{
    uint32_t longest = t->model_config->max_positions;
    lb_scheduler_config scheduler = {
        .scorer = {.arg = t, .score = score, .generate = generate},
        .queue_tokens = config->queue_tokens > longest ? config->queue_tokens : longest,
        .queue_bytes = LB_TEACHER_RESULT_BYTES,
        .batch_tokens = config->max_batch_tokens,
        .on_batch = on_batch,
        .on_batch_arg = t,
    };
    lb_status status = lb_scheduler_start(&scheduler, &t->scheduler, err);
    if (status != LB_OK)
        return status;
    lb_http_config http = {
        .listen = config->listen,
        .key_file = config->key_file,
        .insecure = config->insecure,
        .daemon = t,
        .server_name = "limbeck-teacher",
    };
    http.routes = lb_teacher_routes(&http.route_count);
    return lb_http_start(&http, &t->http, err);
}

lb_status lb_teacher_start(const lb_teacher_config *config, lb_teacher **out, lb_err *err)
{
    lb_teacher *t = calloc(1, sizeof *t);
    if (!t)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the teacher");
    lb_teacher_metrics_init(&t->metrics);
    t->max_logprobs = config->max_logprobs;
    t->created = lb_wall_seconds();
    atomic_init(&t->draining, false);
    atomic_init(&t->counter, (uint_fast64_t)lb_wall_ms());
    t->name = name_of(config);
    lb_status status = LB_OK;
    if (!t->name)
        status = lb_fail(err, LB_ENOMEM, NULL, "no memory for the teacher");
    if (status == LB_OK)
        status = load(t, config, err);
    if (status == LB_OK)
        status = start_parts(t, config, err);
    if (status != LB_OK) {
        lb_teacher_stop(t, 0);
        return status;
    }
    *out = t;
    return LB_OK;
}

const char *lb_teacher_url(const lb_teacher *teacher)
{
    return lb_http_url(teacher->http);
}

const char *lb_teacher_describe(const lb_teacher *teacher)
{
    return lb_backend_describe(teacher->backend);
}

void lb_teacher_stop(lb_teacher *t, int64_t timeout_ms)
{
    if (!t)
        return;
    atomic_store(&t->draining, true);
    if (t->http)
        lb_http_drain(t->http);
    /* The scheduler first: it answers all that is open, so that the harness has nothing suspended
     * when it stops, and nobody answers a request that the harness has freed. */
    if (t->scheduler)
        lb_scheduler_drain(t->scheduler, timeout_ms);
    lb_http_stop(t->http, HTTP_STOP_MS);
    lb_scheduler_free(t->scheduler);
    lb_tokenizer_free(t->tokenizer);
    lb_model_free(t->model);
    lb_backend_close(t->backend);
    lb_teacher_metrics_destroy(&t->metrics);
    free(t->name);
    free(t);
}
