/* SPDX-License-Identifier: Apache-2.0 */
#include "client/worker/worker.h"

#include "client/worker/worker_impl.h"
#include "common/text/chat.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Raised whenever a change of this code gives a unit other bytes: a run pins the class of its first
 * push, so workers of two versions never add up to one gradient. */
#define NUMERICS_VERSION "1"

#define LEASE_WAIT_MS 20000u
#define PAUSE_LEAST_MS 200
#define PAUSE_MOST_MS 5000
#define PAUSE_SLICE_MS 100
#define FAILURE_PAUSE_MS 250u     /* after a unit that failed; doubled with each in a row */
#define FAILURE_DOUBLINGS_MAX 6u  /* up to 16 s */

bool lb_worker_stopping(lb_worker *worker)
{
    return worker->config.stop && worker->config.stop(worker->config.stop_arg);
}

static bool stopping(void *arg)
{
    return lb_worker_stopping(arg);
}

bool lb_worker_unit_cancelled(void *arg)
{
    lb_worker *worker = arg;
    return lb_worker_stopping(worker) || !lb_keeper_is_good(&worker->keeper);
}

void lb_worker_pause(lb_worker *worker, uint32_t least_ms, uint32_t most_ms)
{
    uint32_t counter[4] = {LB_RNG_JITTER, worker->jitter_counter++, 0, 0}, word[4];
    lb_rng_block(worker->jitter_seed, counter, word);
    float spread = (float)(most_ms - least_ms) * lb_rng_uniform(word[0]);
    int64_t until = lb_clock_ms() + least_ms + (int64_t)spread;
    for (int64_t left = until - lb_clock_ms(); left > 0 && !lb_worker_stopping(worker);
         left = until - lb_clock_ms())
        lb_sleep_ms(left < PAUSE_SLICE_MS ? left : PAUSE_SLICE_MS);
}

/* ---- creation ---- */

static lb_status set_name(lb_worker *worker, lb_err *err)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    const char *name = worker->config.name;
    char host[48] = "worker";
    if (name) {
        size_t length = strlen(name);
        if (length < 1 || length > LB_LIMIT_ID || strspn(name, plain) != length)
            return lb_fail(err, LB_EINVAL, "name",
                           "'%.64s' is not 1 to %u letters, digits or _.-", name, LB_LIMIT_ID);
        memcpy(worker->name, name, length + 1);
        return LB_OK;
    }
    if (gethostname(host, sizeof host) != 0)
        memcpy(host, "worker", sizeof "worker");
    host[sizeof host - 1] = '\0';
    host[strspn(host, plain)] = '\0';
    snprintf(worker->name, sizeof worker->name, "%s-%ld", host[0] ? host : "worker",
             (long)getpid());
    return LB_OK;
}

static void class_of(const lb_model *model, lb_dtype dtype, char out[LB_SHA256_HEX])
{
    char text[256];
    uint8_t digest[LB_SHA256_BYTES];
    snprintf(text, sizeof text, "limbeck-numerics %s\nmodel %s\nweights %s\nkernels %s\n",
             NUMERICS_VERSION, lb_model_digest(model), lb_dtype_name(dtype), LB_NUMERICS);
    lb_sha256_of(text, strlen(text), digest);
    lb_sha256_hex(digest, out);
}

/* spec is "NAME=DIR". */
static lb_status load_student(lb_worker *worker, const char *spec, lb_student *s, lb_err *err)
{
    const char *equals = strchr(spec, '=');
    if (!equals || equals == spec || !equals[1])
        return lb_fail(err, LB_EINVAL, "model", "'%.100s' is not NAME=DIR", spec);
    lb_model_options options = {.dtype = worker->config.dtype, .trainable = true,
                                .activation_bytes = (size_t)worker->config.activation_mb << 20};
    s->name = strndup(spec, (size_t)(equals - spec));
    lb_status status = s->name ? LB_OK : lb_fail(err, LB_ENOMEM, NULL, "no memory");
    if (status == LB_OK)
        status = lb_model_load(worker->backend, equals + 1, &options, &s->model, err);
    if (status == LB_OK)
        status = lb_tokenizer_load(equals + 1, &s->tokenizer, err);
    if (status == LB_OK)
        status = lb_chat_template_digest(equals + 1, s->template_sha, err);
    if (status != LB_OK)
        return status;
    const lb_model_config *config = lb_model_get_config(s->model);
    s->allowed = calloc(config->vocab, 1);
    if (!s->allowed)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the vocabulary");
    lb_unit_allowed(s->tokenizer, config, s->allowed);
    class_of(s->model, worker->config.dtype, s->numerics_class);
    return LB_OK;
}

static lb_status load_students(lb_worker *worker, lb_err *err)
{
    if (worker->config.model_count < 1 || worker->config.model_count > LB_WORKER_MODELS_MAX)
        return lb_fail(err, LB_EINVAL, "model", "give 1 to %d of --model NAME=DIR",
                       LB_WORKER_MODELS_MAX);
    lb_status status = lb_backend_open("cpu", worker->config.threads, NULL, &worker->backend, err);
    for (size_t i = 0; status == LB_OK && i < worker->config.model_count; i++) {
        worker->student_count++;
        status = load_student(worker, worker->config.models[i], &worker->students[i], err);
    }
    return status;
}

/* The heartbeat's calls must not end with the worker's: a lease is renewed until it is given up. */
static lb_status connect_coordinator(lb_worker *worker, lb_err *err)
{
    lb_client_config config = {
        .url = worker->config.coordinator,
        .key = worker->config.key,
        .user_agent = "limbeck-worker/" LB_VERSION,
        .seed = worker->jitter_seed,
        .cancelled = stopping,
        .cancel_arg = worker,
    };
    lb_status status = lb_client_create(&config, &worker->client, err);
    if (status != LB_OK)
        return status;
    config.cancelled = NULL;
    return lb_keeper_start(&worker->keeper, &config, worker->name, err);
}

lb_status lb_worker_create(const lb_worker_config *config, lb_worker **out, lb_err *err)
{
    if (!config->coordinator)
        return lb_fail(err, LB_EINVAL, "coordinator", "--coordinator URL is required");
    lb_worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the worker");
    worker->config = *config;
    worker->jitter_seed = (uint64_t)lb_wall_ms() * 1000003u + (uint64_t)getpid();
    lb_status status = set_name(worker, err);
    if (status == LB_OK)
        status = load_students(worker, err);
    if (status == LB_OK)
        status = connect_coordinator(worker, err);
    if (status != LB_OK) {
        lb_worker_free(worker);
        return status;
    }
    *out = worker;
    return LB_OK;
}

void lb_worker_free(lb_worker *worker)
{
    if (!worker)
        return;
    lb_keeper_stop(&worker->keeper);
    lb_cache_free(worker);
    lb_client_free(worker->client);
    lb_client_free(worker->teacher);
    for (size_t i = 0; i < worker->student_count; i++) {
        lb_student *s = &worker->students[i];
        lb_tokenizer_free(s->tokenizer);
        lb_model_free(s->model);
        free(s->allowed);
        free(s->name);
    }
    lb_backend_close(worker->backend);
    free(worker);
}

const char *lb_worker_name(const lb_worker *worker)
{
    return worker->name;
}

/* ---- the loop ---- */

static lb_status compute(lb_worker *worker, const lb_lease *lease, lb_job_view *view,
                         const lb_adapter *adapter, lb_buf *frame, lb_err *err)
{
    lb_score_source source = {.worker = worker, .view = view};
    lb_unit_summary sum = {0};
    lb_unit unit = {
        .config = &view->config,
        .dataset = &view->dataset,
        .model = view->student->model,
        .adapter = adapter,
        .elements = view->layout.elements,
        .allowed = view->student->allowed,
        .grader = view->grade ? view->student->tokenizer : NULL,
        .step = lease->step,
        .unit = lease->unit,
        .teacher = lb_score_remote,
        .teacher_arg = &source,
        .cancelled = lb_worker_unit_cancelled,
        .cancel_arg = worker,
    };
    lb_status status = lb_unit_run(&unit, frame, &sum, err);
    if (status == LB_OK)
        lb_log(LB_LOG_INFO, "unit_done",
               "job=%s step=%u unit=%u rollouts=%u tokens=%llu rollout_ms=%.0f teacher_ms=%.0f "
               "gradient_ms=%.0f", lease->job, lease->step, lease->unit, sum.rollouts,
               (unsigned long long)sum.tokens, 1e3 * sum.rollout_seconds,
               1e3 * sum.teacher_seconds, 1e3 * sum.gradient_seconds);
    return status;
}

static lb_status do_unit(lb_worker *worker, const lb_lease *lease, lb_err *err)
{
    static const char *const outcomes[] = {"stored", "duplicate", "dropped"};
    lb_job_view *view = NULL;
    const lb_adapter *adapter = NULL;
    lb_push_outcome outcome = LB_PUSH_STORED;
    lb_buf frame = {0};
    lb_status status = lb_cache_view(worker, lease->job, &view, err);
    if (status == LB_OK)
        status = lb_cache_adapter(worker, view, lease->adapter, &adapter, err);
    if (status == LB_OK)
        status = compute(worker, lease, view, adapter, &frame, err);
    if (status == LB_OK)
        status = lb_push(worker, lease, view->student->numerics_class, &frame, &outcome, err);
    if (status == LB_OK)
        lb_log(LB_LOG_INFO, "unit_pushed", "job=%s step=%u unit=%u bytes=%zu outcome=%s",
               lease->job, lease->step, lease->unit, frame.length, outcomes[outcome]);
    lb_buf_free(&frame);
    return status;
}

/* Works for a lease. A unit that fails goes back, and the next is asked for after a pause: what is
 * wrong here may be right on another worker. */
static void work(lb_worker *worker, const lb_lease *lease)
{
    lb_err err = {0};
    lb_log(LB_LOG_INFO, "lease_taken", "job=%s step=%u unit=%u fence=%llu", lease->job,
           lease->step, lease->unit, (unsigned long long)lease->fence);
    lb_keeper_hold(&worker->keeper, lease);
    lb_status status = do_unit(worker, lease, &err);
    bool lost = !lb_keeper_is_good(&worker->keeper);
    lb_keeper_drop(&worker->keeper);
    if (status == LB_OK) {
        worker->failures = 0;
        return;
    }
    if (status == LB_ECANCELLED)
        lb_log(LB_LOG_WARN, "unit_abandoned", "job=%s step=%u unit=%u lost=%d", lease->job,
               lease->step, lease->unit, lost);
    else
        lb_log_err(LB_LOG_ERROR, "unit_failed", &err);
    if (!lost)
        lb_lease_release(worker, lease, lb_failure_is_final(status) ? &err : NULL);
    if (status != LB_ECANCELLED) {
        lb_cache_forget(worker, lease->job);
        lb_worker_pause(worker, 0, FAILURE_PAUSE_MS << worker->failures);
        worker->failures += worker->failures < FAILURE_DOUBLINGS_MAX;
    }
}

/* How long to wait for a lease: not past the time at which idleness ends the worker. */
static uint32_t wait_ms(const lb_worker *worker, int64_t idle_since)
{
    if (worker->config.idle_exit_ms == 0)
        return LEASE_WAIT_MS;
    int64_t left = idle_since + (int64_t)worker->config.idle_exit_ms - lb_clock_ms();
    return left < 0 ? 0 : left < (int64_t)LEASE_WAIT_MS ? (uint32_t)left : LEASE_WAIT_MS;
}

static bool idle_too_long(const lb_worker *worker, int64_t idle_since)
{
    return worker->config.idle_exit_ms > 0 &&
           lb_clock_ms() - idle_since >= (int64_t)worker->config.idle_exit_ms;
}

lb_status lb_worker_run(lb_worker *worker, lb_err *err)
{
    int64_t idle_since = lb_clock_ms();
    bool away = false;
    while (!lb_worker_stopping(worker) && !idle_too_long(worker, idle_since)) {
        lb_lease lease = {0};
        bool got = false;
        int64_t asked = lb_clock_ms();
        lb_status status = lb_lease_take(worker, wait_ms(worker, idle_since), &lease, &got, err);
        if (status == LB_EAUTH)
            return lb_err_wrap(err, "the coordinator");
        if (status != LB_OK && status != LB_ECANCELLED) {
            if (!away)
                lb_log_err(LB_LOG_WARN, "coordinator_away", err);
            away = true;
            lb_worker_pause(worker, PAUSE_LEAST_MS, PAUSE_MOST_MS);
            continue;
        }
        if (away && status == LB_OK)
            lb_log(LB_LOG_INFO, "coordinator_back", NULL);
        away = away && status != LB_OK;
        if (got) {
            work(worker, &lease);
            idle_since = lb_clock_ms();
        } else if (lb_clock_ms() - asked < PAUSE_LEAST_MS) {
            /* "Nothing" came at once instead of after the wait: do not ask in a circle. */
            lb_worker_pause(worker, PAUSE_LEAST_MS / 4, PAUSE_LEAST_MS);
        }
    }
    return LB_OK;
}
