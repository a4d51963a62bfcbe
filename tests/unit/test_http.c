/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/json.h"
#include "server/http/http.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/http_fixture.h"

/* Fails unless the body is the OpenAI error shape with this type and param (NULL: null). */
static void check_error(const reply *r, const char *type, const char *param)
{
    lb_json *root = NULL;
    char value[256];
    assert_true(header_of(r, "Content-Type", value));
    assert_string_equal(value, "application/json");
    assert_int_equal(lb_json_parse(r->body, r->length, &root, NULL), LB_OK);
    const lb_json *error = lb_json_get(root, "error");
    assert_string_equal(lb_json_string(lb_json_get(error, "type")), type);
    assert_non_null(lb_json_string(lb_json_get(error, "message")));
    const char *field = lb_json_string(lb_json_get(error, "param"));
    if (param)
        assert_string_equal(field, param);
    else
        assert_null(field);
    assert_int_equal(lb_json_integer(lb_json_get(error, "code")), r->code);
    lb_json_free(root);
}

static void test_routes(void **state)
{
    static const struct {
        const char *method, *path;
        int code;
        const char *body;        /* NULL: an error */
    } rows[] = {
        {"GET", "/alive", 200, "alive"},
        {"GET", "/alive/", 200, "alive"},
        {"GET", "/v1/things/ab", 200, "ab|-|-"},
        {"GET", "/v1/things/ab/", 200, "ab|-|-"},
        {"GET", "/v1/things/ab?colour=red%20ish", 200, "ab|-|red ish"},
        {"GET", "/v1/things/ab?colour=", 200, "ab|-|"},
        {"GET", "/v1/things/a%2Eb/steps/12", 200, "a.b|12|-"},
        {"GET", "/v1/things/../steps/12", 200, "..|12|-"},
        {"GET", "/", 404, NULL},
        {"GET", "//alive", 404, NULL},
        {"GET", "/alive//", 404, NULL},
        {"GET", "/aliv", 404, NULL},
        {"GET", "/alivee", 404, NULL},
        {"GET", "/v1/things", 404, NULL},
        {"GET", "/v1/things/", 404, NULL},
        {"GET", "/v1/things/ab/steps", 404, NULL},
        {"GET", "/v1/things/ab/steps/1/more", 404, NULL},
        {"GET", "/v1/things/a%0Ab", 404, NULL},
        {"GET", "/v1/things/%7F", 404, NULL},
        {"GET", "/v1/things/a%20b", 404, NULL},
        {"POST", "/alive", 405, NULL},
        {"get", "/alive", 405, NULL},
        {"DELETE", "/v1/things/ab", 405, NULL},
    };
    world *w = *state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        reply r;
        ask(w, rows[i].method, rows[i].path, &r);
        if (r.code != rows[i].code)
            fail_msg("%s %s: %d", rows[i].method, rows[i].path, r.code);
        if (rows[i].body)
            assert_string_equal(r.body, rows[i].body);
        else
            check_error(&r, r.code == 404 ? "not_found" : "method_not_allowed", NULL);
    }
}

/* A parameter has a largest length, below it all is well. */
static void test_long_parameter(void **state)
{
    world *w = *state;
    char name[130], path[200];
    reply r;
    for (size_t length = 128; length <= 129; length++) {
        memset(name, 'n', length);
        name[length] = '\0';
        snprintf(path, sizeof path, "/v1/things/%s", name);
        ask(w, "GET", path, &r);
        assert_int_equal(r.code, length == 128 ? 200 : 404);
    }
}

static void test_allow(void **state)
{
    reply r;
    char value[256];
    ask(*state, "DELETE", "/v1/echo", &r);
    assert_int_equal(r.code, 405);
    assert_true(header_of(&r, "Allow", value));
    assert_string_equal(value, "POST, PUT");
}

static void test_request_id(void **state)
{
    static const struct {
        const char *given;
        bool echoed;
    } rows[] = {
        {"abc-DEF_1.2", true}, {"a b", false}, {"<script>", false}, {"", false},
        {"0123456789012345678901234567890123456789012345678901234567890123", true},
        {"01234567890123456789012345678901234567890123456789012345678901234", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[300], value[256];
        reply r;
        snprintf(text, sizeof text, "GET /alive HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\n\r\n",
                 rows[i].given);
        ask_raw(*state, text, &r);
        assert_int_equal(r.code, 200);
        assert_true(header_of(&r, "x-request-id", value));
        assert_true((strcmp(value, rows[i].given) == 0) == rows[i].echoed);
        assert_true(rows[i].echoed || strncmp(value, "req-", 4) == 0);
        assert_true(header_of(&r, "Server", value));
        assert_string_equal(value, "limbeck-test");
    }
}

static void test_bodies(void **state)
{
    static const struct {
        const char *path, *body;
        int code;
        const char *answer, *type, *param;
    } rows[] = {
        {"/v1/echo", "hello", 201, "hello", NULL, NULL},
        {"/v1/echo", "", 201, "", NULL, NULL},
        {"/v1/json", "{\"name\":\"n\"}", 200, "n 20", NULL, NULL},
        {"/v1/json?limit=100", "{\"name\":\"n\"}", 200, "n 100", NULL, NULL},
        {"/v1/json?limit=0", "{\"name\":\"n\"}", 400, NULL, "invalid_request", "limit"},
        {"/v1/json?limit=101", "{\"name\":\"n\"}", 400, NULL, "invalid_request", "limit"},
        {"/v1/json?limit=-1", "{\"name\":\"n\"}", 400, NULL, "invalid_request", "limit"},
        {"/v1/json?limit=5x", "{\"name\":\"n\"}", 400, NULL, "invalid_request", "limit"},
        {"/v1/json?limit=", "{\"name\":\"n\"}", 400, NULL, "invalid_request", "limit"},
        {"/v1/json?limit=99999999999999999999", "{}", 400, NULL, "invalid_request", "limit"},
        {"/v1/json", "[1]", 400, NULL, "invalid_data", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[400];
        reply r;
        snprintf(text, sizeof text, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
                 rows[i].path, strlen(rows[i].body), rows[i].body);
        ask_raw(*state, text, &r);
        if (r.code != rows[i].code)
            fail_msg("%s: %d %s", rows[i].path, r.code, r.body);
        if (rows[i].answer)
            assert_string_equal(r.body, rows[i].answer);
        else
            check_error(&r, rows[i].type, rows[i].param);
    }
}

/* No body and a broken one are both answered, without a crash. */
static void test_bad_json(void **state)
{
    static const char *const bodies[] = {"", "{", "{\"name\":", "\xFF", "nul"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        char text[200];
        reply r;
        snprintf(text, sizeof text, "POST /v1/json HTTP/1.1\r\nHost: x\r\nContent-Length: %zu"
                 "\r\n\r\n%s", strlen(bodies[i]), bodies[i]);
        ask_raw(*state, text, &r);
        assert_int_equal(r.code, 400);
        assert_non_null(strstr(r.body, "\"error\""));
    }
}

static void test_error_shape(void **state)
{
    reply r;
    char value[256];
    ask(*state, "GET", "/v1/conflict", &r);
    assert_int_equal(r.code, 409);
    check_error(&r, "conflict", "step");
    assert_non_null(strstr(r.body, "step 7 is taken"));
    assert_true(header_of(&r, "x-should-retry", value));
    assert_string_equal(value, "false");
}

/* One connection serves several requests, sent at once. */
static void test_keep_alive(void **state)
{
    world *w = *state;
    reply r;
    int fd = dial(w);
    for (int i = 0; i < 3; i++) {
        say(fd, "POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok");
        hear(fd, &r);
        assert_int_equal(r.code, 201);
        assert_string_equal(r.body, "ok");
        assert_false(r.closed);
    }
    close(fd);
    lb_http_stats stats = lb_http_get_stats(w->http);
    assert_int_equal(stats.requests, 3);
    assert_int_equal(stats.replies_2xx, 3);
}

static void test_prometheus(void **state)
{
    lb_buf out = {0};
    (void)state;
    lb_prometheus_header(&out, "lb_x_total", "counter", "Things.");
    lb_prometheus_sample(&out, "lb_x_total", NULL, 3);
    lb_prometheus_sample(&out, "lb_x_total", "code=\"200\"", 0.5);
    lb_prometheus_sample(&out, "lb_x_total", NULL, (double)NAN);
    lb_prometheus_sample(&out, "lb_x_total", NULL, -(double)INFINITY);
    assert_string_equal((const char *)out.data,
                        "# HELP lb_x_total Things.\n# TYPE lb_x_total counter\nlb_x_total 3\n"
                        "lb_x_total{code=\"200\"} 0.5\nlb_x_total NaN\nlb_x_total -Inf\n");
    lb_buf_free(&out);
}

#define ROW(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROW(test_routes), ROW(test_long_parameter), ROW(test_allow), ROW(test_request_id),
        ROW(test_bodies), ROW(test_bad_json), ROW(test_error_shape), ROW(test_keep_alive),
        cmocka_unit_test(test_prometheus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
