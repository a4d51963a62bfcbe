/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the harness: a request's life, and who may touch what.
 *
 * A request is made at its headers and has two references: the connection's (dropped when
 * libmicrohttpd is done with it) and the answer's (dropped by the one lb_reply). `lock` guards the
 * fields below it; it is recursive because a cancel callback, which runs under it, may answer.
 */
#ifndef LB_SERVER_HTTP_HTTP_IMPL_H
#define LB_SERVER_HTTP_HTTP_IMPL_H

#include "common/base/digest.h"
#include "server/http/http.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#define LB_HTTP_PARAM_BYTES 129
#define LB_HTTP_REPLY_HEADERS_MAX 8
#define LB_HTTP_REQUEST_ID_BYTES 65
#define LB_HTTP_KEYS_MAX 256u

typedef struct lb_watcher lb_watcher;
typedef struct lb_link lb_link;
typedef struct lb_links lb_links;

struct lb_http {
    lb_http_config config;
    struct MHD_Daemon *daemon;
    char url[80];
    uint16_t port;
    uint8_t (*keys)[LB_SHA256_BYTES];      /* digests of the accepted keys */
    size_t key_count;
    lb_watcher *watcher;
    atomic_bool draining;
    atomic_uint_fast64_t requests, replies_2xx, replies_4xx, replies_5xx, open_requests, suspended;
    atomic_uint_fast64_t connections;
};

typedef struct lb_reply_field {
    char *name, *value;
} lb_reply_field;

struct lb_request {
    lb_http *http;
    struct MHD_Connection *connection;
    lb_link *link;                         /* NULL without memory: then no transfer deadline */
    const char *raw_path_end;              /* where the NUL of the raw path stands */
    bool raw_path_good;
    const lb_route *route;                 /* NULL while refused */
    char params[LB_HTTP_PARAMS_MAX][LB_HTTP_PARAM_BYTES];
    char id[LB_HTTP_REQUEST_ID_BYTES];
    lb_buf body;
    lb_json *json;
    atomic_int references;
    bool begun;                            /* its head was read; connection's thread only */
    bool dispatched;                       /* the handler was called; connection's thread only */

    pthread_mutex_t lock;
    bool answered, suspended, cancel_called;
    struct MHD_Response *response;         /* once answered */
    size_t response_length;
    int code;
    bool close;                            /* the body was not read to its end */
    lb_reply_field headers[LB_HTTP_REPLY_HEADERS_MAX];
    size_t header_count;
    int64_t deadline_ms;
    void (*cancelled)(void *arg, lb_request *request, lb_status why);
    void *cancel_arg;
    uint64_t watch_id;                     /* 0: not watched */
};

/* ---- request.c ---- */
lb_request *lb_request_create(lb_http *http, struct MHD_Connection *connection);
void lb_request_choose_id(lb_request *request);
void lb_request_hold(lb_request *request);
void lb_request_drop(lb_request *request);

/* ---- route.c: the row of method and path. LB_ENOTFOUND, LB_EMETHOD (allow: its methods) ---- */
LB_NODISCARD lb_status lb_route_find(lb_http *http, const char *method, const char *path,
                                     lb_request *request, char allow[64]);

/* ---- guard.c: what must be refused before a handler sees it ---- */
LB_NODISCARD lb_status lb_guard_headers(struct MHD_Connection *connection, uint64_t *body_length,
                                        lb_err *err);
bool lb_guard_uri(const char *raw);
/* False when a NUL byte has cut the path short. */
bool lb_guard_version(const lb_request *request, const char *version);
LB_NODISCARD lb_status lb_keys_load(lb_http *http, const char *path, lb_err *err);
bool lb_key_accepted(const lb_http *http, const char *authorization);

/* ---- reply.c ---- */
/* Answers on behalf of an owner that has not: its own reply later is dropped. */
void lb_reply_force(lb_request *request, lb_status status, const char *message);

/* ---- watcher.c ---- */
LB_NODISCARD lb_status lb_watcher_start(lb_watcher **out, lb_err *err);
void lb_watcher_stop(lb_watcher *watcher);
/* Both are called with the request's lock held. False: it is not watched and must not be suspended,
 * for want of memory or after lb_watcher_refuse. */
LB_NODISCARD bool lb_watcher_add(lb_watcher *watcher, lb_request *request, int fd);
void lb_watcher_remove(lb_watcher *watcher, lb_request *request);
void lb_watcher_refuse(lb_watcher *watcher);
/* Calls visit for each watched request, holding a reference meanwhile. */
void lb_watcher_each(lb_watcher *watcher, void (*visit)(lb_request *request));
lb_links *lb_watcher_links(lb_watcher *watcher);

/* ---- link.c: connections, from their start to just before their socket is closed ---- */
lb_links *lb_links_create(void);
void lb_links_free(lb_links *links);
/* The watcher's thread calls it every few milliseconds. */
void lb_links_tick(lb_links *links, int64_t now_ms);
/* These are called on the connection's own thread; link may be NULL. */
lb_link *lb_link_open(lb_links *links, int fd, int64_t deadline_ms);
void lb_link_until(lb_links *links, lb_link *link, int64_t deadline_ms);
/* The peer is being answered while it still sends. */
void lb_link_refuse(lb_link *link);
void lb_link_close(lb_links *links, lb_link *link);

#endif
