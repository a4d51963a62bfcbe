/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_scheduler - jobs of typed requests for the one thread that owns the teacher's model.
 *
 * A job is sequences to score, prompts to complete, or both (completed first). Admission is counted
 * in tokens and in bytes of results, so that what waits is bounded whatever its shape; a job that
 * does not fit is refused with LB_EBUSY. The model thread fills a batch of at most batch_tokens
 * from the waiting jobs in FIFO order. While others wait a job gets at most a quarter of a batch at
 * a time and then goes to the end of the line, so that a large one starves nobody.
 * Deadlines and cancellations are honoured before a batch and after it; a job that runs is answered
 * at once and forgotten at the end of its batch. A failed model call fails the job it was made for:
 * a batch of several jobs is repeated job by job to find whose fault it was.
 *
 * Threads   submit and cancel from any thread. `answer` and `release` are called by the
 *           scheduler's answer thread, `completed` by its model thread; no lock is held then.
 * Ownership a job is borrowed from a submit that returned LB_OK until its `release`.
 */
#ifndef LB_SERVER_TEACHER_SCHEDULER_H
#define LB_SERVER_TEACHER_SCHEDULER_H

#include "common/base/status.h"
#include "common/model/model.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lb_scheduler lb_scheduler;
typedef struct lb_job lb_job;

/* The model, behind two functions, so that tests can put another in its place. Both are called by
 * the model thread only, and follow lb_model_score and lb_model_generate with a group of 1. */
typedef struct lb_scorer {
    void *arg;
    lb_status (*score)(void *arg, lb_score_request *requests, size_t count, lb_err *err);
    lb_status (*generate)(void *arg, const lb_sequence *prompts, size_t count, uint32_t row_base,
                          const lb_generate_params *params, lb_rollout *out, lb_err *err);
} lb_scorer;

struct lb_job {
    const void *key;               /* what lb_scheduler_cancel finds the job by */
    int64_t deadline_ms;           /* lb_clock_ms; INT64_MAX: none */
    uint64_t tokens;               /* what it will cost at most: rows of the model */
    size_t bytes;                  /* memory of its results */

    const lb_sequence *prompts;    /* [prompt_count] to complete; NULL: none */
    uint32_t prompt_count;
    lb_generate_params params;     /* cancelled and cancel_arg are the scheduler's */
    lb_rollout *rollouts;          /* [prompt_count], zeroed; filled, freed by release */
    /* Called once all prompts are completed, before any scoring: may set up the requests. */
    lb_status (*completed)(lb_job *job, lb_err *err);

    lb_score_request *requests;    /* [request_count] to score */
    size_t request_count;

    void (*answer)(lb_job *job);   /* exactly once; err.status tells how it went. Unless it is
                                      LB_OK the results may still be being written: hands off */
    void (*release)(lb_job *job);  /* exactly once, last: nobody else has the job any more */

    lb_err err;
    double queue_seconds;          /* from submit to its first batch */
    double compute_seconds;        /* of the batches it had a part in */

    /* the scheduler's own */
    lb_job *next;
    double submitted;
    uint32_t prompts_done;
    size_t requests_done;
    bool started, running, ended, listed, answered;
    atomic_bool cancelled;
};

typedef struct lb_scheduler_config {
    lb_scorer scorer;
    uint64_t queue_tokens;         /* of all jobs that are not answered */
    size_t queue_bytes;            /* of their results */
    uint32_t batch_tokens;
    /* Told after each batch, by the model thread; NULL: nobody. */
    void (*on_batch)(void *arg, uint64_t tokens, double seconds);
    void *on_batch_arg;
} lb_scheduler_config;

LB_NODISCARD lb_status lb_scheduler_start(const lb_scheduler_config *config, lb_scheduler **out,
                                          lb_err *err);
/* LB_EBUSY: the queue is full; LB_ETOOBIG: it never fits; LB_EUNAVAILABLE: draining. On failure
 * neither answer nor release is called. */
LB_NODISCARD lb_status lb_scheduler_submit(lb_scheduler *scheduler, lb_job *job, lb_err *err);
/* Ends the job of that key with `why`, unless it is already done or unknown. */
void lb_scheduler_cancel(lb_scheduler *scheduler, const void *key, lb_status why);
/* Refuses new jobs, waits up to timeout_ms for the others, answers the rest LB_EUNAVAILABLE. */
void lb_scheduler_drain(lb_scheduler *scheduler, int64_t timeout_ms);
/* Drains without waiting, then joins the threads (after the batch that runs). NULL allowed. */
void lb_scheduler_free(lb_scheduler *scheduler);

uint64_t lb_scheduler_queue_tokens(lb_scheduler *scheduler);
/* Seconds until what waits now is scored, at the measured rate; 1 .. 30. */
uint32_t lb_scheduler_retry_after(lb_scheduler *scheduler);

#endif
