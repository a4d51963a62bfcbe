/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_http - the HTTP server harness; the only user of libmicrohttpd.
 *
 * A daemon gives a table of routes; the harness enforces each row (method, path, scope, body limit)
 * before a handler sees the request: 404, 405, 401, 413, 400 for smuggling shapes. Handlers run on
 * the HTTP threads: they parse and validate, then either answer at once or hand an lb_reply to
 * another thread (lb_http_suspend), which answers later from there. While suspended, a deadline and
 * the peer's disconnection are watched by the harness's own thread, since libmicrohttpd watches
 * neither. Errors leave in the OpenAI shape: {"error":{"message","type","param","code"}}.
 */
#ifndef LB_SERVER_HTTP_HTTP_H
#define LB_SERVER_HTTP_HTTP_H

#include "common/base/buf.h"
#include "common/base/json.h"
#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lb_http lb_http;
typedef struct lb_request lb_request;  /* valid until answered */

typedef enum lb_scope {
    LB_SCOPE_OPEN,      /* no key: liveness only */
    LB_SCOPE_USER,      /* a key of the key file, when one was given */
} lb_scope;

#define LB_HTTP_PARAMS_MAX 6

/* A row. path segments in braces are parameters: "/v1/runs/{job}/steps/{step}". A trailing slash
 * of a request is ignored. */
typedef struct lb_route {
    const char *method;
    const char *path;
    lb_scope scope;
    size_t body_limit;           /* 0: a body is refused */
    void (*handle)(void *daemon, lb_request *request);
} lb_route;

typedef struct lb_http_config {
    const char *listen;          /* "127.0.0.1:0", "[::1]:8000" */
    const char *key_file;        /* one key a line, '#' comments; NULL: no keys (loopback only) */
    bool insecure;               /* allows another address than loopback without TLS */
    const lb_route *routes;
    size_t route_count;
    void *daemon;                /* first argument of every handler */
    uint32_t threads;            /* 0: 2 */
    uint32_t transfer_ms;        /* a request's head, its body and the reply may each take this
                                    long, body and reply also 1 s more per 64 KiB; 0: 10000 */
    const char *server_name;     /* "limbeck-teacher" */
} lb_http_config;

/* Starts listening. An address that is not loopback is refused (LB_EINVAL, field "listen") without
 * a key file, and without insecure as TLS is left to a proxy. */
LB_NODISCARD lb_status lb_http_start(const lb_http_config *config, lb_http **out, lb_err *err);
uint16_t lb_http_port(const lb_http *http);
const char *lb_http_url(const lb_http *http);       /* "http://127.0.0.1:41234" */
/* Refuses new requests with 503 and Retry-After from now on, but for LB_SCOPE_OPEN routes. */
void lb_http_drain(lb_http *http);
/* Waits up to timeout_ms for open requests, answers the rest with 503, stops. NULL allowed. */
void lb_http_stop(lb_http *http, int64_t timeout_ms);

/* ---- what a handler reads (borrowed until the answer) ---- */
const char *lb_request_param(const lb_request *request, const char *name);    /* path, decoded */
const char *lb_request_query(const lb_request *request, const char *name);    /* NULL if absent */
const char *lb_request_header(const lb_request *request, const char *name);   /* NULL if absent */
const uint8_t *lb_request_body(const lb_request *request, size_t *length);
const char *lb_request_id(const lb_request *request);          /* x-request-id, sent back */
/* Parses the body as a JSON object; on failure answers 400 itself and returns NULL. The tree is
 * freed with the request. */
const lb_json *lb_request_json(lb_request *request);
bool lb_request_accepts(const lb_request *request, const char *media_type);
/* An integer of the path or the query ("step", "limit"), checked; false: it answered 400. */
bool lb_request_u64(lb_request *request, const char *name, uint64_t min, uint64_t max,
                    uint64_t fallback, uint64_t *out);

/* ---- answering: exactly once per request, from any thread ---- */
/* body is copied. content_type such as "application/json". */
void lb_reply(lb_request *request, int code, const char *content_type, const void *body,
              size_t length);
/* Takes the bytes of an lb_buf (leaves it zeroed); a failed buffer becomes 500. */
void lb_reply_buf(lb_request *request, int code, const char *content_type, lb_buf *body);
/* Answers in the error shape with lb_status_http. Retry-After is added to 429 and 503. */
void lb_reply_err(lb_request *request, const lb_err *err);
void lb_reply_fail(lb_request *request, lb_status status, const char *field, const char *format,
                   ...) LB_PRINTF(4, 5);
/* A header of the coming reply (at most 8); the strings are copied. */
void lb_reply_header(lb_request *request, const char *name, const char *value);

/* Suspends the request: the handler returns, and some thread answers later. At deadline_ms
 * (lb_clock_ms; INT64_MAX: none) or when the peer disconnects, `cancelled` is called once on the
 * watcher's thread with status LB_ETIMEOUT or LB_ECANCELLED; it must answer the request or see to
 * it that its owner soon does (for LB_ECANCELLED the reply goes nowhere but is still due). It is
 * never called after the request was answered. */
void lb_http_suspend(lb_request *request, int64_t deadline_ms,
                     void (*cancelled)(void *arg, lb_request *request, lb_status why), void *arg);

/* Counters for /metrics: requests by class, open connections, suspended requests. */
typedef struct lb_http_stats {
    uint64_t requests, replies_2xx, replies_4xx, replies_5xx;
    uint64_t connections_open, suspended;
} lb_http_stats;
lb_http_stats lb_http_get_stats(const lb_http *http);

/* Prometheus text: helpers that append "# HELP", "# TYPE" and one sample. labels such as
 * "code=\"200\"" or NULL. */
void lb_prometheus_header(lb_buf *out, const char *name, const char *type, const char *help);
void lb_prometheus_sample(lb_buf *out, const char *name, const char *labels, double value);

#endif
