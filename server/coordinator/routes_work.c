/* SPDX-License-Identifier: Apache-2.0
 *
 * The workers' routes: leases and pushes.
 */
#include "server/coordinator/daemon_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BASE64_OF_SHA256 45              /* 44 characters and the NUL */
#define DIGITS_OF_U64 20u

static void drop(lb_core_event *event)
{
    lb_core_event_free(event);
    free(event);
}

/* ---- leases ---- */

static bool read_worker(lb_request *request, const lb_json *body, lb_core_event *event)
{
    const char *worker = NULL;
    lb_err err = {0};
    if (lb_json_need_string(body, "", "worker", &worker, &err) != LB_OK) {
        lb_reply_err(request, &err);
        return false;
    }
    return lb_route_id(request, worker, "worker", event->worker, sizeof event->worker);
}

void lb_route_lease(void *daemon, lb_request *request)
{
    lb_err err = {0};
    const lb_json *body = lb_request_json(request);
    lb_core_event *event = body ? lb_route_event(request, LB_EVENT_LEASE) : NULL;
    if (!event)
        return;
    if (!read_worker(request, body, event)) {
        drop(event);
    } else if (lb_json_opt_u32(body, "", "wait_ms", 0, LB_LIMIT_WAIT_MS, &event->wait_ms, &err) !=
               LB_OK) {
        drop(event);
        lb_reply_err(request, &err);
    } else {
        lb_route_submit(daemon, request, event);
    }
}

static lb_status read_fences(const lb_json *body, lb_core_event *event, lb_err *err)
{
    const lb_json *fences = NULL;
    lb_status status = lb_json_need_array(body, "", "fences", &fences, err);
    if (status != LB_OK)
        return status;
    size_t count = lb_json_array_size(fences);
    if (count > LB_CORE_FENCES_MAX)
        return lb_fail(err, LB_EINVAL, "fences", "at most %u fences", LB_CORE_FENCES_MAX);
    for (size_t i = 0; i < count; i++) {
        const lb_json *fence = lb_json_at(fences, i);
        if (!lb_json_is_integer(fence) || lb_json_integer(fence) < 1)
            return lb_fail(err, LB_EINVAL, "fences", "entry %zu is not a positive integer", i);
        event->fences[i] = (uint64_t)lb_json_integer(fence);
    }
    event->fence_count = count;
    return LB_OK;
}

/* Why a worker could not do what it was asked for. */
static lb_status read_failure(const lb_json *body, lb_err *out, lb_err *err)
{
    const lb_json *failure = NULL;
    const char *field = "", *message = NULL;
    lb_status status = lb_json_need_object(body, "", "failure", &failure, err);
    if (status == LB_OK)
        status = lb_json_opt_string(failure, "failure", "field", &field, err);
    if (status == LB_OK)
        status = lb_json_need_string(failure, "failure", "message", &message, err);
    if (status == LB_OK)
        (void)lb_fail(out, LB_ECONFLICT, field, "%s", message);
    return status;
}

static void submit_fences(void *daemon, lb_request *request, lb_core_event_type type)
{
    lb_err err = {0};
    const lb_json *body = lb_request_json(request);
    lb_core_event *event = body ? lb_route_event(request, type) : NULL;
    if (!event)
        return;
    if (!read_worker(request, body, event)) {
        drop(event);
    } else if (read_fences(body, event, &err) != LB_OK ||
               (type == LB_EVENT_RELEASE && lb_json_get(body, "failure") &&
                read_failure(body, &event->failure, &err) != LB_OK)) {
        drop(event);
        lb_reply_err(request, &err);
    } else {
        lb_route_submit(daemon, request, event);
    }
}

void lb_route_renew(void *daemon, lb_request *request)
{
    submit_fences(daemon, request, LB_EVENT_RENEW);
}

void lb_route_release(void *daemon, lb_request *request)
{
    submit_fences(daemon, request, LB_EVENT_RELEASE);
}

/* ---- handshakes ---- */

void lb_route_handshake(void *daemon, lb_request *request)
{
    lb_err err = {0};
    lb_status status = LB_OK;
    const lb_json *body = lb_request_json(request);
    lb_core_event *event = body ? lb_route_event(request, LB_EVENT_HANDSHAKE) : NULL;
    if (!event)
        return;
    if (!lb_route_id(request, lb_request_param(request, "job"), "job", event->id, LB_ID_SIZE)) {
        drop(event);
        return;
    }
    if (lb_json_get(body, "failure")) {
        status = read_failure(body, &event->failure, &err);
    } else {
        event->handshake = calloc(1, sizeof *event->handshake);
        status = event->handshake ? lb_handshake_parse(body, event->handshake, &err)
                                  : lb_fail(&err, LB_ENOMEM, NULL, "no memory for a handshake");
    }
    if (status == LB_OK) {
        lb_route_submit(daemon, request, event);
        return;
    }
    drop(event);
    lb_reply_err(request, &err);
}

/* ---- pushes ---- */

static void base64_of(const uint8_t digest[LB_SHA256_BYTES], char out[BASE64_OF_SHA256])
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 0;
    for (size_t i = 0; i < LB_SHA256_BYTES; i += 3) {
        size_t left = LB_SHA256_BYTES - i;
        uint32_t bits = (uint32_t)digest[i] << 16;
        bits |= left > 1 ? (uint32_t)digest[i + 1] << 8 : 0;
        bits |= left > 2 ? (uint32_t)digest[i + 2] : 0;
        out[n++] = alphabet[bits >> 18 & 63];
        out[n++] = alphabet[bits >> 12 & 63];
        out[n++] = left > 1 ? alphabet[bits >> 6 & 63] : '=';
        out[n++] = left > 2 ? alphabet[bits & 63] : '=';
    }
    out[n] = 0;
}

/* RFC 9530: Content-Digest: sha-256=:BASE64: , possibly among others. */
static lb_status check_digest(const lb_request *request, lb_core_event *event, lb_err *err)
{
    static const char label[] = "sha-256=:";
    const char *header = lb_request_header(request, "Content-Digest");
    uint8_t digest[LB_SHA256_BYTES];
    char expected[BASE64_OF_SHA256];
    const char *given = header ? strstr(header, label) : NULL;
    if (!given)
        return lb_fail(err, LB_EINVAL, "Content-Digest", "the header Content-Digest: "
                       "sha-256=:BASE64: is needed");
    lb_sha256_of(event->body, event->length, digest);
    base64_of(digest, expected);
    lb_sha256_hex(digest, event->digest);
    given += strlen(label);
    if (strncmp(given, expected, BASE64_OF_SHA256 - 1) != 0 || given[BASE64_OF_SHA256 - 1] != ':')
        return lb_fail(err, LB_EDATA, "Content-Digest", "the body that arrived has digest %s",
                       expected);
    return LB_OK;
}

static lb_status read_headers(const lb_request *request, lb_core_event *event, lb_err *err)
{
    const char *fence = lb_request_header(request, "X-Fence");
    const char *worker = lb_request_header(request, "X-Worker");
    const char *class = lb_request_header(request, "X-Numerics-Class");
    size_t digits = fence ? strspn(fence, "0123456789") : 0;
    errno = 0;
    if (digits == 0 || digits > DIGITS_OF_U64 || fence[digits] ||
        (event->fences[0] = strtoull(fence, NULL, 10)) == 0 || errno == ERANGE)
        return lb_fail(err, LB_EINVAL, "X-Fence", "the header X-Fence must be a positive integer");
    event->fence_count = 1;
    if (!lb_route_is_id(worker, LB_LIMIT_NAME))
        return lb_fail(err, LB_EINVAL, "X-Worker",
                       "the header X-Worker must be 1 to %u letters, digits or _.-",
                       LB_LIMIT_NAME);
    size_t hex = class ? strspn(class, "0123456789abcdefABCDEF") : 0;
    if (hex == 0 || hex > LB_LIMIT_NAME || class[hex])
        return lb_fail(err, LB_EINVAL, "X-Numerics-Class",
                       "the header X-Numerics-Class must be 1 to %u hex digits", LB_LIMIT_NAME);
    memcpy(event->worker, worker, strlen(worker) + 1);
    memcpy(event->numerics_class, class, hex + 1);
    return LB_OK;
}

void lb_route_push(void *daemon, lb_request *request)
{
    lb_err err = {0};
    uint64_t step = 0, unit = 0;
    lb_core_event *event = lb_route_event(request, LB_EVENT_PUSH);
    if (!event)
        return;
    if (!lb_route_id(request, lb_request_param(request, "job"), "job", event->id, LB_ID_SIZE) ||
        !lb_request_u64(request, "step", 0, UINT32_MAX, 0, &step) ||
        !lb_request_u64(request, "unit", 0, UINT32_MAX, 0, &unit)) {
        drop(event);
        return;
    }
    event->step = (uint32_t)step;
    event->unit = (uint32_t)unit;
    event->body = lb_request_body(request, &event->length);
    lb_status status = read_headers(request, event, &err);
    if (status == LB_OK)
        status = check_digest(request, event, &err);
    if (status == LB_OK) {
        lb_route_submit(daemon, request, event);
        return;
    }
    drop(event);
    lb_reply_err(request, &err);
}
