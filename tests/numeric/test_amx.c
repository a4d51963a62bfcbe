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

typedef struct size {
    size_t m, n, k;
} size;

/* x W^T; back: x W where W is [k, n], added to what is there. */
static float *product(const char *isa, uint32_t threads, size s, lb_dtype dtype, bool back)
{
    fixture f;
    float *x = matrix(1, 0, s.m, s.k, 1.0f), *w = matrix(2, 0, s.n, s.k, 1.0f);
    float *before = matrix(3, 0, s.m, s.n, 1.0f);
    fixture_open(&f, threads, isa);
    lb_weight *weight = back ? pack_weight(&f, w, s.k, s.n, dtype, LB_WEIGHT_BACKWARD)
                             : pack_weight(&f, w, s.n, s.k, dtype, LB_WEIGHT_FORWARD);
    lb_tensor out = upload(&f, before, s.m, s.n), rows = upload(&f, x, s.m, s.k);
    if (back)
        lb_linear_backward(f.ops, out, rows, weight, true);
    else
        lb_linear(f.ops, out, rows, weight, (lb_tensor){0});
    float *got = download(&f, out);
    lb_weight_free(weight);
    fixture_close(&f);
    free(x);
    free(w);
    free(before);
    return got;
}

static void compare(size s, lb_dtype dtype, bool back)
{
    float *want = product("avx512vnni", 1, s, dtype, back);
    float *got = product("avx512amx", 1 + (uint32_t)(s.m % 2), s, dtype, back);
    if (memcmp(got, want, s.m * s.n * sizeof *got) != 0)
        fail_msg("%zu rows, %zu columns, depth %zu in %s differ", s.m, s.n, s.k,
                 lb_dtype_name(dtype));
    free(got);
    free(want);
}

/* Rows and columns that fill no tile, depths that fill no block and no step of an instruction. */
static void test_products(void **state)
{
    static const size_t rows[] = {1, 15, 16, 17, 40, 97}, columns[] = {1, 32, 33, 100};
    static const size_t depths[] = {1, 16, 64, 100, 128, 130, 200, 576};
    (void)state;
    for (size_t i = 0; there() && i < COUNT(rows) * COUNT(columns) * COUNT(depths); i++) {
        size s = {rows[i % COUNT(rows)], columns[i / COUNT(rows) % COUNT(columns)],
                  depths[i / COUNT(rows) / COUNT(columns)]};
        compare(s, LB_INT8, false);
        compare(s, LB_INT16, false);
        compare(s, LB_INT16, true);
    }
}

static void test_planes_hold_every_int16(void **state)
{
    (void)state;
    for (int value = -4095; value <= 4095; value++) {
        int high = plane_high((int16_t)value), low = plane_low((int16_t)value);
        assert_int_equal(high * PLANE_LOW + low, value);
        assert_true(high >= -64 && high <= 64 && low >= -32 && low <= 31);
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
        cmocka_unit_test(test_planes_hold_every_int16),
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
