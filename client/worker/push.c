/* SPDX-License-Identifier: Apache-2.0 */
#include "client/worker/worker_impl.h"

#include "common/base/clock.h"
#include "common/base/log.h"

#include <stdio.h>
#include <string.h>

#define TRY_TIMEOUT_MS 120000
#define BUDGET_MS 600000          /* of all tries: a coordinator that restarts is back by then */
#define PAUSE_LEAST_MS 200
#define PAUSE_MOST_MS 5000
#define BASE64_BYTES 45           /* of 32 bytes, with the NUL */
#define REPLY_MAX (64u << 10)
#define HEADER_BYTES 160
#define HEADERS 4

static void base64(const uint8_t digest[LB_SHA256_BYTES], char out[BASE64_BYTES])
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 0;
    for (size_t i = 0; i < LB_SHA256_BYTES; i += 3) {
        uint32_t group = (uint32_t)digest[i] << 16;
        group |= i + 1 < LB_SHA256_BYTES ? (uint32_t)digest[i + 1] << 8 : 0;
        group |= i + 2 < LB_SHA256_BYTES ? digest[i + 2] : 0;
        for (int shift = 18; shift >= 0; shift -= 6)
            out[n++] = digits[group >> shift & 63];
    }
    out[n - 1] = '=';             /* 32 is 3 * 11 - 1: one pad */
    out[n] = '\0';
}

/* What a reply's status means: LB_OK, and the outcome, when the unit is out of our hands. */
static lb_status judge(const lb_answer *answer, lb_push_outcome *outcome, lb_err *err)
{
    lb_status status = lb_answer_check(answer, err);
    if (status == LB_OK) {
        *outcome = answer->code == 200 ? LB_PUSH_DUPLICATE : LB_PUSH_STORED;
        return LB_OK;
    }
    if (answer->code == 409 || answer->code == 410 || answer->code == 404) {
        lb_log_err(LB_LOG_WARN, "push_refused", err);
        *outcome = LB_PUSH_DROPPED;
        return LB_OK;
    }
    return status;
}

static bool may_pass(lb_status status)
{
    return status == LB_ENET || status == LB_ETIMEOUT || status == LB_EBUSY ||
           status == LB_EUNAVAILABLE || status == LB_ENOMEM || status == LB_ENOSPACE;
}

static lb_status push_once(lb_worker *worker, const lb_call *call, lb_push_outcome *outcome,
                           lb_err *err)
{
    lb_answer answer = {0};
    lb_status status = lb_client_call(worker->client, call, &answer, err);
    if (status == LB_OK)
        status = judge(&answer, outcome, err);
    lb_answer_free(&answer);
    return status;
}

lb_status lb_push(lb_worker *worker, const lb_lease *lease, const char *numerics_class,
                  const lb_buf *frame, lb_push_outcome *outcome, lb_err *err)
{
    uint8_t digest[LB_SHA256_BYTES];
    char path[HEADER_BYTES], text[BASE64_BYTES], lines[HEADERS][HEADER_BYTES];
    lb_sha256_of(frame->data, frame->length, digest);
    base64(digest, text);
    snprintf(path, sizeof path, "/v1/runs/%s/steps/%u/units/%u", lease->job, lease->step,
             lease->unit);
    snprintf(lines[0], sizeof lines[0], "X-Fence: %llu", (unsigned long long)lease->fence);
    snprintf(lines[1], sizeof lines[1], "X-Worker: %s", worker->name);
    snprintf(lines[2], sizeof lines[2], "X-Numerics-Class: %s", numerics_class);
    snprintf(lines[3], sizeof lines[3], "Content-Digest: sha-256=:%s:", text);
    const char *const headers[HEADERS] = {lines[0], lines[1], lines[2], lines[3]};
    lb_call call = {
        .method = "PUT",
        .path = path,
        .content_type = "application/octet-stream",
        .body = frame->data,
        .length = frame->length,
        .headers = headers,
        .header_count = HEADERS,
        .timeout_ms = TRY_TIMEOUT_MS,
        .reply_max = REPLY_MAX,
    };
    /* The same bytes again and again: a push that arrived twice is a duplicate and does no harm. */
    int64_t give_up = lb_clock_ms() + BUDGET_MS;
    for (bool told = false;; told = true) {
        lb_status status = push_once(worker, &call, outcome, err);
        if (status == LB_OK || !may_pass(status) || lb_worker_stopping(worker) ||
            lb_clock_ms() >= give_up)
            return status;
        if (!told)
            lb_log_err(LB_LOG_WARN, "push_delayed", err);
        lb_worker_pause(worker, PAUSE_LEAST_MS, PAUSE_MOST_MS);
    }
}
