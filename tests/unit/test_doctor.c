/* SPDX-License-Identifier: Apache-2.0
 *
 * The doctor against fakes, each with one flaw, which it has to tell from all others.
 */
#include "client/cli/doctor.h"
#include "common/base/clock.h"
#include "server/http/http.h"
#include "tests/check.h"
#include "tests/unit/fake_teacher.h"

#define TIMEOUT_MS 20000
#define TOTAL_MS 60000
#define VLLM SPEAKS_PROMPT_LOGPROBS
#define COUNT(rows) (sizeof rows / sizeof *rows)

typedef struct flaw_case {
    const char *name;
    flaw flaw;
    unsigned speaks;
    uint32_t max_k;
    const char *subject;       /* of the finding that tells it */
    lb_verdict verdict;
    const char *words;         /* in its text */
} flaw_case;

static void examine(const flaw_case *c, lb_doctor_options *options, lb_doctor *doctor)
{
    fake f = {.flaw = c->flaw, .speaks = c->speaks, .max_k = c->max_k};
    lb_http_config config = {.listen = "127.0.0.1:0", .routes = FAKE_ROUTES, .daemon = &f,
                             .route_count = COUNT(FAKE_ROUTES), .server_name = "fake"};
    lb_err err = {0};
    assert_int_equal(lb_http_start(&config, &f.http, NULL), LB_OK);
    options->url = lb_http_url(f.http);
    if (lb_doctor_teacher(options, doctor, &err) != LB_OK)
        fail_msg("%s: %s %s", c->name, err.field, err.message);
    lb_http_stop(f.http, TIMEOUT_MS);    /* the harness sees that the doctor left */
}

static void print_findings(const lb_doctor *doctor)
{
    for (size_t i = 0; i < doctor->count; i++)
        print_message("    %d %s: %s\n", doctor->findings[i].verdict, doctor->findings[i].subject,
                      doctor->findings[i].text);
}

static void check(const flaw_case *c)
{
    lb_doctor doctor = {0};
    lb_doctor_options options = {.timeout_ms = TIMEOUT_MS, .total_ms = TOTAL_MS, .repeat = 4};
    examine(c, &options, &doctor);
    const lb_finding *f = lb_doctor_worst(&doctor, c->subject);
    const lb_finding *worst = lb_doctor_worst(&doctor, NULL);
    if (!f || f->verdict != c->verdict || !strstr(f->text, c->words)) {
        print_findings(&doctor);
        fail_msg("%s: no finding %d '%s: ...%s...'", c->name, c->verdict, c->subject, c->words);
    }
    /* The flaw is the first thing that is wrong, and a sound teacher has none. */
    if (worst->verdict != c->verdict && worst->verdict == LB_VERDICT_FAIL) {
        print_findings(&doctor);
        fail_msg("%s: also %s: %s", c->name, worst->subject, worst->text);
    }
}

static const flaw_case SOUND_ONES[] = {
    {"vLLM", SOUND, VLLM, 20, "shift", LB_VERDICT_OK, "entry t is about token t"},
    {"vLLM: k", SOUND, VLLM, 20, "logprobs", LB_VERDICT_OK, "k up to 20"},
    {"vLLM: odd k", SOUND, VLLM, 77, "logprobs", LB_VERDICT_OK, "k up to 77"},
    {"vLLM: k = 1", SOUND, VLLM, 1, "logprobs", LB_VERDICT_OK, "k up to 1"},
    {"vLLM: k = 0", SOUND, VLLM, 0, "logprobs", LB_VERDICT_NOTE, "k = 0 is the largest"},
    {"vLLM: logs", SOUND, VLLM, 20, "logs", LB_VERDICT_OK, "natural logs"},
    {"vLLM: raw", SOUND, VLLM, 20, "temperature", LB_VERDICT_OK, "raw"},
    {"vLLM: steady", SOUND, VLLM, 20, "determinism", LB_VERDICT_OK, "all answers are the same"},
    {"vLLM: context", SOUND, VLLM, 20, "context", LB_VERDICT_OK, "512 tokens"},
    {"vLLM: body", SOUND, VLLM, 20, "body", LB_VERDICT_OK, "refused with 413"},
    {"vLLM: dialect", SOUND, VLLM, 20, "dialect", LB_VERDICT_OK, "vllm, by token ids"},
    {"echo", SOUND, SPEAKS_ECHO, 20, "dialect", LB_VERDICT_OK, "measured with echo"},
    {"echo: shift", SOUND, SPEAKS_ECHO, 20, "shift", LB_VERDICT_OK, "(3 of 3)"},
    {"echo with text", SOUND, SPEAKS_ECHO | ECHO_WITH_TEXT, 20, "shift", LB_VERDICT_OK, "(0 of 3)"},
    {"SGLang", SOUND, SPEAKS_SGLANG, 20, "dialect", LB_VERDICT_OK, "measured with sglang"},
    {"SGLang: shift", SOUND, SPEAKS_SGLANG, 20, "shift", LB_VERDICT_OK, "(3 of 3)"},
    {"both", SOUND, VLLM | SPEAKS_ECHO, 20, "dialects", LB_VERDICT_OK, "differ by 0"},
};

static void test_sound(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(SOUND_ONES); i++)
        check(&SOUND_ONES[i]);
}

static const flaw_case SHIFTS[] = {
    {"next, by name", NEXT, VLLM, 20, "shift", LB_VERDICT_FAIL, "about token t+1"},
    {"next, SGLang", NEXT, SPEAKS_SGLANG, 20, "shift", LB_VERDICT_FAIL, "about token t+1"},
    {"next, without names", NEXT, SPEAKS_ECHO, 20, "shift", LB_VERDICT_FAIL, "about token t+1"},
    {"late", LATE, SPEAKS_ECHO | ECHO_WITH_TEXT, 20, "shift", LB_VERDICT_FAIL, "about token t-1"},
    {"late, by name", LATE, VLLM, 20, "shift", LB_VERDICT_FAIL, "do not hold their token"},
    {"row ahead", ROW_AHEAD, VLLM, 20, "shift", LB_VERDICT_FAIL, "the next token's"},
    {"two ways", TWO_WAYS, VLLM, 20, "shift", LB_VERDICT_FAIL, "not causal"},
    {"no null", NO_NULL, VLLM, 20, "shape", LB_VERDICT_FAIL, "the leading null is missing"},
    {"holes", HOLES, VLLM, 20, "shape", LB_VERDICT_FAIL, "no value"},
};

static void test_shifts(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(SHIFTS); i++)
        check(&SHIFTS[i]);
}

static const flaw_case FIGURES[] = {
    {"tempered", TEMPERED, VLLM, 20, "temperature", LB_VERDICT_NOTE, "applied"},
    {"tempered, SGLang", TEMPERED, SPEAKS_SGLANG, 20, "temperature", LB_VERDICT_NOTE, "applied"},
    {"tempered by default", TEMPERED_BY_DEFAULT, VLLM, 20, "temperature", LB_VERDICT_FAIL,
     "a default of its own"},
    {"unsteady", UNSTEADY, VLLM, 20, "determinism", LB_VERDICT_NOTE, "alone, answers"},
    {"unsteady in a batch", UNSTEADY_IN_BATCH, VLLM, 20, "determinism", LB_VERDICT_NOTE,
     "in a request with others, answers"},
    {"decimal", DECIMAL_LOGS, VLLM, 20, "logs", LB_VERDICT_FAIL, "base 10"},
    {"logits", RAW_LOGITS, VLLM, 20, "logs", LB_VERDICT_FAIL, "not normalised"},
    {"positive", POSITIVE, VLLM, 20, "logs", LB_VERDICT_FAIL, "never above 0"},
    {"cut k", CUT_K, VLLM, 20, "logprobs", LB_VERDICT_NOTE, "is granted, but gives 5"},
    {"cut context", CUT_CONTEXT, VLLM, 20, "context", LB_VERDICT_FAIL, "is not refused"},
};

static void test_figures(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(FIGURES); i++)
        check(&FIGURES[i]);
}

static const flaw_case BROKEN[] = {
    {"text only", TEXT_ONLY, VLLM, 20, "dialect", LB_VERDICT_FAIL, "no route gives logprobs"},
    {"no logprobs", NO_LOGPROBS, VLLM, 20, "dialect", LB_VERDICT_FAIL, "no route gives logprobs"},
    {"NaN", NAN_VALUES, VLLM, 20, "dialect", LB_VERDICT_FAIL, "no route gives logprobs"},
    {"no JSON", NOT_JSON, VLLM, 20, "dialect", LB_VERDICT_FAIL, "is not JSON"},
    {"deep JSON", DEEP_JSON, VLLM, 20, "dialect", LB_VERDICT_FAIL, "is not JSON"},
    {"huge reply", HUGE_REPLY, VLLM, 20, "dialect", LB_VERDICT_FAIL, "no route gives logprobs"},
    {"500", ONLY_500, VLLM, 20, "dialect", LB_VERDICT_FAIL, "500 CUDA error"},
};

static void test_broken(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(BROKEN); i++)
        check(&BROKEN[i]);
}

static void test_hanging(void **state)
{
    (void)state;
    const flaw_case c = {.name = "hangs", .flaw = HANGS, .speaks = VLLM, .max_k = 20};
    lb_doctor_options options = {.timeout_ms = 200, .total_ms = 600, .repeat = 2};
    lb_doctor doctor = {0};
    int64_t began = lb_clock_ms();
    examine(&c, &options, &doctor);
    assert_true(lb_clock_ms() - began < TIMEOUT_MS);
    assert_int_equal(lb_doctor_worst(&doctor, "dialect")->verdict, LB_VERDICT_FAIL);
}

static void test_nobody(void **state)
{
    (void)state;
    lb_doctor_options options = {.url = "http://127.0.0.1:9", .timeout_ms = 2000,
                                 .total_ms = 4000, .repeat = 2};
    lb_doctor doctor = {0};
    lb_err err = {0};
    assert_int_equal(lb_doctor_teacher(&options, &doctor, &err), LB_ENET);
    options.url = "ftp://127.0.0.1";
    assert_int_not_equal(lb_doctor_teacher(&options, &doctor, &err), LB_OK);
    options.tokens = "1,2,3";
    assert_int_equal(lb_doctor_teacher(&options, &doctor, &err), LB_EINVAL);
    assert_string_equal(err.field, "tokens");
}

/* What a peer says must not move the cursor. */
static void test_terminal(void **state)
{
    (void)state;
    const flaw_case c = {.name = "escapes", .flaw = ESCAPES, .speaks = VLLM, .max_k = 20};
    lb_doctor_options options = {.timeout_ms = TIMEOUT_MS, .total_ms = TOTAL_MS, .repeat = 2};
    lb_doctor doctor = {0};
    examine(&c, &options, &doctor);
    assert_non_null(strstr(lb_doctor_worst(&doctor, "model")->text, "?[2Jgone?"));
    for (size_t i = 0; i < doctor.count; i++) {
        for (const char *at = doctor.findings[i].text; *at; at++)
            assert_in_range(*at, ' ', '~');
    }
}

static void test_another_model(void **state)
{
    (void)state;
    const flaw_case c = {.name = "unknown model", .flaw = SOUND, .speaks = VLLM, .max_k = 20};
    lb_doctor_options options = {.timeout_ms = TIMEOUT_MS, .total_ms = TOTAL_MS, .repeat = 2,
                                 .model = "other"};
    lb_doctor doctor = {0};
    examine(&c, &options, &doctor);
    assert_int_equal(lb_doctor_worst(&doctor, "model")->verdict, LB_VERDICT_FAIL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),   cmocka_unit_test(test_shifts),
        cmocka_unit_test(test_figures), cmocka_unit_test(test_broken),
        cmocka_unit_test(test_hanging), cmocka_unit_test(test_nobody),
        cmocka_unit_test(test_terminal), cmocka_unit_test(test_another_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
