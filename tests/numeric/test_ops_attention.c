/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention against float64, with shared prompts and scattered pages, and its backward against
 * finite differences of the float64 forward.
 */
#include "common/tensor/ops.h"
#include "tests/numeric/ops_fixture.h"

typedef struct oracle {
    lb_attention_shape shape;
    size_t rows, slots;
    double *q, *k, *v, *out;
    const float *dout;
    const lb_kv_row *kv;
    const size_t *first;         /* where pages are NULL: the slot of a row's first key */
} oracle;

/* The slot of the i-th key of a row, in logical order. */
static size_t slot_of(const lb_kv_row *row, size_t i)
{
    return row->pages[i / LB_KV_PAGE] * (size_t)LB_KV_PAGE + i % LB_KV_PAGE;
}

static void oracle_head(const oracle *o, size_t row, size_t head)
{
    const lb_attention_shape *s = &o->shape;
    size_t dim = s->head_dim, group = s->heads / s->kv_heads, wide = s->kv_heads * dim;
    const lb_kv_row *kv = &o->kv[row];
    size_t keys = kv->count;
    const double *q = o->q + (row * s->heads + head) * dim;
    double *out = o->out + (row * s->heads + head) * dim, *p = take(keys, sizeof *p);
    double max = -1e300, sum = 0.0;
    for (size_t i = 0; i < keys; i++) {
        size_t slot = kv->pages ? slot_of(kv, i) : o->first[row] + i;
        const double *k = o->k + slot * wide + head / group * dim;
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
        size_t slot = kv->pages ? slot_of(kv, i) : o->first[row] + i;
        const double *v = o->v + slot * wide + head / group * dim;
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

/* A cache of slots / LB_KV_PAGE pages with k and v [slots, kv_heads * head_dim] in it. What is not
 * written is 0 in f32; of integers it is garbage, with scales that are NaN. */
static void make_cache(fixture *f, const lb_attention_shape *shape, const float *k,
                       const float *v, size_t slots, lb_tensor cache[2])
{
    size_t wide = (size_t)shape->kv_heads * shape->head_dim;
    size_t pages = (slots + LB_KV_PAGE - 1) / LB_KV_PAGE;
    uint32_t *to = take(slots, sizeof *to);
    for (size_t i = 0; i < slots; i++)
        to[i] = (uint32_t)i;
    cache[0] = lb_ops_alloc_zero(f->ops, LB_F32, pages, lb_kv_key_page(shape));
    cache[1] = lb_ops_alloc_zero(f->ops, LB_F32, pages, lb_kv_value_page(shape));
    for (int i = 0; shape->stored != LB_F32 && i < 2; i++) {
        size_t bytes = cache[i].rows * cache[i].cols * sizeof(float);
        void *garbage = take(bytes, 1);
        memset(garbage, 0xFF, bytes);
        lb_copy_in(f->ops, cache[i], garbage);
        free(garbage);
    }
    lb_kv_write(f->ops, cache[0], cache[1], upload_strided(f, k, slots, wide),
                upload_strided(f, v, slots, wide), to, shape);
    free(to);
}

#define SCORE_ERROR 8.0

static void check_forward(fixture *f, lb_attention_shape shape, size_t rows, size_t slots,
                          const lb_kv_row *kv)
{
    size_t cols = (size_t)shape.heads * shape.head_dim;
    size_t wide = (size_t)shape.kv_heads * shape.head_dim;
    float *q = matrix(1, 0, rows, cols, 2.0f), *k = matrix(2, 0, slots, wide, 2.0f);
    float *v = matrix(3, 0, slots, wide, 1.0f);
    oracle o = {.shape = shape, .rows = rows, .slots = slots, .q = widen(q, rows * cols),
                .k = widen(k, slots * wide), .v = widen(v, slots * wide),
                .out = take(rows * cols, sizeof(double)), .kv = kv};
    oracle_loss(&o);
    lb_tensor out = blank(f, rows, cols), cache[2];
    make_cache(f, &shape, k, v, slots, cache);
    lb_attention(f->ops, out, upload_strided(f, q, rows, cols), cache[0], cache[1], kv, &shape);
    float *got = download(f, out);
    /* |v| <= 1. A score is at most scale * dim * 4 and off by dim + 2 of its roundings, which is
     * p's relative error; then the sums over the keys and the rescaling of each block. */
    double size = (double)shape.scale * shape.head_dim * 4.0;
    double tolerance = ROUNDING * (2 * size * ((double)shape.head_dim + 2) + (double)slots + 24);
    /* Integers: the error of a score is that of some tens of elements of random sign, whose step is
     * a part of the largest; the weights and the values have a step of their own. */
    if (shape.stored != LB_F32)
        tolerance += (shape.stored == LB_INT16 ? 1.0 / 8190 : 1.0 / 254) *
                     (0.5 + SCORE_ERROR * (double)shape.scale * sqrt(shape.head_dim));
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

static const lb_dtype dtypes[] = {LB_F32, LB_INT16, LB_INT8};

static void test_forward(void **state)
{
    (void)state;
    enum { ROWS = 61, PAGES = 12 };
    static const lb_attention_shape shapes[] = {
        {1, 1, 1, 1.0f, LB_F32}, {2, 1, 2, 0.7f, LB_F32}, {4, 2, 15, 0.26f, LB_F32},
        {6, 2, 16, 0.25f, LB_F32}, {8, 8, 17, 0.24f, LB_F32}, {4, 2, 32, 0.18f, LB_F32},
        {9, 3, 33, 0.17f, LB_F32}, {4, 1, 64, 0.125f, LB_F32}, {2, 2, 128, 0.088f, LB_F32},
        {2, 1, 256, 0.0625f, LB_F32}, {3, 3, 130, 0.09f, LB_F32}, {120, 1, 8, 0.3f, LB_F32},
    };
    /* A shared prompt of a page or of five, then a page of the row's own; a sequence's causal rows;
     * all pages in a row. */
    static const uint32_t short_one[] = {3, 0}, short_two[] = {3, 7};
    static const uint32_t long_one[] = {9, 2, 5, 11, 4, 1}, long_two[] = {9, 2, 5, 11, 4, 6};
    static const uint32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    fixture f;
    lb_kv_row kv[ROWS];
    assert_true(fixture_open(&f, 2, NULL));
    for (uint32_t r = 0; r < ROWS; r++) {
        kv[r] = (lb_kv_row){all, r < 40 ? 300 + r : r - 39};
        if (r < 10)
            kv[r] = (lb_kv_row){r % 2 ? short_one : short_two, 33 + r};
        else if (r < 20)
            kv[r] = (lb_kv_row){r % 3 ? long_one : long_two, 150 + 4 * r % 40};
    }
    for (size_t i = 0; i < COUNT(shapes) * COUNT(dtypes); i++) {
        lb_attention_shape shape = shapes[i / COUNT(dtypes)];
        shape.stored = dtypes[i % COUNT(dtypes)];
        if (lb_kv_can_store(shape.stored, shape.head_dim))
            check_forward(&f, shape, ROWS, PAGES * LB_KV_PAGE, kv);
    }
    fixture_close(&f);
}

/* The same keys in other pages, alone and among rows that share them: the same bits. */
static void check_pages(lb_dtype stored)
{
    enum { KEYS = 300, DIM = 24, PAGES = 24, NEED = 10, ROWS = 7, COLS = 3 * DIM };
    const lb_attention_shape shape = {3, 1, DIM, 0.2f, stored};
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    float *q = matrix(1, 0, 1, COLS, 1.0f), *want = NULL;
    for (uint32_t shift = 0; shift < PAGES; shift += 5) {
        uint32_t pages[NEED], other[NEED];
        float *k = matrix(2 + shift, 0, PAGES * LB_KV_PAGE, DIM, 1.0f);
        float *v = matrix(3 + shift, 0, PAGES * LB_KV_PAGE, DIM, 1.0f);
        lb_kv_row kv[ROWS];
        lb_tensor cache[2], tq = blank(&f, ROWS, COLS), out = blank(&f, ROWS, COLS);
        for (uint32_t i = 0; i < NEED; i++) {
            pages[i] = (i * 7 + shift) % PAGES;
            other[i] = i < 6 ? pages[i] : (i * 7 + shift + 3) % PAGES;
        }
        for (uint32_t r = 0; r < ROWS; r++)
            kv[r] = (lb_kv_row){r % 2 ? other : pages, r == 4 ? KEYS : 1 + r * 47};
        for (size_t i = 0; i < KEYS; i++) {
            for (size_t d = 0; d < DIM; d++) {
                k[slot_of(&kv[4], i) * DIM + d] = noise(4, i, d, 1.0f);
                v[slot_of(&kv[4], i) * DIM + d] = noise(5, i, d, 1.0f);
            }
        }
        make_cache(&f, &shape, k, v, PAGES * LB_KV_PAGE, cache);
        for (size_t r = 0; r < ROWS; r++)
            lb_copy(f.ops, lb_tensor_rows(tq, r, 1), upload(&f, q, 1, COLS));
        lb_attention(f.ops, out, tq, cache[0], cache[1], kv, &shape);
        float *got = download(&f, out);
        lb_attention(f.ops, lb_tensor_rows(out, 0, 1), lb_tensor_rows(tq, 4, 1), cache[0],
                     cache[1], &kv[4], &shape);
        float *alone = download(&f, lb_tensor_rows(out, 0, 1));
        same_bits("alone", alone, got + 4 * COLS, COLS);
        if (want)
            same_bits("pages", alone, want, COLS);
        free(want);
        want = alone;
        free(got);
        free(k);
        free(v);
    }
    free(want);
    free(q);
    fixture_close(&f);
}

static void test_pages_do_not_show(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(dtypes); i++)
        check_pages(dtypes[i]);
}

/* A score far above the rest takes all the weight, without overflow; NaN is not hidden. */
static void check_extremes(lb_dtype stored)
{
    const lb_attention_shape shape = {1, 1, 1, 1.0f, stored};
    const uint32_t page = 0;
    const lb_kv_row kv = {&page, 3};
    const float q = 1.0f, k[3] = {-3000.0f, 4000.0f, 0.0f}, v[3] = {1.0f, 2.0f, 3.0f};
    const float nan[3] = {NAN, 0.0f, 0.0f}, infinite[3] = {0.0f, INFINITY, 0.0f};
    const float *bad[][2] = {{nan, v}, {k, nan}, {infinite, v}, {k, infinite}};
    fixture f;
    assert_true(fixture_open(&f, 1, NULL));
    lb_tensor out = blank(&f, 1, 1), tq = upload(&f, &q, 1, 1), cache[2];
    make_cache(&f, &shape, k, v, 3, cache);
    lb_attention(f.ops, out, tq, cache[0], cache[1], &kv, &shape);
    float *got = download(&f, out);
    if (stored == LB_F32)
        assert_true(got[0] == 2.0f);
    else
        assert_close(got[0], 2.0, 1e-6);
    free(got);
    for (size_t i = 0; i < COUNT(bad); i++) {
        make_cache(&f, &shape, bad[i][0], bad[i][1], 3, cache);
        lb_attention(f.ops, out, tq, cache[0], cache[1], &kv, &shape);
        got = download(&f, out);
        /* Only the value that is infinite, in f32, is no NaN. */
        assert_true(i == 3 ? !isfinite(got[0]) : got[0] != got[0]);
        free(got);
    }
    fixture_close(&f);
}

static void test_extremes(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(dtypes); i++)
        check_extremes(dtypes[i]);
}

/* ---- backward ---- */

static void check_slopes(const char *what, oracle *o, double *x, const float *got, size_t count,
                         size_t every)
{
    for (size_t i = 0; i < count; i += every) {
        double want = slope(oracle_loss, o, &x[i]);
        /* A gradient is a sum of up to rows * heads terms of size about 1, each off by some tens
         * of roundings. */
        if (!(fabs((double)got[i] - want) <= 3e-6 + 1e-5 * fabs(want)))
            fail_msg("%s: slope %zu is %.9g, not %.9g", what, i, (double)got[i], want);
    }
}

/* every: of how many elements one is held against a difference, which costs a whole forward. */
static void check_backward(fixture *f, lb_attention_shape shape, const uint32_t *starts,
                           size_t sequences, size_t every)
{
    size_t rows = starts[sequences], cols = (size_t)shape.heads * shape.head_dim;
    size_t wide = (size_t)shape.kv_heads * shape.head_dim;
    lb_kv_row *kv = take(rows, sizeof *kv);
    size_t *first = take(rows, sizeof *first);
    for (size_t s = 0; s < sequences; s++) {
        for (uint32_t r = starts[s]; r < starts[s + 1]; r++) {
            kv[r].count = r - starts[s] + 1;
            first[r] = starts[s];
        }
    }
    float *q = matrix(4, 0, rows, cols, 1.0f), *k = matrix(5, 0, rows, wide, 1.0f);
    float *v = matrix(6, 0, rows, wide, 1.0f), *dout = matrix(7, 0, rows, cols, 1.0f);
    oracle o = {.shape = shape, .rows = rows, .slots = rows, .q = widen(q, rows * cols),
                .k = widen(k, rows * wide), .v = widen(v, rows * wide),
                .out = take(rows * cols, sizeof(double)), .dout = dout, .kv = kv,
                .first = first};
    /* What was there before must not show: the op overwrites. */
    const lb_tensor grads[3] = {upload_strided(f, q, rows, cols), upload_strided(f, k, rows, wide),
                                upload_strided(f, v, rows, wide)};
    lb_attention_backward(f->ops, grads, upload_strided(f, dout, rows, cols),
                          upload_strided(f, q, rows, cols), upload_strided(f, k, rows, wide),
                          upload_strided(f, v, rows, wide), starts, sequences, &shape);
    float *dq = download(f, grads[0]), *dk = download(f, grads[1]), *dv = download(f, grads[2]);
    check_slopes("dq", &o, o.q, dq, rows * cols, every);
    check_slopes("dk", &o, o.k, dk, rows * wide, every);
    check_slopes("dv", &o, o.v, dv, rows * wide, every);
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
    free(kv);
    free(first);
    lb_ops_reset(f->ops);
}

static void test_backward(void **state)
{
    (void)state;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    static const lb_attention_shape small[] = {
        {1, 1, 1, 1.0f, LB_F32}, {4, 2, 5, 0.45f, LB_F32}, {2, 1, 16, 0.25f, LB_F32},
        {3, 3, 17, 0.24f, LB_F32},
    };
    static const uint32_t starts[][4] = {{0, 3}, {0, 1, 18}, {0, 5, 12}, {0, 7, 8, 12}};
    static const size_t sequences[] = {1, 2, 2, 3};
    for (size_t i = 0; i < COUNT(small); i++)
        check_backward(&f, small[i], starts[i], sequences[i], 1);
    /* Several blocks of query rows and panels of keys. */
    check_backward(&f, (lb_attention_shape){6, 2, 40, 0.16f, LB_F32},
                   (const uint32_t[]){0, 131, 170}, 2, 911);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_pages_do_not_show),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_backward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
