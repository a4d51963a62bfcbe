/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/queue.h"

#include "common/base/buf.h"
#include "common/base/clock.h"

#include <pthread.h>
#include <stdlib.h>

struct lb_queue {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t capacity, first, length;
    bool closed;
    void *items[];
};

lb_status lb_queue_create(size_t capacity, lb_queue **out, lb_err *err)
{
    size_t bytes;
    if (capacity == 0 || !lb_size_mul(capacity, sizeof(void *), &bytes) ||
        !lb_size_add(bytes, sizeof(lb_queue), &bytes))
        return lb_fail(err, LB_EINVAL, "capacity", "%zu is no capacity for a queue", capacity);
    lb_queue *queue = calloc(1, bytes);
    if (!queue)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a queue of %zu", capacity);
    queue->capacity = capacity;
    pthread_mutex_init(&queue->lock, NULL);
    if (lb_cond_init(&queue->changed) != 0) {
        pthread_mutex_destroy(&queue->lock);
        free(queue);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a condition");
    }
    *out = queue;
    return LB_OK;
}

void lb_queue_free(lb_queue *queue)
{
    if (!queue)
        return;
    pthread_cond_destroy(&queue->changed);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

bool lb_queue_push(lb_queue *queue, void *item)
{
    pthread_mutex_lock(&queue->lock);
    bool taken = !queue->closed && queue->length < queue->capacity;
    if (taken) {
        queue->items[(queue->first + queue->length++) % queue->capacity] = item;
        pthread_cond_signal(&queue->changed);
    }
    pthread_mutex_unlock(&queue->lock);
    return taken;
}

void *lb_queue_pop(lb_queue *queue, int64_t deadline_ms)
{
    void *item = NULL;
    pthread_mutex_lock(&queue->lock);
    while (queue->length == 0 && !queue->closed) {
        if (deadline_ms == INT64_MAX) {
            pthread_cond_wait(&queue->changed, &queue->lock);
            continue;
        }
        if (lb_clock_ms() >= deadline_ms)
            break;
        struct timespec until = lb_deadline_timespec(deadline_ms);
        pthread_cond_timedwait(&queue->changed, &queue->lock, &until);
    }
    if (queue->length > 0) {
        item = queue->items[queue->first];
        queue->first = (queue->first + 1) % queue->capacity;
        queue->length--;
    }
    pthread_mutex_unlock(&queue->lock);
    return item;
}

size_t lb_queue_length(lb_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    size_t length = queue->length;
    pthread_mutex_unlock(&queue->lock);
    return length;
}

void lb_queue_close(lb_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->closed = true;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}

bool lb_queue_closed(lb_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    bool closed = queue->closed;
    pthread_mutex_unlock(&queue->lock);
    return closed;
}
