/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention against float64, with shared prompts and scattered spans, and its backward against
 * finite differences of the float64 forward.
 */
#include "common/tensor/ops.h"
#include "tests/numeric/ops_fixture.h"

typedef struct oracle {
    lb_attention_shape shape;
    size_t rows, slots;
    double *q, *k, *v, *out;
    const float *dout;
    const lb_kv_spans *spans;
} oracle;

/* The slot of the i-th key of a row, in logical order. */
static size_t slot_of(const lb_kv_spans *s, size_t i)
{
    return i < s->count[0] ? s->first[0] + i : s->first[1] + (i - s->count[0]);
}

static void oracle_head(const oracle *o, size_t row, size_t head)
{
    const lb_attention_shape *s = &o->shape;
    size_t dim = s->head_dim, group = s->heads / s->kv_heads, wide = s->kv_heads * dim;
    const lb_kv_spans *spans = &o->spans[row];
    size_t keys = spans->count[0] + spans->count[1];
    const double *q = o->q + (row * s->heads + head) * dim;
    double *out = o->out + (row * s->heads + head) * dim, *p = take(keys, sizeof *p);
    double max = -1e300, sum = 0.0;
    for (size_t i = 0; i < keys; i++) {
        const double *k = o->k + slot_of(spans, i) * wide + head / group * dim;
        for (size_t d = 0; d < dim; d++)
            p[i] += (double)s->scale * q[d] * k[d];
        max = p[i] > max ? p[i] : max;
    }
    for (size_t i = 0; i < keys; i++) {
        p[i] = exp(p[i] - max);
        sum += p[i];
    }
    memset(out, 0, dim * sizeof *out);
    for (size_t i = 0; i < keys; i++) {
        const double *v = o->v + slot_of(spans, i) * wide + head / group * dim;
        for (size_t d = 0; d < dim; d++)
            out[d] += p[i] / sum * v[d];
    }
    free(p);
}

/* Fills out; returns sum dout out. */
static double oracle_loss(void *arg)
{
    const oracle *o = arg;
    double loss = 0.0;
    size_t cols = (size_t)o->shape.heads * o->shape.head_dim;
    for (size_t r = 0; r < o->rows; r++) {
        for (size_t h = 0; h < o->shape.heads; h++)
            oracle_head(o, r, h);
    }
    for (size_t i = 0; o->dout && i < o->rows * cols; i++)
        loss += (double)o->dout[i] * o->out[i];
    return loss;
}

static void check_forward(fixture *f, lb_attention_shape shape, size_t rows, size_t slots,
                          const lb_kv_spans *spans)
{
    size_t cols = (size_t)shape.heads * shape.head_dim;
    size_t wide = (size_t)shape.kv_heads * shape.head_dim;
    float *q = matrix(1, 0, rows, cols, 2.0f), *k = matrix(2, 0, slots, wide, 2.0f);
    float *v = matrix(3, 0, slots, wide, 1.0f);
    oracle o = {.shape = shape, .rows = rows, .slots = slots, .q = widen(q, rows * cols),
                .k = widen(k, slots * wide), .v = widen(v, slots * wide),
                .out = take(rows * cols, sizeof(double)), .spans = spans};
    oracle_loss(&o);
    lb_tensor out = blank(f, rows, cols);
    lb_attention(f->ops, out, upload_strided(f, q, rows, cols), upload_strided(f, k, slots, wide),
                 upload_strided(f, v, slots, wide), spans, &shape);
    float *got = download(f, out);
    /* |v| <= 1. A score is at most scale * dim * 4 and off by dim / 16 + 6 of its roundings, which
     * is p's relative error; then the sums over the keys. */
    double size = (double)shape.scale * shape.head_dim * 4.0;
    double tolerance = ROUNDING * (2 * size * ((double)shape.head_dim / 16 + 6) +
                                   (double)slots + 12);
    for (size_t i = 0; i < rows * cols; i++)
        assert_close(got[i], o.out[i], tolerance);
    free(got);
    free(o.q);
    free(o.k);
    free(o.v);
    free(o.out);
    free(q);
    free(k);
    free(v);
    lb_ops_reset(f->ops);
}

static void test_forward(void **state)
{
    (void)state;
    enum { ROWS = 37, SLOTS = 90 };
    static const lb_attention_shape shapes[] = {
        {1, 1, 1, 1.0f},     {2, 1, 2, 0.7f},      {4, 2, 15, 0.26f},  {6, 2, 16, 0.25f},
        {8, 8, 17, 0.24f},   {4, 2, 32, 0.18f},    {9, 3, 33, 0.17f},  {4, 1, 64, 0.125f},
        {2, 2, 128, 0.088f}, {2, 1, 256, 0.0625f}, {3, 3, 130, 0.09f},
    };
    fixture f;
    lb_kv_spans spans[ROWS];
    assert_true(fixture_open(&f, 2, NULL));
    for (uint32_t r = 0; r < ROWS; r++) {
        /* A shared prompt of r % 4 * 13 keys, then the row's own 1 .. 37 keys elsewhere. */
        spans[r] = (lb_kv_spans){{5, 50}, {r % 4 * 13, r + 1}};
        if (r % 5 == 0)
            spans[r] = (lb_kv_spans){{0, 0}, {0, SLOTS}};
        if (r % 7 == 0)
            spans[r] = (lb_kv_spans){{77, 0}, {1, 0}};
    }
    for (size_t i = 0; i < COUNT(shapes); i++)
        check_forward(&f, shapes[i], ROWS, SLOTS, spans);
    fixture_close(&f);
}

/* The same keys in one span, in two, and at other slots: the same bits. */
static void test_spans_do_not_show(void **state)
{
    (void)state;
    enum { KEYS = 45, DIM = 24, SLOTS = 200 };
    const lb_attention_shape shape = {3, 1, DIM, 0.2f};
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    float *q = matrix(1, 0, 1, 3 * DIM, 1.0f), *k = matrix(2, 0, SLOTS, DIM, 1.0f);
    float *v = matrix(3, 0, SLOTS, DIM, 1.0f), *want = NULL;
    lb_tensor tq = upload(&f, q, 1, 3 * DIM);
    for (uint32_t cut = 0; cut < KEYS; cut++) {
        const lb_kv_spans spans = {{130, 0}, {cut, KEYS - cut}};
        for (size_t i = 0; i < KEYS; i++) {
            size_t slot = slot_of(&spans, i);
            for (size_t d = 0; d < DIM; d++) {
                k[slot * DIM + d] = noise(4, i, d, 1.0f);
                v[slot * DIM + d] = noise(5, i, d, 1.0f);
            }
        }
        lb_tensor out = blank(&f, 1, 3 * DIM);
        lb_attention(f.ops, out, tq, upload(&f, k, SLOTS, DIM), upload(&f, v, SLOTS, DIM), &spans,
                     &shape);
        float *got = download(&f, out);
        if (want)
            same_bits("spans", got, want, 3 * DIM);
        free(want);
        want = got;
    }
    free(want);
    free(q);
    free(k);
    free(v);
    fixture_close(&f);
}

/* A score far above the rest takes all the weight, without overflow; NaN is not hidden. */
static void test_extremes(void **state)
{
    (void)state;
    const lb_attention_shape shape = {1, 1, 1, 1.0f};
    const lb_kv_spans spans = {{0, 0}, {0, 3}};
    const float q = 1.0f, k[3] = {-3000.0f, 4000.0f, 0.0f}, v[3] = {1.0f, 2.0f, 3.0f};
    const float nan[3] = {NAN, 0.0f, 0.0f};
    fixture f;
    assert_true(fixture_open(&f, 1, NULL));
    lb_tensor out = blank(&f, 1, 1), tq = upload(&f, &q, 1, 1), tv = upload(&f, v, 3, 1);
    lb_attention(f.ops, out, tq, upload(&f, k, 3, 1), tv, &spans, &shape);
    float *got = download(&f, out);
    assert_true(got[0] == 2.0f);
    free(got);
    lb_attention(f.ops, out, tq, upload(&f, nan, 3, 1), tv, &spans, &shape);
    got = download(&f, out);
    assert_true(got[0] != got[0]);
    free(got);
    fixture_close(&f);
}

/* ---- backward ---- */

static void check_slopes(const char *what, oracle *o, double *x, const float *got, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        double want = slope(oracle_loss, o, &x[i]);
        /* A gradient is a sum of up to rows * heads terms of size about 1, each off by some tens
         * of roundings. */
        if (!(fabs((double)got[i] - want) <= 3e-6 + 1e-5 * fabs(want)))
            fail_msg("%s: slope %zu is %.9g, not %.9g", what, i, (double)got[i], want);
    }
}

static void check_backward(fixture *f, lb_attention_shape shape, const uint32_t *starts,
                           size_t sequences)
{
    size_t rows = starts[sequences], cols = (size_t)shape.heads * shape.head_dim;
    size_t wide = (size_t)shape.kv_heads * shape.head_dim;
    lb_kv_spans *spans = take(rows, sizeof *spans);
    for (size_t s = 0; s < sequences; s++) {
        for (uint32_t r = starts[s]; r < starts[s + 1]; r++)
            spans[r] = (lb_kv_spans){{0, starts[s]}, {0, r - starts[s] + 1}};
    }
    float *q = matrix(4, 0, rows, cols, 1.0f), *k = matrix(5, 0, rows, wide, 1.0f);
    float *v = matrix(6, 0, rows, wide, 1.0f), *dout = matrix(7, 0, rows, cols, 1.0f);
    oracle o = {.shape = shape, .rows = rows, .slots = rows, .q = widen(q, rows * cols),
                .k = widen(k, rows * wide), .v = widen(v, rows * wide),
                .out = take(rows * cols, sizeof(double)), .dout = dout, .spans = spans};
    /* What was there before must not show: the op overwrites. */
    const lb_tensor grads[3] = {upload_strided(f, q, rows, cols), upload_strided(f, k, rows, wide),
                                upload_strided(f, v, rows, wide)};
    lb_attention_backward(f->ops, grads, upload_strided(f, dout, rows, cols),
                          upload_strided(f, q, rows, cols), upload_strided(f, k, rows, wide),
                          upload_strided(f, v, rows, wide), starts, sequences, &shape);
    float *dq = download(f, grads[0]), *dk = download(f, grads[1]), *dv = download(f, grads[2]);
    check_slopes("dq", &o, o.q, dq, rows * cols);
    check_slopes("dk", &o, o.k, dk, rows * wide);
    check_slopes("dv", &o, o.v, dv, rows * wide);
    free(dq);
    free(dk);
    free(dv);
    free(o.q);
    free(o.k);
    free(o.v);
    free(o.out);
    free(q);
    free(k);
    free(v);
    free(dout);
    free(spans);
    lb_ops_reset(f->ops);
}

static void test_backward(void **state)
{
    (void)state;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    check_backward(&f, (lb_attention_shape){1, 1, 1, 1.0f}, (const uint32_t[]){0, 3}, 1);
    check_backward(&f, (lb_attention_shape){4, 2, 5, 0.45f}, (const uint32_t[]){0, 1, 18}, 2);
    check_backward(&f, (lb_attention_shape){2, 1, 16, 0.25f}, (const uint32_t[]){0, 5, 12}, 2);
    check_backward(&f, (lb_attention_shape){3, 3, 17, 0.24f}, (const uint32_t[]){0, 7, 8, 12}, 3);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_spans_do_not_show),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_backward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
