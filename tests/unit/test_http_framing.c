/* SPDX-License-Identifier: Apache-2.0
 *
 * Where one request ends and the next begins: each refused shape is followed by a second request in
 * the same bytes, which must not be served. And that a refusal reaches a peer that still sends.
 */
#include "common/net/client.h"
#include "server/http/http.h"
#include "tests/check.h"

#include "tests/unit/http_raw.h"

#include <stdatomic.h>

#define SMALL 64u
#define H " HTTP/1.1\r\nHost: t\r\n"

typedef struct site {
    lb_http *http;
    uint16_t port;
    atomic_int hits;      /* calls of any handler */
} site;

/* ---- handlers ---- */

static void handle_health(void *daemon, lb_request *request)
{
    site *s = daemon;
    atomic_fetch_add(&s->hits, 1);
    lb_reply(request, 200, "text/plain", "ok\n", 3);
}

/* Says which parameter and body length it was called with. */
static void handle_echo(void *daemon, lb_request *request)
{
    site *s = daemon;
    size_t length = 0;
    lb_buf out = {0};
    atomic_fetch_add(&s->hits, 1);
    lb_request_body(request, &length);
    lb_buf_printf(&out, "%s|%zu", lb_request_param(request, "thing"), length);
    lb_reply_buf(request, 200, "text/plain", &out);
}

static const lb_route routes[] = {
    {"GET", "/healthz", LB_SCOPE_OPEN, 0, handle_health},
    {"GET", "/v1/things/{thing}", LB_SCOPE_USER, 0, handle_echo},
    {"PUT", "/v1/things/{thing}", LB_SCOPE_USER, SMALL, handle_echo},
};

static void open_site(site *s, const char *key_file)
{
    lb_err err = {0};
    lb_http_config config = {.listen = "127.0.0.1:0", .key_file = key_file, .routes = routes,
                             .route_count = sizeof routes / sizeof *routes, .daemon = s,
                             .server_name = "limbeck-test"};
    *s = (site){0};
    if (lb_http_start(&config, &s->http, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    s->port = lb_http_port(s->http);
    assert_true(s->port > 0);
}

/* ---- framing ---- */

/* Each is refused, closes the connection, and what follows it in the same bytes is no request. */
static void test_smuggling(void **state)
{
    (void)state;
#define NEXT "GET /healthz" H "\r\n"
#define ROW(text) {text NEXT, sizeof text NEXT - 1}
    static const struct { const char *bytes; size_t length; } cases[] = {
        ROW("PUT /v1/things/a" H "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
            "\r\n"),
        ROW("PUT /v1/things/a" H "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n"
            "\r\n"),
        ROW("PUT /v1/things/a" H "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        ROW("PUT /v1/things/a" H "Content-Length: 0\r\nContent-Length: 40\r\n\r\n"),
        ROW("PUT /v1/things/a" H "Content-Length: 5, 5\r\n\r\nhello"),
        ROW("PUT /v1/things/a" H "Content-Length: 5x\r\n\r\nhello"),
        ROW("PUT /v1/things/a" H "Content-Length: +5\r\n\r\nhello"),
        ROW("PUT /v1/things/a" H "Content-Length: -5\r\n\r\nhello"),
        ROW("PUT /v1/things/a" H "Content-Length: 0x5\r\n\r\nhello"),
        ROW("PUT /v1/things/a" H "Content-Length: \r\n\r\n"),
        ROW("PUT /v1/things/a" H "Content-Length : 5\r\n\r\nhello"),
        ROW("PUT /v1/things/a" H "Content-Length\t: 5\r\n\r\nhello"),
        ROW("PUT /v1/things/a HTTP/1.1\r\n Content-Length: 5\r\nHost: t\r\n\r\nhello"),
        ROW("PUT /v1/things/a" H "Transfer-Encoding: gzip\r\n\r\nhello"),
        ROW("PUT /v1/things/a" H "Transfer-Encoding: identity\r\n\r\nhello"),
        ROW("PUT /v1/things/a" H "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ROW("PUT /v1/things/a" H "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ROW("PUT /v1/things/a" H "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        ROW("GET /v1/things/a\0b" H "\r\n"),
        ROW("GET /healthz\0" H "\r\n"),
        ROW("GET /v1/things/a%00b" H "\r\n"),
        ROW("GET /v1/things/a?q=%00" H "\r\n"),
        ROW("GET /v1/things/a\001" H "\r\n"),
        ROW("GET /v1/things/a\177" H "\r\n"),
        ROW("GET /v1/things/a\tb" H "\r\n"),
        ROW("GET /v1/things/a HTTP/1.1\r\nHost: t\rX-A: b\r\n\r\n"),
        ROW("GET /v1/things/a" H "X-A: b\001c\r\n\r\n"),
        ROW("GET /v1/things/a" H "X A: b\r\n\r\n"),
        ROW("GET /v1/things/a" H "X\"A: b\r\n\r\n"),
        ROW("GET /v1/things/a" H "X-A\r\n\r\n"),
        ROW("GET /v1/things/a HTTP/1.1\r\n\r\n"),
        ROW("GET /v1/things/a b HTTP/1.1\r\nHost: t\r\n\r\n"),
    };
#undef ROW
#undef NEXT
    site s;
    open_site(&s, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        raw_reply reply;
        int fd = dial(s.port);
        put_bytes(fd, cases[i].bytes, cases[i].length);
        get_reply(fd, &reply);
        bool closed = reply.closed || closes_within(fd, PATIENCE_MS);
        close(fd);
        /* libmicrohttpd itself closes some without a word. */
        bool refused = reply.code == 400 || reply.code == 0;
        if (!refused || !closed || atomic_load(&s.hits) != 0)
            fail_msg("case %zu (%s) gave %d, closed %d, hits %d: %s", i, cases[i].bytes,
                     reply.code, closed, atomic_load(&s.hits), reply.text);
    }
    lb_http_stop(s.http, 0);
}

/* The reply to a body that is never read must reach a client that is busy sending it. */
static void test_refusal_of_a_large_body(void **state)
{
    (void)state;
    site s;
    lb_client *client = NULL;
    size_t length = (size_t)8 << 20;
    char *body = calloc(1, length);
    open_site(&s, NULL);
    lb_client_config config = {.url = lb_http_url(s.http)};
    assert_int_equal(lb_client_create(&config, &client, NULL), LB_OK);
    for (int i = 0; i < 50; i++) {
        lb_err err = {0};
        lb_answer answer;
        lb_call call = {.method = "PUT", .path = "/v1/things/a", .content_type = "text/plain",
                        .body = body, .length = length, .no_retry = true};
        if (lb_client_call(client, &call, &answer, &err) != LB_OK)
            fail_msg("try %d: %s", i, err.message);
        assert_int_equal(answer.code, 413);
        lb_answer_free(&answer);
    }
    lb_client_free(client);
    lb_http_stop(s.http, 0);
    free(body);
}

static void test_huge_head(void **state)
{
    (void)state;
    site s;
    raw_reply reply;
    size_t length = (size_t)64 << 10;
    char *request = malloc(length);
    assert_non_null(request);
    open_site(&s, NULL);
    static const char head[] = "GET /healthz" H "X-Big: ";
    memcpy(request, head, sizeof head - 1);
    memset(request + sizeof head - 1, 'a', length - sizeof head + 1);
    exchange(s.port, request, length, &reply);
    assert_int_equal(reply.code, 431);
    memcpy(request, "GET /", 5);
    memset(request + 5, 'a', length - 5);
    exchange(s.port, request, length, &reply);
    assert_int_equal(reply.code, 414);
    assert_int_equal(atomic_load(&s.hits), 0);
    exchange_text(s.port, "GET /healthz" H "\r\n", &reply);
    assert_int_equal(reply.code, 200);
    free(request);
    lb_http_stop(s.http, 0);
}

static void test_pipelined_requests(void **state)
{
    (void)state;
    site s;
    raw_reply reply;
    open_site(&s, NULL);
    int fd = dial(s.port);
    put_text(fd, "PUT /v1/things/a" H "Content-Length: 2\r\n\r\nxy"
                 "GET /v1/things/b" H "Connection: close\r\n\r\n");
    get_reply(fd, &reply);
    assert_int_equal(reply.code, 200);
    assert_int_equal(strncmp(reply_body(&reply), "a|2", 3), 0);
    while (!reply.closed && reply.length < sizeof reply.text - 1) {
        ssize_t n = recv(fd, reply.text + reply.length, sizeof reply.text - 1 - reply.length, 0);
        reply.closed = n <= 0;
        reply.length += n > 0 ? (size_t)n : 0;
    }
    assert_non_null(strstr(reply.text, "b|0"));
    close(fd);
    lb_http_stop(s.http, 0);
}

/* ---- keys ---- */

static void test_blanks_around_keys(void **state)
{
    (void)state;
    static const struct { const char *key; int code; } cases[] = {
        {"first", 200}, {"second", 200}, {"third key", 200}, {"third", 401}, {"#x", 401},
        {"# a comment", 401}, {"firs", 401}, {"", 401},
    };
    static const char text[] = "# a comment\n\nfirst\r\n  second \t\n  #x\n \t \n\tthird key";
    site s;
    char path[] = "/tmp/lb-http-XXXXXX", request[128];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_true(write(fd, text, sizeof text - 1) == (ssize_t)(sizeof text - 1));
    close(fd);
    open_site(&s, path);
    unlink(path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        raw_reply reply;
        snprintf(request, sizeof request, "GET /v1/things/a" H "Authorization: Bearer %s\r\n\r\n",
                 cases[i].key);
        exchange_text(s.port, request, &reply);
        if (reply.code != cases[i].code)
            fail_msg("'%s' gave %d", cases[i].key, reply.code);
    }
    lb_http_stop(s.http, 0);
}

/* A refusal without a body leaves the connection open: a poller with a wrong path or key does not
 * cost a connection each time. */
static void test_refusals_keep_the_connection(void **state)
{
    (void)state;
    static const struct { const char *request; int code; bool stays; } cases[] = {
        {"GET /absent" H "\r\n", 404, true},
        {"DELETE /healthz" H "\r\n", 405, true},
        {"PUT /v1/things/a" H "Content-Length: 65\r\n\r\n", 413, false},
        {"POST /absent" H "Content-Length: 1\r\n\r\n", 404, false},
    };
    site s;
    open_site(&s, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        raw_reply reply;
        int fd = dial(s.port);
        for (int again = 0; again <= cases[i].stays; again++) {
            put_text(fd, cases[i].request);
            get_reply(fd, &reply);
            assert_int_equal(reply.code, cases[i].code);
        }
        if (!cases[i].stays)
            assert_true(closes_within(fd, PATIENCE_MS));
        close(fd);
    }
    assert_int_equal(atomic_load(&s.hits), 0);
    lb_http_stop(s.http, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smuggling),
        cmocka_unit_test(test_refusal_of_a_large_body),
        cmocka_unit_test(test_huge_head),
        cmocka_unit_test(test_pipelined_requests),
        cmocka_unit_test(test_blanks_around_keys),
        cmocka_unit_test(test_refusals_keep_the_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
