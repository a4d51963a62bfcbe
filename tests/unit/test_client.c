/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/clock.h"
#include "common/net/client.h"
#include "common/net/retry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define REQUESTS_MAX 32
#define REQUEST_BYTES 4096
#define PATIENCE_SECONDS 10
#define BUDGET_CALLS 8          /* give back less than one retry */
#define SILENT "silent"         /* a line of a script: no answer until the client leaves */

/* Answers the n-th connection with the script's n-th line, then closes it; "" drops it. */
typedef struct server {
    const char *const *script;
    size_t lines;
    int fd;
    pthread_t thread;
    char url[64];
    size_t served;                                   /* read after stop_server */
    char requests[REQUESTS_MAX][REQUEST_BYTES];
} server;

/* Reads one request with its Content-Length. */
static void read_request(int fd, char out[REQUEST_BYTES])
{
    size_t used = 0, want = REQUEST_BYTES - 1;
    while (used < want) {
        ssize_t n = recv(fd, out + used, REQUEST_BYTES - 1 - used, 0);
        if (n <= 0)
            return;
        used += (size_t)n;
        out[used] = '\0';
        const char *end = strstr(out, "\r\n\r\n");
        const char *length = strcasestr(out, "\r\nContent-Length:");
        if (end)
            want = (size_t)(end + 4 - out) + (length ? strtoul(length + 17, NULL, 10) : 0);
    }
}

static void *serve(void *arg)
{
    server *s = arg;
    for (s->served = 0; s->served < s->lines; s->served++) {
        int fd = accept(s->fd, NULL, NULL);
        if (fd < 0)
            break;
        struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        read_request(fd, s->requests[s->served]);
        const char *line = s->script[s->served];
        char ignored;
        if (strcmp(line, SILENT) == 0)
            (void)!recv(fd, &ignored, 1, 0);
        else
            (void)!send(fd, line, strlen(line), MSG_NOSIGNAL);
        close(fd);
    }
    return NULL;
}

static server *start_server(const char *const *script, size_t lines)
{
    server *s = calloc(1, sizeof *s);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    assert_non_null(s);
    assert_true(lines <= REQUESTS_MAX);
    s->script = script;
    s->lines = lines;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(s->fd, REQUESTS_MAX), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&at, &size), 0);
    snprintf(s->url, sizeof s->url, "http://127.0.0.1:%u/", ntohs(at.sin_port));
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
    return s;
}

/* Ends the thread even when the script was not used up. */
static void stop_server(server *s)
{
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
}

static lb_client *client_of(const server *s)
{
    lb_client *client = NULL;
    lb_client_config config = {.url = s->url, .key = "sk-1", .user_agent = "agent/1", .seed = 5};
    assert_int_equal(lb_client_create(&config, &client, NULL), LB_OK);
    return client;
}

#define OK_REPLY "HTTP/1.1 200 OK\r\nX-Request-Id: r1\r\nContent-Length: 2\r\n\r\nok"
#define BUSY_REPLY                                                                              \
    "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nX-Request-Id: busy\r\n"              \
    "Content-Length: 4\r\n\r\nbusy"
#define COUNT(rows) (sizeof rows / sizeof *rows)

/* ---- what is tried again ---- */

typedef struct script_case {
    const char *name;
    const char *lines[4];
    size_t count;
    bool no_retry;
    size_t reply_max;
    lb_status status;
    int code;
    uint32_t tries;
    const char *body;
} script_case;

static const script_case SCRIPTS[] = {
    {"at once", {OK_REPLY}, 1, false, 0, LB_OK, 200, 1, "ok"},
    {"dropped twice", {"", "", OK_REPLY}, 3, false, 0, LB_OK, 200, 3, "ok"},
    {"busy once", {BUSY_REPLY, OK_REPLY}, 2, false, 0, LB_OK, 200, 2, "ok"},
    {"429, 502, 504", {"HTTP/1.1 429 x\r\nContent-Length: 0\r\n\r\n",
                       "HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n",
                       "HTTP/1.1 504 x\r\nContent-Length: 0\r\n\r\n", OK_REPLY},
     4, false, 0, LB_OK, 200, 4, "ok"},
    {"not found", {"HTTP/1.1 404 x\r\nContent-Length: 1\r\n\r\nn", OK_REPLY}, 2, false, 0, LB_OK,
     404, 1, "n"},
    {"broken server", {"HTTP/1.1 500 x\r\nContent-Length: 1\r\n\r\nb", OK_REPLY}, 2, false, 0,
     LB_OK, 500, 1, "b"},
    {"a redirect", {"HTTP/1.1 302 x\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n", OK_REPLY}, 2,
     false, 0, LB_OK, 302, 1, NULL},
    {"cut off", {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", OK_REPLY}, 2, false, 0, LB_OK,
     200, 2, "ok"},
    {"cut off in the head", {"HTTP/1.1 200 OK\r\nContent-Le", OK_REPLY}, 2, false, 0, LB_OK, 200,
     2, "ok"},
    {"cut off in the head", {"HTTP/1.1 200 OK\r\nContent-Le", OK_REPLY}, 2, false, 0, LB_OK, 200,
     2, "ok"},
    {"cut off in a chunk", {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok",
                            OK_REPLY}, 2, false, 0, LB_OK, 200, 2, "ok"},
    {"no retry of busy", {BUSY_REPLY, OK_REPLY}, 2, true, 0, LB_OK, 503, 1, "busy"},
    {"no retry of dropped", {"", OK_REPLY}, 2, true, 0, LB_ENET, 0, 0, NULL},
    {"the largest", {OK_REPLY}, 1, false, 2, LB_OK, 200, 1, "ok"},
    {"too large", {OK_REPLY, OK_REPLY}, 2, false, 1, LB_ETOOBIG, 0, 0, NULL},
    {"too large without a length", {"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nlong", OK_REPLY},
     2, false, 3, LB_ETOOBIG, 0, 0, NULL},
    {"no HTTP", {"SSH-2.0-x\r\n\r\n"}, 1, true, 0, LB_ENET, 0, 0, NULL},
};

static void check_script(const script_case *row)
{
    server *s = start_server(row->lines, row->count);
    lb_client *client = client_of(s);
    lb_err err = {0};
    lb_answer answer;
    lb_call call = {.method = "POST", .path = "/v1/x?y=1", .content_type = "text/plain",
                    .body = "the whole body", .length = 14, .no_retry = row->no_retry,
                    .reply_max = row->reply_max, .timeout_ms = 1000 * PATIENCE_SECONDS};
    lb_status status = lb_client_call(client, &call, &answer, &err);
    stop_server(s);
    if (status != row->status || answer.code != row->code || answer.tries != row->tries)
        fail_msg("%s: %s %d after %u tries: %s", row->name, lb_status_name(status), answer.code,
                 answer.tries, err.message);
    if (row->body)
        assert_string_equal((const char *)answer.body.data, row->body);
    /* Each try sent the request anew, all of it. */
    assert_int_equal(s->served, row->tries ? row->tries : 1);
    for (size_t i = 0; i < s->served; i++) {
        const char *request = s->requests[i];
        assert_int_equal(strncmp(request, "POST /v1/x?y=1 HTTP/1.1\r\n", 25), 0);
        const char *end = strstr(request, "\r\n\r\n");
        assert_non_null(end);
        assert_string_equal(end + 4, "the whole body");
    }
    lb_answer_free(&answer);
    lb_client_free(client);
    free(s);
}

static void test_scripts(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(SCRIPTS); i++)
        check_script(&SCRIPTS[i]);
}

/* ---- what is sent ---- */

static void test_request_lines(void **state)
{
    static const char *const script[] = {OK_REPLY, OK_REPLY, OK_REPLY};
    static const char *const headers[] = {"X-Fence: 7", "X-Other: 8"};
    const lb_call calls[] = {
        {.method = "GET", .path = "/a", .accept = "application/json", .headers = headers,
         .header_count = 2},
        {.method = "PUT", .path = "/b", .content_type = "application/octet-stream",
         .body = "12345", .length = 5},
        {.method = "DELETE", .path = "/c"},
    };
    static const char *const sent[][4] = {
        {"GET /a HTTP/1.1\r\n", "\r\nAccept: application/json\r\n", "\r\nX-Fence: 7\r\n",
         "\r\nX-Other: 8\r\n"},
        {"PUT /b HTTP/1.1\r\n", "\r\nContent-Type: application/octet-stream\r\n",
         "\r\nContent-Length: 5\r\n", "\r\n\r\n12345"},
        {"DELETE /c HTTP/1.1\r\n", "\r\n\r\n", "\r\n", "\r\n"},
    };
    server *s = start_server(script, COUNT(script));
    lb_client *client = client_of(s);
    (void)state;
    for (size_t i = 0; i < COUNT(calls); i++) {
        lb_answer answer;
        assert_int_equal(lb_client_call(client, &calls[i], &answer, NULL), LB_OK);
        assert_int_equal(answer.code, 200);
        assert_string_equal(answer.request_id, "r1");
        lb_answer_free(&answer);
    }
    stop_server(s);
    for (size_t i = 0; i < COUNT(calls); i++) {
        const char *request = s->requests[i];
        for (size_t k = 0; k < 4; k++) {
            if (!strstr(request, sent[i][k]))
                fail_msg("'%s' is not in %s", sent[i][k], request);
        }
        assert_non_null(strstr(request, "\r\nAuthorization: Bearer sk-1\r\n"));
        assert_non_null(strstr(request, "\r\nUser-Agent: agent/1\r\n"));
        assert_null(strstr(request, "Expect:"));
    }
    lb_client_free(client);
    free(s);
}

/* The id of an earlier try is not the answer's. */
static void test_request_id_of_last_try(void **state)
{
    static const char *const script[] = {BUSY_REPLY,
                                         "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"};
    server *s = start_server(script, COUNT(script));
    lb_client *client = client_of(s);
    lb_call call = {.method = "GET", .path = "/"};
    lb_answer answer;
    (void)state;
    assert_int_equal(lb_client_call(client, &call, &answer, NULL), LB_OK);
    assert_int_equal(answer.code, 200);
    assert_string_equal(answer.request_id, "");
    lb_answer_free(&answer);
    stop_server(s);
    lb_client_free(client);
    free(s);
}

/* ---- waits and their ends ---- */

static bool asked_often(void *arg)
{
    return atomic_fetch_add((atomic_int *)arg, 1) >= 2;
}

static void test_cancelled(void **state)
{
    static const char *const scripts[][1] = {
        {SILENT},                                                             /* for a reply */
        {"HTTP/1.1 503 x\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"},   /* for a retry */
    };
    (void)state;
    for (size_t i = 0; i < COUNT(scripts); i++) {
        server *s = start_server(scripts[i], 1);
        atomic_int asked = 0;
        lb_client *client = NULL;
        lb_client_config config = {.url = s->url, .cancelled = asked_often, .cancel_arg = &asked};
        lb_call call = {.method = "GET", .path = "/"};
        lb_answer answer;
        int64_t began = lb_clock_ms();
        assert_int_equal(lb_client_create(&config, &client, NULL), LB_OK);
        assert_int_equal(lb_client_call(client, &call, &answer, NULL), LB_ECANCELLED);
        assert_true(lb_clock_ms() - began < 1000 * PATIENCE_SECONDS / 2);
        assert_null(answer.body.data);
        lb_client_free(client);
        stop_server(s);
        free(s);
    }
}

static void test_deadline(void **state)
{
    static const char *const silent[] = {SILENT};
    static const char *const later[] = {
        "HTTP/1.1 503 x\r\nRetry-After: 30\r\nContent-Length: 4\r\n\r\nbusy"};
    lb_call call = {.method = "GET", .path = "/", .timeout_ms = 300};
    lb_answer answer;
    (void)state;
    server *s = start_server(silent, 1);
    lb_client *client = client_of(s);
    int64_t began = lb_clock_ms();
    assert_int_equal(lb_client_call(client, &call, &answer, NULL), LB_ETIMEOUT);
    assert_true(lb_clock_ms() - began >= 290);
    lb_client_free(client);
    stop_server(s);
    free(s);
    /* A wait that would pass the deadline is not begun: the caller has the 503 at once. */
    s = start_server(later, 1);
    client = client_of(s);
    began = lb_clock_ms();
    assert_int_equal(lb_client_call(client, &call, &answer, NULL), LB_OK);
    assert_int_equal(answer.code, 503);
    assert_string_equal((const char *)answer.body.data, "busy");
    assert_true(lb_clock_ms() - began < 1000 * PATIENCE_SECONDS);
    lb_answer_free(&answer);
    lb_client_free(client);
    stop_server(s);
    free(s);
}

/* Ten retries of the client in all, over several calls; then each call is one try. */
static void test_budget(void **state)
{
    const char *script[REQUESTS_MAX];
    /* The first three waits are 0.2, 0.4 and 0.8 s at most: each call may use three retries. */
    lb_call call = {.method = "GET", .path = "/", .timeout_ms = 1900};
    uint32_t tries = 0;
    (void)state;
    for (size_t i = 0; i < REQUESTS_MAX; i++)
        script[i] = BUSY_REPLY;
    server *s = start_server(script, REQUESTS_MAX);
    lb_client *client = client_of(s);
    for (int i = 0; i < BUDGET_CALLS; i++) {
        lb_answer answer;
        assert_int_equal(lb_client_call(client, &call, &answer, NULL), LB_OK);
        assert_int_equal(answer.code, 503);
        tries += answer.tries;
        if (i == BUDGET_CALLS - 1)
            assert_int_equal(answer.tries, 1);
        lb_answer_free(&answer);
    }
    stop_server(s);
    /* A wait that was granted but would have passed the deadline has cost its token too. */
    assert_in_range(tries, BUDGET_CALLS + 3, BUDGET_CALLS + (uint32_t)LB_RETRY_TOKENS);
    assert_int_equal(s->served, tries);
    lb_client_free(client);
    free(s);
}

static void test_nobody_there(void **state)
{
    static const char *const none[] = {""};
    server *s = start_server(none, 1);
    lb_client *client = client_of(s);
    lb_call call = {.method = "GET", .path = "/", .timeout_ms = 400};
    lb_answer answer;
    lb_err err = {0};
    (void)state;
    stop_server(s);
    assert_int_equal(lb_client_call(client, &call, &answer, &err), LB_ENET);
    assert_non_null(strstr(err.message, "127.0.0.1"));
    assert_null(strstr(err.message, "sk-1"));
    lb_client_free(client);
    free(s);
}

static void test_urls(void **state)
{
    static const char *const bad[] = {"", "127.0.0.1:80", "ftp://x", "file:///etc/passwd"};
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        lb_client *client = NULL;
        lb_err err = {0};
        lb_client_config config = {.url = bad[i]};
        assert_int_equal(lb_client_create(&config, &client, &err), LB_EINVAL);
        assert_string_equal(err.field, "url");
        assert_null(client);
    }
    lb_client_free(NULL);
    lb_answer_free(NULL);
}

/* ---- lb_answer_check ---- */

static void test_answer_check(void **state)
{
    static const struct {
        int code;
        const char *body;
        lb_status status;
        const char *field, *message;
    } rows[] = {
        {200, "anything", LB_OK, "", ""},
        {204, NULL, LB_OK, "", ""},
        {400, "{\"error\":{\"message\":\"no good\",\"param\":\"seed\"}}", LB_EINVAL, "seed",
         "no good"},
        {404, "{\"error\":{\"message\":\"gone\",\"param\":null}}", LB_ENOTFOUND, "", "gone"},
        {401, "{\"error\":\"text\"}", LB_EAUTH, "", "the server answered with status 401"},
        {409, "{\"error\":{\"message\":5,\"param\":{}}}", LB_ECONFLICT, "",
         "the server answered with status 409"},
        {413, "<html>", LB_ETOOBIG, "", "the server answered with status 413"},
        {503, NULL, LB_EUNAVAILABLE, "", "the server answered with status 503"},
        {302, "", LB_EINVAL, "", "the server answered with status 302"},
        {400, "{\"error\":{\"message\":\"100%s %n\"}}", LB_EINVAL, "", "100%s %n"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        lb_answer answer = {.code = rows[i].code};
        lb_err err = {0};
        if (rows[i].body)
            lb_buf_puts(&answer.body, rows[i].body);
        lb_status status = lb_answer_check(&answer, &err);
        if (status != rows[i].status)
            fail_msg("%d: %s", rows[i].code, lb_status_name(status));
        assert_string_equal(err.field, rows[i].field);
        assert_string_equal(err.message, rows[i].message);
        lb_answer_free(&answer);
    }
}

/* ---- lb_retry ---- */

static void test_retry_bounds(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        lb_retry retry;
        lb_retry_init(&retry, seed);
        for (uint32_t tries = 1; tries <= (uint32_t)LB_RETRY_TOKENS; tries++) {
            int64_t most = tries < 7 ? (int64_t)LB_RETRY_LEAST_MS << tries : LB_RETRY_MOST_MS;
            int64_t wait = lb_retry_wait(&retry, tries, -1);
            assert_in_range(wait, LB_RETRY_LEAST_MS, most);
        }
        assert_int_equal(lb_retry_wait(&retry, 1, -1), -1);
        assert_int_equal(lb_retry_wait(&retry, 1, 0), -1);
    }
}

static void test_retry_after(void **state)
{
    lb_retry retry;
    (void)state;
    lb_retry_init(&retry, 1);
    assert_int_equal(lb_retry_wait(&retry, 1, 3000), 3000);
    assert_in_range(lb_retry_wait(&retry, 1, 0), LB_RETRY_LEAST_MS, 2 * LB_RETRY_LEAST_MS);
    assert_int_equal(lb_retry_wait(&retry, UINT32_MAX, 60000), 60000);
}

/* Ten calls give one retry back, and no pile of calls gives more than the whole budget. */
static void test_retry_refill(void **state)
{
    lb_retry retry;
    int granted = 0;
    (void)state;
    lb_retry_init(&retry, 1);
    while (lb_retry_wait(&retry, 1, -1) > 0)
        granted++;
    assert_int_equal(granted, LB_RETRY_TOKENS);
    for (int i = 0; i < 11; i++)
        lb_retry_call(&retry);
    assert_true(lb_retry_wait(&retry, 1, -1) > 0);
    assert_int_equal(lb_retry_wait(&retry, 1, -1), -1);
    for (int i = 0; i < 1000; i++)
        lb_retry_call(&retry);
    for (granted = 0; lb_retry_wait(&retry, 1, -1) > 0; granted++) {
    }
    assert_int_equal(granted, LB_RETRY_TOKENS);
}

/* ---- lb_key_load ---- */

static void test_key_load(void **state)
{
    static const struct {
        const char *text;
        mode_t mode;
        lb_status status;
        const char *key;
    } rows[] = {
        {"sk-abc\n", 0600, LB_OK, "sk-abc"},
        {"\r\n  sk-abc  \r\nsecond\n", 0400, LB_OK, "sk-abc"},
        {"123456789012345", 0600, LB_OK, "123456789012345"},
        {"1234567890123456", 0600, LB_EINVAL, ""},
        {"sk-abc\n", 0644, LB_EAUTH, ""},
        {"sk-abc\n", 0620, LB_EAUTH, ""},
        {"", 0600, LB_EINVAL, ""},
        {"\n\n", 0600, LB_EINVAL, ""},
    };
    char dir[] = "/tmp/limbeck-client-XXXXXX", path[64], key[16];
    lb_err err = {0};
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/key", dir);
    for (size_t i = 0; i < COUNT(rows); i++) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fputs(rows[i].text, file);
        fclose(file);
        assert_int_equal(chmod(path, rows[i].mode), 0);
        key[0] = '\0';
        lb_status status = lb_key_load(path, key, sizeof key, &err);
        if (status != rows[i].status)
            fail_msg("row %zu: %s %s", i, lb_status_name(status), err.message);
        assert_string_equal(key, rows[i].key);
        if (status != LB_OK)
            assert_string_equal(err.field, "key-file");
        unlink(path);
    }
    assert_int_equal(lb_key_load(path, key, sizeof key, &err), LB_ENOTFOUND);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scripts),
        cmocka_unit_test(test_request_lines),
        cmocka_unit_test(test_request_id_of_last_try),
        cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_nobody_there),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_answer_check),
        cmocka_unit_test(test_retry_bounds),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_retry_refill),
        cmocka_unit_test(test_key_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
