/* SPDX-License-Identifier: Apache-2.0 */
#include "client/worker/worker_impl.h"

#include "common/base/clock.h"
#include "common/base/log.h"

#include <stdio.h>
#include <string.h>

#define RELEASE_TIMEOUT_MS 2000
#define SLACK_MS 10000           /* for the way to the coordinator and back, beyond its wait */
#define TTL_MS_MAX 3600000u
#define GOOD_NUMERATOR 4         /* a lease is good for 4/5 of its life: clocks may drift apart */
#define GOOD_DENOMINATOR 5
#define REPLY_MAX (64u << 10)

static lb_status copy_string(const lb_json *object, const char *key, char *out, size_t size,
                             lb_err *err)
{
    const char *text = NULL;
    lb_status status = lb_json_need_string(object, "", key, &text, err);
    if (status == LB_OK && strlen(text) >= size)
        status = lb_fail(err, LB_EDATA, key, "has more than %zu bytes", size - 1);
    if (status == LB_OK)
        memcpy(out, text, strlen(text) + 1);
    return status;
}

static lb_status parse_lease(const lb_buf *body, lb_lease *out, lb_err *err)
{
    lb_json *root = NULL;
    lb_lease lease = {0};
    lb_status status = lb_json_parse((const char *)body->data, body->length, &root, err);
    if (status != LB_OK)
        return status;
    status = copy_string(root, "job", lease.job, sizeof lease.job, err);
    if (status == LB_OK)
        status = lb_json_need_u32(root, "", "step", 0, UINT32_MAX, &lease.step, err);
    if (status == LB_OK)
        status = lb_json_need_u32(root, "", "unit", 0, UINT32_MAX, &lease.unit, err);
    if (status == LB_OK)
        status = lb_json_need_u64(root, "", "fence", 1, INT64_MAX, &lease.fence, err);
    if (status == LB_OK)
        status = copy_string(root, "adapter_sha256", lease.adapter, sizeof lease.adapter, err);
    if (status == LB_OK)
        status = lb_json_need_u32(root, "", "ttl_ms", 1, TTL_MS_MAX, &lease.ttl_ms, err);
    if (status == LB_OK)
        status = lb_json_need_u32(root, "", "heartbeat_ms", 1, TTL_MS_MAX, &lease.heartbeat_ms,
                                  err);
    if (status == LB_OK)
        *out = lease;
    lb_json_free(root);
    return status;
}

lb_status lb_lease_take(lb_worker *worker, uint32_t wait_ms, lb_lease *out, bool *got, lb_err *err)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_answer answer = {0};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "worker");
    lb_jsonw_string(&w, worker->name);
    lb_jsonw_key(&w, "wait_ms");
    lb_jsonw_u64(&w, wait_ms);
    lb_jsonw_object_end(&w);
    lb_call call = {
        .method = "POST",
        .path = "/v1/leases",
        .content_type = "application/json",
        .body = body.data,
        .length = body.length,
        .timeout_ms = wait_ms + SLACK_MS,
        .reply_max = REPLY_MAX,
    };
    *got = false;
    lb_status status = body.status;
    if (status == LB_OK)
        status = lb_client_call(worker->client, &call, &answer, err);
    if (status == LB_OK)
        status = lb_answer_check(&answer, err);
    if (status == LB_OK && answer.code != 204) {
        status = parse_lease(&answer.body, out, err);
        *got = status == LB_OK;
        if (status != LB_OK)
            lb_err_wrap(err, "the coordinator's lease");
    }
    lb_answer_free(&answer);
    lb_buf_free(&body);
    return status;
}

static void write_fences(lb_buf *body, const char *worker, uint64_t fence, const lb_err *why)
{
    lb_jsonw w = {.out = body};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "worker");
    lb_jsonw_string(&w, worker);
    lb_jsonw_key(&w, "fences");
    lb_jsonw_array(&w);
    lb_jsonw_u64(&w, fence);
    lb_jsonw_array_end(&w);
    if (why) {
        lb_jsonw_key(&w, "failure");
        lb_failure_write(why, &w);
    }
    lb_jsonw_object_end(&w);
}

void lb_lease_release(lb_worker *worker, const lb_lease *lease, const lb_err *why)
{
    /* A client of its own: the worker's gives up at once while the worker stops. */
    lb_client_config config = {
        .url = worker->config.coordinator,
        .key = worker->config.key,
        .user_agent = "limbeck-worker/" LB_VERSION,
        .seed = worker->jitter_seed,
    };
    lb_client *client = NULL;
    lb_buf body = {0};
    lb_answer answer = {0};
    lb_err err = {0};
    write_fences(&body, worker->name, lease->fence, why);
    lb_call call = {
        .method = "POST",
        .path = "/v1/leases/release",
        .content_type = "application/json",
        .body = body.data,
        .length = body.length,
        .timeout_ms = RELEASE_TIMEOUT_MS,
        .reply_max = REPLY_MAX,
    };
    lb_status status = lb_client_create(&config, &client, &err);
    if (status == LB_OK)
        status = lb_client_call(client, &call, &answer, &err);
    if (status != LB_OK)   /* the lease runs out by itself */
        lb_log_err(LB_LOG_DEBUG, "release_failed", &err);
    lb_answer_free(&answer);
    lb_client_free(client);
    lb_buf_free(&body);
}

/* ---- the heartbeat ---- */

static bool holds(const lb_json *list, uint64_t fence)
{
    for (size_t i = 0; i < lb_json_array_size(list); i++) {
        const lb_json *node = lb_json_at(list, i);
        if (lb_json_is_integer(node) && (uint64_t)lb_json_integer(node) == fence)
            return true;
    }
    return false;
}

typedef enum renewal { RENEWED, LOST, UNKNOWN } renewal;

/* UNKNOWN: the coordinator did not answer; the lease may or may not be there. */
static renewal renew(lb_keeper *keeper, uint64_t fence, uint32_t timeout_ms)
{
    lb_buf body = {0};
    lb_answer answer = {0};
    lb_json *root = NULL;
    lb_err err = {0};
    renewal outcome = UNKNOWN;
    write_fences(&body, keeper->worker, fence, NULL);
    lb_call call = {
        .method = "POST",
        .path = "/v1/leases/renew",
        .content_type = "application/json",
        .body = body.data,
        .length = body.length,
        .timeout_ms = timeout_ms,
        .no_retry = true,
        .reply_max = REPLY_MAX,
    };
    lb_status status = lb_client_call(keeper->client, &call, &answer, &err);
    if (status == LB_OK)
        status = lb_answer_check(&answer, &err);
    if (status == LB_OK)
        status = lb_json_parse((const char *)answer.body.data, answer.body.length, &root, &err);
    if (status != LB_OK)
        lb_log_err(LB_LOG_WARN, "heartbeat_failed", &err);
    else if (holds(lb_json_get(root, "renewed"), fence))
        outcome = RENEWED;
    else if (holds(lb_json_get(root, "lost"), fence))
        outcome = LOST;
    lb_json_free(root);
    lb_answer_free(&answer);
    lb_buf_free(&body);
    return outcome;
}

static void *keeper_thread(void *arg)
{
    lb_keeper *k = arg;
    pthread_mutex_lock(&k->lock);
    while (!k->stopping) {
        int64_t now = lb_clock_ms();
        if (k->fence == 0 || k->lost) {
            pthread_cond_wait(&k->changed, &k->lock);
            continue;
        }
        if (now < k->next_ms) {
            struct timespec until = lb_deadline_timespec(k->next_ms);
            pthread_cond_timedwait(&k->changed, &k->lock, &until);
            continue;
        }
        uint64_t fence = k->fence;
        uint32_t heartbeat = k->heartbeat_ms;
        k->next_ms = now + heartbeat;
        pthread_mutex_unlock(&k->lock);
        renewal outcome = renew(k, fence, heartbeat);
        pthread_mutex_lock(&k->lock);
        if (k->fence != fence)
            continue;
        if (outcome == RENEWED)
            k->acknowledged_ms = now;
        k->lost |= outcome == LOST;
    }
    pthread_mutex_unlock(&k->lock);
    return NULL;
}

lb_status lb_keeper_start(lb_keeper *keeper, const lb_client_config *client, const char *worker,
                          lb_err *err)
{
    lb_status status = lb_client_create(client, &keeper->client, err);
    if (status != LB_OK)
        return status;
    keeper->worker = worker;
    pthread_mutex_init(&keeper->lock, NULL);
    int failed = lb_cond_init(&keeper->changed);
    if (failed || pthread_create(&keeper->thread, NULL, keeper_thread, keeper) != 0)
        return lb_fail(err, LB_ENOMEM, NULL, "the heartbeat's thread does not start");
    keeper->started = true;
    return LB_OK;
}

void lb_keeper_stop(lb_keeper *keeper)
{
    if (keeper->started) {
        pthread_mutex_lock(&keeper->lock);
        keeper->stopping = true;
        pthread_cond_broadcast(&keeper->changed);
        pthread_mutex_unlock(&keeper->lock);
        pthread_join(keeper->thread, NULL);
        pthread_cond_destroy(&keeper->changed);
        pthread_mutex_destroy(&keeper->lock);
    }
    lb_client_free(keeper->client);
    *keeper = (lb_keeper){0};
}

void lb_keeper_hold(lb_keeper *keeper, const lb_lease *lease)
{
    pthread_mutex_lock(&keeper->lock);
    keeper->fence = lease->fence;
    keeper->ttl_ms = lease->ttl_ms;
    keeper->heartbeat_ms = lease->heartbeat_ms;
    keeper->lost = false;
    keeper->acknowledged_ms = keeper->next_ms = lb_clock_ms();   /* and renew it right away */
    pthread_cond_broadcast(&keeper->changed);
    pthread_mutex_unlock(&keeper->lock);
}

void lb_keeper_drop(lb_keeper *keeper)
{
    pthread_mutex_lock(&keeper->lock);
    keeper->fence = 0;
    pthread_mutex_unlock(&keeper->lock);
}

bool lb_keeper_is_good(lb_keeper *keeper)
{
    pthread_mutex_lock(&keeper->lock);
    int64_t life = (int64_t)keeper->ttl_ms * GOOD_NUMERATOR / GOOD_DENOMINATOR;
    bool good = keeper->fence != 0 && !keeper->lost &&
                lb_clock_ms() < keeper->acknowledged_ms + life;
    pthread_mutex_unlock(&keeper->lock);
    return good;
}
