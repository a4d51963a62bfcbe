/* SPDX-License-Identifier: Apache-2.0
 *
 * exp and log of the kernels against long double; the same source is compiled for every
 * instruction set, and test_ops_invariance holds those to each other.
 */
#include "common/tensor/cpu/vmath.h"
#include "tests/check.h"

#include <stdio.h>

/* The distance in units of the last place of the true value. */
static double ulps(float got, long double want)
{
    int exponent;
    frexpl(want, &exponent);
    return (double)(fabsl((long double)got - want) / ldexpl(1.0L, exponent - 24));
}

static void test_exp(void **state)
{
    (void)state;
    double worst = 0.0;
    for (uint32_t i = 0; i < 700000; i++) {
        float x = -87.0f + (float)i * 2.5e-4f;
        if (x > 88.0f)
            break;
        double off = ulps(exp_f32(x), expl((long double)x));
        worst = off > worst ? off : worst;
    }
    for (float x = 1.0f; x > 1e-30f; x *= 0.93f) {
        double off = ulps(exp_f32(-x), expl(-(long double)x));
        worst = off > worst ? off : worst;
    }
    print_message("exp: %.3f ulp\n", worst);
    assert_true(worst <= 2.0);
}

static void test_exp_edges(void **state)
{
    (void)state;
    assert_true(exp_f32(0.0f) == 1.0f);
    assert_true(exp_f32(-0.0f) == 1.0f);
    assert_true(exp_f32(-87.001f) == 0.0f);
    assert_true(exp_f32(-INFINITY) == 0.0f);
    assert_true(exp_f32(-87.0f) >= 0x1p-126f);
    assert_true(exp_f32(INFINITY) == exp_f32(88.0f));
    assert_true(exp_f32(NAN) != exp_f32(NAN));
}

/* Not below where x is not below, or softmax could order tokens other than their logits do. */
static void test_exp_is_monotonic(void **state)
{
    (void)state;
    for (float start = -86.0f; start < 0.5f; start += 0.37f) {
        float last = exp_f32(start), x = start;
        for (int i = 0; i < 2000; i++) {
            x = nextafterf(x, 100.0f);
            float next = exp_f32(x);
            /* One ulp of the result is the method's own error. */
            assert_true(next >= last || ulps(next, (long double)last) <= 1.0);
            last = next;
        }
    }
}

static void test_log(void **state)
{
    (void)state;
    double worst = 0.0;
    for (uint32_t bits = 0x00800000u; bits < 0x7F800000u; bits += 1511) {
        float x;
        memcpy(&x, &bits, sizeof x);
        double off = ulps(log_f32(x), logl((long double)x));
        worst = off > worst && x != 1.0f ? off : worst;
    }
    for (int i = 1; i < 40000; i++) {
        float near = 1.0f + (float)i * 0x1p-20f, under = 1.0f - (float)i * 0x1p-24f;
        double off = fmax(ulps(log_f32(near), logl((long double)near)),
                          ulps(log_f32(under), logl((long double)under)));
        worst = off > worst ? off : worst;
    }
    print_message("log: %.3f ulp\n", worst);
    assert_true(worst <= 2.0);
    assert_true(log_f32(1.0f) == 0.0f);
    assert_true(log_f32(0.0f) == -INFINITY);
    assert_true(log_f32(NAN) != log_f32(NAN));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_exp_edges),
        cmocka_unit_test(test_exp_is_monotonic),
        cmocka_unit_test(test_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
