/* SPDX-License-Identifier: Apache-2.0 */
#include "server/http/http.h"

#include "common/base/clock.h"
#include "proto/limits.h"
#include "server/http/http_impl.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define THREADS_DEFAULT 2u
#define STACK_BYTES ((size_t)1 << 20)
#define CONNECTIONS_MAX 4096u
#define IDLE_SECONDS 60u
#define TRANSFER_DEFAULT_MS 10000u
#define RATE_BYTES_PER_MS 64u     /* the slowest peer that is put up with */
#define STOP_TICK_MS 5
#define FORCED_MS 2000

/* Called at the request line, before anything else is known. */
static void *on_uri(void *arg, const char *uri, struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info;
    lb_request *request = lb_request_create(arg, connection);
    if (!request)
        return NULL;
    info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    request->link = info ? info->socket_context : NULL;
    request->raw_path_good = lb_guard_uri(uri);
    request->raw_path_end = uri + strlen(uri);
    return request;
}

/* The connection's peer has this long from now on to send, or to take, so many bytes. */
static void allow_transfer(lb_request *request, uint64_t bytes)
{
    const lb_http *http = request->http;
    int64_t ms = http->config.transfer_ms + (int64_t)(bytes / RATE_BYTES_PER_MS);
    lb_link_until(lb_watcher_links(http->watcher), request->link, lb_clock_ms() + ms);
}

static enum MHD_Result send_answer(lb_request *request)
{
    allow_transfer(request, request->response_length);
    pthread_mutex_lock(&request->lock);
    enum MHD_Result result = MHD_NO;    /* no memory for a response: the connection closes */
    if (request->response)
        result = MHD_queue_response(request->connection, (unsigned)request->code,
                                    request->response);
    pthread_mutex_unlock(&request->lock);
    return result;
}

/* Everything that is decided by the request's head alone. LB_OK: the body may come. */
static lb_status admit(lb_http *http, lb_request *request, const char *method, const char *path,
                       lb_err *err)
{
    uint64_t body = 0;
    char allow[64];
    request->close = true;     /* where the next request begins is not known */
    if (!request->raw_path_good)
        return lb_fail(err, LB_EINVAL, "path", "the path holds a character that it must not");
    lb_status status = lb_guard_headers(request->connection, &body, err);
    if (status != LB_OK)
        return status;
    request->close = body > 0;     /* refused from here on, its body is not read */
    status = lb_route_find(http, method, path, request, allow);
    if (status == LB_EMETHOD) {
        lb_reply_header(request, "Allow", allow);
        return lb_fail(err, status, NULL, "%.200s takes %s", path, allow);
    }
    if (status != LB_OK)
        return lb_fail(err, status, NULL, "there is no route %.200s", path);
    if (request->route->scope != LB_SCOPE_OPEN) {
        if (http->keys && !lb_key_accepted(http, lb_request_header(request, "Authorization"))) {
            lb_reply_header(request, "WWW-Authenticate", "Bearer");
            return lb_fail(err, LB_EAUTH, "Authorization", "a valid key is needed: "
                           "Authorization: Bearer KEY");
        }
        if (atomic_load(&http->draining))
            return lb_fail(err, LB_EUNAVAILABLE, NULL, "the daemon is stopping");
    }
    if (body > request->route->body_limit)
        return lb_fail(err, LB_ETOOBIG, "body", "the body has %llu bytes, the limit is %zu",
                       (unsigned long long)body, request->route->body_limit);
    request->close = false;
    request->body.limit = request->route->body_limit;
    allow_transfer(request, body);
    return LB_OK;
}

static enum MHD_Result begin(lb_http *http, lb_request *request, const char *method,
                             const char *path, const char *version)
{
    lb_err err = {0};
    request->begun = true;
    request->raw_path_good &= lb_guard_version(request, version);
    lb_request_choose_id(request);
    atomic_fetch_add(&http->requests, 1);
    atomic_fetch_add(&http->open_requests, 1);
    if (admit(http, request, method, path, &err) == LB_OK)
        return MHD_YES;
    request->dispatched = true;
    if (request->close)
        lb_link_refuse(request->link);
    lb_reply_err(request, &err);
    /* An answer before the request's end closes the connection. Without a body it goes out at the
     * next call, so that whoever polls with a wrong key or path does not connect each time. */
    return request->close ? send_answer(request) : MHD_YES;
}

static enum MHD_Result on_access(void *arg, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *data,
                                 size_t *size, void **con_cls)
{
    lb_http *http = arg;
    lb_request *request = *con_cls;
    (void)connection;
    if (!request)
        return MHD_NO;    /* no memory: the connection closes */
    if (!request->begun)
        return begin(http, request, method, url, version);
    if (*size > 0) {
        /* The length was checked; what fails here is memory. */
        lb_buf_append(&request->body, data, *size);
        *size = 0;
        return request->body.status == LB_OK ? MHD_YES : MHD_NO;
    }
    bool first = !request->dispatched;
    if (first) {
        request->dispatched = true;
        lb_link_until(lb_watcher_links(http->watcher), request->link, INT64_MAX);
        request->route->handle(http->config.daemon, request);
    }
    pthread_mutex_lock(&request->lock);
    bool ready = request->answered && !(first && request->suspended);
    pthread_mutex_unlock(&request->lock);
    /* A connection that was suspended takes its response only once it is resumed, even when the
     * answer came before the handler returned: this is then called again. */
    return ready ? send_answer(request) : MHD_YES;
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **con_cls,
                         enum MHD_RequestTerminationCode why)
{
    lb_http *http = arg;
    lb_request *request = *con_cls;
    (void)connection;
    (void)why;
    *con_cls = NULL;
    if (!request)
        return;
    if (request->begun)
        atomic_fetch_sub(&http->open_requests, 1);
    lb_link_until(lb_watcher_links(http->watcher), request->link,
                  lb_clock_ms() + 1000 * IDLE_SECONDS + http->config.transfer_ms);
    /* A request that never came to its end has no owner to answer it. */
    if (!request->dispatched)
        lb_request_drop(request);
    lb_request_drop(request);
}

static void on_connection(void *arg, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    lb_http *http = arg;
    lb_links *links = lb_watcher_links(http->watcher);
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(
            connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        *context = info ? lb_link_open(links, info->connect_fd,
                                       lb_clock_ms() + http->config.transfer_ms) : NULL;
        atomic_fetch_add(&http->connections, 1);
    } else {
        lb_link_close(links, *context);
        *context = NULL;
        atomic_fetch_sub(&http->connections, 1);
    }
}

/* ---- start and stop ---- */

typedef struct address {
    struct sockaddr_storage storage;
    bool loopback, v6;
    char host[INET6_ADDRSTRLEN];
} address;

static lb_status parse_listen(const char *text, address *out, lb_err *err)
{
    char host[INET6_ADDRSTRLEN] = "";
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;
    bool bracketed = length >= 2 && text[0] == '[' && text[length - 1] == ']';
    size_t inner = bracketed ? length - 2 : length;
    char *end = NULL;
    unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
    if (!colon || inner == 0 || inner >= sizeof host || colon[1] < '0' || colon[1] > '9' ||
        *end || port > 65535)
        return lb_fail(err, LB_EINVAL, "listen", "'%.60s' is not ADDRESS:PORT, such as "
                       "127.0.0.1:8000 or [::1]:8000", text);
    memcpy(host, text + bracketed, inner);
    struct sockaddr_in *v4 = (struct sockaddr_in *)&out->storage;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&out->storage;
    if (!bracketed && inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        out->loopback = ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    } else if (bracketed && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        out->loopback = IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
        out->v6 = true;
    } else {
        return lb_fail(err, LB_EINVAL, "listen", "'%.60s' is not an address", host);
    }
    memcpy(out->host, host, sizeof out->host);
    return LB_OK;
}

static lb_status check_exposure(const lb_http_config *config, const address *where, lb_err *err)
{
    if (where->loopback)
        return LB_OK;
    if (!config->key_file)
        return lb_fail(err, LB_EINVAL, "listen", "%s is not loopback: that needs --key-file",
                       where->host);
    if (!config->insecure)
        return lb_fail(err, LB_EINVAL, "listen", "%s is not loopback and this daemon speaks no "
                       "TLS: put a TLS proxy before it on loopback, or say --insecure",
                       where->host);
    return LB_OK;
}

static lb_status start_daemon(lb_http *http, const address *where, lb_err *err)
{
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME;
    flags |= where->v6 ? MHD_USE_IPv6 : 0;
    uint32_t threads = http->config.threads ? http->config.threads : THREADS_DEFAULT;
    http->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_access, http,
        MHD_OPTION_SOCK_ADDR, (const struct sockaddr *)&where->storage,
        MHD_OPTION_THREAD_POOL_SIZE, (unsigned)threads,
        MHD_OPTION_THREAD_STACK_SIZE, STACK_BYTES,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)LB_LIMIT_HEADER_BYTES,
        MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
        MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS,
        MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_URI_LOG_CALLBACK, on_uri, http,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
        MHD_OPTION_END);
    if (!http->daemon)
        return lb_fail(err, LB_EIO, "listen", "%s could not be listened on",
                       http->config.listen);
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon,
                                                           MHD_DAEMON_INFO_BIND_PORT);
    http->port = info ? info->port : 0;
    snprintf(http->url, sizeof http->url, where->v6 ? "http://[%s]:%u" : "http://%s:%u",
             where->host, http->port);
    return LB_OK;
}

lb_status lb_http_start(const lb_http_config *config, lb_http **out, lb_err *err)
{
    address where = {0};
    lb_status status = parse_listen(config->listen, &where, err);
    if (status == LB_OK)
        status = check_exposure(config, &where, err);
    if (status != LB_OK)
        return status;
    lb_http *http = calloc(1, sizeof *http);
    if (!http)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the HTTP server");
    http->config = *config;
    if (http->config.transfer_ms == 0)
        http->config.transfer_ms = TRANSFER_DEFAULT_MS;
    if (config->key_file)
        status = lb_keys_load(http, config->key_file, err);
    if (status == LB_OK)
        status = lb_watcher_start(&http->watcher, err);
    if (status == LB_OK)
        status = start_daemon(http, &where, err);
    if (status != LB_OK) {
        lb_http_stop(http, 0);
        return status;
    }
    *out = http;
    return LB_OK;
}

uint16_t lb_http_port(const lb_http *http)
{
    return http->port;
}

const char *lb_http_url(const lb_http *http)
{
    return http->url;
}

void lb_http_drain(lb_http *http)
{
    atomic_store(&http->draining, true);
}

/* Waits until no request is open, or the deadline. */
static void await_quiet(const lb_http *http, int64_t deadline_ms)
{
    while (atomic_load(&http->open_requests) > 0 && lb_clock_ms() < deadline_ms)
        lb_sleep_ms(STOP_TICK_MS);
}

static void give_up(lb_request *request)
{
    lb_reply_force(request, LB_EUNAVAILABLE, "the daemon is stopping");
}

/* libmicrohttpd aborts the process if a connection is suspended when it stops, and closes those
 * whose replies have not left: so the rest is answered, and given the time to leave. */
static void stop_daemon(lb_http *http, int64_t timeout_ms)
{
    lb_http_drain(http);
    await_quiet(http, lb_clock_ms() + timeout_ms);
    lb_watcher_refuse(http->watcher);
    lb_watcher_each(http->watcher, give_up);
    /* Owners that answer at this moment are in the middle of resuming. */
    while (atomic_load(&http->suspended) > 0)
        lb_sleep_ms(1);
    await_quiet(http, lb_clock_ms() + FORCED_MS);
    MHD_stop_daemon(http->daemon);
}

void lb_http_stop(lb_http *http, int64_t timeout_ms)
{
    if (!http)
        return;
    if (http->daemon)
        stop_daemon(http, timeout_ms);
    lb_watcher_stop(http->watcher);
    free(http->keys);
    free(http);
}

lb_http_stats lb_http_get_stats(const lb_http *http)
{
    return (lb_http_stats){
        .requests = atomic_load(&http->requests),
        .replies_2xx = atomic_load(&http->replies_2xx),
        .replies_4xx = atomic_load(&http->replies_4xx),
        .replies_5xx = atomic_load(&http->replies_5xx),
        .connections_open = atomic_load(&http->connections),
        .suspended = atomic_load(&http->suspended),
    };
}
