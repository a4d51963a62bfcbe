/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/json.h"
#include "common/train/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static lb_status parse(const char *text, lb_job_config *out, lb_err *err)
{
    lb_json *root = NULL;
    assert_int_equal(lb_json_parse(text, strlen(text), &root, err), LB_OK);
    lb_status status = lb_job_config_parse(root, "hyperparameters", LB_METHOD_DISTILLATION, 7, out,
                                           err);
    lb_json_free(root);
    return status;
}

static lb_status parse_supervised(const char *text, lb_job_config *out, lb_err *err)
{
    lb_json *root = NULL;
    assert_int_equal(lb_json_parse(text, strlen(text), &root, err), LB_OK);
    lb_status status = lb_job_config_parse(root, "hyperparameters", LB_METHOD_SUPERVISED, 7, out,
                                           err);
    lb_json_free(root);
    return status;
}

/* The keys of sampling are none of its own, and what it writes it reads. */
static void test_supervised(void **state)
{
    (void)state;
    const char *const refused[][2] = {
        {"{\"temperature\":1}", "hyperparameters.temperature"},
        {"{\"samples_per_prompt\":4}", "hyperparameters.samples_per_prompt"},
        {"{\"kl_coef\":1}", "hyperparameters.kl_coef"},
        {"{\"loss\":\"ppo\"}", "loss"},
        {"{\"max_steps\":3,\"n_epochs\":2}", "n_epochs"},
    };
    lb_job_config config, again;
    lb_err err = {0};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        assert_int_not_equal(parse_supervised(refused[i][0], &config, &err), LB_OK);
        assert_string_equal(err.field, refused[i][1]);
    }
    assert_int_equal(parse_supervised("{\"n_epochs\":3,\"batch_size\":8}", &config, &err), LB_OK);
    assert_int_equal(config.loss.kind, LB_LOSS_CROSS_ENTROPY);
    assert_int_equal(config.samples_per_prompt, 1);
    assert_int_equal(lb_job_config_resolve(&config, 21, &err), LB_OK);
    assert_int_equal(config.max_steps, 8);   /* 63 rows in eights */
    lb_buf text = {0};
    lb_jsonw writer = {.out = &text};
    lb_job_config_write(&config, &writer);
    assert_int_equal(parse_supervised((const char *)text.data, &again, &err), LB_OK);
    assert_memory_equal(&config, &again, sizeof config);
    assert_int_equal(parse("{\"loss\":\"cross_entropy\"}", &config, &err), LB_EUNSUPPORTED);
    assert_int_equal(parse("{\"n_epochs\":1000000,\"batch_size\":1}", &config, &err), LB_OK);
    assert_int_equal(lb_job_config_resolve(&config, 21, &err), LB_EINVAL);
    assert_string_equal(err.field, "n_epochs");
    lb_buf_free(&text);
}

/* Every epoch visits every row once, whatever the row count and the batch. */
static void test_epochs_are_permutations(void **state)
{
    (void)state;
    const size_t row_counts[] = {1, 2, 3, 5, 16, 17, 100, 1000};
    for (size_t c = 0; c < sizeof row_counts / sizeof *row_counts; c++) {
        size_t rows = row_counts[c];
        lb_job_config config = {.seed = 42, .batch_size = 1, .units_per_step = 1,
                                .samples_per_prompt = 1};
        unsigned *seen = calloc(rows, sizeof *seen);
        size_t moved = 0;
        assert_non_null(seen);
        for (uint32_t step = 0; step < 3 * rows; step++) {
            uint32_t row = UINT32_MAX;
            lb_plan_unit(&config, rows, step, 0, &row);
            assert_true(row < rows);
            assert_int_equal(seen[row], step / rows);
            seen[row]++;
            moved += row != step % rows;
        }
        assert_true(rows < 5 || moved > rows);
        free(seen);
    }
}

/* Units cut the batch: the same prompts as one unit would have, in the same order. */
static void test_units_cut_the_batch(void **state)
{
    (void)state;
    lb_job_config whole = {.seed = 1, .batch_size = 12, .units_per_step = 1,
                           .samples_per_prompt = 4};
    lb_job_config cut = whole;
    cut.units_per_step = 4;
    for (uint32_t step = 0; step < 20; step++) {
        uint32_t all[12], part[3];
        lb_plan_unit(&whole, 50, step, 0, all);
        for (uint32_t unit = 0; unit < 4; unit++) {
            lb_plan_unit(&cut, 50, step, unit, part);
            assert_memory_equal(part, all + 3 * unit, sizeof part);
            assert_int_equal(lb_plan_row_base(&cut, unit), unit * 12);
        }
    }
}

static void test_round_trip(void **state)
{
    (void)state;
    lb_job_config first, second;
    lb_err err = {0};
    assert_int_equal(parse("{\"max_steps\":60,\"batch_size\":32,\"units_per_step\":4,"
                           "\"learning_rate\":0.002,\"loss\":\"ppo\",\"lora\":{\"r\":8,"
                           "\"target_modules\":[\"q_proj\",\"down_proj\"]}}", &first, &err),
                     LB_OK);
    lb_buf text = {0};
    lb_jsonw w = {.out = &text};
    lb_job_config_write(&first, &w);
    assert_int_equal(parse((const char *)text.data, &second, &err), LB_OK);
    lb_buf again = {0};
    lb_jsonw w2 = {.out = &again};
    lb_job_config_write(&second, &w2);
    assert_string_equal((const char *)again.data, (const char *)text.data);
    lb_buf_free(&again);
    assert_int_equal(first.lora.targets, 1u << LB_PROJ_Q | 1u << LB_PROJ_DOWN);
    assert_true(first.loss.clip_low == 0.8);
    lb_buf_free(&text);
}

static void test_refusals_name_the_field(void **state)
{
    (void)state;
    const struct { const char *text, *field; } cases[] = {
        {"{\"max_steps\":0}", "hyperparameters.max_steps"},
        {"{\"max_steps\":-1}", "hyperparameters.max_steps"},
        {"{\"max_steps\":1.5}", "hyperparameters.max_steps"},
        {"{\"batch_size\":10,\"units_per_step\":3}", "units_per_step"},
        {"{\"temperature\":0.7}", "temperature"},
        {"{\"loss\":\"mse\"}", "loss"},
        {"{\"loss\":\"cross_entropy\"}", "loss"},
        {"{\"loss_normalization\":\"mean\"}", "loss_normalization"},
        {"{\"lora\":{\"r\":0}}", "lora.r"},
        {"{\"lora\":{\"rank\":4}}", "lora.rank"},
        {"{\"lora\":{\"target_modules\":[\"lm_head\"]}}", "lora.target_modules"},
        {"{\"lora\":{\"target_modules\":[]}}", "lora.target_modules"},
        {"{\"learning_rat\":1}", "hyperparameters.learning_rat"},
        {"{\"clip_low\":2,\"clip_high\":1}", "clip_low"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_job_config config;
        lb_err err = {0};
        assert_int_not_equal(parse(cases[i].text, &config, &err), LB_OK);
        assert_string_equal(err.field, cases[i].field);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_supervised),
        cmocka_unit_test(test_epochs_are_permutations),
        cmocka_unit_test(test_units_cut_the_batch),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refusals_name_the_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
