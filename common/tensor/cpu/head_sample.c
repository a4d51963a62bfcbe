/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampling: the logits of a few rows are kept whole (never [T, V]), because top-k and top-p need
 * them in order. Draws by inverse CDF in id order, in float64 sums.
 */
#include "common/tensor/cpu/head_impl.h"

#include <stdatomic.h>
#include <stdlib.h>

#define SAMPLE_ROWS 12u

typedef struct sample_job {
    lb_cpu *cpu;
    head_rows h;
    const lb_sample_args *a;
    size_t rows_per_task, padded;
    atomic_bool none_allowed;
} sample_job;

typedef struct candidate {
    float weight;
    uint32_t id;
} candidate;

static int by_weight(const void *a, const void *b)
{
    const candidate *left = a, *right = b;
    if (left->weight != right->weight)
        return left->weight > right->weight ? -1 : 1;
    return left->id < right->id ? -1 : left->id > right->id;
}

/* Zeroes the weights that top_k and top_p cut off. */
static void cut(const lb_sample_params *params, float *weight, size_t vocab, candidate *sorted)
{
    size_t count = 0, keep = 0;
    double total = 0.0, sum = 0.0;
    for (uint32_t v = 0; v < vocab; v++) {
        if (weight[v] > 0.0f)
            sorted[count++] = (candidate){weight[v], v};
    }
    qsort(sorted, count, sizeof *sorted, by_weight);
    if (params->top_k > 0 && params->top_k < count)
        count = params->top_k;
    for (size_t i = 0; i < count; i++)
        total += (double)sorted[i].weight;
    /* The smallest set whose share reaches top_p; at least one. */
    while (keep < count && (keep == 0 || sum < (double)params->top_p * total))
        sum += (double)sorted[keep++].weight;
    memset(weight, 0, vocab * sizeof *weight);
    for (size_t i = 0; i < keep; i++)
        weight[sorted[i].id] = sorted[i].weight;
}

static bool is_allowed(const lb_sample_args *a, size_t id)
{
    return !a->allowed || a->allowed[id];
}

/* The likeliest allowed id, or vocab when none is. */
static size_t greedy(const lb_sample_args *a, const float *logits, size_t vocab)
{
    size_t best = vocab;
    for (size_t v = 0; v < vocab; v++) {
        if (is_allowed(a, v) && (best == vocab || logits[v] > logits[best]))
            best = v;
    }
    return best;
}

/* weight[v] = exp((logit - max) / temperature), 0 for what is forbidden. */
static void weigh(const lb_sample_args *a, const float *logits, float max, size_t vocab,
                  float *weight)
{
    vf scale = vf_set(1.0f / a->params->temperature), top = vf_set(max);
    for (size_t v = 0; v < vocab; v += LB_LANES) {
        vf below = vf_sub(head_load(logits + v, vocab - v), top);
        vf_store(weight + v, vf_exp(vf_mul(below, scale)));
    }
    for (size_t v = 0; a->allowed && v < vocab; v++)
        weight[v] = a->allowed[v] ? weight[v] : 0.0f;
}

static size_t draw(const lb_sample_args *a, const float *logits, size_t vocab, float uniform,
                   float *weight, candidate *sorted)
{
    size_t best = greedy(a, logits, vocab), last = best;
    if (best == vocab || a->params->temperature == 0.0f)
        return best;
    weigh(a, logits, logits[best], vocab, weight);
    if (a->params->top_k > 0 || a->params->top_p < 1.0f)
        cut(a->params, weight, vocab, sorted);
    double total = 0.0, sum = 0.0;
    for (size_t v = 0; v < vocab; v++)
        total += (double)weight[v];
    double mark = (double)uniform * total;
    for (size_t v = 0; v < vocab; v++) {
        sum += (double)weight[v];
        if (weight[v] > 0.0f) {
            last = v;
            if (sum > mark)
                break;
        }
    }
    return last;
}

static void sample_task(void *arg, size_t index, size_t thread)
{
    sample_job *job = arg;
    const lb_sample_args *a = job->a;
    size_t vocab = a->w->n, first = index * job->rows_per_task;
    size_t left = job->h.h.rows - first;
    size_t rows = left < job->rows_per_task ? left : job->rows_per_task;
    float *logits = job->cpu->scratch[thread];
    float *weight = logits + SAMPLE_ROWS * job->padded;
    candidate *sorted = (candidate *)(void *)(weight + job->padded);
    for (size_t v = 0; v < vocab; v += HEAD_TILE)
        head_logits(a->w, &job->h, first, rows, v,
                    head_tile_width(vocab, v), logits + v, job->padded);
    for (size_t r = 0; r < rows; r++) {
        const float *row = logits + r * job->padded;
        head_state state = {0};
        for (size_t v = 0; v < vocab; v += HEAD_TILE)
            head_fold(&state, row + v, head_tile_width(vocab, v), false);
        size_t id = draw(a, row, vocab, a->uniform ? a->uniform[first + r] : 0.0f, weight,
                         sorted);
        if (id == vocab) {
            atomic_store(&job->none_allowed, true);
            id = 0;
        }
        a->token[first + r] = (uint32_t)id;
        a->logprob[first + r] = row[id] - head_lse(&state);
    }
}

lb_status LB_K(lb_cpu_head_sample)(void *self, lb_tensor h, const lb_sample_args *args)
{
    lb_cpu *cpu = self;
    size_t padded = (args->w->n + HEAD_TILE - 1) / HEAD_TILE * HEAD_TILE;
    size_t bytes = padded * ((SAMPLE_ROWS + 1) * sizeof(float) + sizeof(candidate));
    lb_status status = lb_cpu_scratch(cpu, bytes);
    if (status != LB_OK)
        return status;
    size_t threads = lb_pool_threads(cpu->pool), share = (h.rows + threads - 1) / threads;
    share = share < 1 ? 1 : share > SAMPLE_ROWS ? SAMPLE_ROWS : share;
    sample_job job = {.cpu = cpu, .h = {.h = h}, .a = args, .rows_per_task = share,
                      .padded = padded};
    status = LB_K(lb_quantise_rows)(cpu, args->w->stored, h, &job.h.q);
    if (status != LB_OK)
        return status;
    lb_pool_run(cpu->pool, (h.rows + share - 1) / share, sample_task, &job);
    return atomic_load(&job.none_allowed) ? LB_EINVAL : LB_OK;
}
