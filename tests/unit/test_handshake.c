/* SPDX-License-Identifier: Apache-2.0 */
#include "common/train/handshake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void fill(char *sha, char digit)
{
    memset(sha, digit, LB_SHA256_HEX - 1);
    sha[LB_SHA256_HEX - 1] = 0;
}

static lb_handshake good(void)
{
    lb_handshake h = {
        .student = {.model = "s", .vocab = 100, .stops = {2, 7}, .stop_count = 2},
        .teacher = {.model = "t", .vocab = 120, .stops = {2, 7}, .stop_count = 2},
        .probe = {.sequences = 4, .tokens = 50, .teacher_logprob = -1.25, .student_logprob = -2,
                  .at_change = 0.5},
        .teacher_version = 0xfedcba9876543210u,
    };
    fill(h.student.model_sha, 'a');
    fill(h.teacher.model_sha, 'b');
    fill(h.student.tokenizer_sha, 'c');
    fill(h.teacher.tokenizer_sha, 'c');
    fill(h.student.template_sha, 'd');
    return h;
}

static lb_status reparse(const lb_handshake *h, const char *find, const char *put,
                         lb_handshake *out, lb_err *err)
{
    lb_buf text = {0}, changed = {0};
    lb_jsonw w = {.out = &text};
    lb_json *json = NULL;
    lb_handshake_write(h, &w);
    char *at = find ? strstr((char *)text.data, find) : (char *)text.data;
    assert_non_null(at);
    lb_buf_append(&changed, text.data, (size_t)(at - (char *)text.data));
    if (find) {
        lb_buf_puts(&changed, put);
        at += strlen(find);
    }
    lb_buf_puts(&changed, at);
    assert_int_equal(lb_json_parse((const char *)changed.data, changed.length, &json, err), LB_OK);
    lb_status status = lb_handshake_parse(json, out, err);
    lb_json_free(json);
    lb_buf_free(&text);
    lb_buf_free(&changed);
    return status;
}

static void test_round_trip(void **state)
{
    (void)state;
    lb_handshake h = good(), back = {0};
    lb_err err = {0};
    assert_int_equal(reparse(&h, NULL, NULL, &back, &err), LB_OK);
    assert_memory_equal(&h, &back, sizeof h);
    assert_int_equal(lb_handshake_judge(&back, 0, &err), LB_OK);
    assert_int_equal(lb_handshake_compare(&h, &back, &err), LB_OK);
}

static void test_parse_names_the_member(void **state)
{
    (void)state;
    const char *const rows[][3] = {
        {"\"student\":", "\"pupil\":", "student"},
        {"\"model\":\"s\"", "\"model\":3", "student.model"},
        {"\"tokenizer_sha256\":\"cc", "\"tokenizer_sha256\":\"xx", "student.tokenizer_sha256"},
        {"\"vocab\":100", "\"vocab\":0", "student.vocab"},
        {"\"vocab\":100", "\"vocab\":4294967296", "student.vocab"},
        {"[2,7]", "[7,2]", "student.stop_ids"},
        {"[2,7]", "[-1,2]", "student.stop_ids"},
        {"[2,7]", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]", "student.stop_ids"},
        {"\"fedcba", "\"Fedcba", "teacher_version"},
        {"\"sequences\":4", "\"sequences\":-4", "probe.sequences"},
        {"\"tokens\":50", "\"tokens\":2147483648", "probe.tokens"},
        {"\"teacher_logprob\":-1.25", "\"teacher_logprob\":1", "probe.teacher_logprob"},
        {"\"teacher_noise\":0", "\"teacher_noise\":null", "probe.teacher_noise"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lb_handshake h = good(), back = {0};
        lb_err err = {0};
        if (reparse(&h, rows[i][0], rows[i][1], &back, &err) == LB_OK ||
            strcmp(err.field, rows[i][2]) != 0)
            fail_msg("%s: field %s", rows[i][1], err.field);
    }
}

static void judge(const lb_handshake *h, unsigned allow, const char *field, const char *figure)
{
    lb_err err = {0};
    assert_int_equal(lb_handshake_judge(h, allow, &err), field ? LB_ECONFLICT : LB_OK);
    if (field)
        assert_string_equal(err.field, field);
    if (field && !strstr(err.message, figure))
        fail_msg("no %s in: %s", figure, err.message);
}

static void test_judgement(void **state)
{
    (void)state;
    lb_handshake h = good();
    h.teacher.tokenizer_sha[3] = 'd';
    judge(&h, 3, "teacher.tokenizer_sha256", "100 and 120");
    h = good();
    h.teacher.stops[1] = 8;
    judge(&h, 0, "teacher.stop_ids", "[2 8]");
    judge(&h, LB_ALLOW_CHAT_TEMPLATE, "teacher.stop_ids", "[2 7]");
    judge(&h, LB_ALLOW_STOP_IDS, NULL, NULL);
    h = good();
    fill(h.teacher.template_sha, 'e');   /* one without a template would do */
    judge(&h, LB_ALLOW_STOP_IDS, "teacher.chat_template_sha256", "eeee");
    judge(&h, LB_ALLOW_CHAT_TEMPLATE, NULL, NULL);
    h = good();
    h.probe.tokens = 0;
    judge(&h, 3, "probe.tokens", "nothing");
    h = good();
    h.probe.teacher_noise = 0.06;
    judge(&h, 3, "probe.teacher_noise", "0.06");
    h = good();
    h.probe.sampler_noise = 0.07;
    judge(&h, 3, "probe.sampler_noise", "0.07");
    h = good();
    h.probe.before_change = 0.3;
    judge(&h, 3, "probe.before_change", "0.3");
    h = good();
    h.probe.at_change = 0;
    judge(&h, 3, "probe.at_change", "no more than");
}

static void test_comparison(void **state)
{
    (void)state;
    lb_handshake h = good(), rows[] = {h, h, h, h, h, h};
    const char *const fields[] = {
        "teacher.model_sha256", "teacher.model_sha256", "teacher.tokenizer_sha256",
        "teacher.stop_ids", "teacher.chat_template_sha256", "probe.teacher_logprob",
    };
    rows[0].teacher.model_sha[0] = '0';
    rows[1].teacher_version++;
    rows[2].teacher.tokenizer_sha[0] = '0';
    rows[3].teacher.stop_count = 1;
    fill(rows[4].teacher.template_sha, 'f');
    rows[5].probe.teacher_logprob -= 0.02;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lb_err err = {0};
        assert_int_equal(lb_handshake_compare(&h, &rows[i], &err), LB_ECONFLICT);
        assert_string_equal(err.field, fields[i]);
    }
    lb_handshake near = h;
    near.probe.teacher_logprob += 0.005;
    assert_int_equal(lb_handshake_compare(&h, &near, NULL), LB_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_parse_names_the_member),
        cmocka_unit_test(test_judgement),
        cmocka_unit_test(test_comparison),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
