/* SPDX-License-Identifier: Apache-2.0
 *
 * http_fixture - the HTTP harness in the test's own process on a free port, a small table of
 * routes, an owner thread that answers what was handed to it, and raw sockets that may send what
 * no HTTP library would. Included after cmocka.h.
 */
#ifndef LB_TESTS_UNIT_HTTP_FIXTURE_H
#define LB_TESTS_UNIT_HTTP_FIXTURE_H

#include "common/base/clock.h"
#include "common/io/file.h"
#include "server/http/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define BODY_LIMIT 1024
#define HELD_MAX 256
#define REPLY_BYTES 16384
#define PATIENCE_MS 10000       /* no single wait of a sound server comes near it */
#define DEADLINE_MS 100
#define TICK_MS 2
#define GOOD_KEY "sk-good"

typedef struct world {
    lb_http *http;
    char dir[64], key_path[96];
    pthread_mutex_t lock;        /* guards what follows */
    pthread_cond_t changed;
    lb_request *held[HELD_MAX];  /* suspended, unanswered */
    size_t held_count;
    lb_request *queue[HELD_MAX]; /* for the owner thread */
    size_t queue_count;
    bool owner_stop, answer_cancelled, handler_entered, handler_go;
    int cancel_count;
    lb_status cancel_why;
    int64_t cancel_ms;
    int handled;
    pthread_t owner;
} world;

static inline void reply_text(lb_request *request, int code, const char *text)
{
    lb_reply(request, code, "text/plain", text, strlen(text));
}

/* ---- handlers ---- */

static inline void count_handled(world *w)
{
    pthread_mutex_lock(&w->lock);
    w->handled++;
    pthread_mutex_unlock(&w->lock);
}

static inline void handle_alive(void *arg, lb_request *request)
{
    count_handled(arg);
    reply_text(request, 200, "alive");
}

static inline void handle_thing(void *arg, lb_request *request)
{
    char text[400];
    const char *step = lb_request_param(request, "step");
    const char *colour = lb_request_query(request, "colour");
    count_handled(arg);
    snprintf(text, sizeof text, "%s|%s|%s", lb_request_param(request, "thing"),
             step ? step : "-", colour ? colour : "-");
    reply_text(request, 200, text);
}

static inline void handle_echo(void *arg, lb_request *request)
{
    size_t length = 0;
    const uint8_t *body = lb_request_body(request, &length);
    count_handled(arg);
    lb_reply_header(request, "X-Echo", "yes");
    lb_reply(request, 201, "application/octet-stream", body, length);
}

static inline void handle_json(void *arg, lb_request *request)
{
    uint64_t limit = 0;
    lb_buf out = {0};
    count_handled(arg);
    const lb_json *json = lb_request_json(request);
    if (!json || !lb_request_u64(request, "limit", 1, 100, 20, &limit))
        return;
    lb_buf_printf(&out, "%s %llu", lb_json_string(lb_json_get(json, "name")),
                  (unsigned long long)limit);
    lb_reply_buf(request, 200, "text/plain", &out);
}

static inline void handle_conflict(void *arg, lb_request *request)
{
    count_handled(arg);
    lb_reply_fail(request, LB_ECONFLICT, "step", "step %d is taken", 7);
}

static inline void on_cancelled(void *arg, lb_request *request, lb_status why)
{
    world *w = arg;
    pthread_mutex_lock(&w->lock);
    w->cancel_count++;
    w->cancel_why = why;
    w->cancel_ms = lb_clock_ms();
    bool answer = w->answer_cancelled;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (answer)
        lb_reply_fail(request, why, NULL, "cancelled");
}

static inline void hold(world *w, lb_request *request)
{
    pthread_mutex_lock(&w->lock);
    w->held[w->held_count++] = request;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static inline void handle_hold(void *arg, lb_request *request)
{
    lb_http_suspend(request, INT64_MAX, on_cancelled, arg);
    hold(arg, request);
}

static inline void handle_deadline(void *arg, lb_request *request)
{
    lb_http_suspend(request, lb_clock_ms() + DEADLINE_MS, on_cancelled, arg);
    hold(arg, request);
}

/* For requests whose owner answers in any case: a second answer would be one too many. */
static inline void leave_to_owner(void *arg, lb_request *request, lb_status why)
{
    (void)arg;
    (void)request;
    (void)why;
}

/* For requests that the owner thread answers in any case. */
static inline void on_owner_told(void *arg, lb_request *request, lb_status why)
{
    (void)arg;
    (void)request;
    (void)why;
}

/* The owner thread may answer before, while or after this suspends. */
static inline void handle_queued(void *arg, lb_request *request)
{
    world *w = arg;
    pthread_mutex_lock(&w->lock);
    w->queue[w->queue_count++] = request;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    lb_http_suspend(request, INT64_MAX, leave_to_owner, w);
}

static inline void *answer_early(void *arg)
{
    reply_text(arg, 200, "early");
    return NULL;
}

/* Answered by another thread before it is suspended, for certain. */
static inline void handle_early(void *arg, lb_request *request)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, answer_early, request) != 0)
        abort();
    pthread_join(thread, NULL);
    lb_http_suspend(request, INT64_MAX, on_cancelled, arg);
}

/* Suspends only when the test says so. */
static inline void handle_late(void *arg, lb_request *request)
{
    world *w = arg;
    pthread_mutex_lock(&w->lock);
    w->handler_entered = true;
    pthread_cond_broadcast(&w->changed);
    while (!w->handler_go)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
    lb_http_suspend(request, INT64_MAX, on_cancelled, w);
    hold(w, request);
}

static const lb_route ROUTES[] = {
    {"GET", "/alive", LB_SCOPE_OPEN, 0, handle_alive},
    {"GET", "/v1/things/{thing}", LB_SCOPE_USER, 0, handle_thing},
    {"GET", "/v1/things/{thing}/steps/{step}", LB_SCOPE_USER, 0, handle_thing},
    {"POST", "/v1/echo", LB_SCOPE_USER, BODY_LIMIT, handle_echo},
    {"PUT", "/v1/echo", LB_SCOPE_USER, BODY_LIMIT, handle_echo},
    {"POST", "/v1/json", LB_SCOPE_USER, BODY_LIMIT, handle_json},
    {"GET", "/v1/conflict", LB_SCOPE_USER, 0, handle_conflict},
    {"GET", "/v1/hold", LB_SCOPE_USER, 0, handle_hold},
    {"GET", "/v1/deadline", LB_SCOPE_USER, 0, handle_deadline},
    {"GET", "/v1/queued", LB_SCOPE_USER, 0, handle_queued},
    {"GET", "/v1/early", LB_SCOPE_USER, 0, handle_early},
    {"GET", "/v1/late", LB_SCOPE_USER, 0, handle_late},
};

/* ---- the world ---- */

static inline void *owner_loop(void *arg)
{
    world *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (w->queue_count == 0 && !w->owner_stop)
            pthread_cond_wait(&w->changed, &w->lock);
        if (w->queue_count == 0)
            break;
        lb_request *request = w->queue[--w->queue_count];
        pthread_mutex_unlock(&w->lock);
        reply_text(request, 200, "owned");
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static inline lb_http_config config_of(world *w, const char *key_file)
{
    return (lb_http_config){.listen = "127.0.0.1:0", .key_file = key_file, .routes = ROUTES,
                            .route_count = sizeof ROUTES / sizeof *ROUTES, .daemon = w,
                            .server_name = "limbeck-test"};
}

static inline void write_keys(world *w, const char *text, mode_t mode)
{
    FILE *file = fopen(w->key_path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    assert_int_equal(chmod(w->key_path, mode), 0);
}

static inline void start_with(world *w, const char *key_file)
{
    lb_err err = {0};
    lb_http_config config = config_of(w, key_file);
    if (lb_http_start(&config, &w->http, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
}

static inline int set_up(void **state)
{
    world *w = calloc(1, sizeof *w);
    if (!w)
        return -1;
    *state = w;
    snprintf(w->dir, sizeof w->dir, "/tmp/limbeck-http-XXXXXX");
    if (!mkdtemp(w->dir))
        return -1;
    snprintf(w->key_path, sizeof w->key_path, "%s/keys", w->dir);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->answer_cancelled = true;
    start_with(w, NULL);
    return pthread_create(&w->owner, NULL, owner_loop, w);
}

static inline int tear_down(void **state)
{
    world *w = *state;
    lb_http_stop(w->http, 0);
    pthread_mutex_lock(&w->lock);
    w->owner_stop = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->owner, NULL);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    unlink(w->key_path);
    rmdir(w->dir);
    free(w);
    return 0;
}

/* ---- raw requests ---- */

typedef struct reply {
    int code;                    /* 0: the connection closed without one */
    bool closed;                 /* the server closed after it */
    size_t length;
    char *body;                  /* into text */
    char text[REPLY_BYTES];
} reply;

static inline int dial(const world *w)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(lb_http_port(w->http)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static inline void say_bytes(int fd, const char *bytes, size_t length)
{
    /* A server that refuses may close before it has read all; that is for the reply to show. */
    while (length > 0) {
        ssize_t n = send(fd, bytes, length, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        bytes += n;
        length -= (size_t)n;
    }
}

static inline void say(int fd, const char *text)
{
    say_bytes(fd, text, strlen(text));
}

/* The value of a reply's header, copied to out; false if absent. */
static inline bool header_of(const reply *r, const char *name, char out[256])
{
    size_t length = strlen(name);
    for (const char *line = strstr(r->text, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        const char *at = line + 2;
        if (strncmp(at, "\r\n", 2) == 0)
            return false;
        if (strncasecmp(at, name, length) == 0 && at[length] == ':') {
            at += length + 1;
            at += strspn(at, " ");
            snprintf(out, 256, "%.*s", (int)strcspn(at, "\r"), at);
            return true;
        }
    }
    return false;
}

/* Reads one reply (none may be larger than the buffer). */
static inline void hear(int fd, reply *r)
{
    size_t used = 0, want = SIZE_MAX;
    char value[256];
    memset(r, 0, sizeof *r);
    while (used < want) {
        ssize_t n = recv(fd, r->text + used, sizeof r->text - 1 - used, 0);
        if (n < 0 && errno == EAGAIN)
            fail_msg("no reply within %d ms", PATIENCE_MS);
        if (n <= 0) {
            r->closed = true;
            break;
        }
        used += (size_t)n;
        char *end = strstr(r->text, "\r\n\r\n");
        if (end && want == SIZE_MAX) {
            r->body = end + 4;
            r->length = header_of(r, "Content-Length", value) ? strtoul(value, NULL, 10) : 0;
            want = (size_t)(r->body - r->text) + r->length;
        }
    }
    if (r->body)
        sscanf(r->text, "HTTP/1.%*c %d", &r->code);
}

/* Whether the server closes now that the reply is read. */
static inline bool closes(int fd)
{
    char rest[64];
    ssize_t n = recv(fd, rest, sizeof rest, 0);
    return n == 0 || (n < 0 && errno == ECONNRESET);
}

static inline void ask_raw(const world *w, const char *text, reply *r)
{
    int fd = dial(w);
    say(fd, text);
    hear(fd, r);
    close(fd);
}

static inline void ask(const world *w, const char *method, const char *path, reply *r)
{
    char text[512];
    snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: x\r\n\r\n", method, path);
    ask_raw(w, text, r);
}

/* ---- waiting for events ---- */

static inline void wait_held(world *w, size_t count)
{
    int64_t until = lb_clock_ms() + PATIENCE_MS;
    for (;;) {
        pthread_mutex_lock(&w->lock);
        bool reached = w->held_count >= count;
        pthread_mutex_unlock(&w->lock);
        if (reached)
            return;
        assert_true(lb_clock_ms() < until);
        lb_sleep_ms(TICK_MS);
    }
}

static inline void wait_cancels(world *w, int count)
{
    int64_t until = lb_clock_ms() + PATIENCE_MS;
    for (;;) {
        pthread_mutex_lock(&w->lock);
        bool reached = w->cancel_count >= count;
        pthread_mutex_unlock(&w->lock);
        if (reached)
            return;
        assert_true(lb_clock_ms() < until);
        lb_sleep_ms(TICK_MS);
    }
}

static inline lb_request *take_held(world *w)
{
    pthread_mutex_lock(&w->lock);
    assert_true(w->held_count > 0);
    lb_request *request = w->held[--w->held_count];
    pthread_mutex_unlock(&w->lock);
    return request;
}

#endif
