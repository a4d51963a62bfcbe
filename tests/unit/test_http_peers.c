/* SPDX-License-Identifier: Apache-2.0
 *
 * Peers that are slow or leave at the worst moment, and a server that stops under load: replies,
 * suspensions, deadlines, disconnections and the stop race each other. Meant for the thread
 * sanitizer too.
 */
#include "common/net/client.h"
#include "server/http/http.h"
#include "tests/check.h"

#include "tests/unit/http_raw.h"

#include <pthread.h>
#include <stdatomic.h>

#define PARKED_MAX 512
#define TRANSFER_MS 300
#define NOTICED_MS 1000        /* how late a deadline may be noticed on a busy machine */
#define H " HTTP/1.1\r\nHost: t\r\n"

/* A daemon that parks requests until some thread of the test answers them. */
typedef struct yard {
    lb_http *http;
    uint16_t port;
    pthread_mutex_t lock;
    lb_request *parked[PARKED_MAX];
    size_t count;
    unsigned arrived, answered;
    int64_t deadline_in_ms;    /* 0: none */
    bool racing;               /* handed over before the suspension */
    atomic_bool stop;          /* of helper threads */
} yard;

static void on_cancelled(void *arg, lb_request *request, lb_status why)
{
    yard *y = arg;
    bool mine = false;
    pthread_mutex_lock(&y->lock);
    for (size_t i = 0; i < y->count; i++) {
        if (y->parked[i] != request)
            continue;
        y->parked[i] = y->parked[--y->count];
        mine = true;
        break;
    }
    y->answered += mine;
    pthread_mutex_unlock(&y->lock);
    /* Otherwise a thread of the test has it in hand and is about to answer. */
    if (mine)
        lb_reply_fail(request, why, NULL, "cancelled");
}

static void park(yard *y, lb_request *request)
{
    pthread_mutex_lock(&y->lock);
    if (y->count == PARKED_MAX)
        abort();               /* cmocka's asserts are for the main thread */
    y->parked[y->count++] = request;
    y->arrived++;
    pthread_mutex_unlock(&y->lock);
}

static void handle_park(void *daemon, lb_request *request)
{
    yard *y = daemon;
    int64_t deadline = y->deadline_in_ms ? lb_clock_ms() + y->deadline_in_ms : INT64_MAX;
    if (y->racing)
        park(y, request);
    lb_http_suspend(request, deadline, on_cancelled, y);
    if (!y->racing)
        park(y, request);
}

static void handle_now(void *daemon, lb_request *request)
{
    (void)daemon;
    lb_reply(request, 200, "text/plain", "ok", 2);
}

static void handle_body(void *daemon, lb_request *request)
{
    char text[32];
    size_t length = 0;
    (void)daemon;
    lb_request_body(request, &length);
    int n = snprintf(text, sizeof text, "%zu", length);
    lb_reply(request, 200, "text/plain", text, (size_t)n);
}

static const lb_route routes[] = {
    {"GET", "/now", LB_SCOPE_USER, 0, handle_now},
    {"GET", "/park/{name}", LB_SCOPE_USER, 0, handle_park},
    {"PUT", "/body", LB_SCOPE_USER, 1 << 20, handle_body},
};

static void open_yard(yard *y, uint32_t transfer_ms)
{
    lb_err err = {0};
    lb_http_config config = {.listen = "127.0.0.1:0", .routes = routes, .daemon = y,
                             .route_count = sizeof routes / sizeof *routes, .threads = 2,
                             .server_name = "t", .transfer_ms = transfer_ms};
    *y = (yard){0};
    pthread_mutex_init(&y->lock, NULL);
    if (lb_http_start(&config, &y->http, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    y->port = lb_http_port(y->http);
}

static void close_yard(yard *y)
{
    lb_http_stop(y->http, PATIENCE_MS);
    assert_int_equal(y->answered, y->arrived);
    pthread_mutex_destroy(&y->lock);
}

static void answer_with_name(yard *y, lb_request *request)
{
    const char *name = lb_request_param(request, "name");
    pthread_mutex_lock(&y->lock);
    y->answered++;
    pthread_mutex_unlock(&y->lock);
    lb_reply(request, 200, "text/plain", name, strlen(name));
}

/* Takes the request that waits longest; NULL if none does. */
static lb_request *take(yard *y)
{
    lb_request *request = NULL;
    pthread_mutex_lock(&y->lock);
    if (y->count > 0) {
        request = y->parked[0];
        memmove(y->parked, y->parked + 1, --y->count * sizeof *y->parked);
    }
    pthread_mutex_unlock(&y->lock);
    return request;
}

static unsigned read_count(yard *y, const unsigned *count)
{
    pthread_mutex_lock(&y->lock);
    unsigned value = *count;
    pthread_mutex_unlock(&y->lock);
    return value;
}

static void wait_for_count(yard *y, const unsigned *count, unsigned wanted, int64_t ms)
{
    int64_t until = lb_clock_ms() + ms;
    while (read_count(y, count) < wanted) {
        if (lb_clock_ms() > until)
            fail_msg("%u of %u came within %lld ms", read_count(y, count), wanted, (long long)ms);
        lb_sleep_ms(1);
    }
}

static void wait_for_connections(yard *y, uint64_t wanted, int64_t ms)
{
    int64_t until = lb_clock_ms() + ms;
    while (lb_http_get_stats(y->http).connections_open != wanted) {
        if (lb_clock_ms() > until)
            fail_msg("%llu connections are open",
                     (unsigned long long)lb_http_get_stats(y->http).connections_open);
        lb_sleep_ms(5);
    }
}

/* Answers whatever is parked until it is told to stop. */
static void *answer_all(void *arg)
{
    yard *y = arg;
    while (!atomic_load(&y->stop)) {
        lb_request *request = take(y);
        if (request)
            answer_with_name(y, request);
        else
            sched_yield();
    }
    return NULL;
}

static int dial_park(yard *y, const char *name)
{
    char request[128];
    int fd = dial(y->port);
    snprintf(request, sizeof request, "GET /park/%s" H "\r\n", name);
    assert_true(put_text(fd, request));
    return fd;
}

/* ---- races ---- */

typedef struct asker {
    yard *yard;
    int number, good, wanted;
} asker;

static void *ask_often(void *arg)
{
    asker *a = arg;
    lb_client *client = NULL;
    lb_client_config config = {.url = lb_http_url(a->yard->http)};
    if (lb_client_create(&config, &client, NULL) != LB_OK)
        return NULL;
    for (int i = 0; i < a->wanted; i++) {
        char path[64], name[32];
        lb_answer answer;
        snprintf(name, sizeof name, "n%d-%d", a->number, i);
        snprintf(path, sizeof path, "/park/%s", name);
        lb_call call = {.method = "GET", .path = path, .no_retry = true};
        if (lb_client_call(client, &call, &answer, NULL) == LB_OK && answer.code == 200 &&
            strcmp((const char *)answer.body.data, name) == 0)
            a->good++;
        lb_answer_free(&answer);
    }
    lb_client_free(client);
    return NULL;
}

/* The answer comes before, while and after the handler suspends. */
static void test_race_of_reply_and_suspension(void **state)
{
    (void)state;
    for (int racing = 0; racing < 2; racing++) {
        yard y;
        pthread_t owners[2], askers[4];
        asker tasks[4];
        open_yard(&y, 0);
        y.racing = racing;
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&owners[i], NULL, answer_all, &y), 0);
        for (int i = 0; i < 4; i++) {
            tasks[i] = (asker){.yard = &y, .number = i, .wanted = 250};
            assert_int_equal(pthread_create(&askers[i], NULL, ask_often, &tasks[i]), 0);
        }
        for (int i = 0; i < 4; i++) {
            pthread_join(askers[i], NULL);
            assert_int_equal(tasks[i].good, tasks[i].wanted);
        }
        atomic_store(&y.stop, true);
        for (int i = 0; i < 2; i++)
            pthread_join(owners[i], NULL);
        close_yard(&y);
    }
}

/* Peers leave, deadlines pass and owners answer at the same moments; each request is answered by
 * exactly one of them and freed once. */
static void test_race_of_reply_and_cancellation(void **state)
{
    (void)state;
    yard y;
    pthread_t owner;
    open_yard(&y, 0);
    y.racing = true;
    y.deadline_in_ms = 20;
    for (int round = 0; round < 40; round++) {
        int fds[8];
        for (int i = 0; i < 8; i++)
            fds[i] = dial_park(&y, "a");
        if (round == 20)
            assert_int_equal(pthread_create(&owner, NULL, answer_all, &y), 0);
        lb_sleep_ms(round % 8 * 4);
        for (int i = 0; i < 8; i++) {
            lb_request *request = i % 2 ? take(&y) : NULL;
            close(fds[i]);
            if (request)
                answer_with_name(&y, request);
        }
    }
    wait_for_connections(&y, 0, PATIENCE_MS);
    assert_int_equal(lb_http_get_stats(y.http).suspended, 0);
    atomic_store(&y.stop, true);
    pthread_join(owner, NULL);
    close_yard(&y);
}

/* ---- slow peers ---- */

/* Sends a byte each 50 ms; tells after how long the server closed the connection. */
static int64_t drip(int fd, const char *bytes)
{
    int64_t began = lb_clock_ms();
    while (lb_clock_ms() - began < PATIENCE_MS) {
        if (*bytes)
            put_bytes(fd, bytes++, 1);
        if (closes_within(fd, 50))
            break;
    }
    return lb_clock_ms() - began;
}

static void test_slow_peers(void **state)
{
    (void)state;
    static const struct { const char *at_once, *slowly; } cases[] = {
        {"", ""},
        {"", "GET /now HTTP/1.1\r\nHost: t\r\nX-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
        {"GET /now" H, "X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
        {"PUT /body" H "Content-Length: 1000\r\n\r\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
    };
    yard y;
    open_yard(&y, TRANSFER_MS);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int fd = dial(y.port);
        put_text(fd, cases[i].at_once);
        int64_t took = drip(fd, cases[i].slowly);
        if (took < TRANSFER_MS - 50 || took > TRANSFER_MS + NOTICED_MS)
            fail_msg("case %zu was closed after %lld ms", i, (long long)took);
        close(fd);
    }
    wait_for_connections(&y, 0, PATIENCE_MS);
    close_yard(&y);
}

/* The deadline is one of transfers: neither a suspended request nor a body in pieces meets it, and
 * the next request of a connection has its own. */
static void test_slow_owners_are_no_slow_peers(void **state)
{
    (void)state;
    yard y;
    raw_reply reply;
    open_yard(&y, TRANSFER_MS);
    int fd = dial_park(&y, "a");
    wait_for_count(&y, &y.arrived, 1, PATIENCE_MS);
    lb_sleep_ms(3 * TRANSFER_MS);
    answer_with_name(&y, take(&y));
    get_reply(fd, &reply);
    assert_int_equal(reply.code, 200);
    lb_sleep_ms(3 * TRANSFER_MS);
    put_text(fd, "PUT /body" H "Content-Length: 4\r\n\r\nab");
    lb_sleep_ms(20);
    put_text(fd, "cd");
    get_reply(fd, &reply);
    assert_int_equal(reply.code, 200);
    assert_string_equal(reply_body(&reply), "4");
    close(fd);
    close_yard(&y);
}

/* ---- the stop ---- */

static void *ask_until_refused(void *arg)
{
    yard *y = arg;
    raw_reply reply;
    while (!atomic_load(&y->stop)) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(y->port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        if (connect(fd, (const struct sockaddr *)&to, sizeof to) == 0 &&
            put_text(fd, "GET /park/a" H "\r\n"))
            get_reply_within(fd, &reply, 30);
        close(fd);
    }
    return NULL;
}

/* Requests arrive, are answered and suspend all the while: libmicrohttpd would abort the process,
 * were one of them suspended as it stops. */
static void test_stop_under_load(void **state)
{
    (void)state;
    for (int round = 0; round < 12; round++) {
        yard y;
        pthread_t askers[3], owner;
        open_yard(&y, 0);
        y.racing = round % 2;
        for (int i = 0; i < 3; i++)
            assert_int_equal(pthread_create(&askers[i], NULL, ask_until_refused, &y), 0);
        assert_int_equal(pthread_create(&owner, NULL, answer_all, &y), 0);
        lb_sleep_ms(10 + 3 * round);
        lb_http_stop(y.http, round % 3 ? 0 : 20);
        atomic_store(&y.stop, true);
        for (int i = 0; i < 3; i++)
            pthread_join(askers[i], NULL);
        pthread_join(owner, NULL);
        for (lb_request *request = take(&y); request; request = take(&y))
            lb_reply(request, 200, "text/plain", "late", 4);
        pthread_mutex_destroy(&y.lock);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_race_of_reply_and_suspension),
        cmocka_unit_test(test_race_of_reply_and_cancellation),
        cmocka_unit_test(test_slow_peers),
        cmocka_unit_test(test_slow_owners_are_no_slow_peers),
        cmocka_unit_test(test_stop_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
