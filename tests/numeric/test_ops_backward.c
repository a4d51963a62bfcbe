/* SPDX-License-Identifier: Apache-2.0
 *
 * The backward of linear, rmsnorm and swiglu against float64: sums for the product, finite
 * differences of the float64 forward for the others.
 */
#include "common/tensor/ops.h"
#include "tests/numeric/ops_fixture.h"

static const size_t odd[] = {1, 2, 15, 16, 17, 33, 130};

static void check_linear_backward(fixture *f, size_t m, size_t n, size_t k, lb_dtype stored,
                                  bool add)
{
    float *dy = matrix(1, 0, m, n, 1.0f), *w = matrix(2, 0, n, k, 1.0f);
    float *old = matrix(3, 0, m, k, 1.0f);
    lb_weight *weight = pack_weight(f, w, n, k, stored, LB_WEIGHT_BACKWARD);
    lb_tensor dx = upload_strided(f, old, m, k);
    lb_linear_backward(f->ops, dx, upload_strided(f, dy, m, n), weight, add);
    float *got = download(f, dx);
    for (size_t i = 0; stored == LB_BF16 && i < n * k; i++)
        w[i] = lb_bf16_to_f32(lb_f32_to_bf16(w[i]));
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < k; j++) {
            double bound, want = dot_bound(dy + i * n, 1, w + j, k, n, &bound);
            want += add ? (double)old[i * k + j] : 0.0;
            assert_close(got[i * k + j], want, bound + ROUNDING * fabs(want));
        }
    }
    lb_weight_free(weight);
    free(got);
    free(old);
    free(w);
    free(dy);
    lb_ops_reset(f->ops);
}

static void test_linear_backward(void **state)
{
    (void)state;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t i = 0; i < COUNT(odd); i++) {
        for (size_t j = 0; j < COUNT(odd); j++)
            check_linear_backward(&f, odd[(i + j) % COUNT(odd)], odd[i], odd[j],
                                  i % 2 ? LB_F32 : LB_BF16, j % 2);
    }
    check_linear_backward(&f, 259, 100, 64, LB_F32, true);
    fixture_close(&f);
}

/* ---- rmsnorm ---- */

typedef struct norm_oracle {
    double *x;
    const float *gain, *dy;
    size_t cols;
    double eps;
} norm_oracle;

static double norm_loss(void *arg)
{
    const norm_oracle *o = arg;
    double square = 0.0, loss = 0.0;
    for (size_t i = 0; i < o->cols; i++)
        square += o->x[i] * o->x[i];
    for (size_t i = 0; i < o->cols; i++)
        loss += (double)o->dy[i] * o->x[i] * (double)o->gain[i];
    return loss / sqrt(square / (double)o->cols + o->eps);
}

static void test_rmsnorm_backward(void **state)
{
    (void)state;
    enum { ROWS = 35 };
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t c = 0; c < 2 * COUNT(odd); c++) {
        size_t cols = odd[c / 2];
        bool add = c % 2;
        const float eps = 1e-3f;
        float *x = matrix(4, 0, ROWS, cols, 2.0f), *dy = matrix(5, 0, ROWS, cols, 1.0f);
        float *gain = matrix(6, 0, 1, cols, 1.5f), *old = matrix(7, 0, ROWS, cols, 1.0f);
        lb_tensor dx = upload_strided(&f, old, ROWS, cols);
        lb_rmsnorm_backward(f.ops, dx, upload_strided(&f, dy, ROWS, cols),
                            upload_strided(&f, x, ROWS, cols), upload(&f, gain, 1, cols), eps, add);
        float *got = download(&f, dx);
        for (size_t r = 0; r < ROWS; r++) {
            norm_oracle o = {widen(x + r * cols, cols), gain, dy + r * cols, cols, (double)eps};
            double size = 0.0;
            for (size_t i = 0; i < cols; i++)
                size += o.x[i] * o.x[i];
            size = 1.0 / sqrt(size / (double)cols + o.eps);
            for (size_t i = 0; i < cols; i++) {
                double want = slope(norm_loss, &o, &o.x[i]);
                want += add ? (double)old[r * cols + i] : 0.0;
                /* Both terms are at most 1.5 / rms and cancel when cols is small; some twenty
                 * roundings of that, and the finite difference's own error, which grows with the
                 * third derivative, 1 / rms^3. */
                double tolerance = 40 * ROUNDING * (1.5 * size + 1) + 1e-9 * size * size * size;
                assert_close(got[r * cols + i], want, tolerance);
            }
            free(o.x);
        }
        free(got);
        free(x);
        free(dy);
        free(gain);
        free(old);
        lb_ops_reset(f.ops);
    }
    fixture_close(&f);
}

/* ---- swiglu ---- */

typedef struct swiglu_oracle {
    double gate, up, dout;
} swiglu_oracle;

static double swiglu_loss(void *arg)
{
    const swiglu_oracle *o = arg;
    return o->dout * o->gate / (1.0 + exp(-o->gate)) * o->up;
}

static void test_swiglu_backward(void **state)
{
    (void)state;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t c = 0; c < COUNT(odd); c++) {
        size_t rows = 35, cols = odd[c];
        float *gate = matrix(8, 0, rows, cols, 15.0f), *up = matrix(9, 0, rows, cols, 1.0f);
        float *dout = matrix(10, 0, rows, cols, 1.0f);
        lb_tensor dgate = blank(&f, rows, cols), dup = blank(&f, rows, cols);
        lb_swiglu_backward(f.ops, dgate, dup, upload_strided(&f, dout, rows, cols),
                           upload_strided(&f, gate, rows, cols),
                           upload_strided(&f, up, rows, cols));
        float *got_gate = download(&f, dgate), *got_up = download(&f, dup);
        for (size_t i = 0; i < rows * cols; i++) {
            swiglu_oracle o = {(double)gate[i], (double)up[i], (double)dout[i]};
            double want = slope(swiglu_loss, &o, &o.gate);
            /* silu' is at most 1.1; 1 - s loses what exp(-gate) lacks, so absolute. */
            assert_close(got_gate[i], want, 1e-6);
            want = slope(swiglu_loss, &o, &o.up);
            assert_close(got_up[i], want, 10 * ROUNDING * fabs(want) + 1e-8);
        }
        free(got_gate);
        free(got_up);
        free(gate);
        free(up);
        free(dout);
        lb_ops_reset(f.ops);
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_backward),
        cmocka_unit_test(test_rmsnorm_backward),
        cmocka_unit_test(test_swiglu_backward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
