/* SPDX-License-Identifier: Apache-2.0 */
#include "server/coordinator/daemon.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/io/file.h"
#include "server/coordinator/daemon_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define QUEUE_CAPACITY 2048
#define TTL_DEFAULT_MS 30000u
#define HEARTBEAT_OF_TTL 6u              /* 30 s of lease: a heartbeat each 5 s */
#define HTTP_THREADS 4
#define STOP_TIMEOUT_MS 25000
#define DRAIN_TRIES 100
#define DRAIN_PAUSE_MS 10

/* ---- the core's world ---- */

static int64_t env_now(void *arg)
{
    (void)arg;
    return lb_clock_ms();
}

static int64_t env_wall(void *arg)
{
    (void)arg;
    return lb_wall_seconds();
}

void lb_coordinator_random(void *out, size_t length)
{
    uint8_t *bytes = out;
    while (length > 0) {
        ssize_t count = getrandom(bytes, length, 0);
        if (count < 0 && errno != EINTR)
            abort();   /* a kernel without getrandom: ids could repeat */
        if (count > 0) {
            bytes += count;
            length -= (size_t)count;
        }
    }
}

static void env_random(void *arg, void *out, size_t length)
{
    (void)arg;
    lb_coordinator_random(out, length);
}

static lb_status env_put(void *arg, const void *bytes, size_t length, char hex[LB_SHA256_HEX],
                         lb_err *err)
{
    return lb_blobs_put(((lb_coordinator *)arg)->blobs, bytes, length, hex, err);
}

static lb_status env_get(void *arg, const char *hex, lb_buf *out, lb_err *err)
{
    return lb_blobs_get(((lb_coordinator *)arg)->blobs, hex, out, err);
}

static void env_drop(void *arg, const char *hex)
{
    lb_blobs_drop(((lb_coordinator *)arg)->blobs, hex);
}

lb_status lb_coordinator_put(lb_coordinator *c, const void *bytes, size_t length,
                             char sha[LB_SHA256_HEX], lb_err *err)
{
    lb_status status = lb_blobs_put(c->blobs, bytes, length, sha, err);
    if (status == LB_EIO)
        atomic_store(&c->exit_code, LB_EXIT_STORAGE);
    return status;
}

/* ---- files by id ---- */

bool lb_coordinator_find_file(lb_coordinator *c, const char *id, char sha[LB_SHA256_HEX])
{
    bool found = false;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; !found && i < c->file_count; i++) {
        found = strcmp(c->files[i].id, id) == 0;
        if (found)
            memcpy(sha, c->files[i].sha, LB_SHA256_HEX);
    }
    pthread_mutex_unlock(&c->lock);
    return found;
}

static void remember_file(void *arg, const lb_file_row *row)
{
    lb_coordinator *c = arg;
    char sha[LB_SHA256_HEX];
    if (lb_coordinator_find_file(c, row->id, sha))
        return;
    pthread_mutex_lock(&c->lock);
    if (c->file_count == c->file_capacity) {
        size_t wanted = c->file_capacity ? 2 * c->file_capacity : 64;
        lb_file_entry *bigger = realloc(c->files, wanted * sizeof *bigger);
        if (bigger) {
            c->files = bigger;
            c->file_capacity = wanted;
        }
    }
    if (c->file_count < c->file_capacity) {
        lb_file_entry *entry = &c->files[c->file_count++];
        memcpy(entry->id, row->id, sizeof entry->id);
        memcpy(entry->sha, row->sha, sizeof entry->sha);
    }
    pthread_mutex_unlock(&c->lock);
}

/* ---- the owner thread ---- */

static void log_notes(const lb_core_actions *actions)
{
    for (size_t i = 0; i < actions->note_count; i++)
        lb_log(actions->notes[i].level, actions->notes[i].event, "%s", actions->notes[i].text);
}

static void append_http_metrics(lb_coordinator *c, lb_buf *out)
{
    lb_http_stats stats = {0};
    pthread_mutex_lock(&c->lock);
    bool serving = c->http;
    if (serving)
        stats = lb_http_get_stats(c->http);
    pthread_mutex_unlock(&c->lock);
    if (!serving)
        return;    /* zeros would look as if the counters had been reset */
    lb_prometheus_header(out, "limbeck_http_requests_total", "counter", "Requests received.");
    lb_prometheus_sample(out, "limbeck_http_requests_total", NULL, (double)stats.requests);
    lb_prometheus_header(out, "limbeck_http_replies_total", "counter", "Replies by class.");
    lb_prometheus_sample(out, "limbeck_http_replies_total", "class=\"2xx\"",
                         (double)stats.replies_2xx);
    lb_prometheus_sample(out, "limbeck_http_replies_total", "class=\"4xx\"",
                         (double)stats.replies_4xx);
    lb_prometheus_sample(out, "limbeck_http_replies_total", "class=\"5xx\"",
                         (double)stats.replies_5xx);
    lb_prometheus_header(out, "limbeck_http_connections_open", "gauge", "Open connections.");
    lb_prometheus_sample(out, "limbeck_http_connections_open", NULL,
                         (double)stats.connections_open);
}

static void reply(lb_coordinator *c, lb_core_action *action)
{
    lb_request *request = action->ticket;
    lb_err err = action->err;
    char etag[LB_SHA256_HEX + 2];
    if (action->no_retry)
        lb_reply_header(request, "x-should-retry", "false");
    if (action->blob[0]) {
        if (lb_blobs_get(c->blobs, action->blob, &action->body, &err) != LB_OK)
            action->code = 0;
        snprintf(etag, sizeof etag, "\"%s\"", action->blob);
        if (action->code != 0)
            lb_reply_header(request, "ETag", etag);
    }
    if (action->code == 0)
        lb_reply_err(request, &err);
    else if (action->body.length == 0)
        lb_reply(request, action->code, NULL, NULL, 0);
    else
        lb_reply_buf(request, action->code, action->content_type, &action->body);
}

static void take_step(lb_coordinator *c, lb_core_event *event)
{
    lb_core_actions *actions = &c->actions;
    lb_core_step(c->core, event, actions);
    log_notes(actions);
    bool good = actions->count > 0 && actions->items[0].code == lb_status_http(LB_OK);
    if (event->type == LB_EVENT_FILE_ADD && good)
        remember_file(c, &event->file);
    if (event->type == LB_EVENT_METRICS && good)
        append_http_metrics(c, &actions->items[0].body);
    if (actions->exit_code != 0)
        atomic_store(&c->exit_code, actions->exit_code);
    for (size_t i = 0; i < actions->count; i++)
        reply(c, &actions->items[i]);
}

/* After a storage failure nothing may be promised any more: memory and disk can differ. */
static void refuse_event(lb_core_event *event)
{
    if (event->ticket)
        lb_reply_fail(event->ticket, LB_EUNAVAILABLE, NULL, "the coordinator is stopping");
}

static void *own(void *arg)
{
    lb_coordinator *c = arg;
    lb_core_event tick = {.type = LB_EVENT_TICK};
    for (;;) {
        bool dead = atomic_load(&c->exit_code) != 0;
        lb_core_event *event = lb_queue_pop(c->queue, dead ? INT64_MAX
                                                           : lb_core_next_ms(c->core));
        if (!event && lb_queue_closed(c->queue))
            return NULL;
        if (event && dead && event->type != LB_EVENT_DRAIN && event->type != LB_EVENT_ABANDON)
            refuse_event(event);
        else if (event)
            take_step(c, event);
        lb_core_event_free(event);
        free(event);
        if (atomic_load(&c->exit_code) == 0 && lb_core_next_ms(c->core) <= lb_clock_ms())
            take_step(c, &tick);
    }
}

/* ---- start and stop ---- */

static bool keep_blob(void *arg, const char *hex)
{
    lb_store *store = arg;
    return store->needs_blob(store->impl, hex);
}

static lb_status open_data(lb_coordinator *c, const char *dir, lb_err *err)
{
    size_t removed = 0;
    lb_status status = lb_dir_make(dir, err);
    if (status == LB_OK)
        status = lb_store_open(dir, &c->store, err);
    if (status == LB_OK)
        status = lb_blobs_open(dir, &c->blobs, err);
    if (status == LB_OK)
        status = lb_blobs_sweep(c->blobs, keep_blob, c->store, &removed, err);
    if (status == LB_OK)
        lb_log(LB_LOG_INFO, "store_open", "epoch=%llu swept=%zu",
               (unsigned long long)c->store->epoch, removed);
    return status;
}

static lb_status open_core(lb_coordinator *c, lb_err *err)
{
    lb_env env = {.arg = c, .now_ms = env_now, .wall_seconds = env_wall, .random = env_random,
                  .blob_put = env_put, .blob_get = env_get, .blob_drop = env_drop,
                  .store = c->store};
    lb_status status = lb_core_actions_create(&c->actions, err);
    if (status == LB_OK)
        status = lb_core_create(&env, &c->config, &c->actions, &c->core, err);
    log_notes(&c->actions);
    if (status == LB_OK && c->actions.exit_code != 0)
        status = lb_fail(err, LB_EIO, "data", "the storage failed during recovery");
    if (status == LB_OK)
        lb_core_each_file(c->core, remember_file, c);
    return status;
}

static lb_status start_threads(lb_coordinator *c, const lb_coordinator_config *config, lb_err *err)
{
    lb_http *http = NULL;
    lb_http_config http_config = {
        .listen = config->listen,
        .key_file = config->key_file,
        .insecure = config->insecure,
        .routes = lb_coordinator_routes,
        .route_count = lb_coordinator_route_count,
        .daemon = c,
        .threads = HTTP_THREADS,
        .server_name = "limbeck-coordinator",
    };
    lb_status status = lb_queue_create(QUEUE_CAPACITY, &c->queue, err);
    if (status == LB_OK) {
        int code = pthread_create(&c->owner, NULL, own, c);
        c->owner_runs = code == 0;
        if (code != 0)
            status = lb_fail(err, LB_ENOMEM, NULL, "no thread: %s", strerror(code));
    }
    if (status == LB_OK)
        status = lb_http_start(&http_config, &http, err);
    pthread_mutex_lock(&c->lock);
    c->http = http;
    pthread_mutex_unlock(&c->lock);
    return status;
}

lb_status lb_coordinator_start(const lb_coordinator_config *config, lb_coordinator **out,
                               lb_err *err)
{
    lb_coordinator *c = calloc(1, sizeof *c);
    if (!c)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the coordinator");
    pthread_mutex_init(&c->lock, NULL);
    c->started_at = lb_wall_seconds();
    c->config.lease_ttl_ms = config->lease_ttl_ms ? config->lease_ttl_ms : TTL_DEFAULT_MS;
    c->config.heartbeat_ms = c->config.lease_ttl_ms / HEARTBEAT_OF_TTL;
    lb_status status = lb_catalog_load(c, config, err);
    if (status == LB_OK)
        status = open_data(c, config->data, err);
    if (status == LB_OK)
        status = open_core(c, err);
    if (status == LB_OK)
        status = start_threads(c, config, err);
    if (status == LB_OK)
        *out = c;
    else
        lb_coordinator_stop(c);
    return status;
}

const char *lb_coordinator_url(const lb_coordinator *coordinator)
{
    return lb_http_url(coordinator->http);
}

int lb_coordinator_exit_code(const lb_coordinator *coordinator)
{
    return atomic_load(&coordinator->exit_code);
}

/* The queue may be full of requests just now; the owner empties it. */
static void ask_to_drain(lb_coordinator *c)
{
    lb_core_event *event = calloc(1, sizeof *event);
    if (!event)
        return;
    event->type = LB_EVENT_DRAIN;
    for (int i = 0; i < DRAIN_TRIES; i++) {
        if (lb_queue_push(c->queue, event))
            return;
        lb_sleep_ms(DRAIN_PAUSE_MS);
    }
    free(event);
}

void lb_coordinator_stop(lb_coordinator *c)
{
    if (!c)
        return;
    atomic_store(&c->draining, true);
    if (c->http) {
        lb_http_drain(c->http);
        ask_to_drain(c);
        /* The owner goes on answering meanwhile, but must not count what is being freed. */
        pthread_mutex_lock(&c->lock);
        lb_http *http = c->http;
        c->http = NULL;
        pthread_mutex_unlock(&c->lock);
        lb_http_stop(http, STOP_TIMEOUT_MS);
    }
    if (c->queue)
        lb_queue_close(c->queue);
    if (c->owner_runs)
        pthread_join(c->owner, NULL);
    lb_queue_free(c->queue);
    lb_core_free(c->core);
    lb_core_actions_free(&c->actions);
    lb_store_close(c->store);
    lb_blobs_close(c->blobs);
    lb_catalog_free(c);
    free(c->files);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
