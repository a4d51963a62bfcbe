/* SPDX-License-Identifier: Apache-2.0
 *
 * What the HTTP client does on the wire beside the plain cases: the forms of Retry-After, large
 * bodies sent anew, a connection kept, the environment's proxies, a peer that takes no connection.
 */
#include "common/net/client.h"
#include "tests/check.h"

#include "tests/unit/http_raw.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#define STEPS_MAX 16
#define SOON_MS 3000          /* what is done at once; sanitizers on a busy machine */
#define OK_REPLY "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Request-Id: r7\r\n\r\nok"

typedef enum act { REPLY, DROP, REPLY_AND_KEEP } act;

/* What the server does with one request: each comes on a connection of its own, but after KEEP. */
typedef struct step {
    act act;
    const char *reply;
} step;

typedef struct stage {
    int listener;
    uint16_t port;
    char url[64];
    const step *steps;
    size_t count;
    pthread_t thread;
    atomic_bool stop;
    atomic_size_t played;          /* requests seen */
    atomic_size_t connections;
    char requests[STEPS_MAX][4096];
    size_t body_bytes[STEPS_MAX];
} stage;

/* Reads a request: its head and, when small, its body into text. False if the peer left. */
static bool read_request(int fd, char text[4096], size_t *body)
{
    size_t length = 0, wanted = 0;
    char *end = NULL, *field;
    char rest[65536];
    while (!end) {
        ssize_t n = recv(fd, text + length, 4095 - length, 0);
        if (n <= 0)
            return false;
        length += (size_t)n;
        text[length] = '\0';
        end = strstr(text, "\r\n\r\n");
    }
    field = strcasestr(text, "\r\nContent-Length:");
    if (field)
        wanted = strtoul(field + 17, NULL, 10);
    *body = length - (size_t)(end + 4 - text);
    while (*body < wanted) {
        ssize_t n = recv(fd, rest, sizeof rest, 0);
        if (n <= 0)
            return false;
        *body += (size_t)n;
        if (length + (size_t)n < 4096) {
            memcpy(text + length, rest, (size_t)n);
            length += (size_t)n;
            text[length] = '\0';
        }
    }
    return true;
}

static void drop(int fd)
{
    struct linger hard = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
}

static void *play(void *arg)
{
    stage *s = arg;
    int fd = -1;
    for (size_t i = 0; i < s->count; i++) {
        while (fd < 0) {
            struct pollfd p = {.fd = s->listener, .events = POLLIN};
            if (atomic_load(&s->stop))
                return NULL;
            if (poll(&p, 1, 20) > 0) {
                fd = accept(s->listener, NULL, NULL);
                atomic_fetch_add(&s->connections, 1);
            }
        }
        if (!read_request(fd, s->requests[i], &s->body_bytes[i])) {
            close(fd);
            fd = -1;
            i--;
            continue;
        }
        atomic_fetch_add(&s->played, 1);
        if (s->steps[i].reply)
            put_text(fd, s->steps[i].reply);
        if (s->steps[i].act == DROP)
            drop(fd);
        else if (s->steps[i].act == REPLY)
            close(fd);
        fd = s->steps[i].act == REPLY_AND_KEEP ? fd : -1;
    }
    if (fd >= 0)
        close(fd);
    return NULL;
}

static void raise_stage(stage *s, const step *steps, size_t count)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    *s = (stage){.steps = steps, .count = count};
    assert_true(count <= STEPS_MAX);
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->listener, (const struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(s->listener, 16), 0);
    assert_int_equal(getsockname(s->listener, (struct sockaddr *)&at, &length), 0);
    s->port = ntohs(at.sin_port);
    snprintf(s->url, sizeof s->url, "http://127.0.0.1:%u", s->port);
    assert_int_equal(pthread_create(&s->thread, NULL, play, s), 0);
}

static void strike_stage(stage *s)
{
    atomic_store(&s->stop, true);
    pthread_join(s->thread, NULL);
    close(s->listener);
}

static lb_client *make_client(const char *url)
{
    lb_client *client = NULL;
    lb_client_config config = {.url = url, .key = "secret", .user_agent = "test/1", .seed = 5};
    assert_int_equal(lb_client_create(&config, &client, NULL), LB_OK);
    return client;
}

/* ---- retries ---- */

static void test_retry_after_is_obeyed(void **state)
{
    (void)state;
    static const step steps[] = {
        {REPLY, "HTTP/1.1 503 x\r\nretry-after:  1\r\nContent-Length: 0\r\n\r\n"},
        {REPLY, OK_REPLY},
        {REPLY, "HTTP/1.1 503 x\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n"},
        {REPLY, "HTTP/1.1 503 x\r\nRetry-After: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
                "Content-Length: 0\r\n\r\n"},
        {REPLY, OK_REPLY},
    };
    stage s;
    lb_answer answer;
    raise_stage(&s, steps, sizeof steps / sizeof *steps);
    lb_client *client = make_client(s.url);
    lb_call call = {.method = "GET", .path = "/x", .timeout_ms = 20000};
    int64_t began = lb_clock_ms();
    assert_int_equal(lb_client_call(client, &call, &answer, NULL), LB_OK);
    assert_int_equal(answer.code, 200);
    assert_true(lb_clock_ms() - began >= 1000);
    lb_answer_free(&answer);
    /* Longer than the call may take: the refusal is what the caller gets, at once. */
    began = lb_clock_ms();
    assert_int_equal(lb_client_call(client, &call, &answer, NULL), LB_OK);
    assert_int_equal(answer.code, 503);
    assert_true(lb_clock_ms() - began < SOON_MS);
    lb_answer_free(&answer);
    assert_int_equal(lb_client_call(client, &call, &answer, NULL), LB_OK);
    assert_int_equal(answer.code, 200);
    lb_answer_free(&answer);
    lb_client_free(client);
    strike_stage(&s);
}

/* A peer that takes no connection is tried again for as long as the call may take. */
static void test_connection_timeout(void **state)
{
    (void)state;
    lb_answer answer;
    lb_err err = {0};
    char url[64];
    int waiting[3];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (const struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(listener, 0), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &length), 0);
    for (int i = 0; i < 3; i++) {     /* they fill the queue of connections */
        waiting[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)!connect(waiting[i], (const struct sockaddr *)&at, sizeof at);
    }
    snprintf(url, sizeof url, "http://127.0.0.1:%u", ntohs(at.sin_port));
    lb_client *client = make_client(url);
    lb_call call = {.method = "GET", .path = "/x", .timeout_ms = 6500};
    int64_t began = lb_clock_ms();
    assert_int_equal(lb_client_call(client, &call, &answer, &err), LB_ETIMEOUT);
    /* One connection is given 5 s. */
    assert_true(lb_clock_ms() - began >= 6300);
    lb_client_free(client);
    for (int i = 0; i < 3; i++)
        close(waiting[i]);
    close(listener);
}

/* ---- what is sent ---- */

static void test_connection_is_kept(void **state)
{
    (void)state;
    static const step steps[] = {{REPLY_AND_KEEP, OK_REPLY}, {REPLY_AND_KEEP, OK_REPLY},
                                 {REPLY_AND_KEEP, OK_REPLY}};
    const char *const methods[] = {"GET", "POST", "DELETE"};
    stage s;
    raise_stage(&s, steps, 3);
    lb_client *client = make_client(s.url);
    for (size_t i = 0; i < 3; i++) {
        lb_answer answer;
        lb_call call = {.method = methods[i], .path = "/x"};
        assert_int_equal(lb_client_call(client, &call, &answer, NULL), LB_OK);
        lb_answer_free(&answer);
    }
    lb_client_free(client);
    strike_stage(&s);
    assert_int_equal(atomic_load(&s.connections), 1);
    assert_non_null(strcasestr(s.requests[1], "\r\nContent-Length: 0\r\n"));
}

static void test_large_bodies(void **state)
{
    (void)state;
    static const step steps[] = {{DROP, NULL}, {REPLY, OK_REPLY}, {REPLY, OK_REPLY}};
    const char *const methods[] = {"PUT", "POST"};
    size_t length = (size_t)6 << 20;
    stage s;
    char *body = calloc(1, length);
    raise_stage(&s, steps, 3);
    lb_client *client = make_client(s.url);
    for (size_t i = 0; i < 2; i++) {
        lb_answer answer;
        lb_call call = {.method = methods[i], .path = "/x", .body = body, .length = length,
                        .content_type = "a/b"};
        assert_int_equal(lb_client_call(client, &call, &answer, NULL), LB_OK);
        assert_int_equal(answer.tries, i == 0 ? 2 : 1);
        lb_answer_free(&answer);
    }
    lb_client_free(client);
    strike_stage(&s);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(s.body_bytes[i], length);
    free(body);
}

static void test_proxies_of_the_environment(void **state)
{
    (void)state;
    static const step steps[] = {{REPLY, OK_REPLY}};
    stage s;
    lb_answer answer;
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("all_proxy", "http://127.0.0.1:1", 1);
    raise_stage(&s, steps, 1);
    lb_client *client = make_client(s.url);
    lb_call call = {.method = "GET", .path = "/x", .no_retry = true};
    assert_int_equal(lb_client_call(client, &call, &answer, NULL), LB_OK);
    lb_answer_free(&answer);
    lb_client_free(client);
    strike_stage(&s);
    unsetenv("http_proxy");
    unsetenv("all_proxy");
}

/* ---- answers and keys ---- */

static void test_key_load(void **state)
{
    (void)state;
    static const struct { const char *text; mode_t mode; lb_status status; const char *key; }
    cases[] = {
        {"abc", 0600, LB_OK, "abc"}, {"\n \nabc\r\ndef\n", 0400, LB_OK, "abc"},
        {"\tabc note\n", 0600, LB_OK, "abc"}, {"# a comment\n#\n\n abc\n", 0600, LB_OK, "abc"},
        {"0123456789abcde", 0600, LB_OK, "0123456789abcde"},
        {"0123456789abcdef", 0600, LB_EINVAL, NULL}, {"", 0600, LB_EINVAL, NULL},
        {"\n\n", 0600, LB_EINVAL, NULL}, {"# only", 0600, LB_EINVAL, NULL},
        {"abc", 0644, LB_EAUTH, NULL}, {"abc", 0620, LB_EAUTH, NULL},
        {"abc", 0601, LB_EAUTH, NULL},
    };
    char path[] = "/tmp/lb-key-XXXXXX", key[16];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_err err = {0};
        size_t length = strlen(cases[i].text);
        assert_int_equal(ftruncate(fd, 0), 0);
        assert_true(pwrite(fd, cases[i].text, length, 0) == (ssize_t)length);
        assert_int_equal(fchmod(fd, cases[i].mode), 0);
        lb_status status = lb_key_load(path, key, sizeof key, &err);
        if (status != cases[i].status)
            fail_msg("case %zu gave %s", i, lb_status_name(status));
        if (status == LB_OK)
            assert_string_equal(key, cases[i].key);
        else
            assert_string_equal(err.field, "key-file");
    }
    close(fd);
    unlink(path);
    assert_int_equal(lb_key_load(path, key, sizeof key, NULL), LB_ENOTFOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_retry_after_is_obeyed),
        cmocka_unit_test(test_connection_timeout),
        cmocka_unit_test(test_connection_is_kept),
        cmocka_unit_test(test_large_bodies),
        cmocka_unit_test(test_proxies_of_the_environment),
        cmocka_unit_test(test_key_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
