/* SPDX-License-Identifier: Apache-2.0
 *
 * The head against float64: logprob, lse, entropy, rank and top-k, its backward against finite
 * differences, and its memory, which must not grow with rows times vocabulary.
 */
#include "common/tensor/ops.h"
#include "tests/numeric/ops_fixture.h"

#include <malloc.h>

typedef struct oracle {
    double *h;               /* [rows, dim] */
    const float *w, *grad;
    const uint32_t *targets;
    size_t rows, dim, vocab;
} oracle;

static void oracle_logits(const oracle *o, size_t row, double *logits)
{
    for (size_t v = 0; v < o->vocab; v++) {
        logits[v] = 0.0;
        for (size_t d = 0; d < o->dim; d++)
            logits[v] += o->h[row * o->dim + d] * (double)o->w[v * o->dim + d];
    }
}

static double oracle_lse(const double *logits, size_t vocab)
{
    double max = logits[0], sum = 0.0;
    for (size_t v = 0; v < vocab; v++)
        max = logits[v] > max ? logits[v] : max;
    for (size_t v = 0; v < vocab; v++)
        sum += exp(logits[v] - max);
    return max + log(sum);
}

static double oracle_entropy(const double *logits, size_t vocab, double lse)
{
    double entropy = 0.0;
    for (size_t v = 0; v < vocab; v++)
        entropy -= exp(logits[v] - lse) * (logits[v] - lse);
    return entropy;
}

/* sum grad log p(target): what lb_head_backward differentiates. */
static double oracle_loss(void *arg)
{
    const oracle *o = arg;
    double loss = 0.0, *logits = take(o->vocab, sizeof *logits);
    for (size_t r = 0; r < o->rows; r++) {
        if (o->grad[r] == 0.0f)
            continue;
        oracle_logits(o, r, logits);
        loss += (double)o->grad[r] * (logits[o->targets[r]] - oracle_lse(logits, o->vocab));
    }
    free(logits);
    return loss;
}

typedef struct results {
    float *logprob, *lse, *entropy, *top_logprob;
    uint32_t *rank, *top_id, *targets;
} results;

static results results_new(size_t rows, size_t k, size_t vocab)
{
    results r = {floats(rows), floats(rows), floats(rows), floats(rows * k),
                 take(rows, 4), take(rows * k, 4), take(rows, 4)};
    for (size_t i = 0; i < rows; i++)
        r.targets[i] = (uint32_t)((i * 7919 + vocab - 1) % vocab);
    return r;
}

static void results_free(results *r)
{
    free(r->logprob);
    free(r->lse);
    free(r->entropy);
    free(r->top_logprob);
    free(r->rank);
    free(r->top_id);
    free(r->targets);
}

/* The logits of size S are off by `error`; lse and logprob by that and some roundings of S. */
static void check_row(const oracle *o, const results *got, size_t row, size_t k, double error)
{
    double *logits = take(o->vocab, sizeof *logits);
    oracle_logits(o, row, logits);
    double lse = oracle_lse(logits, o->vocab), target = logits[o->targets[row]];
    assert_close(got->lse[row], lse, error);
    assert_close(got->logprob[row], target - lse, 2 * error);
    assert_close(got->entropy[row], oracle_entropy(logits, o->vocab, lse), 4 * error);
    size_t above = 0, near = 0, tops_above = 0;
    for (size_t v = 0; v < o->vocab; v++) {
        above += logits[v] > target + 2 * error;
        near += fabs(logits[v] - target) <= 2 * error;
    }
    assert_true(got->rank[row] >= above + 1 && got->rank[row] <= above + near);
    /* Every id whose logit is clearly above the k-th is among the k, and they fall. */
    const uint32_t *ids = got->top_id + row * k;
    for (size_t i = 0; i < k; i++) {
        assert_true(ids[i] < o->vocab);
        assert_close(got->top_logprob[row * k + i], logits[ids[i]] - lse, 2 * error);
        assert_true(i == 0 || got->top_logprob[row * k + i] <= got->top_logprob[row * k + i - 1]);
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(ids[i], ids[j]);
    }
    for (size_t v = 0; k > 0 && v < o->vocab; v++)
        tops_above += logits[v] > logits[ids[k - 1]] + 2 * error;
    assert_true(k == 0 || tops_above < k);
    free(logits);
}

static void check_head(fixture *f, size_t rows, size_t dim, size_t vocab, size_t k, float scale)
{
    float *h = matrix(1, 0, rows, dim, scale), *w = matrix(2, 0, vocab, dim, 1.0f);
    results got = results_new(rows, k, vocab);
    oracle o = {.h = widen(h, rows * dim), .w = w, .targets = got.targets, .rows = rows,
                .dim = dim, .vocab = vocab};
    lb_weight *weight = pack_weight(f, w, vocab, dim, LB_F32, LB_WEIGHT_FORWARD);
    const lb_head_out out = {.logprob = got.logprob, .lse = got.lse, .entropy = got.entropy,
                             .rank = got.rank, .top_id = got.top_id,
                             .top_logprob = got.top_logprob, .k = k};
    lb_head(f->ops, upload_strided(f, h, rows, dim), weight, got.targets, &out);
    fixture_check(f);
    double error = ((double)dim + 10) * (double)dim * (double)scale * ROUNDING + 40 * ROUNDING;
    for (size_t r = 0; r < rows; r++)
        check_row(&o, &got, r, k, error);
    lb_weight_free(weight);
    results_free(&got);
    free(o.h);
    free(h);
    free(w);
    lb_ops_reset(f->ops);
}

static void test_head(void **state)
{
    (void)state;
    static const size_t vocabs[] = {1, 2, 15, 16, 17, 33, 130, 255, 256, 257, 1500, 4096, 4097,
                                    8300};
    static const size_t rows[] = {1, 2, 5, 33, 65};
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t i = 0; i < COUNT(vocabs); i++) {
        size_t k = vocabs[i] < 7 ? vocabs[i] : 7;
        check_head(&f, rows[i % COUNT(rows)], 17, vocabs[i], k, 1.0f);
        check_head(&f, rows[(i + 2) % COUNT(rows)], 2, vocabs[i], 0, 20.0f);
        check_head(&f, rows[(i + 3) % COUNT(rows)], 33, vocabs[i], vocabs[i] < 40 ? vocabs[i] : 1,
                   0.1f);
    }
    fixture_close(&f);
}

/* So many that the rows are taken in parts: each as it is alone, and right. */
static void test_many_of_the_largest(void **state)
{
    (void)state;
    enum { ROWS = 700, DIM = 3, VOCAB = 8300, K = 1024 };
    static const size_t some[] = {0, 681, 682, ROWS - 1};
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    float *h = matrix(10, 0, ROWS, DIM, 1.0f), *w = matrix(11, 0, VOCAB, DIM, 1.0f);
    results all = results_new(ROWS, K, VOCAB), one = results_new(1, K, VOCAB);
    oracle o = {.h = widen(h, ROWS * DIM), .w = w, .targets = all.targets, .rows = ROWS,
                .dim = DIM, .vocab = VOCAB};
    lb_weight *weight = pack_weight(&f, w, VOCAB, DIM, LB_F32, LB_WEIGHT_FORWARD);
    lb_tensor th = upload(&f, h, ROWS, DIM);
    const lb_head_out out = {all.logprob, all.lse, all.entropy, all.top_logprob, all.rank,
                             all.top_id, K};
    const lb_head_out alone = {one.logprob, one.lse, one.entropy, one.top_logprob, one.rank,
                               one.top_id, K};
    lb_head(f.ops, th, weight, all.targets, &out);
    for (size_t i = 0; i < COUNT(some); i++) {
        size_t r = some[i];
        lb_head(f.ops, lb_tensor_rows(th, r, 1), weight, all.targets + r, &alone);
        fixture_check(&f);
        same_bits("top logprobs", all.top_logprob + r * K, one.top_logprob, K);
        assert_memory_equal(all.top_id + r * K, one.top_id, K * sizeof *one.top_id);
        same_bits("logprob", all.logprob + r, one.logprob, 1);
        assert_int_equal(all.rank[r], one.rank[0]);
        if (i % 2 == 0)
            check_row(&o, &all, r, K, 100 * ROUNDING);
    }
    lb_weight_free(weight);
    results_free(&all);
    results_free(&one);
    free(o.h);
    free(h);
    free(w);
    fixture_close(&f);
}

/* Rows of W that are equal give equal logits: the smaller id comes first, and rank counts strictly
 * larger ones. */
static void test_ties(void **state)
{
    (void)state;
    enum { VOCAB = 5000, DIM = 5, K = 4 };     /* two ranges of the head */
    const uint32_t target = 900;
    uint32_t top_id[K], rank;
    float top_logprob[K], logprob;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    float *w = floats(VOCAB * DIM), *h = matrix(3, 0, 1, DIM, 1.0f);
    for (size_t d = 0; d < DIM; d++) {
        w[600 * DIM + d] = w[30 * DIM + d] = w[4700 * DIM + d] = 2.0f * h[d];
        w[900 * DIM + d] = h[d];
    }
    lb_weight *weight = pack_weight(&f, w, VOCAB, DIM, LB_F32, LB_WEIGHT_FORWARD);
    const lb_head_out out = {.logprob = &logprob, .rank = &rank, .top_id = top_id,
                             .top_logprob = top_logprob, .k = K};
    lb_head(f.ops, upload(&f, h, 1, DIM), weight, &target, &out);
    assert_int_equal(top_id[0], 30);
    assert_int_equal(top_id[1], 600);
    assert_int_equal(top_id[2], 4700);
    assert_int_equal(top_id[3], 900);
    assert_int_equal(rank, 4);
    assert_true(top_logprob[3] == logprob);
    lb_weight_free(weight);
    free(w);
    free(h);
    fixture_close(&f);
}

/* Logits hundreds apart: no overflow, entropy 0, and a NaN is not hidden. */
static void test_extremes(void **state)
{
    (void)state;
    const float w[3] = {-500.0f, 700.0f, 100.0f};
    float h = 1.0f, logprob, lse, entropy;
    uint32_t target = 0;
    fixture f;
    assert_true(fixture_open(&f, 1, NULL));
    lb_weight *weight = pack_weight(&f, w, 3, 1, LB_F32, LB_WEIGHT_FORWARD);
    const lb_head_out out = {.logprob = &logprob, .lse = &lse, .entropy = &entropy};
    lb_head(f.ops, upload(&f, &h, 1, 1), weight, &target, &out);
    assert_true(logprob == -1200.0f && lse == 700.0f && entropy == 0.0f);
    h = NAN;
    lb_head(f.ops, upload(&f, &h, 1, 1), weight, &target, &out);
    assert_true(logprob != logprob && lse != lse);
    lb_weight_free(weight);
    fixture_close(&f);
}

/* ---- backward ---- */

static void check_backward(fixture *f, size_t rows, size_t dim, size_t vocab, lb_dtype stored)
{
    /* |dh| <= 2 |grad|; the softmax is off by the roundings of a logit and of lse. */
    const double tolerance = stored == LB_INT16 ? 5e-3 : 4e-6;
    float *h = matrix(4, 0, rows, dim, 1.0f), *w = matrix(5, 0, vocab, dim, 1.0f);
    float *grad = matrix(6, 0, 1, rows, 1.0f);
    /* Blocks of integers whose scales differ, so that none passes for another. */
    for (size_t i = 0; stored == LB_INT16 && i < vocab * dim; i++)
        w[i] *= 0.1f + (float)(i / dim / LB_QUANT_BLOCK) / (float)vocab * 64.0f;
    results got = results_new(rows, 0, vocab);
    /* A masked row is not looked at: not even NaN comes through it. */
    for (size_t r = 1; r < rows; r += 3) {
        grad[r] = 0.0f;
        h[r * dim] = NAN;
    }
    lb_weight *weight = pack_weight(f, w, vocab, dim, stored,
                                    LB_WEIGHT_FORWARD | LB_WEIGHT_BACKWARD);
    lb_tensor th = upload_strided(f, h, rows, dim), dh = upload_strided(f, h, rows, dim);
    const lb_head_out out = {.lse = got.lse};
    lb_head(f->ops, th, weight, NULL, &out);
    lb_head_backward(f->ops, dh, th, weight, got.targets, got.lse, grad);
    float *slopes = download(f, dh);
    for (size_t i = 0; stored == LB_BF16 && i < vocab * dim; i++)
        w[i] = lb_bf16_to_f32(lb_f32_to_bf16(w[i]));
    for (size_t r = 0; r < rows; r++) {
        oracle o = {.h = widen(h + r * dim, dim), .w = w, .grad = grad + r,
                    .targets = got.targets + r, .rows = 1, .dim = dim, .vocab = vocab};
        for (size_t d = 0; d < dim; d++) {
            double want = slope(oracle_loss, &o, &o.h[d]);
            if (grad[r] == 0.0f)
                assert_true(slopes[r * dim + d] == 0.0f);
            else
                assert_close(slopes[r * dim + d], want, tolerance);
        }
        free(o.h);
    }
    lb_weight_free(weight);
    results_free(&got);
    free(slopes);
    free(grad);
    free(h);
    free(w);
    lb_ops_reset(f->ops);
}

static void test_backward(void **state)
{
    (void)state;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    check_backward(&f, 1, 1, 1, LB_F32);
    check_backward(&f, 5, 17, 130, LB_F32);
    check_backward(&f, 7, 16, 513, LB_BF16);
    check_backward(&f, 70, 5, 1100, LB_F32);
    check_backward(&f, 9, 40, 700, LB_INT16);
    check_backward(&f, 3, 4, 8300, LB_F32);       /* ranges shared out */
    check_backward(&f, 130, 2, 4200, LB_F32);     /* ranges one after the other */
    fixture_close(&f);
}

/* ---- memory ---- */

static size_t heap_in_use(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* What 16 times more rows cost, beside the caller's own arrays. Under a sanitizer mallinfo2 knows
 * nothing and the check is empty. */
static void test_memory_does_not_grow(void **state)
{
    (void)state;
    enum { VOCAB = 8192, DIM = 16, FEW = 128, MANY = 2048 };
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    float *w = matrix(7, 0, VOCAB, DIM, 0.1f), *h = matrix(8, 0, MANY, DIM, 1.0f);
    float *grad = matrix(9, 0, 1, MANY, 1.0f), *uniform = floats(MANY);
    uint32_t *token = take(MANY, sizeof *token);
    results got = results_new(MANY, 0, VOCAB);
    lb_weight *weight = pack_weight(&f, w, VOCAB, DIM, LB_F32,
                                    LB_WEIGHT_FORWARD | LB_WEIGHT_BACKWARD);
    lb_tensor th = upload(&f, h, MANY, DIM), dh = blank(&f, MANY, DIM);
    const lb_head_out out = {.logprob = got.logprob, .lse = got.lse};
    const lb_sample_params params = {.temperature = 1.0f, .top_p = 1.0f};
    size_t used[2] = {0}, peak[2] = {0};
    for (size_t i = 0; i < 2; i++) {
        size_t rows = i ? MANY : FEW;
        lb_tensor part = lb_tensor_rows(th, 0, rows);
        lb_head(f.ops, part, weight, got.targets, &out);
        lb_head_backward(f.ops, lb_tensor_rows(dh, 0, rows), part, weight, got.targets, got.lse,
                         grad);
        lb_head_sample(f.ops, part, weight, NULL, &params, uniform, token, got.logprob);
        fixture_check(&f);
        used[i] = heap_in_use();
        peak[i] = lb_ops_peak_bytes(f.ops);
    }
    assert_int_equal(peak[0], peak[1]);
    /* [MANY, VOCAB] would be 64 MiB. */
    assert_true(used[1] <= used[0] + (1u << 20));
    lb_weight_free(weight);
    results_free(&got);
    free(token);
    free(uniform);
    free(grad);
    free(h);
    free(w);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_backward),
        cmocka_unit_test(test_memory_does_not_grow),
        cmocka_unit_test(test_many_of_the_largest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
