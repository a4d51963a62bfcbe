/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_head_sample: each draw against the float64 inverse CDF, the distribution of many draws, the
 * cuts, forbidden ids, and the raw logprob, which has the bits of lb_head.
 */
#include "common/tensor/ops.h"
#include "tests/numeric/ops_fixture.h"

#define DIM 6u
#define ROWS 64u

typedef struct draw_case {
    size_t vocab;
    lb_sample_params params;
    bool forbid;                 /* every third id */
} draw_case;

typedef struct entry {
    double weight;
    uint32_t id;
} entry;

static int heavier_first(const void *a, const void *b)
{
    const entry *left = a, *right = b;
    if (left->weight != right->weight)
        return left->weight > right->weight ? -1 : 1;
    return left->id < right->id ? -1 : 1;
}

/* p[v], normalised, after temperature, forbidden ids, top_k and top_p. *edge gets how close the
 * cut was: the distance of a share from top_p, or of the k-th weight from the next. */
static void oracle_shares(const draw_case *c, const double *logits, double *p, double *edge)
{
    entry *sorted = take(c->vocab, sizeof *sorted);
    double max = -1e300, total = 0.0, share = 0.0;
    size_t count = 0, keep = 0;
    for (size_t v = 0; v < c->vocab; v++)
        max = (!c->forbid || v % 3) && logits[v] > max ? logits[v] : max;
    for (uint32_t v = 0; v < c->vocab; v++) {
        if (!c->forbid || v % 3)
            sorted[count++] = (entry){exp((logits[v] - max) / (double)c->params.temperature), v};
    }
    qsort(sorted, count, sizeof *sorted, heavier_first);
    *edge = 1.0;
    if (c->params.top_k > 0 && c->params.top_k < count) {
        *edge = 1.0 - sorted[c->params.top_k].weight / sorted[c->params.top_k - 1].weight;
        count = c->params.top_k;
    }
    for (size_t i = 0; i < count; i++)
        total += sorted[i].weight;
    while (keep < count && (keep == 0 || share < (double)c->params.top_p)) {
        share += sorted[keep++].weight / total;
        *edge = c->params.top_p < 1.0f ? fmin(*edge, fabs(share - (double)c->params.top_p))
                                       : *edge;
    }
    memset(p, 0, c->vocab * sizeof *p);
    for (size_t i = 0; i < keep; i++)
        p[sorted[i].id] = sorted[i].weight / total / (c->params.top_p < 1.0f ? share : 1.0);
    free(sorted);
}

/* The draw is right, or u lies so near a step of the CDF that f32 may round over it. */
static void check_draw(const double *p, size_t vocab, double u, uint32_t token)
{
    const double slack = 1e-5;
    double below = 0.0;
    assert_true(token < vocab);
    if (p[token] == 0.0)
        fail_msg("token %u was cut or forbidden", token);
    for (uint32_t v = 0; v < token; v++)
        below += p[v];
    if (u < below - slack || u >= below + p[token] + slack)
        fail_msg("u %.7f drew %u, whose share is [%.7f, %.7f)", u, token, below,
                 below + p[token]);
}

static void check_case(fixture *f, const draw_case *c, uint32_t seed)
{
    float *h = matrix(seed, 0, ROWS, DIM, 1.5f), *w = matrix(seed + 1, 0, c->vocab, DIM, 1.0f);
    float uniform[ROWS], logprob[ROWS], want[ROWS];
    uint32_t token[ROWS];
    uint8_t *allowed = take(c->vocab, 1);
    double *logits = take(c->vocab, sizeof *logits), *p = take(c->vocab, sizeof *p), edge;
    for (size_t v = 0; v < c->vocab; v++)
        allowed[v] = v % 3 != 0;
    for (size_t r = 0; r < ROWS; r++)
        uniform[r] = r == 0 ? 0.0f : r == 1 ? 0x1.fffffep-1f
                                            : noise(seed + 2, r, 0, 0.5f) + 0.5f;
    lb_weight *weight = pack_weight(f, w, c->vocab, DIM, LB_F32, LB_WEIGHT_FORWARD);
    lb_tensor th = upload_strided(f, h, ROWS, DIM);
    lb_head_sample(f->ops, th, weight, c->forbid ? allowed : NULL, &c->params, uniform, token,
                   logprob);
    fixture_check(f);
    const lb_head_out out = {.logprob = want};
    lb_head(f->ops, th, weight, token, &out);
    same_bits("logprob of a draw", logprob, want, ROWS);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t v = 0; v < c->vocab; v++) {
            double bound;
            logits[v] = dot_bound(h + r * DIM, 1, w + v * DIM, 1, DIM, &bound);
        }
        oracle_shares(c, logits, p, &edge);
        if (edge > 1e-5)
            check_draw(p, c->vocab, (double)uniform[r], token[r]);
    }
    lb_weight_free(weight);
    free(allowed);
    free(logits);
    free(p);
    free(h);
    free(w);
    lb_ops_reset(f->ops);
}

static void test_draws(void **state)
{
    (void)state;
    static const draw_case cases[] = {
        {1, {1.0f, 1.0f, 0}, false},    {2, {1.0f, 1.0f, 0}, false},
        {17, {0.7f, 1.0f, 0}, true},    {130, {1.3f, 1.0f, 0}, true},
        {513, {1.0f, 1.0f, 0}, false},  {1500, {1.0f, 1.0f, 0}, true},
        {33, {1.0f, 1.0f, 1}, false},   {130, {1.0f, 1.0f, 5}, true},
        {1500, {0.8f, 1.0f, 40}, false}, {700, {1.0f, 1.0f, 9999}, false},
        {33, {1.0f, 0.5f, 0}, false},   {130, {1.5f, 0.9f, 0}, true},
        {1500, {1.0f, 0.95f, 0}, false}, {1500, {1.0f, 0.01f, 0}, false},
        {1500, {1.0f, 0.9f, 50}, true}, {40, {100.0f, 0.999f, 39}, false},
        {130, {0.01f, 0.9f, 3}, false},
    };
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    for (size_t i = 0; i < COUNT(cases); i++)
        check_case(&f, &cases[i], (uint32_t)(100 + 10 * i));
    fixture_close(&f);
}

/* Many draws of one row. With fixed seeds the statistic is one number; the bound is the mean of
 * chi-square plus five standard deviations. */
static void test_distribution(void **state)
{
    (void)state;
    enum { VOCAB = 40, DRAWS = 4096, ROUNDS = 8 };
    static const lb_sample_params params = {1.0f, 1.0f, 0};
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    float *w = matrix(50, 0, VOCAB, DIM, 0.5f), *row = matrix(51, 0, 1, DIM, 1.0f);
    float *h = floats(DRAWS * DIM), *uniform = floats(DRAWS), *logprob = floats(DRAWS);
    uint32_t *token = take(DRAWS, sizeof *token), seen[VOCAB] = {0};
    double logits[VOCAB], p[VOCAB], edge, bound, statistic = 0.0;
    for (size_t i = 0; i < DRAWS * DIM; i++)
        h[i] = row[i % DIM];
    lb_weight *weight = pack_weight(&f, w, VOCAB, DIM, LB_F32, LB_WEIGHT_FORWARD);
    lb_tensor th = upload(&f, h, DRAWS, DIM);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < DRAWS; i++)
            uniform[i] = noise(60 + round, i, 1, 0.5f) + 0.5f;
        lb_head_sample(f.ops, th, weight, NULL, &params, uniform, token, logprob);
        fixture_check(&f);
        for (size_t i = 0; i < DRAWS; i++)
            seen[token[i]]++;
    }
    for (size_t v = 0; v < VOCAB; v++)
        logits[v] = dot_bound(row, 1, w + v * DIM, 1, DIM, &bound);
    oracle_shares(&(draw_case){VOCAB, params, false}, logits, p, &edge);
    for (size_t v = 0; v < VOCAB; v++) {
        double expected = p[v] * DRAWS * ROUNDS, off = seen[v] - expected;
        statistic += off * off / expected;
    }
    print_message("chi-square %.1f, %d degrees of freedom\n", statistic, VOCAB - 1);
    assert_true(statistic < VOCAB - 1 + 5 * sqrt(2.0 * (VOCAB - 1)));
    lb_weight_free(weight);
    free(token);
    free(logprob);
    free(uniform);
    free(h);
    free(row);
    free(w);
    fixture_close(&f);
}

/* Equal logits: greedy takes the smallest id, top_k keeps the smaller ones, and forbidden ids
 * are passed over. */
static void test_ties_and_greedy(void **state)
{
    (void)state;
    enum { VOCAB = 1200 };
    const float h = 1.0f;
    uint8_t allowed[VOCAB];
    float w[VOCAB] = {0}, logprob, last = 0x1.fffffep-1f;
    uint32_t token;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    memset(allowed, 1, sizeof allowed);
    w[700] = w[33] = w[1199] = 2.0f;
    lb_weight *weight = pack_weight(&f, w, VOCAB, 1, LB_F32, LB_WEIGHT_FORWARD);
    lb_tensor th = upload(&f, &h, 1, 1);
    const lb_sample_params greedy = {0.0f, 1.0f, 0}, two = {1.0f, 1.0f, 2};
    lb_head_sample(f.ops, th, weight, NULL, &greedy, &last, &token, &logprob);
    assert_int_equal(token, 33);
    lb_head_sample(f.ops, th, weight, NULL, &two, &last, &token, &logprob);
    assert_int_equal(token, 700);
    allowed[33] = 0;
    lb_head_sample(f.ops, th, weight, allowed, &greedy, NULL, &token, &logprob);
    assert_int_equal(token, 700);
    lb_head_sample(f.ops, th, weight, allowed, &two, &last, &token, &logprob);
    assert_int_equal(token, 1199);
    memset(allowed, 0, sizeof allowed);
    allowed[1] = 1;
    lb_head_sample(f.ops, th, weight, allowed, &(lb_sample_params){1.0f, 0.5f, 3}, &last, &token,
                   &logprob);
    assert_int_equal(token, 1);
    assert_close(logprob, -log(3 * exp(2.0) + VOCAB - 3), 1e-5);
    lb_weight_free(weight);
    fixture_close(&f);
}

/* A temperature whose inverse overflows still means the likeliest token, not NaN. */
static void test_tiny_temperature(void **state)
{
    (void)state;
    const float h = 1.0f, w[3] = {1.0f, 3.0f, 2.0f}, uniform[2] = {0.0f, 0x1.fffffep-1f};
    uint32_t token;
    float logprob;
    fixture f;
    assert_true(fixture_open(&f, 1, NULL));
    lb_weight *weight = pack_weight(&f, w, 3, 1, LB_F32, LB_WEIGHT_FORWARD);
    lb_tensor th = upload(&f, &h, 1, 1);
    static const float temperatures[] = {1e-30f, 1e-38f, 1e-40f, 0x1p-149f};
    for (size_t i = 0; i < 2 * COUNT(temperatures); i++) {
        const lb_sample_params params = {temperatures[i / 2], i % 2 ? 0.9f : 1.0f, 0};
        for (size_t u = 0; u < 2; u++) {
            lb_head_sample(f.ops, th, weight, NULL, &params, &uniform[u], &token, &logprob);
            fixture_check(&f);
            assert_int_equal(token, 1);
        }
    }
    lb_weight_free(weight);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_ties_and_greedy),
        cmocka_unit_test(test_tiny_temperature),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
