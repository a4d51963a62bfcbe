/* SPDX-License-Identifier: Apache-2.0
 *
 * The bits that LB_NUMERICS names: recorded digests of scores, rollouts and gradients of the
 * recorded models in each dtype. They are the same on every chip. Where a change moves them,
 * LB_NUMERICS gets its next number and the digests are recorded anew.
 */
#include "common/base/digest.h"
#include "common/model/model.h"
#include "tests/numeric/golden.h"

typedef struct record {
    lb_dtype dtype;
    const char *scores, *rollouts, *gradients;
} record;

#define NUMERICS "f32-fma-v4"

static const record records[] = {
    {LB_F32, "89bf9553fd3f05ee", "5d7b6d31fa5fcd9d", "2c4b971d3e25c231"},
    {LB_BF16, "756de3a662d5b23e", "91be7ff509f6b4b5", "245889f241047f42"},
    {LB_INT16, "da11d537611500ef", "f7fd475a84d4af09", "b2764faf10ff35f2"},
    {LB_INT8, "f77f696880996c2f", "7d16e304cb7aad33", NULL},
};

static void add_scores(const fixture *f, const golden *g, lb_sha256 *hash)
{
    static float logprob[GOLDEN_SEQUENCES_MAX][GOLDEN_TOKENS_MAX];
    static float entropy[GOLDEN_SEQUENCES_MAX][GOLDEN_TOKENS_MAX];
    lb_score_request requests[GOLDEN_SEQUENCES_MAX] = {0};
    lb_err err = {0};
    for (size_t s = 0; s < g->count; s++)
        requests[s] = (lb_score_request){.sequence = g->sequences[s], .start = 1,
                                         .logprob = logprob[s], .entropy = entropy[s]};
    if (lb_model_score(f->model, f->adapter, requests, g->count, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    for (size_t s = 0; s < g->count; s++) {
        size_t bytes = (g->sequences[s].count - 1) * sizeof(float);
        lb_sha256_update(hash, logprob[s] + 1, bytes);
        lb_sha256_update(hash, entropy[s] + 1, bytes);
    }
}

static void add_rollouts(const fixture *f, const golden *g, lb_sha256 *hash)
{
    enum { GROUP = 3 };
    lb_generate_params params = {.sample = {.temperature = 0.9f, .top_p = 0.95f},
                                 .max_new_tokens = 12, .seed = 7, .step = 2, .ignore_eos = true};
    lb_rollout out[2 * GROUP];
    lb_err err = {0};
    if (lb_model_generate(f->model, f->adapter, g->sequences, 2, GROUP, 0, &params, out, &err) !=
        LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    for (size_t i = 0; i < 2 * GROUP; i++) {
        lb_sha256_update(hash, out[i].tokens, out[i].count * sizeof *out[i].tokens);
        lb_sha256_update(hash, out[i].logprobs, out[i].count * sizeof *out[i].logprobs);
        lb_rollout_free(&out[i]);
    }
}

/* L = - sum_t w_t logprob_t with small weights of both signs. */
static lb_status loss(void *arg, size_t sequence, const float *logprob, float *grad, lb_err *err)
{
    const uint32_t *counts = arg;
    (void)logprob;
    (void)err;
    for (uint32_t t = 1; t < counts[sequence]; t++)
        grad[t] = -((float)((sequence * 31 + t * 7) % 13) - 5.0f) / 8.0f;
    return LB_OK;
}

static void add_gradients(const fixture *f, const golden *g, lb_sha256 *hash)
{
    lb_sequence sequences[GOLDEN_SEQUENCES_MAX];
    uint32_t counts[GOLDEN_SEQUENCES_MAX];
    size_t count = 0;
    lb_err err = {0};
    for (size_t s = 0; s < g->count; s++) {
        if (g->sequences[s].count < 2)
            continue;
        counts[count] = g->sequences[s].count;
        sequences[count++] = g->sequences[s];
    }
    float *grad = calloc(f->layout.elements, sizeof *grad);
    assert_non_null(grad);
    if (lb_model_gradient(f->model, f->adapter, sequences, count, loss, counts, grad, &err) !=
        LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    lb_sha256_update(hash, grad, f->layout.elements * sizeof *grad);
    free(grad);
}

static bool same(lb_dtype dtype, const char *what, const char *want,
                  void (*add)(const fixture *, const golden *, lb_sha256 *))
{
    uint8_t digest[LB_SHA256_BYTES];
    char hex[LB_SHA256_HEX];
    lb_sha256 *hash = NULL;
    lb_err err = {0};
    assert_int_equal(lb_sha256_new(&hash, &err), LB_OK);
    for (size_t m = 0; m < GOLDEN_COUNT; m++) {
        golden g;
        fixture f;
        golden_open(golden_names[m], &g);
        fixture_open(g.dir, (fixture_options){.threads = 2, .dtype = dtype}, &f);
        add(&f, &g, hash);
        fixture_close(&f);
        golden_close(&g);
    }
    lb_sha256_final(hash, digest);
    lb_sha256_free(hash);
    lb_sha256_hex(digest, hex);
    hex[16] = '\0';
    if (strcmp(hex, want) == 0)
        return true;
    print_message("%s in %s: %s, recorded for %s is %s\n", what, lb_dtype_name(dtype), hex,
                  NUMERICS, want);
    return false;
}

static void test_bits_are_those_of_the_class(void **state)
{
    bool all = true;
    (void)state;
    assert_string_equal(LB_NUMERICS, NUMERICS);
    for (size_t i = 0; i < sizeof records / sizeof *records; i++) {
        const record *r = &records[i];
        all &= same(r->dtype, "scores", r->scores, add_scores);
        all &= same(r->dtype, "rollouts", r->rollouts, add_rollouts);
        all &= !r->gradients || same(r->dtype, "gradients", r->gradients, add_gradients);
    }
    assert_true(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits_are_those_of_the_class),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
