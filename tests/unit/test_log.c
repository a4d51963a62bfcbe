/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define CAPTURE_BYTES 8192

typedef struct capture {
    int pipe[2], saved;
} capture;

static void begin(capture *c)
{
    assert_int_equal(pipe(c->pipe), 0);
    c->saved = dup(STDERR_FILENO);
    assert_true(c->saved >= 0);
    assert_true(dup2(c->pipe[1], STDERR_FILENO) >= 0);
    close(c->pipe[1]);
}

/* What was written to stderr since begin(). */
static const char *end(capture *c, char text[CAPTURE_BYTES])
{
    assert_true(dup2(c->saved, STDERR_FILENO) >= 0);
    close(c->saved);
    ssize_t n = read(c->pipe[0], text, CAPTURE_BYTES - 1);
    assert_true(n >= 0);
    text[n] = '\0';
    close(c->pipe[0]);
    return text;
}

static void test_line(void **state)
{
    (void)state;
    capture c;
    char text[CAPTURE_BYTES];
    lb_log_init("teacher", LB_LOG_INFO);
    begin(&c);
    lb_log(LB_LOG_DEBUG, "hidden", NULL);
    lb_log(LB_LOG_INFO, "score_done", "job=%s tokens=%d", "j7", 8192);
    lb_log(LB_LOG_ERROR, "stopped", NULL);
    end(&c, text);
    int year, month, day, hour, minute, second, ms, used = 0;
    assert_int_equal(sscanf(text, "ts=%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %n", &year, &month, &day, &hour,
                            &minute, &second, &ms, &used), 7);
    assert_int_equal(used, (int)strlen("ts=2000-01-01T00:00:00.000Z "));
    assert_true(year >= 2024);
    const char *rest = text + used;
    const char *first = "level=info role=teacher event=score_done job=j7 tokens=8192\n";
    assert_int_equal(strncmp(rest, first, strlen(first)), 0);
    assert_non_null(strstr(rest, "level=error role=teacher event=stopped\n"));
    assert_null(strstr(text, "hidden"));
}

static void test_level_words(void **state)
{
    (void)state;
    lb_log_level level = LB_LOG_INFO;
    const char *words[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++) {
        assert_true(lb_log_level_parse(words[i], &level));
        assert_int_equal(level, i);
    }
    assert_false(lb_log_level_parse("Info", &level));
    assert_false(lb_log_level_parse("", &level));
    assert_int_equal(level, LB_LOG_ERROR);
}

/* A line is cut at its maximum, ends with one newline, and holds no other. */
static void test_long_and_forged_lines(void **state)
{
    (void)state;
    capture c;
    char text[CAPTURE_BYTES], longer[3000];
    lb_log_init("worker", LB_LOG_DEBUG);
    for (size_t length = 1900; length < 2100; length++) {
        memset(longer, 'x', length);
        longer[length] = '\0';
        begin(&c);
        lb_log(LB_LOG_WARN, "long", "value=%s", longer);
        end(&c, text);
        assert_true(strlen(text) < 2048);
        assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    }
    begin(&c);
    lb_log(LB_LOG_WARN, "forged", "value=%s", "a\nts=2000 level=error\r\x1b[31m");
    end(&c, text);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_null(strchr(text, '\x1b'));
}

static void test_quote(void **state)
{
    static const struct {
        const char *value, *quoted;
    } cases[] = {
        {"", "\"\""},
        {"plain", "\"plain\""},
        {"two words", "\"two words\""},
        {"a\nb\"c\\d\x01", "\"a\\nb\\\"c\\\\d?\""},
    };
    (void)state;
    char out[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(lb_log_quote(out, sizeof out, cases[i].value), cases[i].quoted);
    /* However small the room, the end is a quote and a NUL inside it. */
    for (size_t size = 1; size < 24; size++) {
        memset(out, '#', sizeof out);
        lb_log_quote(out, size, "abc\n\n\n\n\n\n\n\nabc");
        assert_true(strlen(out) < size);
        assert_int_equal(out[size], '#');
        assert_true(size < 3 || out[strlen(out) - 1] == '"');
    }
}

static void test_err_line(void **state)
{
    (void)state;
    capture c;
    char text[CAPTURE_BYTES];
    lb_err err = {0};
    lb_log_init("worker", LB_LOG_INFO);
    lb_fail(&err, LB_EDATA, "layers.0.q proj\n", "it \"ends\" early");
    begin(&c);
    lb_log_err(LB_LOG_WARN, "load_failed", &err);
    end(&c, text);
    assert_non_null(strstr(text, "level=warn role=worker event=load_failed error=invalid_data "
                                 "field=\"layers.0.q proj\\n\" message=\"it \\\"ends\\\" early\""));
    lb_fail(&err, LB_EIO, "model.safetensors", "no");
    begin(&c);
    lb_log_err(LB_LOG_WARN, "load_failed", &err);
    assert_non_null(strstr(end(&c, text), "error=io_error field=model.safetensors message=\"no\""));
    lb_fail(&err, LB_EIO, NULL, "no");
    begin(&c);
    lb_log_err(LB_LOG_WARN, "load_failed", &err);
    assert_non_null(strstr(end(&c, text), "error=io_error message=\"no\"\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_level_words),
        cmocka_unit_test(test_long_and_forged_lines),
        cmocka_unit_test(test_quote),
        cmocka_unit_test(test_err_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
