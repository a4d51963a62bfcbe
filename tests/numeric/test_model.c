/* SPDX-License-Identifier: Apache-2.0
 *
 * Scores, gradients and rollouts against recorded Transformers, PEFT and PyTorch outputs, and the
 * promise that companions, chunks, threads and instruction sets do not show in the bits.
 */
#include "common/io/safetensors.h"
#include "common/model/model.h"
#include "tests/numeric/golden.h"

/* The tolerances of docs/NUMERICS.md: f32 sums in another order than PyTorch's. */
#define LOGPROB_TOLERANCE 1e-4
#define GRADIENT_TOLERANCE 1e-4   /* of a tensor's norm */
#define FAST_GRADIENT_TOLERANCE 0.02
#define DIFFERENCE_TOLERANCE 1e-3
#define LOSS_NOISE 2e-5           /* of L in f32: some hundred terms with 1e-6 each */
#define BF16_MEAN_TOLERANCE 0.01
#define BF16_BIAS_TOLERANCE 0.002

static void score_all(fixture *f, const golden *g, bool adapter,
                      float out[GOLDEN_SEQUENCES_MAX][GOLDEN_TOKENS_MAX])
{
    lb_score_request requests[GOLDEN_SEQUENCES_MAX] = {0};
    lb_err err = {0};
    for (size_t s = 0; s < g->count; s++)
        requests[s] = (lb_score_request){.sequence = g->sequences[s], .start = 1,
                                         .logprob = out[s]};
    if (lb_model_score(f->model, adapter ? f->adapter : NULL, requests, g->count, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
}

static void test_logprobs(void **state)
{
    (void)state;
    for (size_t m = 0; m < GOLDEN_COUNT; m++) {
        golden g;
        fixture f;
        static float got[GOLDEN_SEQUENCES_MAX][GOLDEN_TOKENS_MAX];
        golden_open(golden_names[m], &g);
        fixture_open(g.dir, (fixture_options){.threads = 2}, &f);
        for (int with = 0; with < 2; with++) {
            score_all(&f, &g, with, got);
            for (size_t s = 0; s < g.count; s++) {
                const lb_json *want = golden_array(&g, s, with ? "adapter_logprobs" : "logprobs");
                assert_true(isnan(got[s][0]));
                for (uint32_t t = 1; t < g.sequences[s].count; t++)
                    assert_close(got[s][t], lb_json_number(lb_json_at(want, t)),
                                 LOGPROB_TOLERANCE);
            }
        }
        fixture_close(&f);
        golden_close(&g);
    }
}

/* The likeliest token at every position, of every model. */
static void test_argmax(void **state)
{
    (void)state;
    for (size_t m = 0; m < GOLDEN_COUNT; m++) {
        golden g;
        fixture f;
        golden_open(golden_names[m], &g);
        fixture_open(g.dir, (fixture_options){.threads = 2}, &f);
        for (size_t s = 0; s < g.count; s++) {
            float logprob[GOLDEN_TOKENS_MAX], top[GOLDEN_TOKENS_MAX];
            uint32_t id[GOLDEN_TOKENS_MAX];
            lb_score_request request = {.sequence = g.sequences[s], .start = 1, .k = 1,
                                        .logprob = logprob, .top_id = id, .top_logprob = top};
            assert_int_equal(lb_model_score(f.model, NULL, &request, 1, NULL), LB_OK);
            for (uint32_t t = 1; t < g.sequences[s].count; t++)
                assert_int_equal(id[t], lb_json_integer(lb_json_at(
                                            golden_array(&g, s, "argmax"), t - 1)));
        }
        fixture_close(&f);
        golden_close(&g);
    }
}

/* bf16 storage against Transformers computing in bf16 throughout. Theirs rounds each activation and
 * logit to 8 bits, ours none, so the differences are their rounding: it has no bias, and the mean
 * over a thousand positions shows none. */
static void test_bf16(void **state)
{
    static const char *const names[] = {"smollm2-tiny", "mistral-tiny"};
    (void)state;
    for (size_t m = 0; m < sizeof names / sizeof *names; m++) {
        golden g;
        fixture f;
        double sum = 0, magnitude = 0, count = 0;
        golden_open(names[m], &g);
        fixture_open(g.dir, (fixture_options){.threads = 2, .dtype = LB_BF16}, &f);
        const lb_json *rows = lb_json_get(g.root, "bf16");
        for (size_t s = 0; s < lb_json_array_size(rows); s++) {
            const lb_json *ids = lb_json_get(lb_json_at(rows, s), "tokens");
            const lb_json *want = lb_json_get(lb_json_at(rows, s), "logprobs");
            uint32_t tokens[GOLDEN_TOKENS_MAX];
            float got[GOLDEN_TOKENS_MAX];
            size_t n = lb_json_array_size(ids);
            assert_true(n > 1 && n <= GOLDEN_TOKENS_MAX);
            for (size_t t = 0; t < n; t++)
                tokens[t] = (uint32_t)lb_json_integer(lb_json_at(ids, t));
            lb_score_request request = {.sequence = {tokens, (uint32_t)n}, .start = 1,
                                        .logprob = got};
            assert_int_equal(lb_model_score(f.model, NULL, &request, 1, NULL), LB_OK);
            for (size_t t = 1; t < n; t++, count++) {
                double off = (double)got[t] - lb_json_number(lb_json_at(want, t));
                sum += off;
                magnitude += fabs(off);
            }
        }
        if (!(count > 1000 && magnitude / count <= BF16_MEAN_TOLERANCE &&
              fabs(sum) / count <= BF16_BIAS_TOLERANCE))
            fail_msg("%s: mean |difference| %.4f, mean %.4f of %g", names[m], magnitude / count,
                     sum / count, count);
        fixture_close(&f);
        golden_close(&g);
    }
}

/* The recorded top five at position p are about the token after it. */
static void test_top_k_rank_and_entropy(void **state)
{
    (void)state;
    golden g;
    fixture f;
    golden_open("qwen3-tiny", &g);
    fixture_open(g.dir, (fixture_options){.threads = 1}, &f);
    uint32_t vocab = lb_model_get_config(f.model)->vocab;
    size_t last = g.count - 1, n = g.sequences[last].count;
    float logprob[GOLDEN_TOKENS_MAX], entropy[GOLDEN_TOKENS_MAX];
    uint32_t rank[GOLDEN_TOKENS_MAX];
    uint32_t *ids = calloc(n * vocab, sizeof *ids);
    float *tops = calloc(n * vocab, sizeof *tops);
    lb_score_request request = {.sequence = g.sequences[last], .start = 1, .k = vocab,
                                .logprob = logprob, .rank = rank, .entropy = entropy,
                                .top_id = ids, .top_logprob = tops};
    assert_int_equal(lb_model_score(f.model, NULL, &request, 1, NULL), LB_OK);
    const lb_json *top5 = golden_array(&g, last, "top5");
    for (size_t i = 0; i < lb_json_array_size(top5); i++) {
        const lb_json *row = lb_json_at(top5, i);
        size_t entry = (size_t)lb_json_integer(lb_json_get(row, "position")) + 1;
        for (size_t j = 0; entry < n && j < 5; j++) {
            assert_int_equal(ids[entry * vocab + j],
                             lb_json_integer(lb_json_at(lb_json_get(row, "tokens"), j)));
            assert_close(tops[entry * vocab + j],
                         lb_json_number(lb_json_at(lb_json_get(row, "logprobs"), j)),
                         LOGPROB_TOLERANCE);
        }
    }
    /* With k = V the whole distribution is there: it sums to 1, gives the entropy and the rank. */
    for (size_t t = 1; t < n; t++) {
        double mass = 0, h = 0;
        for (size_t j = 0; j < vocab; j++) {
            double lp = (double)tops[t * vocab + j];
            mass += exp(lp);
            h -= exp(lp) * lp;
        }
        assert_close(mass, 1.0, 1e-5);
        assert_close(entropy[t], h, 1e-5);
        assert_int_equal(ids[t * vocab + rank[t] - 1], g.sequences[last].tokens[t]);
    }
    free(ids);
    free(tops);
    fixture_close(&f);
    golden_close(&g);
}

/* Options that must not show in the bits: two for each instruction set of this chip, and then those
 * of the best. False from the last on. */
static bool variant(size_t v, fixture_options *out)
{
    static const fixture_options each[] = {
        {.threads = 1, .max_tokens = 37}, {.threads = 2}, {.threads = 1, .max_tokens = 1},
        {.threads = 3}, {.threads = 1}, {.threads = 2, .max_tokens = 7},
    };
    static const fixture_options best[] = {
        {.threads = 2, .max_tokens = 64}, {.threads = 2, .activation_bytes = 1},
        {.threads = 1, .activation_bytes = 60000, .max_tokens = 64},
        {.threads = 1, .dtype = LB_BF16},
    };
    size_t isas = 0;
    while (lb_backend_isa(isas))
        isas++;
    if (v >= 2 * isas + sizeof best / sizeof *best)
        return false;
    *out = v < 2 * isas ? each[v % (sizeof each / sizeof *each)] : best[v - 2 * isas];
    out->isa = v < 2 * isas ? lb_backend_isa(v / 2) : NULL;
    return true;
}

/* Each sequence alone, with all others, in every chunk size, with every thread count and
 * instruction set: one digest. bf16 storage of a bf16 checkpoint belongs to it as well. */
static void test_scores_are_batch_invariant(void **state)
{
    (void)state;
    for (size_t m = 0; m < GOLDEN_COUNT; m++) {
        golden g;
        fixture f;
        static float want[GOLDEN_SEQUENCES_MAX][GOLDEN_TOKENS_MAX];
        static float got[GOLDEN_SEQUENCES_MAX][GOLDEN_TOKENS_MAX];
        golden_open(golden_names[m], &g);
        fixture_open(g.dir, (fixture_options){.threads = 1}, &f);
        score_all(&f, &g, true, want);
        for (size_t s = 0; s < g.count; s++) {
            lb_score_request alone = {.sequence = g.sequences[s], .start = 1, .logprob = got[s]};
            assert_int_equal(lb_model_score(f.model, f.adapter, &alone, 1, NULL), LB_OK);
            assert_memory_equal(got[s] + 1, want[s] + 1,
                                (g.sequences[s].count - 1) * sizeof(float));
        }
        fixture_close(&f);
        fixture_options o;
        for (size_t v = 0; variant(v, &o); v++) {
            if (o.dtype == LB_BF16 && !golden_is_bf16(&g))
                continue;
            fixture_open(g.dir, o, &f);
            score_all(&f, &g, true, got);
            for (size_t s = 0; s < g.count; s++)
                assert_memory_equal(got[s] + 1, want[s] + 1,
                                    (g.sequences[s].count - 1) * sizeof(float));
            fixture_close(&f);
        }
        golden_close(&g);
    }
}

/* ---- gradients ---- */

typedef struct weighted {
    const golden *g;
    float logprob[GOLDEN_SEQUENCES_MAX][GOLDEN_TOKENS_MAX];
    size_t index[GOLDEN_SEQUENCES_MAX];
} weighted;

/* L = - sum_t w_t logprob_t. */
static lb_status weighted_loss(void *arg, size_t sequence, const float *logprob, float *grad,
                               lb_err *err)
{
    weighted *w = arg;
    size_t s = w->index[sequence];
    const lb_json *weights = golden_array(w->g, s, "weights");
    (void)err;
    for (uint32_t t = 1; t < w->g->sequences[s].count; t++) {
        w->logprob[s][t] = logprob[t];
        grad[t] = -(float)lb_json_number(lb_json_at(weights, t));
    }
    return LB_OK;
}

/* The gradient over all sequences with at least two tokens. */
static void gradient_of(fixture *f, const golden *g, weighted *w, float *grad)
{
    lb_sequence sequences[GOLDEN_SEQUENCES_MAX];
    size_t count = 0;
    lb_err err = {0};
    w->g = g;
    for (size_t s = 0; s < g->count; s++) {
        if (g->sequences[s].count < 2)
            continue;
        w->index[count] = s;
        sequences[count++] = g->sequences[s];
    }
    memset(grad, 0, f->layout.elements * sizeof *grad);
    if (lb_model_gradient(f->model, f->adapter, sequences, count, weighted_loss, w, grad, &err) !=
        LB_OK)
        fail_msg("%s: %s", err.field, err.message);
}

static void check_gradients(lb_dtype dtype, double tolerance)
{
    double worst = 0;
    for (size_t m = 0; m < GOLDEN_COUNT; m++) {
        golden g;
        fixture f;
        char path[192];
        lb_mapping mapping = {0};
        lb_safetensors *recorded = NULL;
        static weighted w;
        static float scores[GOLDEN_SEQUENCES_MAX][GOLDEN_TOKENS_MAX];
        golden_open(golden_names[m], &g);
        fixture_open(g.dir, (fixture_options){.threads = 2, .dtype = dtype}, &f);
        float *grad = calloc(f.layout.elements, sizeof *grad);
        gradient_of(&f, &g, &w, grad);
        snprintf(path, sizeof path, "%s/lora_grads.safetensors", g.dir);
        assert_int_equal(lb_file_map(path, &mapping, NULL), LB_OK);
        assert_int_equal(lb_safetensors_open(mapping.data, mapping.length, 1 << 20, &recorded,
                                             NULL), LB_OK);
        for (size_t i = 0; i < f.layout.count; i++) {
            const lb_lora_tensor *t = &f.layout.tensors[i];
            const lb_st_tensor *want = lb_safetensors_find(recorded, t->name);
            assert_non_null(want);
            size_t n = (size_t)t->rows * t->cols;
            double norm = 0, off = 0;
            for (size_t e = 0; e < n; e++) {
                float value;
                memcpy(&value, want->data + 4 * e, sizeof value);
                double difference = (double)grad[t->offset + e] - (double)value;
                norm += (double)value * (double)value;
                off += difference * difference;
            }
            worst = norm > 0 && sqrt(off / norm) > worst ? sqrt(off / norm) : worst;
            if (!(sqrt(off) <= tolerance * sqrt(norm)))
                fail_msg("%s: %s is off by %.3g of its norm", golden_names[m], t->name,
                         sqrt(off / norm));
        }
        /* The trainer's logprobs are the scorer's, bit for bit. */
        score_all(&f, &g, true, scores);
        for (size_t s = 0; s < g.count; s++)
            assert_memory_equal(scores[s] + 1, w.logprob[s] + 1,
                                (g.sequences[s].count - 1) * sizeof(float));
        free(grad);
        lb_safetensors_close(recorded);
        lb_file_unmap(&mapping);
        fixture_close(&f);
        golden_close(&g);
    }
    print_message("gradients in %s: off by at most %.2g of a tensor's norm\n",
                  lb_dtype_name(dtype), worst);
}

static void test_gradients(void **state)
{
    (void)state;
    check_gradients(LB_F32, GRADIENT_TOLERANCE);
}

static void test_gradients_fast(void **state)
{
    (void)state;
    check_gradients(LB_INT16, FAST_GRADIENT_TOLERANCE);
}

/* L of the weighted loss with one element of the adapter moved by `by`, summed in float64. */
static double loss_with(fixture *f, const golden *g, size_t element, float by)
{
    static float got[GOLDEN_SEQUENCES_MAX][GOLDEN_TOKENS_MAX];
    double loss = 0;
    float before = f->flat[element];
    lb_adapter_free(f->adapter);
    f->flat[element] = before + by;
    assert_int_equal(lb_adapter_create(f->model, &f->layout, f->flat, &f->adapter, NULL), LB_OK);
    score_all(f, g, true, got);
    f->flat[element] = before;
    for (size_t s = 0; s < g->count; s++) {
        const lb_json *weights = golden_array(g, s, "weights");
        for (uint32_t t = 1; t < g->sequences[s].count; t++)
            loss -= lb_json_number(lb_json_at(weights, t)) * (double)got[s][t];
    }
    return loss;
}

/* The steepest element of each tensor against central differences of the scorer's own logprobs. The
 * step balances f32 noise in L (about 1e-4) against curvature. */
static void test_gradients_match_differences(void **state)
{
    (void)state;
    const float step = 0x1p-9f;
    for (size_t m = 0; m < GOLDEN_COUNT; m++) {
        golden g;
        fixture f;
        static weighted w;
        golden_open(golden_names[m], &g);
        fixture_open(g.dir, (fixture_options){.threads = 2}, &f);
        float *grad = calloc(f.layout.elements, sizeof *grad);
        gradient_of(&f, &g, &w, grad);
        for (size_t i = 0; i < f.layout.count; i++) {
            const lb_lora_tensor *t = &f.layout.tensors[i];
            size_t steepest = t->offset;
            for (size_t e = t->offset; e < t->offset + (size_t)t->rows * t->cols; e++)
                steepest = fabsf(grad[e]) > fabsf(grad[steepest]) ? e : steepest;
            double slope = (loss_with(&f, &g, steepest, step) -
                            loss_with(&f, &g, steepest, -step)) / (2.0 * (double)step);
            assert_close(grad[steepest], slope, DIFFERENCE_TOLERANCE * fabs(slope) +
                                                    LOSS_NOISE / (2.0 * (double)step));
        }
        free(grad);
        fixture_close(&f);
        golden_close(&g);
    }
}

static void check_micro_batches(lb_dtype dtype)
{
    golden g;
    static weighted w;
    float *want = NULL;
    golden_open("qwen3-tiny", &g);
    fixture_options o;
    for (size_t v = 0; variant(v, &o); v++) {
        fixture f;
        if (o.dtype == LB_BF16)
            continue;
        o.dtype = dtype;
        fixture_open(g.dir, o, &f);
        float *grad = calloc(f.layout.elements, sizeof *grad);
        gradient_of(&f, &g, &w, grad);
        if (want)
            assert_memory_equal(grad, want, f.layout.elements * sizeof *grad);
        else
            want = malloc(f.layout.elements * sizeof *want);
        memcpy(want, grad, f.layout.elements * sizeof *grad);
        free(grad);
        fixture_close(&f);
    }
    free(want);
    golden_close(&g);
}

static void test_gradients_do_not_show_micro_batches(void **state)
{
    (void)state;
    check_micro_batches(LB_F32);
    check_micro_batches(LB_INT16);
}

/* ---- rollouts ---- */

#define PROMPTS 5
#define GROUP 3
#define NEW_TOKENS 12

static void generate(fixture *f, const golden *g, size_t first, size_t prompts, uint32_t group,
                     uint32_t row_base, float temperature, lb_rollout *out)
{
    lb_generate_params params = {.sample = {.temperature = temperature, .top_p = 1.0f},
                                 .max_new_tokens = NEW_TOKENS, .seed = 99, .step = 4};
    lb_err err = {0};
    if (lb_model_generate(f->model, f->adapter, g->sequences + first, prompts, group, row_base,
                          &params, out, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
}

static void assert_same_rollout(const lb_rollout *a, const lb_rollout *b)
{
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->stopped, b->stopped);
    assert_memory_equal(a->tokens, b->tokens, a->count * sizeof *a->tokens);
    assert_memory_equal(a->logprobs, b->logprobs, a->count * sizeof *a->logprobs);
}

/* The sampler's logprobs are the scorer's of the same tokens, bit for bit. */
static void test_sampler_agrees_with_scorer(void **state)
{
    (void)state;
    for (size_t m = 0; m < GOLDEN_COUNT; m++) {
        golden g;
        fixture f;
        lb_rollout rollouts[PROMPTS * GROUP];
        golden_open(golden_names[m], &g);
        fixture_open(g.dir, (fixture_options){.threads = 2}, &f);
        generate(&f, &g, 0, PROMPTS, GROUP, 0, 1.0f, rollouts);
        for (size_t i = 0; i < PROMPTS * GROUP; i++) {
            const lb_sequence *prompt = &g.sequences[i / GROUP];
            uint32_t tokens[GOLDEN_TOKENS_MAX + NEW_TOKENS];
            float logprob[GOLDEN_TOKENS_MAX + NEW_TOKENS];
            memcpy(tokens, prompt->tokens, prompt->count * sizeof *tokens);
            memcpy(tokens + prompt->count, rollouts[i].tokens,
                   rollouts[i].count * sizeof *tokens);
            lb_score_request request = {
                .sequence = {tokens, prompt->count + rollouts[i].count}, .start = prompt->count,
                .logprob = logprob};
            assert_int_equal(lb_model_score(f.model, f.adapter, &request, 1, NULL), LB_OK);
            assert_memory_equal(logprob + prompt->count, rollouts[i].logprobs,
                                rollouts[i].count * sizeof *logprob);
        }
        for (size_t i = 0; i < PROMPTS * GROUP; i++)
            lb_rollout_free(&rollouts[i]);
        fixture_close(&f);
        golden_close(&g);
    }
}

/* A rollout depends on its row number and prompt alone. */
static void test_rollouts_do_not_show_companions(void **state)
{
    (void)state;
    golden g;
    fixture f, other;
    lb_rollout all[PROMPTS * GROUP], some[GROUP];
    golden_open("qwen3-tiny", &g);
    fixture_open(g.dir, (fixture_options){.threads = 2}, &f);
    fixture_open(g.dir, (fixture_options){.isa = "portable", .threads = 1, .max_tokens = 5},
                 &other);
    generate(&f, &g, 0, PROMPTS, GROUP, 10, 1.0f, all);
    bool differ = false;
    for (size_t p = 0; p < PROMPTS; p++) {
        generate(&other, &g, p, 1, GROUP, 10 + (uint32_t)(p * GROUP), 1.0f, some);
        for (size_t i = 0; i < GROUP; i++) {
            assert_same_rollout(&some[i], &all[p * GROUP + i]);
            differ |= i > 0 && (some[i].count != some[0].count ||
                                memcmp(some[i].tokens, some[0].tokens,
                                       some[0].count * sizeof(uint32_t)) != 0);
        }
        for (size_t i = 0; i < GROUP; i++)
            lb_rollout_free(&some[i]);
    }
    assert_true(differ);
    for (size_t i = 0; i < PROMPTS * GROUP; i++)
        lb_rollout_free(&all[i]);
    fixture_close(&other);
    fixture_close(&f);
    golden_close(&g);
}

static void test_greedy_takes_the_likeliest(void **state)
{
    (void)state;
    golden g;
    fixture f;
    lb_rollout rollout;
    uint32_t tokens[GOLDEN_TOKENS_MAX + NEW_TOKENS], rank[GOLDEN_TOKENS_MAX + NEW_TOKENS];
    float logprob[GOLDEN_TOKENS_MAX + NEW_TOKENS];
    golden_open("llama-tiny", &g);
    fixture_open(g.dir, (fixture_options){.threads = 1}, &f);
    generate(&f, &g, 3, 1, 1, 0, 0.0f, &rollout);
    uint32_t n = g.sequences[3].count;
    memcpy(tokens, g.sequences[3].tokens, n * sizeof *tokens);
    memcpy(tokens + n, rollout.tokens, rollout.count * sizeof *tokens);
    lb_score_request request = {.sequence = {tokens, n + rollout.count}, .start = n,
                                .logprob = logprob, .rank = rank};
    assert_int_equal(lb_model_score(f.model, f.adapter, &request, 1, NULL), LB_OK);
    for (uint32_t t = n; t < n + rollout.count; t++)
        assert_int_equal(rank[t], 1);
    lb_rollout_free(&rollout);
    fixture_close(&f);
    golden_close(&g);
}

static void test_bad_input_is_refused(void **state)
{
    (void)state;
    golden g;
    fixture f;
    golden_open("qwen3-tiny", &g);
    fixture_open(g.dir, (fixture_options){.threads = 1}, &f);
    uint32_t vocab = lb_model_get_config(f.model)->vocab;
    uint32_t longest = lb_model_get_config(f.model)->max_positions;
    uint32_t *tokens = calloc(longest + 1, sizeof *tokens);
    float *logprob = calloc(longest + 1, sizeof *logprob);
    const struct { uint32_t count, start, bad; const char *field; } cases[] = {
        {0, 1, 0, "tokens"}, {longest + 1, 1, 0, "tokens"}, {4, 1, vocab, "tokens"},
        {4, 1, UINT32_MAX, "tokens"}, {4, 0, 0, "start"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_err err = {0};
        tokens[2] = cases[i].bad;
        lb_score_request request = {.sequence = {tokens, cases[i].count},
                                    .start = cases[i].start, .logprob = logprob};
        assert_int_equal(lb_model_score(f.model, NULL, &request, 1, &err), LB_EINVAL);
        assert_string_equal(err.field, cases[i].field);
        tokens[2] = 0;
    }
    lb_score_request whole = {.sequence = {tokens, longest}, .start = longest - 1,
                              .logprob = logprob};
    assert_int_equal(lb_model_score(f.model, NULL, &whole, 1, NULL), LB_OK);
    free(tokens);
    free(logprob);
    fixture_close(&f);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_top_k_rank_and_entropy),
        cmocka_unit_test(test_scores_are_batch_invariant),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_gradients_fast),
        cmocka_unit_test(test_gradients_match_differences),
        cmocka_unit_test(test_gradients_do_not_show_micro_batches),
        cmocka_unit_test(test_sampler_agrees_with_scorer),
        cmocka_unit_test(test_rollouts_do_not_show_companions),
        cmocka_unit_test(test_greedy_takes_the_likeliest),
        cmocka_unit_test(test_bad_input_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
