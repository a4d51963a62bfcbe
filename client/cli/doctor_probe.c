/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls to a teacher under examination, each within its own and the whole time, with replies of a
 * bounded size.
 */
#include "client/cli/doctor.h"
#include "client/cli/doctor_dialect.h"
#include "common/base/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REPLY_MAX ((size_t)48 << 20)
#define PAD_BYTES 4096u

lb_status lb_probe_connect(lb_peer *peer, lb_err *err)
{
    lb_client_config config = {
        .url = peer->options->url,
        .key = peer->options->key,
        .user_agent = "limbeck/" LB_VERSION,
    };
    return lb_client_create(&config, &peer->client, err);
}

bool lb_probe_refused(const lb_peer *peer, lb_status status)
{
    return status != LB_OK && peer->code >= 400 && peer->code < 500;
}

/* Calls, and leaves the code and the time in the peer. */
static lb_status call(lb_peer *peer, const char *path, const lb_buf *body, lb_answer *answer,
                      lb_err *err)
{
    int64_t now = lb_clock_ms(), left = peer->deadline_ms - now;
    lb_call c = {
        .method = body ? "POST" : "GET",
        .path = path,
        .content_type = body ? "application/json" : NULL,
        .accept = "application/json",
        .body = body ? body->data : NULL,
        .length = body ? body->length : 0,
        .no_retry = true,
        .reply_max = REPLY_MAX,
    };
    peer->code = 0;
    if (left <= 0)
        return lb_fail(err, LB_ETIMEOUT, NULL, "the time for the whole examination is up");
    c.timeout_ms = left < peer->options->timeout_ms ? (uint32_t)left : peer->options->timeout_ms;
    if (body && body->status != LB_OK)
        return lb_fail(err, body->status, NULL, "the request could not be built");
    double began = lb_clock_seconds();
    lb_status status = lb_client_call(peer->client, &c, answer, err);
    peer->seconds = lb_clock_seconds() - began;
    if (status == LB_OK)
        peer->code = answer->code;
    return status;
}

lb_status lb_probe_json(lb_peer *peer, const char *path, const lb_buf *body, lb_json **reply,
                        lb_err *err)
{
    lb_answer answer = {0};
    lb_status status = call(peer, path, body, &answer, err);
    if (status == LB_OK)
        status = lb_answer_check(&answer, err);
    if (status == LB_OK) {
        status = lb_json_parse(answer.body.data ? (const char *)answer.body.data : "",
                               answer.body.length, reply, err);
        if (status != LB_OK)
            lb_err_wrap(err, "the reply to %s is not JSON", path);
    }
    lb_answer_free(&answer);
    return status;
}

void lb_scores_free(lb_scores *scores)
{
    free(scores->logprob);
    free(scores->top);
    free(scores->top_id);
    *scores = (lb_scores){0};
}

/* One more than asked for, as the prompt's own token may come besides. */
static lb_status make_scores(lb_scores *s, size_t count, uint32_t k, lb_err *err)
{
    size_t cells = count * (k + 1);
    *s = (lb_scores){.count = count, .width = k + 1, .least = UINT32_MAX};
    s->logprob = calloc(count, sizeof *s->logprob);
    s->top = calloc(cells, sizeof *s->top);
    s->top_id = calloc(cells, sizeof *s->top_id);
    if (!s->logprob || !s->top || !s->top_id)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu scores", cells);
    for (size_t i = 0; i < count; i++)
        s->logprob[i] = NAN;
    for (size_t i = 0; i < cells; i++) {
        s->top[i] = NAN;
        s->top_id[i] = -1;
    }
    return LB_OK;
}

static void pad(lb_buf *body, size_t bytes)
{
    char spaces[PAD_BYTES];
    memset(spaces, ' ', sizeof spaces);
    for (; bytes > 0; bytes -= bytes < sizeof spaces ? bytes : sizeof spaces)
        lb_buf_append(body, spaces, bytes < sizeof spaces ? bytes : sizeof spaces);
}

lb_status lb_probe_ask(lb_peer *peer, lb_dialect dialect, const lb_probe *probe, lb_scores *out,
                       lb_err *err)
{
    const lb_dialect_row *row = lb_dialect_get(dialect);
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_json *reply = NULL;
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && i < probe->count; i++)
        status = make_scores(&out[i], probe->prompts[i].count, probe->k, err);
    if (status != LB_OK)
        return status;
    row->write(&w, peer, probe);
    pad(&body, probe->padding);
    status = lb_probe_json(peer, row->path, &body, &reply, err);
    if (status == LB_OK)
        status = row->read(reply, probe, out, err);
    for (size_t i = 0; i < probe->count; i++)
        out[i].least = out[i].least == UINT32_MAX ? 0 : out[i].least;
    lb_buf_free(&body);
    lb_json_free(reply);
    return status;
}

lb_status lb_probe_one(lb_peer *peer, const lb_tokens *prompt, uint32_t k, lb_scores *out,
                       lb_err *err)
{
    lb_probe probe = {.prompts = prompt, .count = 1, .k = k, .temperature = 1};
    lb_scores_free(out);
    return lb_probe_ask(peer, peer->dialect, &probe, out, err);
}
