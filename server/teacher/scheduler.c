/* SPDX-License-Identifier: Apache-2.0 */
#include "server/teacher/scheduler.h"

#include "common/base/clock.h"
#include "server/teacher/scheduler_impl.h"

#include <math.h>
#include <stdlib.h>

#define RETRY_AFTER_MAX 30u
/* Until a batch was measured: slow, so that the first advice is not "now". */
#define RATE_GUESS 1000.0

void lb_job_list_push(lb_job_list *list, lb_job *job)
{
    job->next = NULL;
    if (list->last)
        list->last->next = job;
    else
        list->first = job;
    list->last = job;
}

void lb_job_list_unshift(lb_job_list *list, lb_job *job)
{
    job->next = list->first;
    list->first = job;
    if (!list->last)
        list->last = job;
}

lb_job *lb_job_list_pop(lb_job_list *list)
{
    lb_job *job = list->first;
    if (job) {
        list->first = job->next;
        if (!list->first)
            list->last = NULL;
        job->next = NULL;
    }
    return job;
}

/* Puts a job before the answer thread, unless it is there already. */
static void list_finished(lb_scheduler *s, lb_job *job)
{
    if (job->listed)
        return;
    job->listed = true;
    lb_job_list_push(&s->finished, job);
    pthread_cond_signal(&s->answers);
}

void lb_scheduler_finish(lb_scheduler *s, lb_job *job, const lb_err *outcome)
{
    if (!job->ended) {
        job->ended = true;
        job->err = *outcome;
        atomic_store(&job->cancelled, true);
        s->queue_tokens -= job->tokens;
        s->queue_bytes -= job->bytes;
    }
    list_finished(s, job);
}

/* Answers jobs and releases those that the model thread no longer has. A job that was ended while
 * it ran comes by twice: once to be answered, and once more after its batch to be released. */
static void *answer_thread(void *arg)
{
    lb_scheduler *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        lb_job *job = lb_job_list_pop(&s->finished);
        if (!job) {
            if (s->stopping && s->unanswered == 0 && !s->model_started)
                break;
            pthread_cond_wait(&s->answers, &s->lock);
            continue;
        }
        job->listed = false;
        if (!job->answered) {
            job->answered = true;
            pthread_mutex_unlock(&s->lock);
            job->answer(job);
            pthread_mutex_lock(&s->lock);
            if (--s->unanswered == 0)
                pthread_cond_broadcast(&s->idle);
        }
        if (job->running || job->listed)
            continue;
        pthread_mutex_unlock(&s->lock);
        job->release(job);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

lb_status lb_scheduler_start(const lb_scheduler_config *config, lb_scheduler **out, lb_err *err)
{
    lb_scheduler *s = calloc(1, sizeof *s);
    if (!s)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the scheduler");
    s->config = *config;
    s->batch = calloc(BATCH_SEQUENCES_MAX, sizeof *s->batch);
    if (!s->batch) {
        free(s);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the scheduler");
    }
    pthread_mutex_init(&s->lock, NULL);
    int failed = lb_cond_init(&s->work) | lb_cond_init(&s->answers) | lb_cond_init(&s->idle);
    if (!failed && pthread_create(&s->answer_thread, NULL, answer_thread, s) == 0)
        s->answer_started = true;
    pthread_mutex_lock(&s->lock);
    if (s->answer_started &&
        pthread_create(&s->model_thread, NULL, lb_scheduler_model_thread, s) == 0)
        s->model_started = true;
    pthread_mutex_unlock(&s->lock);
    if (!s->model_started) {
        lb_scheduler_free(s);
        return lb_fail(err, LB_ENOMEM, NULL, "the scheduler's threads do not start");
    }
    *out = s;
    return LB_OK;
}

static lb_status admit(const lb_scheduler *s, const lb_job *job, lb_err *err)
{
    if (s->draining)
        return lb_fail(err, LB_EUNAVAILABLE, NULL, "the teacher is shutting down");
    if (job->tokens > s->config.queue_tokens)
        return lb_fail(err, LB_ETOOBIG, NULL,
                       "the request has %llu tokens; at most %llu are taken at once",
                       (unsigned long long)job->tokens,
                       (unsigned long long)s->config.queue_tokens);
    if (job->bytes > s->config.queue_bytes)
        return lb_fail(err, LB_ETOOBIG, NULL,
                       "the request's results have %zu bytes; at most %zu are taken at once",
                       job->bytes, s->config.queue_bytes);
    if (job->tokens > s->config.queue_tokens - s->queue_tokens ||
        job->bytes > s->config.queue_bytes - s->queue_bytes)
        return lb_fail(err, LB_EBUSY, NULL, "the queue is full: %llu tokens wait",
                       (unsigned long long)s->queue_tokens);
    return LB_OK;
}

lb_status lb_scheduler_submit(lb_scheduler *s, lb_job *job, lb_err *err)
{
    job->submitted = lb_clock_seconds();
    job->next = NULL;
    job->err = (lb_err){0};
    pthread_mutex_lock(&s->lock);
    lb_status status = admit(s, job, err);
    if (status == LB_OK) {
        s->queue_tokens += job->tokens;
        s->queue_bytes += job->bytes;
        s->unanswered++;
        if (job->prompt_count == 0 && job->request_count == 0) {
            lb_scheduler_finish(s, job, &(lb_err){0});
        } else {
            lb_job_list_push(&s->waiting, job);
            pthread_cond_signal(&s->work);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

/* Takes the job of that key out of the waiting list. */
static lb_job *take_waiting(lb_scheduler *s, const void *key)
{
    lb_job *before = NULL;
    for (lb_job *job = s->waiting.first; job; before = job, job = job->next) {
        if (job->key != key)
            continue;
        if (before)
            before->next = job->next;
        else
            s->waiting.first = job->next;
        if (s->waiting.last == job)
            s->waiting.last = before;
        job->next = NULL;
        return job;
    }
    return NULL;
}

void lb_scheduler_cancel(lb_scheduler *s, const void *key, lb_status why)
{
    lb_err outcome = {0};
    lb_fail(&outcome, why, NULL, "%s", lb_status_text(why));
    pthread_mutex_lock(&s->lock);
    lb_job *job = take_waiting(s, key);
    for (size_t i = 0; !job && i < s->part_count; i++) {
        if (s->parts[i].job->key == key && !s->parts[i].job->ended)
            job = s->parts[i].job;
    }
    if (job)
        lb_scheduler_finish(s, job, &outcome);
    pthread_mutex_unlock(&s->lock);
}

/* With the lock held: ends every job, those that run included. */
static void end_all(lb_scheduler *s)
{
    lb_err outcome = {0};
    lb_fail(&outcome, LB_EUNAVAILABLE, NULL, "the teacher is shutting down");
    for (lb_job *job = lb_job_list_pop(&s->waiting); job; job = lb_job_list_pop(&s->waiting))
        lb_scheduler_finish(s, job, &outcome);
    for (size_t i = 0; i < s->part_count; i++) {
        if (!s->parts[i].job->ended)
            lb_scheduler_finish(s, s->parts[i].job, &outcome);
    }
}

void lb_scheduler_drain(lb_scheduler *s, int64_t timeout_ms)
{
    struct timespec until = lb_deadline_timespec(lb_clock_ms() + timeout_ms);
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    while (s->unanswered > 0) {
        if (timeout_ms <= 0 || pthread_cond_timedwait(&s->idle, &s->lock, &until) != 0)
            break;
    }
    end_all(s);
    while (s->unanswered > 0)   /* answers do not wait for anyone */
        pthread_cond_wait(&s->idle, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

void lb_scheduler_free(lb_scheduler *s)
{
    if (!s)
        return;
    if (s->answer_started)
        lb_scheduler_drain(s, 0);
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
    if (s->model_started)
        pthread_join(s->model_thread, NULL);
    pthread_mutex_lock(&s->lock);
    s->model_started = false;   /* what it left in the list is the last there will be */
    pthread_cond_broadcast(&s->answers);
    pthread_mutex_unlock(&s->lock);
    if (s->answer_started)
        pthread_join(s->answer_thread, NULL);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->answers);
    pthread_cond_destroy(&s->idle);
    pthread_mutex_destroy(&s->lock);
    free(s->batch);
    free(s);
}

uint64_t lb_scheduler_queue_tokens(lb_scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    uint64_t tokens = s->queue_tokens;
    pthread_mutex_unlock(&s->lock);
    return tokens;
}

uint32_t lb_scheduler_retry_after(lb_scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    double rate = s->tokens_per_second > 0 ? s->tokens_per_second : RATE_GUESS;
    double seconds = ceil((double)s->queue_tokens / rate);
    pthread_mutex_unlock(&s->lock);
    return seconds < 1 ? 1 : seconds > RETRY_AFTER_MAX ? RETRY_AFTER_MAX : (uint32_t)seconds;
}
