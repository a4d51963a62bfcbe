/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The known answers that the authors of Philox publish with their code (Random123, kat_vectors). */
static void test_known_answers(void **state)
{
    static const struct {
        uint32_t counter[4];
        uint64_t seed;   /* the low word is key[0] */
        uint32_t want[4];
    } cases[] = {
        {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffffffffffff,
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t out[4] = {0};
        lb_rng_block(cases[i].seed, cases[i].counter, out);
        assert_memory_equal(out, cases[i].want, sizeof out);
    }
}

/* A block may be written over its own counter. */
static void test_in_place(void **state)
{
    (void)state;
    uint32_t block[4] = {1, 2, 3, 4}, out[4];
    lb_rng_block(7, block, out);
    lb_rng_block(7, block, block);
    assert_memory_equal(block, out, sizeof out);
}

static void test_uniform_bounds_and_mean(void **state)
{
    (void)state;
    assert_true(lb_rng_uniform(0) == 0.0f);
    assert_true(lb_rng_uniform(0xff) == 0.0f);
    assert_true(lb_rng_uniform(0x100) == 0x1p-24f);
    assert_true(lb_rng_uniform(0x80000000) == 0.5f);
    assert_true(lb_rng_uniform(0xffffffff) < 1.0f);
    assert_true(lb_rng_uniform(0xffffffff) == 1.0f - 0x1p-24f);
    double sum = 0.0;
    const uint32_t blocks = 25000;
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t out[4];
        lb_rng_block(1, (uint32_t[4]){LB_RNG_SAMPLE, i, 0, 0}, out);
        for (int j = 0; j < 4; j++)
            sum += (double)lb_rng_uniform(out[j]);
    }
    /* The mean of 100,000 draws has a deviation of 0.0009; five of them are allowed. */
    assert_true(sum / (4.0 * blocks) > 0.4955 && sum / (4.0 * blocks) < 0.5045);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_in_place),
        cmocka_unit_test(test_uniform_bounds_and_mean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
