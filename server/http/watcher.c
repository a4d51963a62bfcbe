/* SPDX-License-Identifier: Apache-2.0
 *
 * Watches suspended connections, for which libmicrohttpd sees neither time-outs nor lost peers, and
 * how long every connection takes to send and to receive.
 * Lock order: a request's lock, then the watcher's. So the watcher's own thread picks what is due
 * under its lock, lets it go, and only then takes a request's.
 */
#include "common/base/clock.h"
#include "server/http/http_impl.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define TICK_MS 50          /* how late a deadline may be noticed */
#define EVENTS_MAX 64

typedef struct watch {
    uint64_t id;
    lb_request *request;
    int fd;
    int64_t deadline_ms;
    struct watch *next;
} watch;

struct lb_watcher {
    pthread_mutex_t lock;
    pthread_t thread;
    watch *first;
    lb_links *links;
    bool refusing;
    uint64_t last_id;
    int epoll;
    atomic_bool stop;
};

bool lb_watcher_add(lb_watcher *watcher, lb_request *request, int fd)
{
    watch *w = calloc(1, sizeof *w);
    if (!w)
        return false;
    pthread_mutex_lock(&watcher->lock);
    if (watcher->refusing) {
        pthread_mutex_unlock(&watcher->lock);
        free(w);
        return false;
    }
    *w = (watch){++watcher->last_id, request, fd, request->deadline_ms, watcher->first};
    watcher->first = w;
    request->watch_id = w->id;
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLHUP | EPOLLERR,
                                .data.u64 = w->id};
    if (fd >= 0)
        epoll_ctl(watcher->epoll, EPOLL_CTL_ADD, fd, &event);
    pthread_mutex_unlock(&watcher->lock);
    return true;
}

void lb_watcher_refuse(lb_watcher *watcher)
{
    pthread_mutex_lock(&watcher->lock);
    watcher->refusing = true;
    pthread_mutex_unlock(&watcher->lock);
}

void lb_watcher_remove(lb_watcher *watcher, lb_request *request)
{
    pthread_mutex_lock(&watcher->lock);
    for (watch **at = &watcher->first; request->watch_id && *at; at = &(*at)->next) {
        watch *w = *at;
        if (w->id != request->watch_id)
            continue;
        if (w->fd >= 0)
            epoll_ctl(watcher->epoll, EPOLL_CTL_DEL, w->fd, NULL);
        *at = w->next;
        free(w);
        break;
    }
    request->watch_id = 0;
    pthread_mutex_unlock(&watcher->lock);
}

/* Tells the owner, once, unless it has answered. Drops the caller's reference. */
static void cancel(lb_request *request, lb_status why)
{
    pthread_mutex_lock(&request->lock);
    if (!request->answered && !request->cancel_called && request->cancelled) {
        request->cancel_called = true;
        request->cancelled(request->cancel_arg, request, why);
    }
    pthread_mutex_unlock(&request->lock);
    lb_request_drop(request);
}

/* A watched request by id, or (id 0) one whose deadline has passed; referenced, NULL if none. */
static lb_request *pick(lb_watcher *watcher, uint64_t id, int64_t now)
{
    lb_request *found = NULL;
    pthread_mutex_lock(&watcher->lock);
    for (watch *w = watcher->first; w && !found; w = w->next) {
        if (id ? w->id == id : w->deadline_ms <= now) {
            found = w->request;
            w->deadline_ms = INT64_MAX;
            lb_request_hold(found);
            if (w->fd >= 0)
                epoll_ctl(watcher->epoll, EPOLL_CTL_DEL, w->fd, NULL);
            w->fd = -1;
        }
    }
    pthread_mutex_unlock(&watcher->lock);
    return found;
}

static void *watch_loop(void *arg)
{
    lb_watcher *watcher = arg;
    struct epoll_event events[EVENTS_MAX];
    while (!atomic_load(&watcher->stop)) {
        int n = epoll_wait(watcher->epoll, events, EVENTS_MAX, TICK_MS);
        for (int i = 0; i < n; i++) {
            lb_request *gone = pick(watcher, events[i].data.u64, 0);
            if (gone)
                cancel(gone, LB_ECANCELLED);
        }
        int64_t now = lb_clock_ms();
        for (lb_request *due = pick(watcher, 0, now); due; due = pick(watcher, 0, now))
            cancel(due, LB_ETIMEOUT);
        lb_links_tick(watcher->links, now);
    }
    return NULL;
}

lb_status lb_watcher_start(lb_watcher **out, lb_err *err)
{
    lb_watcher *watcher = calloc(1, sizeof *watcher);
    if (!watcher)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the connection watcher");
    watcher->links = lb_links_create();
    watcher->epoll = epoll_create1(EPOLL_CLOEXEC);
    pthread_mutex_init(&watcher->lock, NULL);
    if (!watcher->links || watcher->epoll < 0 ||
        pthread_create(&watcher->thread, NULL, watch_loop, watcher) != 0) {
        if (watcher->epoll >= 0)
            close(watcher->epoll);
        lb_links_free(watcher->links);
        pthread_mutex_destroy(&watcher->lock);
        free(watcher);
        return lb_fail(err, LB_EIO, NULL, "the connection watcher could not be started");
    }
    *out = watcher;
    return LB_OK;
}

void lb_watcher_stop(lb_watcher *watcher)
{
    if (!watcher)
        return;
    atomic_store(&watcher->stop, true);
    pthread_join(watcher->thread, NULL);
    while (watcher->first) {
        watch *w = watcher->first;
        watcher->first = w->next;
        free(w);
    }
    close(watcher->epoll);
    lb_links_free(watcher->links);
    pthread_mutex_destroy(&watcher->lock);
    free(watcher);
}

lb_links *lb_watcher_links(lb_watcher *watcher)
{
    return watcher->links;
}

void lb_watcher_each(lb_watcher *watcher, void (*visit)(lb_request *request))
{
    uint64_t below = UINT64_MAX;
    for (;;) {
        lb_request *request = NULL;
        uint64_t id = 0;
        pthread_mutex_lock(&watcher->lock);
        /* The list is newest first: the next is the first with a smaller id. */
        for (watch *w = watcher->first; w && !request; w = w->next) {
            if (w->id < below) {
                request = w->request;
                id = w->id;
                lb_request_hold(request);
            }
        }
        pthread_mutex_unlock(&watcher->lock);
        if (!request)
            return;
        below = id;
        visit(request);
        lb_request_drop(request);
    }
}
