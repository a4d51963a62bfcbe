/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/json.h"
#include "server/http/http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/http_fixture.h"

#define CONCURRENT 100
#define ROUNDS 10
#define NOTICE_MS 2000          /* within which a lost peer must be noticed */
#define AFTER_STOP_MS 100       /* enough for lb_http_stop to be past its look at the suspended */

#define GET_TEXT(path) "GET " path " HTTP/1.1\r\nHost: x\r\n\r\n"

static void test_answered_by_another_thread(void **state)
{
    world *w = *state;
    reply r;
    int fd = dial(w);
    say(fd, GET_TEXT("/v1/hold"));
    wait_held(w, 1);
    assert_int_equal(lb_http_get_stats(w->http).suspended, 1);
    reply_text(take_held(w), 202, "later");
    hear(fd, &r);
    assert_int_equal(r.code, 202);
    assert_string_equal(r.body, "later");
    assert_int_equal(lb_http_get_stats(w->http).suspended, 0);
    /* The connection is as good as new. */
    say(fd, GET_TEXT("/alive"));
    hear(fd, &r);
    assert_int_equal(r.code, 200);
    assert_string_equal(r.body, "alive");
    close(fd);
    assert_int_equal(w->cancel_count, 0);
}

static void test_answered_before_suspend(void **state)
{
    world *w = *state;
    for (int i = 0; i < ROUNDS; i++) {
        reply r;
        ask(w, "GET", "/v1/early", &r);
        assert_int_equal(r.code, 200);
        assert_string_equal(r.body, "early");
    }
    assert_int_equal(lb_http_get_stats(w->http).suspended, 0);
}

static void test_deadline(void **state)
{
    world *w = *state;
    reply r;
    int fd = dial(w);
    int64_t began = lb_clock_ms();
    say(fd, GET_TEXT("/v1/deadline"));
    hear(fd, &r);
    assert_int_equal(r.code, 504);
    assert_true(lb_clock_ms() - began >= DEADLINE_MS);
    assert_non_null(strstr(r.body, "\"timeout\""));
    pthread_mutex_lock(&w->lock);
    assert_int_equal(w->cancel_count, 1);
    assert_int_equal(w->cancel_why, LB_ETIMEOUT);
    pthread_mutex_unlock(&w->lock);
    close(fd);
}

/* An owner that is told but takes its time is told once; its own answer is the one sent. */
static void test_cancelled_once(void **state)
{
    world *w = *state;
    reply r;
    int fd = dial(w);
    w->answer_cancelled = false;
    say(fd, GET_TEXT("/v1/deadline"));
    wait_held(w, 1);
    wait_cancels(w, 1);
    lb_sleep_ms(3 * DEADLINE_MS);
    reply_text(take_held(w), 200, "after all");
    hear(fd, &r);
    assert_int_equal(r.code, 200);
    assert_string_equal(r.body, "after all");
    pthread_mutex_lock(&w->lock);
    assert_int_equal(w->cancel_count, 1);
    pthread_mutex_unlock(&w->lock);
    close(fd);
}

static void test_peer_leaves(void **state)
{
    world *w = *state;
    for (int own = 0; own < 2; own++) {       /* answered by the callback, and by the owner */
        w->answer_cancelled = own == 0;
        int fd = dial(w);
        say(fd, GET_TEXT("/v1/hold"));
        wait_held(w, 1);
        int64_t left = lb_clock_ms();
        close(fd);
        wait_cancels(w, own + 1);
        pthread_mutex_lock(&w->lock);
        assert_int_equal(w->cancel_why, LB_ECANCELLED);
        assert_true(w->cancel_ms - left < NOTICE_MS);
        pthread_mutex_unlock(&w->lock);
        lb_request *request = take_held(w);
        if (own == 1)
            reply_text(request, 200, "to nobody");
    }
    int64_t until = lb_clock_ms() + PATIENCE_MS;
    while (lb_http_get_stats(w->http).connections_open > 0 && lb_clock_ms() < until)
        lb_sleep_ms(TICK_MS);
    assert_int_equal(lb_http_get_stats(w->http).connections_open, 0);
    assert_int_equal(lb_http_get_stats(w->http).suspended, 0);
}

static void test_drain(void **state)
{
    world *w = *state;
    reply r;
    char value[256];
    int fd = dial(w);
    say(fd, GET_TEXT("/v1/hold"));
    wait_held(w, 1);
    lb_http_drain(w->http);
    ask(w, "GET", "/v1/things/a", &r);
    assert_int_equal(r.code, 503);
    assert_true(header_of(&r, "Retry-After", value));
    assert_string_equal(value, "1");
    assert_non_null(strstr(r.body, "\"unavailable\""));
    ask(w, "GET", "/alive", &r);
    assert_int_equal(r.code, 200);
    /* What was begun is still answered. */
    reply_text(take_held(w), 200, "done");
    hear(fd, &r);
    assert_int_equal(r.code, 200);
    close(fd);
}

/* The owner answers after the server is gone. */
static void test_stop_while_suspended(void **state)
{
    world *w = *state;
    int fds[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        fds[i] = dial(w);
        say(fds[i], GET_TEXT("/v1/hold"));
    }
    wait_held(w, ROUNDS);
    lb_http_stop(w->http, 20);
    w->http = NULL;
    for (int i = 0; i < ROUNDS; i++) {
        reply r;
        char value[256];
        hear(fds[i], &r);
        assert_int_equal(r.code, 503);
        assert_true(header_of(&r, "Retry-After", value));
        close(fds[i]);
        lb_request *request = take_held(w);
        assert_non_null(lb_request_id(request));
        lb_reply_header(request, "X-Late", "yes");
        if (i % 2 == 0)
            reply_text(request, 200, "too late");
        else
            lb_reply_fail(request, LB_EINTERNAL, NULL, "too late");
    }
    assert_int_equal(w->cancel_count, 0);
}

/* Within its time-out, stop waits for what is open. */
static void *stop_patiently(void *arg)
{
    world *w = arg;
    lb_http_stop(w->http, PATIENCE_MS);
    return NULL;
}

static void test_stop_waits(void **state)
{
    world *w = *state;
    reply r;
    pthread_t thread;
    int fd = dial(w);
    say(fd, GET_TEXT("/v1/hold"));
    wait_held(w, 1);
    int64_t began = lb_clock_ms();
    assert_int_equal(pthread_create(&thread, NULL, stop_patiently, w), 0);
    lb_sleep_ms(AFTER_STOP_MS);
    reply_text(take_held(w), 200, "in time");
    hear(fd, &r);
    assert_int_equal(r.code, 200);
    close(fd);
    pthread_join(thread, NULL);
    w->http = NULL;
    assert_true(lb_clock_ms() - began < PATIENCE_MS);
}

static void *stop_at_once(void *arg)
{
    world *w = arg;
    lb_http_stop(w->http, 0);
    return NULL;
}

/* A handler that suspends when stop has already looked for suspended requests. */
static void test_suspend_during_stop(void **state)
{
    world *w = *state;
    pthread_t thread;
    int fd = dial(w);
    say(fd, GET_TEXT("/v1/late"));
    pthread_mutex_lock(&w->lock);
    while (!w->handler_entered)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
    assert_int_equal(pthread_create(&thread, NULL, stop_at_once, w), 0);
    lb_sleep_ms(AFTER_STOP_MS);
    pthread_mutex_lock(&w->lock);
    w->handler_go = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(thread, NULL);
    w->http = NULL;
    reply_text(take_held(w), 200, "too late");
    close(fd);
}

/* ---- many at once ---- */

static const char *const MIX[] = {"/alive", "/v1/queued", "/v1/early", "/v1/deadline"};
static const int MIX_CODES[] = {200, 200, 200, 504};
#define MIX_COUNT (sizeof MIX / sizeof *MIX)

static void test_concurrent(void **state)
{
    world *w = *state;
    int fds[CONCURRENT];
    for (size_t i = 0; i < CONCURRENT; i++) {
        char text[100];
        fds[i] = dial(w);
        snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", MIX[i % MIX_COUNT]);
        say(fds[i], text);
    }
    for (size_t i = 0; i < CONCURRENT; i++) {
        reply r;
        hear(fds[i], &r);
        if (r.code != MIX_CODES[i % MIX_COUNT])
            fail_msg("%s: %d", MIX[i % MIX_COUNT], r.code);
        close(fds[i]);
    }
    lb_http_stats stats = lb_http_get_stats(w->http);
    assert_int_equal(stats.requests, CONCURRENT);
    assert_int_equal(stats.replies_2xx, CONCURRENT - CONCURRENT / MIX_COUNT);
    assert_int_equal(stats.replies_5xx, CONCURRENT / MIX_COUNT);
    assert_int_equal(stats.suspended, 0);
    assert_int_equal(w->cancel_count, CONCURRENT / MIX_COUNT);
}

/* The owner's answer and the suspension race on one connection after another. */
static void test_race_of_answer_and_suspend(void **state)
{
    world *w = *state;
    int fd = dial(w);
    for (int i = 0; i < 20 * ROUNDS; i++) {
        reply r;
        say(fd, GET_TEXT("/v1/queued"));
        hear(fd, &r);
        assert_int_equal(r.code, 200);
        assert_string_equal(r.body, "owned");
    }
    close(fd);
    assert_int_equal(lb_http_get_stats(w->http).suspended, 0);
}

/* Peers leave just as their requests are answered, and the server stops amid it. Nothing with a
 * deadline: what stop answers first has no owner left here that answers too, as each must. */
static void test_churn(void **state)
{
    world *w = *state;
    for (int i = 0; i < CONCURRENT; i++) {
        char text[100];
        int fd = dial(w);
        snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n",
                 MIX[(size_t)i % (MIX_COUNT - 1)]);
        say(fd, text);
        if (i % 3 == 0)
            lb_sleep_ms(1);
        close(fd);
    }
}

#define ROW(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROW(test_answered_by_another_thread), ROW(test_answered_before_suspend),
        ROW(test_deadline), ROW(test_cancelled_once), ROW(test_peer_leaves), ROW(test_drain),
        ROW(test_stop_while_suspended), ROW(test_stop_waits), ROW(test_suspend_during_stop),
        ROW(test_concurrent), ROW(test_race_of_answer_and_suspend), ROW(test_churn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
