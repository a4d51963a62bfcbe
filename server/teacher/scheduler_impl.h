/* SPDX-License-Identifier: Apache-2.0
 *
 * What scheduler.c (admission, answers, life) and scheduler_batch.c (the model thread) share.
 */
#ifndef LB_SERVER_TEACHER_SCHEDULER_IMPL_H
#define LB_SERVER_TEACHER_SCHEDULER_IMPL_H

#include "server/teacher/scheduler.h"

#include <pthread.h>

#define BATCH_SEQUENCES_MAX 1024u  /* sequences of one model call */
#define BATCH_PARTS_MAX 64u        /* jobs of one batch */
#define QUANTUM_DIVISOR 4u         /* a job's turn is this part of a batch while others wait */

typedef struct lb_job_list {
    lb_job *first, *last;
} lb_job_list;

/* What a batch takes of one job: prompts to complete or requests to score. */
typedef struct lb_part {
    lb_job *job;
    bool generate;
    size_t first, count;
    uint64_t tokens;
} lb_part;

struct lb_scheduler {
    lb_scheduler_config config;
    pthread_mutex_t lock;
    pthread_cond_t work;           /* for the model thread */
    pthread_cond_t answers;        /* for the answer thread */
    pthread_cond_t idle;           /* for drain */
    pthread_t model_thread, answer_thread;
    bool model_started, answer_started;

    lb_job_list waiting;           /* owned by nobody else; in order of turns */
    lb_job_list finished;          /* to answer, or to release */
    lb_part parts[BATCH_PARTS_MAX];  /* of the batch that runs */
    size_t part_count;
    lb_score_request *batch;       /* [BATCH_SEQUENCES_MAX] the model thread's */

    uint64_t queue_tokens;
    size_t queue_bytes;
    size_t unanswered;
    double tokens_per_second;      /* smoothed; 0 before the first batch */
    bool draining, stopping;
};

void lb_job_list_push(lb_job_list *list, lb_job *job);
void lb_job_list_unshift(lb_job_list *list, lb_job *job);
lb_job *lb_job_list_pop(lb_job_list *list);
/* With the lock held. The job is in no list, or running. Sets its outcome and has it answered. */
void lb_scheduler_finish(lb_scheduler *scheduler, lb_job *job, const lb_err *outcome);
/* The model thread; arg is the scheduler. */
void *lb_scheduler_model_thread(void *arg);

#endif
