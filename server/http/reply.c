/* SPDX-License-Identifier: Apache-2.0 */
#include "server/http/http_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define RETRY_AFTER_SECONDS "1"

static void count_reply(lb_http *http, int code)
{
    if (code < 300)
        atomic_fetch_add(&http->replies_2xx, 1);
    else if (code < 500)
        atomic_fetch_add(&http->replies_4xx, 1);
    else
        atomic_fetch_add(&http->replies_5xx, 1);
}

static bool has_header(const lb_request *request, const char *name)
{
    for (size_t i = 0; i < request->header_count; i++) {
        if (strcasecmp(request->headers[i].name, name) == 0)
            return true;
    }
    return false;
}

static void add_headers(lb_request *request, int code, const char *content_type)
{
    struct MHD_Response *response = request->response;
    if (content_type)
        MHD_add_response_header(response, "Content-Type", content_type);
    MHD_add_response_header(response, "x-request-id", request->id);
    MHD_add_response_header(response, "Server", request->http->config.server_name);
    if ((code == 429 || code == 503) && !has_header(request, "Retry-After"))
        MHD_add_response_header(response, "Retry-After", RETRY_AFTER_SECONDS);
    /* OpenAI's clients repeat a 409 unless they are told not to. */
    if (code == 409)
        MHD_add_response_header(response, "x-should-retry", "false");
    if (request->close)
        MHD_add_response_header(response, "Connection", "close");
    for (size_t i = 0; i < request->header_count; i++)
        MHD_add_response_header(response, request->headers[i].name, request->headers[i].value);
}

/* Stores the answer and wakes the connection; the lock is held. data is taken (freed by free). */
static void store_answer(lb_request *request, int code, const char *content_type, void *data,
                         size_t length)
{
    request->response = MHD_create_response_from_buffer(
        length, data ? data : (void *)(uintptr_t)"",
        data ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!request->response)
        free(data);
    else
        add_headers(request, code, content_type);
    request->response_length = length;
    request->code = code;
    request->answered = true;
    count_reply(request->http, code);
    if (request->suspended) {
        lb_watcher_remove(request->http->watcher, request);
        MHD_resume_connection(request->connection);
        /* The last touch of the server: lb_http_stop waits for it before it frees anything. */
        atomic_fetch_sub(&request->http->suspended, 1);
    }
}

/* The owner's one answer: what comes after a forced one is dropped. */
static void answer(lb_request *request, int code, const char *content_type, void *data,
                   size_t length)
{
    pthread_mutex_lock(&request->lock);
    if (!request->answered)
        store_answer(request, code, content_type, data, length);
    else
        free(data);
    pthread_mutex_unlock(&request->lock);
    lb_request_drop(request);
}

void lb_reply(lb_request *request, int code, const char *content_type, const void *body,
              size_t length)
{
    void *copy = length ? malloc(length) : NULL;
    if (length && !copy) {
        answer(request, 503, NULL, NULL, 0);
        return;
    }
    if (length)
        memcpy(copy, body, length);
    answer(request, code, content_type, copy, length);
}

void lb_reply_buf(lb_request *request, int code, const char *content_type, lb_buf *body)
{
    size_t length = 0;
    if (body->status != LB_OK) {
        lb_buf_free(body);
        lb_reply_fail(request, LB_ENOMEM, NULL, "no memory for the reply");
        return;
    }
    void *data = lb_buf_take(body, &length);
    if (length == 0) {
        free(data);
        data = NULL;
    }
    answer(request, code, content_type, data, length);
}

/* The body of an error, owned by the caller; NULL without memory, when the status code alone goes
 * out. */
static void *make_error(const lb_err *err, size_t *length)
{
    lb_buf out = {0};
    lb_jsonw w = {.out = &out};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "error");
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "message");
    lb_jsonw_string(&w, err->message[0] ? err->message : lb_status_text(err->status));
    lb_jsonw_key(&w, "type");
    lb_jsonw_string(&w, lb_status_name(err->status));
    lb_jsonw_key(&w, "param");
    lb_jsonw_string(&w, err->field[0] ? err->field : NULL);
    lb_jsonw_key(&w, "code");
    lb_jsonw_i64(&w, lb_status_http(err->status));
    lb_jsonw_object_end(&w);
    lb_jsonw_object_end(&w);
    if (out.status != LB_OK)
        lb_buf_free(&out);
    return lb_buf_take(&out, length);
}

void lb_reply_err(lb_request *request, const lb_err *err)
{
    size_t length = 0;
    void *data = make_error(err, &length);
    answer(request, lb_status_http(err->status), "application/json", data, length);
}

void lb_reply_fail(lb_request *request, lb_status status, const char *field, const char *format,
                   ...)
{
    lb_err err = {.status = status};
    va_list args;
    snprintf(err.field, sizeof err.field, "%s", field ? field : "");
    va_start(args, format);
    vsnprintf(err.message, sizeof err.message, format, args);
    va_end(args);
    lb_reply_err(request, &err);
}

void lb_reply_force(lb_request *request, lb_status status, const char *message)
{
    lb_err err = {0};
    size_t length = 0;
    lb_fail(&err, status, NULL, "%s", message);
    void *data = make_error(&err, &length);
    pthread_mutex_lock(&request->lock);
    if (!request->answered)
        store_answer(request, lb_status_http(status), "application/json", data, length);
    else
        free(data);
    pthread_mutex_unlock(&request->lock);
}

void lb_reply_header(lb_request *request, const char *name, const char *value)
{
    pthread_mutex_lock(&request->lock);
    if (!request->answered && request->header_count < LB_HTTP_REPLY_HEADERS_MAX) {
        lb_reply_field field = {strdup(name), strdup(value)};
        if (field.name && field.value) {
            request->headers[request->header_count++] = field;
        } else {
            free(field.name);
            free(field.value);
        }
    }
    pthread_mutex_unlock(&request->lock);
}

void lb_http_suspend(lb_request *request, int64_t deadline_ms,
                     void (*cancelled)(void *arg, lb_request *request, lb_status why), void *arg)
{
    pthread_mutex_lock(&request->lock);
    /* The other thread may have answered already; then there is nothing to wait for. */
    if (!request->answered && !request->suspended) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(
            request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        request->deadline_ms = deadline_ms;
        request->cancelled = cancelled;
        request->cancel_arg = arg;
        request->suspended = lb_watcher_add(request->http->watcher, request,
                                            info ? info->connect_fd : -1);
        if (request->suspended) {
            atomic_fetch_add(&request->http->suspended, 1);
            MHD_suspend_connection(request->connection);
        } else {
            lb_reply_force(request, LB_EUNAVAILABLE, "the daemon is stopping");
        }
    }
    pthread_mutex_unlock(&request->lock);
}
