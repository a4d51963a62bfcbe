/* SPDX-License-Identifier: Apache-2.0 */
#include "server/http/http_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static bool sane_id(const char *id)
{
    size_t n = strlen(id);
    for (const char *c = id; *c; c++) {
        bool plain = (*c >= '0' && *c <= '9') || ((*c | 32) >= 'a' && (*c | 32) <= 'z') ||
                     *c == '-' || *c == '_' || *c == '.';
        if (!plain)
            return false;
    }
    return n > 0 && n < LB_HTTP_REQUEST_ID_BYTES;
}

void lb_request_choose_id(lb_request *request)
{
    const char *given = lb_request_header(request, "x-request-id");
    uint64_t random[2] = {0};
    if (given && sane_id(given)) {
        snprintf(request->id, sizeof request->id, "%s", given);
        return;
    }
    ssize_t ignored = getrandom(random, sizeof random, 0);
    (void)ignored;
    snprintf(request->id, sizeof request->id, "req-%016llx%08llx", (unsigned long long)random[0],
             (unsigned long long)(random[1] & 0xFFFFFFFFu));
}

lb_request *lb_request_create(lb_http *http, struct MHD_Connection *connection)
{
    pthread_mutexattr_t attributes;
    lb_request *request = calloc(1, sizeof *request);
    if (!request)
        return NULL;
    request->http = http;
    request->connection = connection;
    atomic_init(&request->references, 2);
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&request->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return request;
}

void lb_request_hold(lb_request *request)
{
    atomic_fetch_add(&request->references, 1);
}

void lb_request_drop(lb_request *request)
{
    if (atomic_fetch_sub(&request->references, 1) != 1)
        return;
    if (request->response)
        MHD_destroy_response(request->response);
    for (size_t i = 0; i < request->header_count; i++) {
        free(request->headers[i].name);
        free(request->headers[i].value);
    }
    lb_json_free(request->json);
    lb_buf_free(&request->body);
    pthread_mutex_destroy(&request->lock);
    free(request);
}

const char *lb_request_param(const lb_request *request, const char *name)
{
    size_t index = 0, length = strlen(name);
    for (const char *at = strchr(request->route->path, '{'); at; at = strchr(at + 1, '{')) {
        if (strncmp(at + 1, name, length) == 0 && at[1 + length] == '}')
            return request->params[index];
        index++;
    }
    return NULL;
}

const char *lb_request_query(const lb_request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, name);
}

const char *lb_request_header(const lb_request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

const uint8_t *lb_request_body(const lb_request *request, size_t *length)
{
    *length = request->body.length;
    return request->body.data;
}

const char *lb_request_id(const lb_request *request)
{
    return request->id;
}

const lb_json *lb_request_json(lb_request *request)
{
    lb_err err = {0};
    if (request->json)
        return request->json;
    lb_json *root = NULL;
    lb_status status = lb_json_parse((const char *)request->body.data, request->body.length, &root,
                                     &err);
    if (status == LB_OK && !lb_json_is_object(root))
        status = lb_fail(&err, LB_EDATA, NULL, "the body is not a JSON object");
    if (status != LB_OK) {
        lb_json_free(root);
        lb_reply_err(request, &err);
        return NULL;
    }
    request->json = root;
    return root;
}

bool lb_request_accepts(const lb_request *request, const char *media_type)
{
    const char *accept = lb_request_header(request, "Accept");
    return accept && strstr(accept, media_type) != NULL;
}

bool lb_request_u64(lb_request *request, const char *name, uint64_t min, uint64_t max,
                    uint64_t fallback, uint64_t *out)
{
    const char *text = lb_request_param(request, name);
    if (!text)
        text = lb_request_query(request, name);
    if (!text) {
        *out = fallback;
        return true;
    }
    char *end = NULL;
    unsigned long long value = strtoull(text, &end, 10);
    /* 19 digits always fit. */
    if (*text < '0' || *text > '9' || *end || strlen(text) > 19 || value < min || value > max) {
        lb_reply_fail(request, LB_EINVAL, name, "%s is '%.40s', which is no integer from %llu to "
                      "%llu", name, text, (unsigned long long)min, (unsigned long long)max);
        return false;
    }
    *out = value;
    return true;
}
