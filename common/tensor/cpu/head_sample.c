/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampling: the logits of a block of rows are kept whole, never those of all. Draws by inverse CDF
 * in id order; sums over tiles and candidates are f64. top_k and top_p look at a histogram of the
 * weights first, so that only the few that can be kept are sorted.
 */
#include "common/tensor/cpu/head_impl.h"

#include <float.h>
#include <stdlib.h>

#define BLOCK_BYTES ((size_t)32 << 20)   /* of logits */
#define BINS 4096u                       /* by a weight's exponent and four bits of its fraction */
#define BIN_SHIFT 19

typedef struct sample_job {
    lb_cpu *cpu;
    head_rows h;
    const lb_sample_args *a;
    head_plan plan;
    size_t first, padded;      /* row of the block; floats of a row of logits */
    float *logits;             /* [plan.rows][padded] */
    float *bar;                /* [padded]: 0, or -infinity for what is forbidden */
    head_state *states;        /* [plan.rows][ranges] */
    bool *none_allowed;        /* [plan.rows] */
} sample_job;

typedef struct candidate {
    float weight;
    uint32_t id;
} candidate;

/* A thread's room for one row. */
typedef struct room {
    float *weight;             /* [padded] */
    candidate *kept;           /* [padded] */
    double *mass;              /* [BINS], then tiles */
    uint32_t *count;           /* [BINS] */
} room;

static int by_weight(const void *a, const void *b)
{
    const candidate *left = a, *right = b;
    if (left->weight != right->weight)
        return left->weight > right->weight ? -1 : 1;
    return left->id < right->id ? -1 : left->id > right->id;
}

static int by_id(const void *a, const void *b)
{
    const candidate *left = a, *right = b;
    return left->id < right->id ? -1 : left->id > right->id;
}

static size_t bin_of(float weight)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return bits >> BIN_SHIFT;
}

/* The lowest bin from which upwards there are top_k weights, or top_p of the mass and a little. */
static size_t lowest_bin(const lb_sample_params *params, const float *weight, size_t vocab,
                         const room *r)
{
    double total = 0.0, mass = 0.0;
    size_t count = 0, bin = BINS;
    memset(r->mass, 0, BINS * sizeof *r->mass);
    memset(r->count, 0, BINS * sizeof *r->count);
    for (size_t v = 0; v < vocab; v++) {
        size_t at = bin_of(weight[v]);
        r->mass[at] += (double)weight[v];
        r->count[at]++;
    }
    for (size_t b = 0; b < BINS; b++)
        total += r->mass[b];
    while (bin > 1) {
        bin--;
        mass += r->mass[bin];
        count += r->count[bin];
        if (params->top_k > 0 ? count >= params->top_k
                              : mass >= (double)params->top_p * total * (1.0 + 1e-9))
            break;
    }
    return bin;
}

/* What top_k and top_p keep, in id order; how many. */
static size_t keep(const lb_sample_params *params, const float *weight, size_t vocab,
                   const room *r)
{
    size_t bin = lowest_bin(params, weight, vocab, r), count = 0, kept = 0;
    double total = 0.0, sum = 0.0;
    for (uint32_t v = 0; v < vocab; v++) {
        if (weight[v] > 0.0f && bin_of(weight[v]) >= bin)
            r->kept[count++] = (candidate){weight[v], v};
    }
    qsort(r->kept, count, sizeof *r->kept, by_weight);
    if (params->top_k > 0 && params->top_k < count)
        count = params->top_k;
    if (params->top_k > 0) {
        for (size_t i = 0; i < count; i++)
            total += (double)r->kept[i].weight;
    } else {
        for (size_t b = 0; b < BINS; b++)
            total += r->mass[b];
    }
    /* The smallest set whose share reaches top_p; at least one. */
    while (kept < count && (kept == 0 || sum < (double)params->top_p * total))
        sum += (double)r->kept[kept++].weight;
    qsort(r->kept, kept, sizeof *r->kept, by_id);
    return kept;
}

static uint32_t draw_kept(const candidate *kept, size_t count, float uniform)
{
    double total = 0.0, sum = 0.0;
    for (size_t i = 0; i < count; i++)
        total += (double)kept[i].weight;
    for (size_t i = 0; i + 1 < count; i++) {
        sum += (double)kept[i].weight;
        if (sum > (double)uniform * total)
            return kept[i].id;
    }
    return kept[count - 1].id;
}

/* From all of the vocabulary: first the tile, by mass[tiles], then the id. */
static size_t draw_any(const float *weight, size_t vocab, const double *mass, float uniform)
{
    double total = 0.0, sum = 0.0;
    size_t tiles = (vocab + HEAD_TILE - 1) / HEAD_TILE, tile = 0, last = 0;
    for (size_t t = 0; t < tiles; t++)
        total += mass[t];
    double mark = (double)uniform * total;
    for (size_t t = 0; t < tiles; t++) {
        if (mass[t] > 0.0)
            tile = t;
        if (sum + mass[t] > mark)
            break;
        sum += mass[t];
    }
    for (size_t v = tile * HEAD_TILE; v < vocab && v < (tile + 1) * HEAD_TILE; v++) {
        if (weight[v] > 0.0f) {
            last = v;
            sum += (double)weight[v];
            if (sum > mark)
                break;
        }
    }
    return last;
}

/* The largest allowed logit. */
static float largest_allowed(const float *logits, const float *bar, size_t padded)
{
    vf largest = vf_set(-__builtin_inff());
    for (size_t v = 0; v < padded; v += LB_LANES)
        largest = vf_max(vf_add(vf_load(logits + v), vf_load(bar + v)), largest);
    return vf_largest(largest);
}

/* weight[v] = exp((logit - max) / temperature), 0 for what is forbidden; mass of each tile. */
static void weigh(const sample_job *job, const float *logits, float max, const room *r)
{
    float inverse = 1.0f / job->a->params->temperature;
    /* Infinity times a difference of 0 would be NaN. */
    vf scale = vf_set(inverse < FLT_MAX ? inverse : FLT_MAX), top = vf_set(max);
    for (size_t first = 0; first < job->padded; first += HEAD_TILE) {
        vf sum = vf_set(0.0f);
        for (size_t v = first; v < first + HEAD_TILE; v += LB_LANES) {
            vf below = vf_sub(vf_add(vf_load(logits + v), vf_load(job->bar + v)), top);
            vf e = vf_exp(vf_mul(below, scale));
            vf_store(r->weight + v, e);
            sum = vf_add(sum, e);
        }
        r->mass[first / HEAD_TILE] = (double)vf_sum(sum);
    }
}

/* The drawn id, or the vocabulary's size when none is allowed. */
static size_t draw(const sample_job *job, const float *logits, float uniform, const room *r)
{
    const lb_sample_params *params = job->a->params;
    size_t vocab = job->a->w->n;
    float max = largest_allowed(logits, job->bar, job->padded);
    if (max == -__builtin_inff())
        return vocab;
    if (params->temperature == 0.0f) {
        size_t best = 0;
        while (best < vocab && !(logits[best] + job->bar[best] == max))
            best++;
        return best;
    }
    weigh(job, logits, max, r);
    if (params->top_k == 0 && params->top_p >= 1.0f)
        return draw_any(r->weight, vocab, r->mass, uniform);
    return draw_kept(r->kept, keep(params, r->weight, vocab, r), uniform);
}

static void logits_task(void *arg, size_t index, size_t thread)
{
    const sample_job *job = arg;
    const head_plan *plan = &job->plan;
    (void)thread;
    size_t first = index % plan->row_tasks * plan->rows_per_task, left = plan->rows - first;
    size_t rows = left < plan->rows_per_task ? left : plan->rows_per_task;
    size_t vocab = job->a->w->n, range = index / plan->row_tasks * plan->ranges_per_task;
    for (size_t i = 0; i < plan->ranges_per_task && range + i < plan->ranges; i++) {
        size_t from = (range + i) * HEAD_RANGE;
        size_t end = vocab - from < HEAD_RANGE ? vocab : from + HEAD_RANGE;
        for (size_t v = from; v < end; v += HEAD_TILE) {
            size_t width = head_tile_width(vocab, v);
            float *out = job->logits + first * job->padded + v;
            head_logits(job->a->w, &job->h, job->first + first, rows, v, width, out, job->padded);
            for (size_t r = 0; r < rows; r++)
                head_fold(&job->states[(first + r) * plan->ranges + range + i],
                          out + r * job->padded, width, false);
        }
    }
}

static size_t room_bytes(size_t padded)
{
    size_t masses = BINS > padded / HEAD_TILE ? BINS : padded / HEAD_TILE;
    return padded * (sizeof(float) + sizeof(candidate)) + masses * sizeof(double) +
           BINS * sizeof(uint32_t);
}

static void draw_task(void *arg, size_t index, size_t thread)
{
    const sample_job *job = arg;
    const lb_sample_args *a = job->a;
    size_t masses = BINS > job->padded / HEAD_TILE ? BINS : job->padded / HEAD_TILE;
    float *logits = job->logits + index * job->padded;
    room r = {.weight = job->cpu->scratch[thread]};
    r.kept = (candidate *)(void *)(r.weight + job->padded);
    r.mass = (double *)(void *)(r.kept + job->padded);
    r.count = (uint32_t *)(void *)(r.mass + masses);
    head_state all = {0};
    for (size_t i = 0; i < job->plan.ranges; i++)
        head_merge(&all, &job->states[index * job->plan.ranges + i], false);
    for (size_t v = a->w->n; v < job->padded; v++)
        logits[v] = 0.0f;      /* its bar is -infinity */
    size_t row = job->first + index;
    size_t id = draw(job, logits, a->uniform ? a->uniform[row] : 0.0f, &r);
    job->none_allowed[index] = id == a->w->n && all.sum == all.sum;
    id = id == a->w->n ? 0 : id;
    a->token[row] = (uint32_t)id;
    a->logprob[row] = logits[id] - head_lse(&all);
}

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

lb_status LB_K(lb_cpu_head_sample)(void *self, lb_tensor h, const lb_sample_args *args)
{
    lb_cpu *cpu = self;
    size_t vocab = args->w->n, padded = (vocab + HEAD_TILE - 1) / HEAD_TILE * HEAD_TILE;
    size_t ranges = (vocab + HEAD_RANGE - 1) / HEAD_RANGE;
    size_t most = BLOCK_BYTES / (padded * sizeof(float));
    most = most > HEAD_ROWS ? HEAD_ROWS : most < LB_TILE_ROWS ? LB_TILE_ROWS : most;
    most = most > h.rows ? h.rows : most;
    size_t logits = aligned(most * padded * sizeof(float)), bar = padded * sizeof(float);
    size_t states = aligned(most * ranges * sizeof(head_state));
    lb_status status = lb_cpu_scratch(cpu, room_bytes(padded));
    if (status == LB_OK)
        status = lb_cpu_shared(cpu, logits + bar + states + most);
    sample_job job = {.cpu = cpu, .h = {.h = h}, .a = args, .padded = padded};
    if (status == LB_OK)
        status = LB_K(lb_product_rows)(cpu, args->w->stored, NULL, &job.h.h, &job.h.q);
    if (status != LB_OK)
        return status;
    char *at = cpu->shared;
    job.logits = (float *)(void *)at;
    job.bar = (float *)(void *)(at + logits);
    job.states = (head_state *)(void *)(at + logits + bar);
    job.none_allowed = (bool *)(at + logits + bar + states);
    for (size_t v = 0; v < padded; v++)
        job.bar[v] = v < vocab && (!args->allowed || args->allowed[v]) ? 0.0f
                                                                       : -__builtin_inff();
    for (; job.first < h.rows; job.first += most) {
        size_t rows = h.rows - job.first < most ? h.rows - job.first : most;
        job.plan = head_share(cpu, rows, vocab);
        memset(job.states, 0, states);
        lb_pool_run(cpu->pool, job.plan.row_tasks * job.plan.range_tasks, logits_task, &job);
        lb_pool_run(cpu->pool, rows, draw_task, &job);
        for (size_t r = 0; r < rows; r++)
            status = job.none_allowed[r] ? LB_EINVAL : status;
    }
    return status;
}
