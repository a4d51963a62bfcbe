/* SPDX-License-Identifier: Apache-2.0
 *
 * Losses and advantages against tests/golden/algorithm.json (float64, standard library), and the
 * identities that docs/ALGORITHM.md demands.
 */
#include "common/base/json.h"
#include "common/io/file.h"
#include "common/train/loss.h"
#include "tests/check.h"

#include <stdlib.h>
#include <string.h>

#define TOKENS 6
/* f32 inputs and outputs against float64 vectors: a few units in the last place of f32. */
#define TOLERANCE 2e-6

typedef struct golden {
    lb_buf text;
    lb_json *root;
    float sampler[TOKENS], teacher[TOKENS], learner[TOKENS];
    uint8_t mask[TOKENS];
} golden;

static void numbers(const lb_json *object, const char *key, double *out)
{
    const lb_json *array = lb_json_get(object, key);
    assert_int_equal(lb_json_array_size(array), TOKENS);
    for (size_t i = 0; i < TOKENS; i++)
        out[i] = lb_json_number(lb_json_at(array, i));
}

static void floats(const lb_json *object, const char *key, float *out)
{
    double wide[TOKENS];
    numbers(object, key, wide);
    for (size_t i = 0; i < TOKENS; i++)
        out[i] = (float)wide[i];
}

static int setup(void **state)
{
    golden *g = calloc(1, sizeof *g);
    lb_err err = {0};
    assert_non_null(g);
    assert_int_equal(lb_file_read("tests/golden/algorithm.json", 1 << 20, &g->text, &err), LB_OK);
    assert_int_equal(lb_json_parse((const char *)g->text.data, g->text.length, &g->root, &err),
                     LB_OK);
    const lb_json *alignment = lb_json_get(g->root, "alignment");
    float mask[TOKENS];
    floats(alignment, "sampler_logprobs", g->sampler);
    floats(alignment, "teacher_logprobs_aligned", g->teacher);
    floats(alignment, "mask", mask);
    floats(lb_json_get(g->root, "losses"), "learner_logprobs", g->learner);
    for (size_t i = 0; i < TOKENS; i++)
        g->mask[i] = mask[i] > 0;
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    golden *g = *state;
    lb_json_free(g->root);
    lb_buf_free(&g->text);
    free(g);
    return 0;
}

static void test_advantage(void **state)
{
    golden *g = *state;
    const struct { double discount; const char *key; } cases[] = {
        {0.0, "advantages_gamma0"}, {0.5, "advantages_gamma0_5"},
    };
    for (size_t c = 0; c < 2; c++) {
        lb_loss_config config = lb_loss_defaults(LB_LOSS_IMPORTANCE_SAMPLING);
        double want[TOKENS];
        float got[TOKENS];
        config.discount = cases[c].discount;
        numbers(lb_json_get(g->root, "alignment"), cases[c].key, want);
        assert_int_equal(lb_advantage(&config, TOKENS, g->sampler, g->teacher, g->mask, 0.0, got,
                                      NULL), LB_OK);
        /* The vectors leak onto the prompt when the discount is above 0; we mask again. */
        for (size_t t = 0; t < TOKENS; t++)
            assert_close(got[t], g->mask[t] ? want[t] : 0.0, TOLERANCE);
    }
}

static void test_gradients_match_vectors(void **state)
{
    golden *g = *state;
    const struct { lb_loss_kind kind; const char *key; } cases[] = {
        {LB_LOSS_IMPORTANCE_SAMPLING, "importance_sampling"},
        {LB_LOSS_PPO, "ppo_0_8_1_2"},
        {LB_LOSS_CISPO, "cispo_0_4"},
    };
    const lb_json *losses = lb_json_get(g->root, "losses");
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const lb_json *expected = lb_json_get(losses, cases[c].key);
        lb_loss_config config = lb_loss_defaults(cases[c].kind);
        lb_loss_sums sums = {0};
        double want[TOKENS];
        float advantage[TOKENS], grad[TOKENS];
        numbers(expected, "dloss_dlp", want);
        assert_int_equal(lb_advantage(&config, TOKENS, g->sampler, g->teacher, g->mask, 0.0,
                                      advantage, NULL), LB_OK);
        lb_loss_inputs in = {TOKENS, g->learner, g->sampler, g->teacher, advantage, g->mask};
        assert_int_equal(lb_loss_gradient(&config, &in, grad, &sums, NULL), LB_OK);
        for (size_t t = 0; t < TOKENS; t++)
            assert_close(grad[t], want[t], TOLERANCE * (1 + fabs(want[t])));
        double loss = lb_json_number(lb_json_get(expected, "loss"));
        assert_close(sums.loss, loss, TOLERANCE * (1 + fabs(loss)));
        assert_int_equal(sums.tokens, 4);
        double tokens = (double)sums.tokens;
        assert_close(sums.log_ratio / tokens,
                            lb_json_number(lb_json_get(losses, "kl_sample_train_v1")), TOLERANCE);
        assert_close(0.5 * sums.log_ratio_square / tokens,
                            lb_json_number(lb_json_get(losses, "kl_sample_train_v2")), TOLERANCE);
        assert_close(-sums.sampler_logprob / tokens,
                            lb_json_number(lb_json_get(losses, "entropy")), TOLERANCE);
        assert_close(sums.reverse_kl / tokens,
                            lb_json_number(lb_json_get(lb_json_get(g->root, "alignment"),
                                                       "teacher_kl_metric")), TOLERANCE);
    }
}

/* dL/dlp of every kind against central differences of its own loss. */
static void test_gradients_match_differences(void **state)
{
    golden *g = *state;
    const float step = 1.0f / 1024;
    for (int kind = 0; kind < LB_LOSS_COUNT; kind++) {
        lb_loss_config config = lb_loss_defaults((lb_loss_kind)kind);
        float advantage[TOKENS], grad[TOKENS], scratch[TOKENS], moved[TOKENS];
        assert_int_equal(lb_advantage(&config, TOKENS, g->sampler, g->teacher, g->mask, 0.25,
                                      advantage, NULL), LB_OK);
        lb_loss_inputs in = {TOKENS, g->learner, g->sampler, g->teacher, advantage, g->mask};
        lb_loss_sums sums = {0};
        assert_int_equal(lb_loss_gradient(&config, &in, grad, &sums, NULL), LB_OK);
        for (size_t t = 0; t < TOKENS; t++) {
            double value[2];
            for (int side = 0; side < 2; side++) {
                lb_loss_sums at = {0};
                memcpy(moved, g->learner, sizeof moved);
                moved[t] += side ? step : -step;
                if (moved[t] > 0)
                    moved[t] = g->learner[t];
                lb_loss_inputs there = in;
                there.learner = moved;
                assert_int_equal(lb_loss_gradient(&config, &there, scratch, &at, NULL), LB_OK);
                value[side] = at.loss;
            }
            if (g->learner[t] + step > 0)
                continue;
            double slope = (value[1] - value[0]) / (2.0 * (double)step);
            /* cispo holds its clipped ratio constant, so its loss has another slope. */
            if (kind != LB_LOSS_CISPO)
                assert_close(grad[t], slope, 1e-3 * (1 + fabs(slope)));
        }
    }
}

static void test_teacher_equal_to_student_gives_zero(void **state)
{
    golden *g = *state;
    lb_loss_config config = lb_loss_defaults(LB_LOSS_IMPORTANCE_SAMPLING);
    float advantage[TOKENS], grad[TOKENS];
    lb_loss_sums sums = {0};
    assert_int_equal(lb_advantage(&config, TOKENS, g->sampler, g->sampler, g->mask, 0.0,
                                  advantage, NULL), LB_OK);
    lb_loss_inputs in = {TOKENS, g->sampler, g->sampler, g->sampler, advantage, g->mask};
    assert_int_equal(lb_loss_gradient(&config, &in, grad, &sums, NULL), LB_OK);
    for (size_t t = 0; t < TOKENS; t++)
        assert_true(grad[t] == 0.0f);
}

static void test_bad_logprobs_are_refused(void **state)
{
    golden *g = *state;
    const float bad[] = {NAN, INFINITY, -INFINITY, 0.5f};
    lb_loss_config config = lb_loss_defaults(LB_LOSS_IMPORTANCE_SAMPLING);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        float teacher[TOKENS], advantage[TOKENS];
        lb_err err = {0};
        memcpy(teacher, g->teacher, sizeof teacher);
        teacher[0] = bad[i];   /* under a mask of 0: ignored, never multiplied */
        assert_int_equal(lb_advantage(&config, TOKENS, g->sampler, teacher, g->mask, 0.0,
                                      advantage, &err), LB_OK);
        assert_true(advantage[0] == 0.0f);
        teacher[3] = bad[i];
        assert_int_equal(lb_advantage(&config, TOKENS, g->sampler, teacher, g->mask, 0.0,
                                      advantage, &err), LB_EDATA);
        assert_string_equal(err.field, "teacher_logprobs");
    }
}

static void test_ratio_is_capped(void **state)
{
    (void)state;
    lb_loss_config config = lb_loss_defaults(LB_LOSS_IMPORTANCE_SAMPLING);
    const float learner = -1.0f, sampler = -90.0f, advantage = 1.0f;
    const uint8_t mask = 1;
    float grad = 0;
    lb_loss_sums sums = {0};
    lb_loss_inputs in = {1, &learner, &sampler, NULL, &advantage, &mask};
    assert_int_equal(lb_loss_gradient(&config, &in, &grad, &sums, NULL), LB_OK);
    assert_close(grad, -exp(20.0), exp(20.0) * 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_advantage),
        cmocka_unit_test(test_gradients_match_vectors),
        cmocka_unit_test(test_gradients_match_differences),
        cmocka_unit_test(test_teacher_equal_to_student_gives_zero),
        cmocka_unit_test(test_bad_logprobs_are_refused),
        cmocka_unit_test(test_ratio_is_capped),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
