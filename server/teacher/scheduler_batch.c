/* SPDX-License-Identifier: Apache-2.0
 *
 * The model thread: picks a batch from the waiting jobs, runs it, hands out the outcome.
 */
#include "server/teacher/scheduler_impl.h"

#include "common/base/clock.h"

#include <string.h>

#define RATE_WEIGHT 0.2   /* of the newest batch in the smoothed rate */

static bool has_prompts(const lb_job *job)
{
    return job->prompts_done < job->prompt_count;
}

static bool is_done(const lb_job *job)
{
    return !has_prompts(job) && job->requests_done == job->request_count;
}

static uint64_t cost_of(const lb_part *part, size_t index)
{
    const lb_job *job = part->job;
    if (part->generate)
        return (uint64_t)job->prompts[index].count + job->params.max_new_tokens;
    return job->requests[index].sequence.count;
}

/* Adds to a part what fits into `budget` tokens; the first item of a batch always fits. */
static void extend(lb_part *part, uint64_t budget, size_t *sequences, bool batch_is_empty)
{
    const lb_job *job = part->job;
    size_t end = part->generate ? job->prompt_count : job->request_count;
    uint64_t used = 0;
    while (part->first + part->count < end && *sequences < BATCH_SEQUENCES_MAX) {
        uint64_t cost = cost_of(part, part->first + part->count);
        bool fits = used <= budget && cost <= budget - used;
        if (!fits && !(batch_is_empty && part->count == 0))
            break;
        used += cost;
        part->count++;
        (*sequences)++;
    }
    part->tokens += used;
}

static uint64_t left_of(uint64_t budget, uint64_t used)
{
    return used < budget ? budget - used : 0;
}

/* With the lock held: fills s->parts from the waiting jobs. A job that has prompts to complete has
 * the model for itself, since completing and scoring are two calls. */
static void pick(lb_scheduler *s)
{
    uint64_t budget = s->config.batch_tokens, quantum = budget / QUANTUM_DIVISOR;
    size_t sequences = 0;
    s->part_count = 0;
    while (budget > 0 && s->part_count < BATCH_PARTS_MAX && s->waiting.first) {
        lb_job *job = s->waiting.first;
        bool generate = has_prompts(job);
        if (generate && s->part_count > 0)
            break;
        lb_part part = {.job = job, .generate = generate,
                        .first = generate ? job->prompts_done : job->requests_done};
        extend(&part, budget < quantum ? budget : quantum, &sequences, s->part_count == 0);
        if (part.count == 0 && s->part_count > 0 && budget >= quantum)
            /* its next sequence is longer than a turn, but it fits into what is left */
            extend(&part, budget, &sequences, false);
        if (part.count == 0)
            break;
        lb_job_list_pop(&s->waiting);
        job->running = true;
        s->parts[s->part_count++] = part;
        budget = left_of(budget, part.tokens);
        if (generate)
            break;
    }
    /* Nobody else waits for what is left of the batch. */
    for (size_t i = 0; i < s->part_count && budget > 0 && !s->waiting.first; i++) {
        uint64_t before = s->parts[i].tokens;
        extend(&s->parts[i], budget, &sequences, false);
        budget = left_of(budget, s->parts[i].tokens - before);
    }
}

/* With the lock held: ends the waiting jobs whose deadline passed. */
static void expire(lb_scheduler *s)
{
    int64_t now = lb_clock_ms();
    lb_job_list keep = {0};
    lb_err outcome = {0};
    lb_fail(&outcome, LB_ETIMEOUT, NULL, "the deadline passed while the request waited");
    for (lb_job *job = lb_job_list_pop(&s->waiting); job; job = lb_job_list_pop(&s->waiting)) {
        if (job->deadline_ms <= now)
            lb_scheduler_finish(s, job, &outcome);
        else
            lb_job_list_push(&keep, job);
    }
    s->waiting = keep;
}

static bool job_cancelled(void *arg)
{
    lb_job *job = arg;
    return atomic_load(&job->cancelled) || lb_clock_ms() >= job->deadline_ms;
}

static lb_status run_generate(lb_scheduler *s, const lb_part *part, lb_err *err)
{
    lb_job *job = part->job;
    lb_generate_params params = job->params;
    params.cancelled = job_cancelled;
    params.cancel_arg = job;
    lb_status status = s->config.scorer.generate(
        s->config.scorer.arg, job->prompts + part->first, part->count, (uint32_t)part->first,
        &params, job->rollouts + part->first, err);
    if (status == LB_ECANCELLED && lb_clock_ms() >= job->deadline_ms)
        status = lb_fail(err, LB_ETIMEOUT, NULL, "the deadline passed while tokens were drawn");
    bool last = part->first + part->count == job->prompt_count;
    if (status == LB_OK && last && job->completed)
        status = job->completed(job, err);
    return status;
}

static lb_status run_score(lb_scheduler *s, const lb_part *parts, size_t count, lb_err *err)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(s->batch + n, parts[i].job->requests + parts[i].first,
               parts[i].count * sizeof *s->batch);
        n += parts[i].count;
    }
    return s->config.scorer.score(s->config.scorer.arg, s->batch, n, err);
}

/* Without the lock: the parts are the model thread's until `settle`. outcomes [part_count]. */
static void run(lb_scheduler *s, lb_err *outcomes)
{
    lb_err err = {0};
    memset(outcomes, 0, s->part_count * sizeof *outcomes);
    lb_status status = s->parts[0].generate ? run_generate(s, &s->parts[0], &err)
                                            : run_score(s, s->parts, s->part_count, &err);
    if (status == LB_OK)
        return;
    err.status = status;
    if (s->part_count == 1) {
        outcomes[0] = err;
        return;
    }
    for (size_t i = 0; i < s->part_count; i++) {
        lb_err own = {0};
        status = run_score(s, &s->parts[i], 1, &own);
        own.status = status;
        if (status != LB_OK)
            outcomes[i] = own;
    }
}

/* With the lock held: moves the cursors, ends what is done or failed, lets the rest wait again. */
static void settle(lb_scheduler *s, const lb_err *outcomes, double seconds)
{
    uint64_t tokens = 0;
    int64_t now = lb_clock_ms();
    lb_err late = {0};
    lb_fail(&late, LB_ETIMEOUT, NULL, "the deadline passed while the request was computed");
    for (size_t i = 0; i < s->part_count; i++) {
        lb_part *part = &s->parts[i];
        lb_job *job = part->job;
        tokens += part->tokens;
        job->running = false;
        job->compute_seconds += seconds;
        if (part->generate)
            job->prompts_done += (uint32_t)part->count;
        else
            job->requests_done += part->count;
        if (!job->ended && outcomes[i].status == LB_OK && now >= job->deadline_ms)
            lb_scheduler_finish(s, job, &late);
        else if (job->ended || outcomes[i].status != LB_OK || is_done(job))
            lb_scheduler_finish(s, job, &outcomes[i]);
        else
            lb_job_list_push(&s->waiting, job);
    }
    double rate = seconds > 0 ? (double)tokens / seconds : 0;
    s->tokens_per_second = s->tokens_per_second > 0
        ? (1 - RATE_WEIGHT) * s->tokens_per_second + RATE_WEIGHT * rate : rate;
    s->part_count = 0;
    if (s->config.on_batch)
        s->config.on_batch(s->config.on_batch_arg, tokens, seconds);
}

void *lb_scheduler_model_thread(void *arg)
{
    lb_scheduler *s = arg;
    lb_err outcomes[BATCH_PARTS_MAX];
    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        expire(s);
        if (!s->waiting.first) {
            pthread_cond_wait(&s->work, &s->lock);
            continue;
        }
        pick(s);
        double start = lb_clock_seconds();
        for (size_t i = 0; i < s->part_count; i++) {
            lb_job *job = s->parts[i].job;
            if (!job->started)
                job->queue_seconds = start - job->submitted;
            job->started = true;
        }
        pthread_mutex_unlock(&s->lock);
        run(s, outcomes);
        double seconds = lb_clock_seconds() - start;
        pthread_mutex_lock(&s->lock);
        settle(s, outcomes, seconds);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}
