/* SPDX-License-Identifier: Apache-2.0
 *
 * What a sequence gets does not show what it was batched with: one digest for each sequence over
 * batches of 1 to 64, chunks of 1, 37, 64 and 512 rows, one and two threads, every instruction set
 * and every dtype; and for rollouts over pools of keys and values from too small to ample.
 */
#include "common/base/digest.h"
#include "common/model/kv_pool.h"
#include "tests/numeric/golden.h"

#define SEQUENCES 64u
#define LONGEST 200u

typedef struct corpus {
    uint32_t tokens[SEQUENCES][LONGEST];
    lb_sequence sequences[SEQUENCES];
} corpus;

/* Lengths from 2 to 200, on both sides of borders of pages, tiles and blocks of keys. */
static void make_corpus(const lb_model *model, corpus *c)
{
    uint32_t state = 1, vocab = lb_model_get_config(model)->vocab;
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        c->sequences[s] = (lb_sequence){c->tokens[s], 2 + s * 83 % (LONGEST - 1)};
        for (uint32_t t = 0; t < c->sequences[s].count; t++) {
            state = state * 1664525u + 1013904223u;
            c->tokens[s][t] = (state >> 8) % vocab;
        }
    }
}

/* Scores sequences [first, first + count) in one call; a digest for each. */
static void digest_scores(const fixture *f, const corpus *c, uint32_t first, uint32_t count,
                          uint8_t out[][LB_SHA256_BYTES])
{
    static float logprob[SEQUENCES][LONGEST], entropy[SEQUENCES][LONGEST];
    lb_score_request requests[SEQUENCES] = {0};
    lb_err err = {0};
    for (uint32_t i = 0; i < count; i++)
        requests[i] = (lb_score_request){.sequence = c->sequences[first + i], .start = 1,
                                         .logprob = logprob[i], .entropy = entropy[i]};
    if (lb_model_score(f->model, f->adapter, requests, count, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    for (uint32_t i = 0; i < count; i++) {
        lb_sha256 *hash = NULL;
        size_t bytes = c->sequences[first + i].count * sizeof(float);
        assert_int_equal(lb_sha256_new(&hash, &err), LB_OK);
        lb_sha256_update(hash, logprob[i], bytes);
        lb_sha256_update(hash, entropy[i], bytes);
        lb_sha256_final(hash, out[i]);
        lb_sha256_free(hash);
    }
}

static void check_scores(const char *dir, fixture_options o, uint8_t want[][LB_SHA256_BYTES],
                         bool *known)
{
    static const uint32_t batches[] = {1, 7, 64};
    static corpus c;
    uint8_t got[SEQUENCES][LB_SHA256_BYTES];
    fixture f;
    fixture_open(dir, o, &f);
    make_corpus(f.model, &c);
    for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
        /* A row at a time is slow: there the first sequences, alone and together, must do. */
        uint32_t end = o.max_tokens == 1 ? 4 : SEQUENCES;
        for (uint32_t first = 0; first < end; first += batches[b]) {
            uint32_t count = end - first < batches[b] ? end - first : batches[b];
            digest_scores(&f, &c, first, count, got);
            if (!*known)
                memcpy(want + first, got, count * sizeof *got);
            for (uint32_t i = 0; i < count; i++) {
                if (memcmp(got[i], want[first + i], sizeof *got) != 0)
                    fail_msg("%s, %s, %u threads, chunks of %u, batches of %u: sequence %u",
                             lb_dtype_name(o.dtype), o.isa, o.threads, o.max_tokens, batches[b],
                             first + i);
            }
        }
        *known = true;
    }
    fixture_close(&f);
}

static void test_one_digest_a_sequence(void **state)
{
    static const lb_dtype dtypes[] = {LB_F32, LB_BF16, LB_INT16, LB_INT8};
    static const uint32_t chunks[] = {512, 37, 64, 1};
    golden g;
    (void)state;
    golden_open("llama3-tiny", &g);
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        uint8_t want[SEQUENCES][LB_SHA256_BYTES];
        bool known = false;
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            for (uint32_t threads = 1; threads <= 2; threads++)
                check_scores(g.dir, (fixture_options){.threads = threads, .dtype = dtypes[d],
                                                      .max_tokens = chunks[i]}, want, &known);
        }
        for (size_t i = 1; lb_backend_isa(i); i++)
            check_scores(g.dir, (fixture_options){.isa = lb_backend_isa(i), .threads = 2,
                                                  .dtype = dtypes[d], .max_tokens = 37},
                         want, &known);
    }
    golden_close(&g);
}

/* ---- rollouts ---- */

#define PROMPTS 5u
#define GROUP 6u
#define NEW_TOKENS 70u

static void generate(const fixture *f, const corpus *c, size_t kv_bytes,
                     lb_rollout out[PROMPTS * GROUP])
{
    /* Prompts of 2, 85, 168, 52 and 135 tokens. */
    lb_generate_params params = {.sample = {.temperature = 1.0f, .top_p = 0.95f},
                                 .max_new_tokens = NEW_TOKENS, .seed = 7, .step = 2,
                                 .ignore_eos = true, .kv_bytes = kv_bytes};
    lb_err err = {0};
    if (lb_model_generate(f->model, f->adapter, c->sequences, PROMPTS, GROUP, 3, &params, out,
                          &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
}

static void test_pools_do_not_show(void **state)
{
    static const size_t pages[] = {1, 12, 20, 40, 1000};
    static corpus c;
    lb_rollout want[PROMPTS * GROUP], got[PROMPTS * GROUP];
    golden g;
    fixture f;
    (void)state;
    golden_open("llama3-tiny", &g);
    fixture_open(g.dir, (fixture_options){.threads = 2}, &f);
    make_corpus(f.model, &c);
    generate(&f, &c, 0, want);
    fixture_close(&f);
    for (size_t p = 0; p < sizeof pages / sizeof *pages; p++) {
        fixture_open(g.dir, (fixture_options){.threads = 1 + (uint32_t)(p % 2),
                                              .isa = p % 3 == 0 ? "portable" : NULL,
                                              .max_tokens = p % 2 ? 7 : 0}, &f);
        generate(&f, &c, pages[p] * lb_kv_page_bytes(f.model), got);
        for (size_t i = 0; i < PROMPTS * GROUP; i++) {
            uint32_t room = lb_model_get_config(f.model)->max_positions -
                            c.sequences[i / GROUP].count;
            assert_int_equal(got[i].count, room < NEW_TOKENS ? room : NEW_TOKENS);
            assert_memory_equal(got[i].tokens, want[i].tokens,
                                got[i].count * sizeof *got[i].tokens);
            assert_memory_equal(got[i].logprobs, want[i].logprobs,
                                got[i].count * sizeof *got[i].logprobs);
            lb_rollout_free(&got[i]);
        }
        fixture_close(&f);
    }
    for (size_t i = 0; i < PROMPTS * GROUP; i++)
        lb_rollout_free(&want[i]);
    golden_close(&g);
}

static void test_pages_have_owners(void **state)
{
    golden g;
    fixture f;
    lb_kv_pool pool;
    lb_err err = {0};
    (void)state;
    golden_open("llama3-tiny", &g);
    fixture_open(g.dir, (fixture_options){.threads = 1}, &f);
    assert_int_equal(lb_kv_pool_create(f.model, 3, &pool, &err), LB_OK);
    assert_int_equal(pool.free_count, 3);
    uint32_t a = lb_kv_pool_take(&pool), b = lb_kv_pool_take(&pool);
    assert_true(a != b && pool.free_count == 1);
    lb_kv_pool_share(&pool, a);
    lb_kv_pool_drop(&pool, a);
    assert_int_equal(pool.free_count, 1);
    lb_kv_pool_drop(&pool, a);
    lb_kv_pool_drop(&pool, b);
    assert_int_equal(pool.free_count, 3);
    lb_kv_pool_free(&pool);
    fixture_close(&f);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_digest_a_sequence),
        cmocka_unit_test(test_pools_do_not_show),
        cmocka_unit_test(test_pages_have_owners),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
