/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel for AMX on chips that have none: its instructions are done in C, the rest of the
 * backend is as it would be. What this cannot show is that the instructions do what is written
 * here; a backend that is opened on such a chip looks for itself (lb_backend_agrees).
 */
#include "common/tensor/backend_impl.h"
#include "tests/numeric/ops_fixture.h"

#if defined(__x86_64__)
static int fault;              /* added to every sum */
#define LB_AMX_EMULATED fault
#include "common/tensor/cpu/matmul_amx.c"

static bool there(void)
{
    if (lb_backend_isa(0) && strcmp(lb_backend_isa(0), "avx512amx") == 0)
        return true;
    print_message("this chip lacks AVX-512 with VNNI, beside which AMX is used\n");
    return false;
}

static float *product(const char *isa, uint32_t threads, size_t m, size_t n, size_t k)
{
    fixture f;
    float *x = matrix(1, 0, m, k, 1.0f), *w = matrix(2, 0, n, k, 1.0f);
    fixture_open(&f, threads, isa);
    lb_weight *weight = pack_weight(&f, w, n, k, LB_INT8, LB_WEIGHT_FORWARD);
    lb_tensor out = blank(&f, m, n);
    lb_linear(f.ops, out, upload(&f, x, m, k), weight, (lb_tensor){0});
    float *got = download(&f, out);
    lb_weight_free(weight);
    fixture_close(&f);
    free(x);
    free(w);
    return got;
}

/* Rows and columns that fill no tile, depths that fill no block and no step of an instruction. */
static void test_products(void **state)
{
    static const size_t rows[] = {1, 15, 16, 17, 40, 97}, columns[] = {1, 32, 33, 100};
    static const size_t depths[] = {1, 16, 64, 100, 128, 130, 200, 576};
    (void)state;
    for (size_t i = 0; there() && i < COUNT(rows) * COUNT(columns) * COUNT(depths); i++) {
        size_t m = rows[i % COUNT(rows)], n = columns[i / COUNT(rows) % COUNT(columns)];
        size_t k = depths[i / COUNT(rows) / COUNT(columns)];
        float *want = product("avx512vnni", 1, m, n, k);
        float *got = product("avx512amx", 1 + (uint32_t)(i % 2), m, n, k);
        if (memcmp(got, want, m * n * sizeof *got) != 0)
            fail_msg("%zu rows, %zu columns, depth %zu differ", m, n, k);
        free(got);
        free(want);
    }
}

static void test_a_chip_that_is_wrong_is_passed_over(void **state)
{
    lb_backend *backend = NULL;
    (void)state;
    if (!there())
        return;
    assert_int_equal(lb_backend_open("cpu", 1, NULL, &backend, NULL), LB_OK);
    assert_string_equal(lb_backend_describe(backend), "cpu avx512amx, 1 thread");
    lb_amx_chains(2);
    lb_backend_close(backend);
    fault = 1;
    assert_int_equal(lb_backend_open("cpu", 1, NULL, &backend, NULL), LB_OK);
    assert_string_equal(lb_backend_describe(backend),
                        "cpu avx512vnni, 1 thread; avx512amx is wrong here");
    lb_backend_close(backend);
    fault = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_a_chip_that_is_wrong_is_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    puts("AMX is of x86");
    return 0;
}

#endif
