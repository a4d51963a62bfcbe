/* SPDX-License-Identifier: Apache-2.0
 *
 * Forward ops against float64, on shapes below, at and above a vector, a tile and a panel.
 */
#include "common/tensor/ops.h"
#include "tests/numeric/ops_fixture.h"

static const size_t odd[] = {1, 2, 15, 16, 17, 33, 130};

/* ---- products ---- */

static void check_linear(fixture *f, size_t m, size_t k, size_t n, lb_dtype stored, bool with_bias)
{
    float *x = matrix(1, 0, m, k, 1.0f), *w = matrix(2, 0, n, k, 1.0f);
    float *b = matrix(3, 0, 1, n, 1.0f);
    lb_weight *weight = pack_weight(f, w, n, k, stored, LB_WEIGHT_FORWARD);
    assert_int_equal(lb_weight_n(weight), n);
    assert_int_equal(lb_weight_k(weight), k);
    lb_tensor out = blank(f, m, n);
    lb_linear(f->ops, out, upload_strided(f, x, m, k), weight,
              with_bias ? upload(f, b, 1, n) : (lb_tensor){0});
    float *got = download(f, out);
    for (size_t i = 0; stored == LB_BF16 && i < n * k; i++)
        w[i] = lb_bf16_to_f32(lb_f32_to_bf16(w[i]));
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double bound, want = dot_bound(x + i * k, 1, w + j * k, 1, k, &bound);
            want += with_bias ? (double)b[j] : 0.0;
            assert_close(got[i * n + j], want, bound + ROUNDING * fabs(want));
        }
    }
    lb_weight_free(weight);
    free(got);
    free(b);
    free(w);
    free(x);
    lb_ops_reset(f->ops);
}

static void test_linear(void **state)
{
    (void)state;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t i = 0; i < COUNT(odd); i++) {
        for (size_t j = 0; j < COUNT(odd); j++) {
            check_linear(&f, odd[i], odd[j], odd[(i + j) % COUNT(odd)], LB_F32, j % 2);
            check_linear(&f, odd[(i + 2 * j) % COUNT(odd)], odd[i], odd[j], LB_BF16, i % 2);
        }
    }
    check_linear(&f, 259, 64, 100, LB_F32, true);
    fixture_close(&f);
}

/* A product that is added has the bits of the product, then of the sum. */
static void check_accumulate(fixture *f, size_t m, size_t k, size_t n, lb_dtype stored)
{
    float *x = matrix(6, 0, m, k, 1.0f), *w = matrix(7, 0, n, k, 1.0f);
    float *before = matrix(8, 0, m, n, 1.0f);
    lb_weight *weight = pack_weight(f, w, n, k, stored, LB_WEIGHT_FORWARD);
    lb_tensor tx = upload(f, x, m, k), y = blank(f, m, n), sum = upload_strided(f, before, m, n);
    const lb_linear_out outs[] = {{y, weight, {0}, false}, {sum, weight, {0}, true}};
    lb_linears(f->ops, tx, NULL, outs, 2);
    float *alone = download(f, y), *got = download(f, sum);
    for (size_t i = 0; i < m * n; i++)
        assert_true(got[i] == alone[i] + before[i]);
    lb_weight_free(weight);
    free(got);
    free(alone);
    free(before);
    free(w);
    free(x);
    lb_ops_reset(f->ops);
}

static void test_accumulate(void **state)
{
    (void)state;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t i = 0; i < COUNT(odd); i++) {
        check_accumulate(&f, odd[i], 130, 33, LB_F32);
        check_accumulate(&f, odd[i], 33, 130, LB_BF16);
        check_accumulate(&f, odd[i], 130, 64, LB_INT16);
        check_accumulate(&f, odd[i], 64, 130, LB_INT8);
    }
    fixture_close(&f);
}

static void test_bf16_source_any_alignment(void **state)
{
    (void)state;
    enum { N = 33, K = 17, M = 5 };
    fixture f;
    lb_err err;
    lb_weight *from_half = NULL, *from_single = NULL;
    uint8_t bytes[N * K * 4 + 1];
    float *w = matrix(4, 0, N, K, 1.0f), *x = matrix(5, 0, M, K, 1.0f);
    assert_true(fixture_open(&f, 1, NULL));
    for (size_t i = 0; i < N * K; i++) {
        uint16_t half = lb_f32_to_bf16(w[i]);
        w[i] = lb_bf16_to_f32(half);
        memcpy(bytes + 1 + 2 * i, &half, 2);
    }
    assert_int_equal(lb_weight_create(f.backend, N, K, bytes + 1, LB_BF16, LB_BF16, ALL_PACKINGS,
                                      &from_half, &err), LB_OK);
    memcpy(bytes + 1, w, sizeof bytes - 1);
    assert_int_equal(lb_weight_create(f.backend, N, K, bytes + 1, LB_F32, LB_F32, ALL_PACKINGS,
                                      &from_single, &err), LB_OK);
    assert_true(lb_weight_bytes(from_single) ==
                lb_weight_packed_bytes(N, K, LB_F32, ALL_PACKINGS));
    assert_true(lb_weight_bytes(from_half) ==
                lb_weight_packed_bytes(N, K, LB_BF16, ALL_PACKINGS));
    /* A value that bf16 holds exactly gives the same bits in either storage. */
    lb_tensor tx = upload(&f, x, M, K), a = blank(&f, M, N), b = blank(&f, M, N);
    lb_linear(f.ops, a, tx, from_half, (lb_tensor){0});
    lb_linear(f.ops, b, tx, from_single, (lb_tensor){0});
    float *got = download(&f, a), *want = download(&f, b);
    same_bits("bf16 storage", got, want, M * N);
    lb_weight_free(from_half);
    lb_weight_free(from_single);
    free(got);
    free(want);
    free(w);
    free(x);
    fixture_close(&f);
}

static void check_gemm(fixture *f, bool tn, size_t m, size_t k, size_t n, bool add)
{
    const float alpha = tn ? 1.0f : 0.7f;
    float *a = matrix(6, 0, tn ? k : m, tn ? m : k, 1.0f), *b = matrix(7, 0, k, n, 1.0f);
    float *old = matrix(8, 0, m, n, 1.0f);
    lb_tensor out = upload_strided(f, old, m, n), tb = upload_strided(f, b, k, n);
    if (tn)
        lb_gemm_tn(f->ops, out, upload_strided(f, a, k, m), tb, add);
    else
        lb_gemm_nn(f->ops, out, upload_strided(f, a, m, k), tb, alpha, add);
    float *got = download(f, out);
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double bound, sum = dot_bound(a + (tn ? i : i * k), tn ? m : 1, b + j, n, k, &bound);
            double before = add ? (double)old[i * n + j] : 0.0;
            double want = (double)alpha * sum + before;
            assert_close(got[i * n + j], want, bound + 2 * ROUNDING * (fabs(want) + fabs(before)));
        }
    }
    free(got);
    free(old);
    free(b);
    free(a);
    lb_ops_reset(f->ops);
}

static void test_gemm(void **state)
{
    (void)state;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (int tn = 0; tn < 2; tn++) {
        for (size_t i = 0; i < COUNT(odd); i++) {
            for (size_t j = 0; j < COUNT(odd); j++)
                check_gemm(&f, tn, odd[i], odd[j], odd[(2 * i + j) % COUNT(odd)], j % 2);
        }
        check_gemm(&f, tn, 300, 16, 200, true);
        check_gemm(&f, tn, 16, 1100, 200, true);
        check_gemm(&f, tn, 300, 200, 16, false);
    }
    fixture_close(&f);
}

/* ---- rows ---- */

static void test_rmsnorm(void **state)
{
    (void)state;
    const float eps = 1e-5f;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t c = 0; c < COUNT(odd); c++) {
        size_t rows = 37, cols = odd[c];
        float *x = matrix(9, 0, rows, cols, 3.0f), *gain = matrix(10, 0, 1, cols, 2.0f);
        lb_tensor tx = upload_strided(&f, x, rows, cols), out = blank(&f, rows, cols);
        lb_tensor tg = upload(&f, gain, 1, cols);
        lb_rmsnorm(f.ops, out, tx, tg, eps);
        lb_rmsnorm(f.ops, tx, tx, tg, eps);
        float *got = download(&f, out), *in_place = download(&f, tx);
        same_bits("rmsnorm in place", in_place, got, rows * cols);
        for (size_t r = 0; r < rows; r++) {
            double bound, square = dot_bound(x + r * cols, 1, x + r * cols, 1, cols, &bound);
            double scale = 1.0 / sqrt(square / (double)cols + (double)eps);
            for (size_t i = 0; i < cols; i++) {
                double want = (double)x[r * cols + i] * scale * (double)gain[i];
                /* Half the relative error of the sum of squares (cols / 16 + 5 roundings), and
                 * six roundings of the rest. */
                double relative = ((double)cols / 32 + 9) * ROUNDING;
                assert_close(got[r * cols + i], want, fabs(want) * relative);
            }
        }
        free(got);
        free(in_place);
        free(x);
        free(gain);
        lb_ops_reset(f.ops);
    }
    fixture_close(&f);
}

static void test_rope(void **state)
{
    (void)state;
    enum { ROWS = 40, HEADS = 3, POSITIONS = 64 };
    static const size_t dims[] = {2, 6, 16, 32, 34, 64};
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t d = 0; d < COUNT(dims); d++) {
        size_t dim = dims[d], half = dim / 2, cols = HEADS * dim;
        float *x = matrix(11, 0, ROWS, cols, 1.0f), *table = floats(POSITIONS * dim);
        uint32_t positions[ROWS];
        for (size_t p = 0; p < POSITIONS; p++) {
            for (size_t i = 0; i < half; i++) {
                double angle = (double)p * pow(10000.0, -(double)i / (double)half);
                table[p * dim + i] = (float)cos(angle);
                table[p * dim + half + i] = (float)sin(angle);
            }
        }
        for (uint32_t r = 0; r < ROWS; r++)
            positions[r] = r * 7 % POSITIONS;
        lb_tensor tx = upload_strided(&f, x, ROWS, cols);
        lb_tensor tt = upload(&f, table, POSITIONS, dim);
        lb_rope(f.ops, tx, dim, tt, positions, false);
        float *got = download(&f, tx);
        lb_rope(f.ops, tx, dim, tt, positions, true);
        float *back = download(&f, tx);
        for (size_t r = 0; r < ROWS; r++) {
            const float *cosine = table + positions[r] * dim, *sine = cosine + half;
            for (size_t i = 0; i < cols; i++) {
                size_t lane = i % dim % half, base = r * cols + i / dim * dim + lane;
                double a = (double)x[base], b = (double)x[base + half];
                double want = i % dim < half ? a * (double)cosine[lane] - b * (double)sine[lane]
                                             : b * (double)cosine[lane] + a * (double)sine[lane];
                assert_close(got[r * cols + i], want, 2 * ROUNDING * (fabs(a) + fabs(b)));
                /* cos^2 + sin^2 of a rounded table is 1 within two roundings. */
                assert_close(back[r * cols + i], (double)x[r * cols + i], 12 * ROUNDING);
            }
        }
        free(got);
        free(back);
        free(x);
        free(table);
        lb_ops_reset(f.ops);
    }
    fixture_close(&f);
}

static void test_swiglu(void **state)
{
    (void)state;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t c = 0; c < COUNT(odd); c++) {
        size_t rows = 33, cols = odd[c];
        float *gate = matrix(12, 0, rows, cols, 20.0f), *up = matrix(13, 0, rows, cols, 2.0f);
        lb_tensor out = blank(&f, rows, cols);
        lb_swiglu(f.ops, out, upload_strided(&f, gate, rows, cols),
                  upload_strided(&f, up, rows, cols));
        float *got = download(&f, out);
        for (size_t i = 0; i < rows * cols; i++) {
            double g = (double)gate[i], want = g / (1.0 + exp(-g)) * (double)up[i];
            /* exp within 2 ulp, then four roundings. */
            assert_close(got[i], want, 8 * ROUNDING * fabs(want));
        }
        free(got);
        free(gate);
        free(up);
        lb_ops_reset(f.ops);
    }
    fixture_close(&f);
}

static void test_swiglu_extremes(void **state)
{
    (void)state;
    const float gate[6] = {-200.0f, -1e30f, 200.0f, 1e30f, -0.0f, NAN}, up[6] = {1, 1, 1, 1, 1, 1};
    fixture f;
    assert_true(fixture_open(&f, 1, NULL));
    lb_tensor out = blank(&f, 1, 6);
    lb_swiglu(f.ops, out, upload(&f, gate, 1, 6), upload(&f, up, 1, 6));
    float *got = download(&f, out);
    assert_close(got[0], 0.0, 1e-30);
    assert_true(got[2] == 200.0f && got[3] == 1e30f && got[4] == 0.0f);
    assert_true(got[5] != got[5]);
    free(got);
    fixture_close(&f);
}

/* As one op it has the bits of its parts, whatever of a panel is left over, with a norm of the
 * input and without. */
static void check_linear_swiglu(fixture *f, size_t m, size_t k, size_t n, lb_dtype stored,
                                bool normed)
{
    float *x = matrix(14, 0, m, k, 1.0f), *g = matrix(15, 0, n, k, 1.0f);
    float *u = matrix(16, 0, n, k, 1.0f);
    lb_weight *gate = pack_weight(f, g, n, k, stored, LB_WEIGHT_FORWARD);
    lb_weight *up = pack_weight(f, u, n, k, stored, LB_WEIGHT_FORWARD);
    float *gain = matrix(17, 0, 1, k, 1.0f);
    const lb_norm by = {upload(f, gain, 1, k), 1e-5f}, *norm = normed ? &by : NULL;
    lb_tensor tx = upload_strided(f, x, m, k), out = blank(f, m, n), want = blank(f, m, n);
    lb_tensor a = blank(f, m, n), b = blank(f, m, n), apart = tx;
    const lb_linear_out outs[] = {{a, gate, {0}, false}, {b, up, {0}, false}};
    if (normed) {
        apart = blank(f, m, k);
        lb_rmsnorm(f->ops, apart, tx, by.gain, by.eps);
    }
    lb_linears(f->ops, apart, NULL, outs, 2);
    lb_swiglu(f->ops, want, a, b);
    lb_linear_swiglu(f->ops, out, tx, norm, gate, up);
    float *got = download(f, out), *parts = download(f, want), *first = download(f, a);
    same_bits(lb_dtype_name(stored), got, parts, m * n);
    lb_linears(f->ops, tx, norm, outs, 2);
    float *at_once = download(f, a);
    same_bits(lb_dtype_name(stored), at_once, first, m * n);
    free(first);
    free(at_once);
    free(gain);
    lb_weight_free(gate);
    lb_weight_free(up);
    free(got);
    free(parts);
    free(x);
    free(g);
    free(u);
    lb_ops_reset(f->ops);
}

static void test_linear_swiglu(void **state)
{
    (void)state;
    const lb_dtype dtypes[] = {LB_F32, LB_BF16, LB_INT16, LB_INT8};
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t d = 0; d < COUNT(dtypes); d++) {
        for (size_t i = 0; i < COUNT(odd); i++) {
            check_linear_swiglu(&f, odd[i], 130, odd[(i + d) % COUNT(odd)], dtypes[d], i % 2);
            check_linear_swiglu(&f, odd[i], 33, 301, dtypes[d], i % 2 == 0);
        }
    }
    fixture_close(&f);
}

/* ---- rows that move ---- */

static void test_rows_that_move(void **state)
{
    (void)state;
    enum { ROWS = 5, COLS = 7 };
    static const uint32_t order[ROWS] = {3, 0, 4, 1, 2};
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    float *x = matrix(14, 0, ROWS, COLS, 1.0f);
    lb_tensor tx = upload_strided(&f, x, ROWS, COLS);
    lb_tensor gathered = blank(&f, ROWS, COLS), scattered = blank(&f, ROWS, COLS);
    lb_tensor copied = blank(&f, ROWS, COLS);
    lb_gather_rows(f.ops, gathered, tx, order);
    lb_scatter_rows(f.ops, scattered, gathered, order);
    lb_copy(f.ops, copied, tx);
    float *got = download(&f, gathered), *back = download(&f, scattered);
    float *copy = download(&f, copied);
    same_bits("scatter of gather", back, x, ROWS * COLS);
    same_bits("copy", copy, x, ROWS * COLS);
    for (size_t r = 0; r < ROWS; r++)
        same_bits("gather", got + r * COLS, x + order[r] * COLS, COLS);
    free(got);
    free(back);
    free(copy);
    free(x);
    fixture_close(&f);
}

static void test_embed(void **state)
{
    (void)state;
    enum { ROWS = 4, VOCAB = 37, COLS = 19 };
    static const uint32_t ids[ROWS] = {36, 0, 5, 36};
    fixture f;
    assert_true(fixture_open(&f, 1, NULL));
    float *table = matrix(16, 0, VOCAB, COLS, 1.0f);
    for (int half = 0; half < 2; half++) {
        lb_weight *w = pack_weight(&f, table, VOCAB, COLS, half ? LB_BF16 : LB_F32,
                                   LB_WEIGHT_FORWARD);
        lb_tensor out = blank(&f, ROWS, COLS);
        lb_embed(f.ops, out, w, ids);
        float *got = download(&f, out);
        for (size_t i = 0; i < ROWS * COLS; i++) {
            float want = table[ids[i / COLS] * COLS + i % COLS];
            assert_true(got[i] == (half ? lb_bf16_to_f32(lb_f32_to_bf16(want)) : want));
        }
        free(got);
        lb_weight_free(w);
    }
    free(table);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_accumulate),
        cmocka_unit_test(test_bf16_source_any_alignment),
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_swiglu_extremes),
        cmocka_unit_test(test_linear_swiglu),
        cmocka_unit_test(test_rows_that_move),
        cmocka_unit_test(test_embed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
