/* SPDX-License-Identifier: Apache-2.0
 *
 * The teacher's scores of a unit's rollouts, over the binary frames.
 */
#include "client/worker/worker_impl.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "proto/frames.h"

#include <stdlib.h>
#include <string.h>

#define REQUEST_TOKENS 8192u      /* of one request: far below the frame's limit, so that a shared
                                     teacher can put others between ours */
#define TRY_TIMEOUT_MS 120000
#define GIVE_UP_MS 600000         /* of a teacher that is away; the unit is somebody else's then */
#define PAUSE_LEAST_MS 200
#define PAUSE_MOST_MS 3000

/* One teacher scores a whole job: scores of two versions do not belong into one gradient. */
typedef struct session {
    lb_worker *worker;
    uint8_t tokenizer[LB_SHA256_BYTES];
    uint64_t version;
    bool has_version;
} session;

lb_status lb_score_connect(lb_worker *worker, const char *url, lb_err *err)
{
    if (worker->teacher && strcmp(worker->teacher_url, url) == 0)
        return LB_OK;
    lb_client_free(worker->teacher);
    worker->teacher = NULL;
    lb_client_config config = {
        .url = url,
        .key = worker->config.key,
        .user_agent = "limbeck-worker/" LB_VERSION,
        .seed = worker->jitter_seed ^ 1,
        .cancelled = lb_worker_unit_cancelled,
        .cancel_arg = worker,
    };
    lb_status status = lb_client_create(&config, &worker->teacher, err);
    if (status == LB_OK)
        memcpy(worker->teacher_url, url, strlen(url) + 1);
    return status;
}

/* Puts the answer's rows where the queries want them. A value that is no logprob is left to the
 * loss, which names its place. */
static lb_status take_answer(session *s, const lb_buf *body, lb_unit_query *queries,
                             size_t count, lb_err *err)
{
    lb_score_answer answer = {0};
    lb_status status = lb_score_answer_decode(body->data, body->length, &answer, err);
    if (status != LB_OK)
        return lb_err_wrap(err, "the teacher's reply");
    if (answer.count != count)
        status = lb_fail(err, LB_EDATA, "sequences", "the teacher answered %u of %zu sequences",
                         answer.count, count);
    if (status == LB_OK && s->has_version && s->version != answer.teacher_version)
        status = lb_fail(err, LB_ECONFLICT, "teacher_version",
                         "the teacher changed: it was %016llx and is %016llx",
                         (unsigned long long)s->version,
                         (unsigned long long)answer.teacher_version);
    for (size_t i = 0; status == LB_OK && i < count; i++) {
        const lb_score_rows *rows = &answer.sequences[i];
        uint32_t wanted = queries[i].sequence.count - queries[i].start;
        if (rows->rows != wanted)
            status = lb_fail(err, LB_EDATA, "rows", "the teacher scored %u of %u tokens",
                             rows->rows, wanted);
        else
            memcpy(queries[i].logprobs + queries[i].start, rows->actual, wanted * sizeof(float));
    }
    s->version = answer.teacher_version;
    s->has_version = true;
    lb_score_answer_free(&answer);
    return status;
}

static lb_status ask(session *s, lb_unit_query *queries, size_t count, lb_err *err)
{
    lb_buf frame = {0};
    lb_answer answer = {0};
    lb_frame_sequence *sequences = calloc(count, sizeof *sequences);
    if (!sequences)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu sequences", count);
    for (size_t i = 0; i < count; i++)
        sequences[i] = (lb_frame_sequence){queries[i].sequence.tokens, queries[i].sequence.count,
                                           queries[i].start};
    lb_score_query query = {.sequences = sequences, .count = (uint32_t)count,
                            .deadline_ms = TRY_TIMEOUT_MS};
    memcpy(query.tokenizer_digest, s->tokenizer, sizeof query.tokenizer_digest);
    lb_score_query_encode(&query, &frame);
    lb_call call = {
        .method = "POST",
        .path = "/v1/teacher/logprobs",
        .content_type = "application/octet-stream",
        .accept = "application/octet-stream",
        .body = frame.data,
        .length = frame.length,
        .timeout_ms = TRY_TIMEOUT_MS,
        .reply_max = LB_LIMIT_FRAME_BODY,
    };
    lb_status status = frame.status != LB_OK
        ? lb_fail(err, frame.status, NULL, "no memory for a request of %zu sequences", count)
        : lb_client_call(s->worker->teacher, &call, &answer, err);
    if (status == LB_OK)
        status = lb_answer_check(&answer, err);
    if (status == LB_OK)
        status = take_answer(s, &answer.body, queries, count, err);
    lb_answer_free(&answer);
    lb_buf_free(&frame);
    free(sequences);
    return status;
}

static bool may_pass(lb_status status)
{
    return status == LB_ENET || status == LB_ETIMEOUT || status == LB_EBUSY ||
           status == LB_EUNAVAILABLE || status == LB_ENOMEM;
}

/* Asks until there is an answer, something that waiting does not mend, or the lease ends. */
static lb_status ask_patiently(session *s, lb_unit_query *queries, size_t count, lb_err *err)
{
    int64_t give_up = lb_clock_ms() + GIVE_UP_MS;
    for (bool told = false;; told = true) {
        lb_status status = ask(s, queries, count, err);
        if (status == LB_OK || !may_pass(status) || lb_clock_ms() >= give_up)
            return status;
        if (!told)
            lb_log_err(LB_LOG_WARN, "teacher_away", err);
        lb_worker_pause(s->worker, PAUSE_LEAST_MS, PAUSE_MOST_MS);
        if (lb_worker_unit_cancelled(s->worker))
            return lb_fail(err, LB_ECANCELLED, NULL, "the unit was cancelled");
    }
}

/* How many queries from the first make one request. */
static size_t request_size(const lb_unit_query *queries, size_t count, size_t tokens_max)
{
    size_t tokens = 0, n = 0;
    while (n < count && n < LB_LIMIT_SEQUENCES) {
        tokens += queries[n].sequence.count;
        if (n > 0 && tokens > tokens_max)
            break;
        n++;
    }
    return n;
}

lb_status lb_score_remote(void *arg, lb_unit_query *queries, size_t count, lb_err *err)
{
    lb_score_source *source = arg;
    session s = {.worker = source->worker, .version = source->view->teacher_version,
                 .has_version = source->view->has_version};
    size_t tokens_max = REQUEST_TOKENS;
    const char *digest = lb_tokenizer_digest(source->view->student->tokenizer);
    lb_status status = lb_score_connect(source->worker, source->view->teacher_url, err);
    if (status == LB_OK && !lb_sha256_parse(digest, s.tokenizer))
        status = lb_fail(err, LB_EINTERNAL, "tokenizer_sha256", "'%.64s'", digest);
    for (size_t first = 0; status == LB_OK && first < count;) {
        size_t n = request_size(queries + first, count - first, tokens_max);
        status = ask_patiently(&s, queries + first, n, err);
        if (status == LB_ETOOBIG && n > 1) {   /* the teacher's queue is smaller than that */
            tokens_max /= 2;
            status = LB_OK;
            continue;
        }
        first += n;
    }
    source->version = s.version;
    if (status != LB_OK && status != LB_ECANCELLED)
        lb_err_wrap(err, "the teacher at %.100s", source->view->teacher_url);
    return status;
}
