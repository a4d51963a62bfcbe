/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with weights that are stored as integers: within what the rounding of their blocks can
 * do to the product that was meant, and usually much closer.
 */
#include "common/tensor/ops.h"
#include "tests/numeric/ops_fixture.h"

#include <math.h>

static float most(lb_dtype stored)
{
    return stored == LB_INT16 ? 4095.0f : 127.0f;
}

/* The norm of a block of x[count] from `first` on; *n gets its length in whole vectors of 16. */
static double block_norm(const float *x, size_t count, size_t first, double *n)
{
    double sum = 0.0;
    size_t end = first + LB_QUANT_BLOCK < count ? first + LB_QUANT_BLOCK : count;
    for (size_t i = first; i < end; i++)
        sum += (double)x[i] * (double)x[i];
    *n = (double)((end - first + 15) / 16 * 16);
    return sqrt(sum);
}

/* How far a product of x[k] and w[k] may be off: rotated, a block's elements are at most its norm,
 * so that a step is at most norm / most, and each element is off by at most half of one. */
static double bound(const float *x, const float *w, size_t k, lb_dtype stored)
{
    double total = 0.0, q = (double)most(stored);
    for (size_t first = 0; first < k; first += LB_QUANT_BLOCK) {
        double n, norms = block_norm(x, k, first, &n) * block_norm(w, k, first, &n);
        total += norms * (sqrt(n) / q + n / (4 * q * q)) + 64 * ROUNDING * norms;
    }
    return total;
}

typedef struct errors {
    double square, meant;          /* sums over the outputs of error^2 and of meant^2 */
} errors;

/* outlier: a factor for one column of x. */
static errors check_product(fixture *f, size_t m, size_t k, size_t n, lb_dtype stored,
                            float outlier)
{
    errors e = {0};
    float *x = matrix(1, 0, m, k, 1.0f), *w = matrix(2, 0, n, k, 1.0f);
    for (size_t i = 0; i < m; i++)
        x[i * k + k / 2] *= outlier;
    lb_weight *weight = pack_weight(f, w, n, k, stored, LB_WEIGHT_FORWARD);
    lb_tensor out = blank(f, m, n);
    lb_linear(f->ops, out, upload_strided(f, x, m, k), weight, (lb_tensor){0});
    float *got = download(f, out);
    assert_true(lb_weight_bytes(weight) ==
                lb_weight_packed_bytes(n, k, stored, LB_WEIGHT_FORWARD));
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double meant = 0.0;
            for (size_t d = 0; d < k; d++)
                meant += (double)x[i * k + d] * (double)w[j * k + d];
            assert_close(got[i * n + j], meant, bound(x + i * k, w + j * k, k, stored));
            e.square += (got[i * n + j] - meant) * (got[i * n + j] - meant);
            e.meant += meant * meant;
        }
    }
    lb_weight_free(weight);
    free(got);
    free(x);
    free(w);
    lb_ops_reset(f->ops);
    return e;
}

/* dy[m, n] W against what was meant; the blocks of W are now those of its columns. */
static errors check_backward(fixture *f, size_t m, size_t n, size_t k, bool add)
{
    errors e = {0};
    float *dy = matrix(5, 0, m, n, 1.0f), *w = matrix(6, 0, n, k, 1.0f), *column = floats(n);
    float *old = matrix(7, 0, m, k, 1.0f);
    lb_weight *weight = pack_weight(f, w, n, k, LB_INT16, ALL_PACKINGS);
    lb_tensor dx = upload_strided(f, old, m, k);
    lb_linear_backward(f->ops, dx, upload_strided(f, dy, m, n), weight, add);
    float *got = download(f, dx);
    assert_true(lb_weight_bytes(weight) == lb_weight_packed_bytes(n, k, LB_INT16, ALL_PACKINGS));
    for (size_t j = 0; j < k; j++) {
        for (size_t d = 0; d < n; d++)
            column[d] = w[d * k + j];
        for (size_t i = 0; i < m; i++) {
            double meant = 0.0, before = add ? (double)old[i * k + j] : 0.0;
            for (size_t d = 0; d < n; d++)
                meant += (double)dy[i * n + d] * (double)column[d];
            assert_close(got[i * k + j], meant + before,
                         bound(dy + i * n, column, n, LB_INT16) + ROUNDING * fabs(before));
            e.square += (got[i * k + j] - meant - before) * (got[i * k + j] - meant - before);
            e.meant += meant * meant;
        }
    }
    lb_weight_free(weight);
    free(got);
    free(old);
    free(column);
    free(w);
    free(dy);
    lb_ops_reset(f->ops);
    return e;
}

static double relative(errors e)
{
    return sqrt(e.square / e.meant);
}

static void test_integer_products(void **state)
{
    (void)state;
    static const size_t sizes[][3] = {{1, 1, 1}, {3, 2, 31}, {5, 3, 33}, {13, 127, 40},
                                      {2, 128, 65}, {25, 129, 7}, {30, 576, 70}, {12, 1030, 32}};
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t i = 0; i < COUNT(sizes); i++) {
        check_product(&f, sizes[i][0], sizes[i][1], sizes[i][2], LB_INT16, 1.0f);
        check_product(&f, sizes[i][0], sizes[i][1], sizes[i][2], LB_INT8, 1.0f);
    }
    /* bf16 inputs would be off by 2.3e-3 here (2^-9 / sqrt(3), twice). */
    double fast = relative(check_product(&f, 30, 1024, 70, LB_INT16, 1.0f));
    double bytes = relative(check_product(&f, 30, 1024, 70, LB_INT8, 1.0f));
    print_message("relative rms error: fast %.2g, int8 %.2g\n", fast, bytes);
    assert_true(fast > 0.0 && fast < 4e-4);
    assert_true(bytes > 10 * fast && bytes < 1.2e-2);
    /* Without the rotation the others of an outlier's block would vanish: 0.15 with int8. */
    fast = relative(check_product(&f, 30, 1024, 70, LB_INT16, 1000.0f));
    bytes = relative(check_product(&f, 30, 1024, 70, LB_INT8, 1000.0f));
    print_message("with an outlier: fast %.2g, int8 %.2g\n", fast, bytes);
    assert_true(fast < 4e-4 && bytes < 1.2e-2);
    fixture_close(&f);
}

static void test_backward(void **state)
{
    (void)state;
    static const size_t sizes[][3] = {{1, 1, 1}, {3, 2, 31}, {13, 127, 40}, {2, 128, 65},
                                      {25, 129, 7}, {30, 576, 70}, {12, 1030, 32}};
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t i = 0; i < COUNT(sizes); i++)
        check_backward(&f, sizes[i][0], sizes[i][1], sizes[i][2], i % 2);
    double fast = relative(check_backward(&f, 30, 1024, 70, false));
    print_message("relative rms error: %.2g\n", fast);
    assert_true(fast > 0.0 && fast < 4e-4);
    fixture_close(&f);
}

/* One spike in a block: rotated, all its elements have the largest magnitude and, times the like,
 * the same sign. The int32 sums may not wrap. */
static void test_sums_do_not_wrap(void **state)
{
    (void)state;
    enum { K = 256, N = 32, M = 13 };
    fixture f;
    assert_true(fixture_open(&f, 1, NULL));
    float *x = floats(M * K), *w = floats(N * K);
    for (size_t i = 0; i < M * K; i += LB_QUANT_BLOCK)
        x[i] = 3.0f;
    for (size_t i = 0; i < N * K; i += LB_QUANT_BLOCK)
        w[i] = i / K % 2 ? -2.0f : 2.0f;
    for (int eight = 0; eight < 2; eight++) {
        lb_weight *weight = pack_weight(&f, w, N, K, eight ? LB_INT8 : LB_INT16,
                                        LB_WEIGHT_FORWARD);
        lb_tensor out = blank(&f, M, N);
        lb_linear(f.ops, out, upload(&f, x, M, K), weight, (lb_tensor){0});
        float *got = download(&f, out);
        for (size_t i = 0; i < M * N; i++)
            assert_close(got[i], i % N % 2 ? -12.0 : 12.0, 1e-5);
        free(got);
        lb_weight_free(weight);
    }
    free(x);
    free(w);
    fixture_close(&f);
}

/* What is not finite stays visible in its own row; blocks of zeros and of tiny numbers are 0. */
static void test_odd_values(void **state)
{
    (void)state;
    enum { K = 200, N = 33, M = 4 };
    fixture f;
    static const lb_dtype dtypes[] = {LB_INT16, LB_INT8};
    float *x = matrix(3, 0, M, K, 1.0f), *w = matrix(4, 0, N, K, 1.0f);
    x[5] = NAN;
    x[K + 150] = -INFINITY;
    for (size_t i = 0; i < K; i++)
        x[2 * K + i] = i % 2 ? 0.0f : 1e-38f;
    for (size_t c = 0; lb_backend_isa(c / 2); c++) {
        fixture_open(&f, 1, lb_backend_isa(c / 2));
        lb_weight *weight = pack_weight(&f, w, N, K, dtypes[c % 2], LB_WEIGHT_FORWARD);
        lb_tensor out = blank(&f, M, N);
        lb_linear(f.ops, out, upload(&f, x, M, K), weight, (lb_tensor){0});
        float *got = download(&f, out);
        for (size_t j = 0; j < N; j++) {
            assert_true(isnan(got[j]) && isnan(got[N + j]));
            assert_true(got[2 * N + j] == 0.0f && isfinite(got[3 * N + j]));
        }
        free(got);
        lb_weight_free(weight);
        fixture_close(&f);
    }
    free(x);
    free(w);
}

static void test_embedding_of_integers(void **state)
{
    (void)state;
    enum { VOCAB = 37, COLS = 235 };     /* a block, and parts of 64, 32 and 16 */
    static const uint32_t ids[] = {36, 0, 5};
    static const lb_dtype dtypes[] = {LB_INT16, LB_INT8};
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    float *table = matrix(16, 0, VOCAB, COLS, 1.0f);
    for (size_t d = 0; d < COUNT(dtypes); d++) {
        lb_weight *w = pack_weight(&f, table, VOCAB, COLS, dtypes[d], LB_WEIGHT_FORWARD);
        lb_tensor out = blank(&f, COUNT(ids), COLS);
        lb_embed(f.ops, out, w, ids);
        float *got = download(&f, out);
        for (size_t r = 0; r < COUNT(ids); r++) {
            const float *want = table + ids[r] * COLS;
            double n, q = (double)most(dtypes[d]);
            for (size_t i = 0; i < COLS; i++) {
                double norm = block_norm(want, COLS, i / LB_QUANT_BLOCK * LB_QUANT_BLOCK, &n);
                assert_close(got[r * COLS + i], (double)want[i], norm * sqrt(n) / (2 * q));
            }
        }
        free(got);
        lb_weight_free(w);
    }
    free(table);
    fixture_close(&f);
}

static void test_int8_has_no_backward(void **state)
{
    (void)state;
    fixture f;
    lb_err err = {0};
    lb_weight *w = NULL;
    float host[4] = {1, 2, 3, 4};
    assert_true(fixture_open(&f, 1, NULL));
    assert_int_equal(lb_weight_create(f.backend, 2, 2, host, LB_F32, LB_INT8, ALL_PACKINGS, &w,
                                      &err), LB_EUNSUPPORTED);
    assert_string_equal(err.field, "dtype");
    assert_non_null(strstr(err.message, "int8"));
    fixture_close(&f);
}

static void test_dtype_names(void **state)
{
    (void)state;
    static const char *const names[] = {"f32", "bf16", "fast", "int8"};
    lb_dtype dtype = LB_I32;
    for (size_t i = 0; i < COUNT(names); i++) {
        assert_true(lb_dtype_parse(names[i], &dtype));
        assert_string_equal(lb_dtype_name(dtype), names[i]);
    }
    assert_false(lb_dtype_parse("INT8", &dtype));
    assert_false(lb_dtype_parse("", &dtype));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integer_products),
        cmocka_unit_test(test_backward),
        cmocka_unit_test(test_sums_do_not_wrap),
        cmocka_unit_test(test_odd_values),
        cmocka_unit_test(test_embedding_of_integers),
        cmocka_unit_test(test_int8_has_no_backward),
        cmocka_unit_test(test_dtype_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
