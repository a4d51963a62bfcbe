/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/rng.h"
#include "common/io/safetensors.h"
#include "common/train/adam.h"
#include "tests/check.h"

#include <stdlib.h>
#include <string.h>

#define ELEMENTS 64
#define LEAVES 13

/* The trajectory of tests/golden/algorithm.json, section "adam". */
static void test_trajectory(void **state)
{
    (void)state;
    const float grads[] = {0.3f, -0.1f, 0.05f};
    const double want[] = {0.49990000000333334, 0.4998595693349763, 0.4998181337615378};
    lb_adam_config config = lb_adam_defaults();
    lb_adam adam;
    float w = 0.5f;
    assert_int_equal(lb_adam_create(1, &adam, NULL), LB_OK);
    for (int t = 0; t < 3; t++) {
        assert_int_equal(lb_adam_step(&adam, &config, 1e-4, 1.0, &grads[t], &w, NULL), LB_OK);
        assert_close(w, want[t], 4e-8);   /* half a unit in the last place of f32 */
    }
    lb_adam_free(&adam);
}

static void test_scale_equals_scaled_gradient(void **state)
{
    (void)state;
    lb_adam_config config = lb_adam_defaults();
    lb_adam a, b;
    float wa = 1.0f, wb = 1.0f;
    const float grad = 0.75f, scaled = 0.1875f;
    assert_int_equal(lb_adam_create(1, &a, NULL), LB_OK);
    assert_int_equal(lb_adam_create(1, &b, NULL), LB_OK);
    assert_int_equal(lb_adam_step(&a, &config, 1e-3, 0.25, &grad, &wa, NULL), LB_OK);
    assert_int_equal(lb_adam_step(&b, &config, 1e-3, 1.0, &scaled, &wb, NULL), LB_OK);
    assert_true(wa == wb && a.m[0] == b.m[0] && a.v[0] == b.v[0]);
    lb_adam_free(&a);
    lb_adam_free(&b);
}

static void test_non_finite_changes_nothing(void **state)
{
    (void)state;
    lb_adam_config config = lb_adam_defaults();
    lb_adam adam;
    float grad[2] = {1.0f, NAN}, w[2] = {0.5f, 0.5f};
    lb_err err = {0};
    assert_int_equal(lb_adam_create(2, &adam, NULL), LB_OK);
    assert_int_equal(lb_adam_step(&adam, &config, 1e-3, 1.0, grad, w, &err), LB_ENUMERIC);
    assert_true(w[0] == 0.5f && adam.m[0] == 0.0f && adam.steps == 0);
    lb_adam_free(&adam);
}

/* A state that was written and read goes on with the same bits. */
static void test_state_round_trip(void **state)
{
    (void)state;
    lb_adam_config config = lb_adam_defaults();
    lb_adam adam, back;
    float w[ELEMENTS] = {0}, grad[ELEMENTS], w2[ELEMENTS];
    lb_buf image = {0};
    assert_int_equal(lb_adam_create(ELEMENTS, &adam, NULL), LB_OK);
    for (uint32_t t = 0; t < 5; t++) {
        for (uint32_t i = 0; i < ELEMENTS; i++) {
            uint32_t counter[4] = {9, t, i, 0}, word[4];
            lb_rng_block(3, counter, word);
            grad[i] = lb_rng_uniform(word[0]) - 0.5f;
        }
        assert_int_equal(lb_adam_step(&adam, &config, 1e-2, 1.0, grad, w, NULL), LB_OK);
    }
    assert_int_equal(lb_adam_encode(&adam, &image, NULL), LB_OK);
    assert_int_equal(lb_adam_decode(image.data, image.length, ELEMENTS, &back, NULL), LB_OK);
    memcpy(w2, w, sizeof w);
    assert_int_equal(lb_adam_step(&adam, &config, 1e-2, 1.0, grad, w, NULL), LB_OK);
    assert_int_equal(lb_adam_step(&back, &config, 1e-2, 1.0, grad, w2, NULL), LB_OK);
    assert_memory_equal(w, w2, sizeof w);
    assert_int_equal(back.steps, adam.steps);
    lb_adam_free(&adam);
    lb_adam_free(&back);
    lb_err err = {0};
    assert_int_equal(lb_adam_decode(image.data, image.length, ELEMENTS + 1, &back, &err),
                     LB_EDATA);
    for (size_t cut = 0; cut < image.length; cut += 7)
        assert_int_not_equal(lb_adam_decode(image.data, cut, ELEMENTS, &back, &err), LB_OK);
    lb_buf_free(&image);
}

/* Values over many orders of magnitude, so that another order of sums shows in the bits. */
static float leaf_value(uint32_t leaf, uint32_t element)
{
    uint32_t counter[4] = {7, leaf, element, 0}, word[4];
    lb_rng_block(11, counter, word);
    return ldexpf(lb_rng_uniform(word[0]) - 0.5f, (int)(word[1] % 60) - 30);
}

/* The tree's shape, spelled out for 5 leaves: ((0+1)+(2+3))+4. */
static void test_tree_shape(void **state)
{
    (void)state;
    float value[5], sum = 0;
    float *leaves[5];
    for (uint32_t i = 0; i < 5; i++) {
        value[i] = leaf_value(i, 0);
        leaves[i] = &value[i];
    }
    float want = ((value[0] + value[1]) + (value[2] + value[3])) + value[4];
    lb_tree_reduce(leaves, 5, 1, &sum);
    assert_memory_equal(&sum, &want, sizeof sum);
}

static void test_tree_skips_missing_leaves(void **state)
{
    (void)state;
    float value[LEAVES], sum = 0;
    float *leaves[LEAVES];
    for (uint32_t i = 0; i < LEAVES; i++) {
        value[i] = -0.0f;
        leaves[i] = i % 3 ? NULL : &value[i];
    }
    lb_tree_reduce(leaves, LEAVES, 1, &sum);
    assert_true(sum == 0.0f && signbit(sum));
    float *none[2] = {NULL, NULL};
    sum = 5;
    lb_tree_reduce(none, 2, 1, &sum);
    assert_true(sum == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trajectory),
        cmocka_unit_test(test_scale_equals_scaled_gradient),
        cmocka_unit_test(test_non_finite_changes_nothing),
        cmocka_unit_test(test_state_round_trip),
        cmocka_unit_test(test_tree_shape),
        cmocka_unit_test(test_tree_skips_missing_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
