/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes are a history of events: leases, pushes of any shape, time, restarts, cancels. Whatever
 * they say, each ticket is answered exactly once (at the latest by DRAIN), the process is never
 * asked to stop while its storage works, and no assert is met.
 */
#include "common/train/plan.h"
#include "proto/frames.h"
#include "server/coordinator/core.h"
#include "server/store/store.h"
#include "tests/unit/core_world.h"

#define EVENTS_MAX 400u
#define LEASES 4u
#define ID_CHOICES 4u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct history {
    const uint8_t *data;
    size_t size, at;
    uint8_t answered[EVENTS_MAX + 2];   /* by ticket */
    uintptr_t ticket;
    world_lease leases[LEASES];
} history;

static uint32_t take(history *h, uint32_t below)
{
    return h->at < h->size ? h->data[h->at++] % below : 0;
}

static const char *pick_id(history *h)
{
    static const char *const ids[ID_CHOICES] = {
        "ftjob-0123456789abcdef01234567", "ftjob-ffffffffffffffffffffffff", "quick-v1", "nobody",
    };
    return ids[take(h, ID_CHOICES)];
}

static void pick_worker(history *h, lb_core_event *event)
{
    snprintf(event->worker, sizeof event->worker, "w%u", take(h, 3));
}

static void count_answers(world *w, history *h)
{
    for (size_t i = 0; i < w->reply_count; i++) {
        uintptr_t ticket = (uintptr_t)w->replies[i].ticket;
        assert(ticket > 0 && ticket <= h->ticket && h->answered[ticket] == 0);
        h->answered[ticket] = 1;
        if (w->replies[i].code == 200 && strstr(w->replies[i].body, "\"fence\""))
            (void)world_parse_lease(w->replies[i].body, &h->leases[take(h, LEASES)]);
    }
    assert(w->exit_code == 0);
}

static void send(world *w, history *h, lb_core_event *event)
{
    event->ticket = world_ticket(++h->ticket);
    world_step(w, event);
    count_answers(w, h);
}

static void push_something(world *w, history *h)
{
    lb_buf frame = {0};
    world_lease lease = h->leases[take(h, LEASES)];
    if (!lease.held)
        return;
    world_frame(w, &lease, (float)take(h, 2), &frame);
    uint32_t spoil = take(h, 8);
    if (spoil == 1 && frame.length > 0)
        frame.length = take(h, 255);
    if (spoil == 2)
        frame.data[take(h, 60)] ^= (uint8_t)take(h, 256);
    lb_core_event event = world_push_event(&lease, "w0", &frame);
    pick_worker(h, &event);
    if (spoil == 3)
        event.unit = take(h, 256);
    if (spoil == 4)
        event.step = take(h, 256);
    if (spoil == 5)
        event.fences[0] = take(h, 256);
    if (spoil == 6)
        snprintf(event.id, sizeof event.id, "%s", pick_id(h));
    send(w, h, &event);
    lb_buf_free(&frame);
}

static void one_event(world *w, history *h)
{
    lb_core_event event = {.limit = 1 + take(h, 100)};
    uint32_t kind = take(h, LB_EVENT_TYPE_COUNT + 2);
    if (kind == LB_EVENT_TYPE_COUNT) {
        /* Waiters do not survive a restart: their connections are gone. */
        world_restart(w);
        for (uintptr_t t = 1; t <= h->ticket; t++)
            h->answered[t] = 1;
        return;
    }
    if (kind > LB_EVENT_TYPE_COUNT || kind == LB_EVENT_TICK) {
        w->now_ms += (int64_t)take(h, 256) * 400;
        world_tick(w);
        count_answers(w, h);
        return;
    }
    if (kind == LB_EVENT_PUSH) {
        push_something(w, h);
        return;
    }
    if (kind == LB_EVENT_DRAIN || kind == LB_EVENT_FILE_ADD)
        return;
    if (kind == LB_EVENT_JOB_CREATE) {
        event = world_job_event(w, pick_id(h), 1 + take(h, 3), 1 + take(h, 3), take(h, 2));
    } else {
        event.type = (lb_core_event_type)kind;
        snprintf(event.id, sizeof event.id, "%s", pick_id(h));
        if (take(h, 4) == 0)
            snprintf(event.after, sizeof event.after, "%s", pick_id(h));
        event.after_step = take(h, 4);
        event.wait_ms = take(h, 3) * 10000;
        event.fences[0] = h->leases[take(h, LEASES)].fence;
        event.fence_count = 1;
        event.waiter = world_ticket(take(h, 256));
        pick_worker(h, &event);
    }
    if (kind == LB_EVENT_ABANDON) {
        world_step(w, &event);
        count_answers(w, h);
        return;
    }
    send(w, h, &event);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    history h = {.data = data, .size = size};
    world *w = malloc(sizeof *w);
    assert(w);
    world_open(w, 1);
    world_create(w, "ftjob-0123456789abcdef01234567", 3, 2, 1);
    for (unsigned i = 0; i < EVENTS_MAX && h.at < h.size; i++)
        one_event(w, &h);
    lb_core_event drain = {.type = LB_EVENT_DRAIN};
    world_step(w, &drain);
    count_answers(w, &h);
    for (uintptr_t t = 1; t <= h.ticket; t++)
        assert(h.answered[t] == 1);
    world_close(w);
    free(w);
    return 0;
}
