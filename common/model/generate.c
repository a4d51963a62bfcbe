/* SPDX-License-Identifier: Apache-2.0
 *
 * Rollouts by continuous batching. Samples are numbered prompt * group + sample and join the batch
 * in that order as pages of the KV pool become free; all that are in it take one step together, and
 * those that ended leave at once. A prompt is run once; its whole pages are shared by its samples,
 * its last, partly filled page is copied for each. When the pool runs out, the last sample that
 * joined is put back and its keys and values are computed again later.
 *
 * Nothing of that shows in a sample: its draws are counter based and its rows' bits do not depend
 * on their companions.
 */
#include "common/base/rng.h"
#include "common/model/kv_pool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_MAX 512u
#define KV_BYTES_DEFAULT ((size_t)512 << 20)

typedef struct job {
    lb_model *model;
    const lb_adapter *adapter;
    const lb_sequence *prompts;
    uint32_t group, row_base;
    const lb_generate_params *params;
    lb_rollout *out;
    lb_err *err;
} job;

/* A prompt that samples in the batch use. */
typedef struct prompt_state {
    uint32_t *pages;           /* of the whole prompt; NULL while no sample uses it */
    uint32_t users, hidden;    /* hidden: row of batch.hidden */
} prompt_state;

typedef enum sample_state { WAITING, RUNNING, ENDED } sample_state;

typedef struct rollout_state {
    sample_state state;
    uint32_t *pages;           /* room for the longest completion; NULL unless RUNNING */
    uint32_t page_count;
} rollout_state;

/* Rows that are collected for a forward pass, and the hidden states that are wanted of them. */
typedef struct feed {
    uint32_t *tokens, *positions, *slots, *row, *hidden;   /* [capacity] */
    lb_kv_row *kv;
    size_t count, wanted, capacity;
} feed;

typedef struct batch {
    const job *j;
    size_t prompt_count, total;
    lb_kv_pool pool;
    prompt_state *prompts;     /* [prompt_count] */
    rollout_state *samples;           /* [total] */
    size_t next;               /* no sample below it is WAITING */
    uint32_t *running;         /* [count], ascending: samples of the batch */
    size_t count, capacity;
    lb_tensor hidden;          /* [capacity, D]: of the last token of each prompt in use */
    uint32_t *free_hidden;
    size_t free_hidden_count;
    uint32_t *index, *token;   /* [capacity] */
    float *uniform, *logprob;
    feed feed;
} batch;

static uint32_t longest_completion(const job *j, size_t prompt)
{
    uint32_t room = j->model->config.max_positions - j->prompts[prompt].count;
    return j->params->max_new_tokens < room ? j->params->max_new_tokens : room;
}

static size_t prompt_of(const batch *b, size_t index)
{
    return index / b->j->group;
}

static uint32_t prompt_tokens(const batch *b, size_t index)
{
    return b->j->prompts[prompt_of(b, index)].count;
}

/* ---- the batch's memory ---- */

static void batch_free(batch *b)
{
    for (size_t i = 0; b->samples && i < b->total; i++)
        free(b->samples[i].pages);
    for (size_t i = 0; b->prompts && i < b->prompt_count; i++)
        free(b->prompts[i].pages);
    lb_kv_pool_free(&b->pool);
    free(b->prompts);
    free(b->samples);
    free(b->running);
    free(b->free_hidden);
    free(b->index);
    free(b->token);
    free(b->uniform);
    free(b->logprob);
    free(b->feed.tokens);
    free(b->feed.positions);
    free(b->feed.slots);
    free(b->feed.row);
    free(b->feed.hidden);
    free(b->feed.kv);
}

/* What the budget pays for: at least the most that one sample can need, at most what all would. */
static size_t pool_pages(const batch *b)
{
    size_t budget = b->j->params->kv_bytes ? b->j->params->kv_bytes : KV_BYTES_DEFAULT;
    size_t pages = budget / lb_kv_page_bytes(b->j->model), least = 0, all = 0;
    for (size_t p = 0; p < b->prompt_count; p++) {
        size_t tokens = b->j->prompts[p].count, shared = tokens / LB_KV_PAGE;
        size_t own = lb_kv_pages(tokens + longest_completion(b->j, p)) - shared;
        size_t one = lb_kv_pages(tokens) + own;
        least = one > least ? one : least;
        all += lb_kv_pages(tokens) + own * b->j->group;
    }
    pages = pages < all ? pages : all;
    return pages > least ? pages : least;
}

static lb_status batch_create(const job *j, size_t prompt_count, batch *b)
{
    lb_model *model = j->model;
    feed *f = &b->feed;
    *b = (batch){.j = j, .prompt_count = prompt_count, .total = prompt_count * j->group};
    b->capacity = b->total < BATCH_MAX ? b->total : BATCH_MAX;
    f->capacity = model->options.max_tokens > b->capacity ? model->options.max_tokens
                                                          : b->capacity;
    b->prompts = calloc(prompt_count, sizeof *b->prompts);
    b->samples = calloc(b->total, sizeof *b->samples);
    b->running = calloc(b->capacity, sizeof *b->running);
    b->free_hidden = calloc(b->capacity, sizeof *b->free_hidden);
    b->index = calloc(b->capacity, sizeof *b->index);
    b->token = calloc(b->capacity, sizeof *b->token);
    b->uniform = calloc(b->capacity, sizeof *b->uniform);
    b->logprob = calloc(b->capacity, sizeof *b->logprob);
    f->tokens = calloc(f->capacity, sizeof *f->tokens);
    f->positions = calloc(f->capacity, sizeof *f->positions);
    f->slots = calloc(f->capacity, sizeof *f->slots);
    f->row = calloc(f->capacity, sizeof *f->row);
    f->hidden = calloc(f->capacity, sizeof *f->hidden);
    f->kv = calloc(f->capacity, sizeof *f->kv);
    if (!b->prompts || !b->samples || !b->running || !b->free_hidden || !b->index || !b->token ||
        !b->uniform || !b->logprob || !f->tokens || !f->positions || !f->slots || !f->row ||
        !f->hidden || !f->kv)
        return lb_fail(j->err, LB_ENOMEM, NULL, "no memory for %zu rollouts", b->total);
    while (b->free_hidden_count < b->capacity) {
        b->free_hidden[b->free_hidden_count] = (uint32_t)b->free_hidden_count;
        b->free_hidden_count++;
    }
    b->hidden = lb_ops_alloc(model->ops, LB_F32, b->capacity, model->config.hidden);
    return lb_kv_pool_create(model, pool_pages(b), &b->pool, j->err);
}

/* ---- rows ---- */

/* Runs what was collected and keeps the hidden states that were asked for. */
static void feed_flush(batch *b)
{
    lb_ops *ops = b->j->model->ops;
    feed *f = &b->feed;
    size_t mark = lb_ops_mark(ops);
    lb_rows rows = {f->count, f->tokens, f->positions, f->slots, f->kv, &b->pool.cache, 0};
    if (f->count > 0 && lb_ops_status(ops, NULL) == LB_OK) {
        lb_tensor h = lb_forward(b->j->model, b->j->adapter, &rows);
        for (size_t i = 0; i < f->wanted && lb_ops_status(ops, NULL) == LB_OK; i++)
            lb_copy(ops, lb_tensor_rows(b->hidden, f->hidden[i], 1),
                    lb_tensor_rows(h, f->row[i], 1));
    }
    lb_ops_release(ops, mark);
    f->count = f->wanted = 0;
}

static void put_row(feed *f, uint32_t token, uint32_t position, const uint32_t *pages)
{
    f->tokens[f->count] = token;
    f->positions[f->count] = position;
    f->slots[f->count] = pages[position / LB_KV_PAGE] * LB_KV_PAGE + position % LB_KV_PAGE;
    f->kv[f->count++] = (lb_kv_row){.pages = pages, .count = position + 1};
}

static void feed_row(batch *b, uint32_t token, uint32_t position, const uint32_t *pages)
{
    if (b->feed.count == b->j->model->options.max_tokens)
        feed_flush(b);
    put_row(&b->feed, token, position, pages);
}

/* ---- joining and leaving ---- */

static void drop_prompt(batch *b, size_t prompt)
{
    prompt_state *p = &b->prompts[prompt];
    if (--p->users > 0)
        return;
    for (size_t i = 0; i < lb_kv_pages(b->j->prompts[prompt].count); i++)
        lb_kv_pool_drop(&b->pool, p->pages[i]);
    free(p->pages);
    p->pages = NULL;
    b->free_hidden[b->free_hidden_count++] = p->hidden;
}

/* Takes running[at] out of the batch. */
static void leave(batch *b, size_t at, sample_state state)
{
    size_t index = b->running[at];
    rollout_state *s = &b->samples[index];
    for (size_t i = 0; i < s->page_count; i++)
        lb_kv_pool_drop(&b->pool, s->pages[i]);
    free(s->pages);
    *s = (rollout_state){.state = state};
    drop_prompt(b, prompt_of(b, index));
    memmove(b->running + at, b->running + at + 1,
            (--b->count - at) * sizeof *b->running);
    if (state == WAITING && index < b->next)
        b->next = index;
}

/* Pages that sample `index` needs to join: for its prompt, and of its own up to the next token. */
static size_t pages_to_join(const batch *b, size_t index)
{
    size_t tokens = prompt_tokens(b, index), shared = tokens / LB_KV_PAGE;
    size_t own = lb_kv_pages(tokens + b->j->out[index].count + 1) - shared;
    return own + (b->prompts[prompt_of(b, index)].users ? 0 : lb_kv_pages(tokens));
}

/* Gives a prompt its pages and collects its rows. */
static lb_status open_prompt(batch *b, size_t prompt)
{
    const lb_sequence *tokens = &b->j->prompts[prompt];
    prompt_state *p = &b->prompts[prompt];
    size_t count = lb_kv_pages(tokens->count);
    p->pages = calloc(count, sizeof *p->pages);
    if (!p->pages)
        return lb_fail(b->j->err, LB_ENOMEM, NULL, "no memory for a table of %zu pages", count);
    for (size_t i = 0; i < count; i++)
        p->pages[i] = lb_kv_pool_take(&b->pool);
    p->hidden = b->free_hidden[--b->free_hidden_count];
    for (uint32_t t = 0; t < tokens->count; t++)
        feed_row(b, tokens->tokens[t], t, p->pages);
    b->feed.row[b->feed.wanted] = (uint32_t)b->feed.count - 1;
    b->feed.hidden[b->feed.wanted++] = p->hidden;
    return LB_OK;
}

static lb_status join(batch *b, size_t index)
{
    size_t prompt = prompt_of(b, index), tokens = prompt_tokens(b, index);
    rollout_state *s = &b->samples[index];
    lb_status status = LB_OK;
    if (b->prompts[prompt].users == 0)
        status = open_prompt(b, prompt);
    if (status != LB_OK)
        return status;
    size_t most = lb_kv_pages(tokens + longest_completion(b->j, prompt));
    b->prompts[prompt].users++;
    b->running[b->count++] = (uint32_t)index;
    *s = (rollout_state){.state = RUNNING, .pages = calloc(most, sizeof *s->pages)};
    if (!s->pages)
        return lb_fail(b->j->err, LB_ENOMEM, NULL, "no memory for a table of %zu pages", most);
    size_t first = lb_kv_pages(tokens + b->j->out[index].count + 1);
    for (; s->page_count < tokens / LB_KV_PAGE; s->page_count++) {
        s->pages[s->page_count] = b->prompts[prompt].pages[s->page_count];
        lb_kv_pool_share(&b->pool, s->pages[s->page_count]);
    }
    while (s->page_count < first && s->page_count < most)
        s->pages[s->page_count++] = lb_kv_pool_take(&b->pool);
    return LB_OK;
}

static int ascending(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* Lets in whoever there is room for; a page is left for each of those that run. */
static lb_status admit(batch *b)
{
    lb_status status = LB_OK;
    size_t before = b->count;
    while (status == LB_OK && b->count < b->capacity) {
        while (b->next < b->total && b->samples[b->next].state != WAITING)
            b->next++;
        if (b->next == b->total ||
            pages_to_join(b, b->next) + b->count > b->pool.free_count)
            break;
        status = join(b, b->next);
    }
    if (status != LB_OK || b->count == before)
        return status;
    feed_flush(b);
    /* The prompts are there: copy their last pages, and run again what was put back. */
    for (size_t i = before; i < b->count; i++) {
        size_t index = b->running[i], tokens = prompt_tokens(b, index);
        const rollout_state *s = &b->samples[index];
        const lb_rollout *r = &b->j->out[index];
        if (tokens % LB_KV_PAGE != 0)
            lb_kv_pool_copy(&b->pool, b->j->model, s->pages[tokens / LB_KV_PAGE],
                            b->prompts[prompt_of(b, index)].pages[tokens / LB_KV_PAGE]);
        for (uint32_t t = 0; t + 1 < r->count; t++)
            feed_row(b, r->tokens[t], (uint32_t)tokens + t, s->pages);
    }
    feed_flush(b);
    qsort(b->running, b->count, sizeof *b->running, ascending);
    return lb_ops_status(b->j->model->ops, b->j->err);
}

/* Makes sure that every running sample has a page for its next row. */
static void grow(batch *b)
{
    for (size_t i = 0; i < b->count; i++) {
        size_t index = b->running[i];
        rollout_state *s = &b->samples[index];
        size_t rows = prompt_tokens(b, index) + b->j->out[index].count;
        if (lb_kv_pages(rows) <= s->page_count)
            continue;
        while (b->pool.free_count == 0 && b->count > i + 1)
            leave(b, b->count - 1, WAITING);
        if (b->pool.free_count == 0) {
            leave(b, i, WAITING);      /* it is the last of several, so that others go on */
            return;
        }
        s->pages[s->page_count++] = lb_kv_pool_take(&b->pool);
    }
}

/* ---- a step ---- */

/* Hidden rows [count, D] that predict each running sample's next token. */
static lb_tensor next_hidden(batch *b)
{
    lb_ops *ops = b->j->model->ops;
    feed *f = &b->feed;
    size_t hidden = b->j->model->config.hidden, first = 0;
    lb_tensor h = lb_ops_alloc(ops, LB_F32, b->count, hidden);
    for (size_t i = 0; i < b->count; i++) {
        size_t index = b->running[i];
        const lb_rollout *r = &b->j->out[index];
        if (r->count == 0) {
            lb_copy(ops, lb_tensor_rows(h, i, 1),
                    lb_tensor_rows(b->hidden, b->prompts[prompt_of(b, index)].hidden, 1));
            first++;
            continue;
        }
        f->row[f->count] = (uint32_t)i;
        put_row(f, r->tokens[r->count - 1], prompt_tokens(b, index) + r->count - 1,
                b->samples[index].pages);
    }
    size_t rows = f->count;
    f->count = 0;
    if (rows == 0 || lb_ops_status(ops, NULL) != LB_OK)
        return h;
    lb_rows pass = {rows, f->tokens, f->positions, f->slots, f->kv, &b->pool.cache, 0};
    lb_tensor run = lb_forward(b->j->model, b->j->adapter, &pass);
    if (first == 0)
        return run;
    lb_scatter_rows(ops, h, run, f->row);
    return h;
}

/* Appends each running sample's drawn token; samples that ended leave. */
static lb_status append(batch *b)
{
    const job *j = b->j;
    size_t kept = 0, count = b->count;
    for (size_t i = 0; i < count; i++) {
        size_t index = b->running[kept];
        lb_rollout *r = &j->out[index];
        if (!isfinite(b->logprob[i]))
            return lb_fail(j->err, LB_ENUMERIC, "logprob",
                           "the log-probability of a sampled token is not finite");
        r->tokens[r->count] = b->token[i];
        r->logprobs[r->count++] = b->logprob[i];
        r->stopped = !j->params->ignore_eos && lb_config_is_eos(&j->model->config, b->token[i]);
        if (r->stopped || r->count == longest_completion(j, prompt_of(b, index)))
            leave(b, kept, ENDED);
        else
            kept++;
    }
    return LB_OK;
}

static lb_status step(batch *b)
{
    const job *j = b->j;
    const lb_generate_params *params = j->params;
    size_t mark = lb_ops_mark(j->model->ops);
    lb_tensor h = next_hidden(b);
    for (size_t i = 0; i < b->count; i++) {
        size_t index = b->running[i];
        uint32_t counter[4] = {LB_RNG_SAMPLE, params->step, j->row_base + (uint32_t)index,
                               prompt_tokens(b, index) + j->out[index].count};
        uint32_t word[4];
        lb_rng_block(params->seed, counter, word);
        b->uniform[i] = lb_rng_uniform(word[0]);
    }
    lb_head_sample(j->model->ops, h, lb_model_head(j->model), params->allowed, &params->sample,
                   b->uniform, b->token, b->logprob);
    lb_status status = lb_ops_status(j->model->ops, j->err);
    if (status == LB_OK)
        status = append(b);
    lb_ops_release(j->model->ops, mark);
    return status;
}

static lb_status run(batch *b)
{
    const lb_generate_params *params = b->j->params;
    lb_status status = LB_OK;
    for (;;) {
        if (params->cancelled && params->cancelled(params->cancel_arg))
            return lb_fail(b->j->err, LB_ECANCELLED, NULL, "the generation was cancelled");
        grow(b);
        status = admit(b);
        if (status != LB_OK || b->count == 0)
            return status;
        status = step(b);
        if (status != LB_OK)
            return status;
    }
}

/* ---- the call ---- */

static lb_status check(const job *j, size_t prompt_count)
{
    const lb_model_config *c = &j->model->config;
    const lb_sample_params *sample = &j->params->sample;
    bool any = !j->params->allowed;
    if (!isfinite(sample->temperature) || sample->temperature < 0)
        return lb_fail(j->err, LB_EINVAL, "temperature", "%g is no temperature",
                       (double)sample->temperature);
    if (!(sample->top_p > 0 && sample->top_p <= 1))
        return lb_fail(j->err, LB_EINVAL, "top_p", "%g is outside (0, 1]", (double)sample->top_p);
    for (uint32_t v = 0; !any && v < c->vocab; v++)
        any = j->params->allowed[v];
    if (!any)
        return lb_fail(j->err, LB_EINVAL, "allowed", "no token may be sampled");
    if (j->group == 0 || j->params->max_new_tokens == 0)
        return lb_fail(j->err, LB_EINVAL, j->group ? "max_new_tokens" : "group",
                       "must be at least 1");
    for (size_t i = 0; i < prompt_count; i++) {
        lb_status status = lb_model_check_tokens(j->model, &j->prompts[i], j->err);
        if (status != LB_OK)
            return status;
        if (j->prompts[i].count >= c->max_positions)
            return lb_fail(j->err, LB_EINVAL, "prompt",
                           "a prompt of %u tokens leaves no room in %u positions",
                           j->prompts[i].count, c->max_positions);
    }
    return LB_OK;
}

lb_status lb_model_generate(lb_model *model, const lb_adapter *adapter,
                            const lb_sequence *prompts, size_t prompt_count, uint32_t group,
                            uint32_t row_base, const lb_generate_params *params, lb_rollout *out,
                            lb_err *err)
{
    job j = {model, adapter, prompts, group, row_base, params, NULL, err};
    lb_status status = check(&j, prompt_count);
    if (status != LB_OK || prompt_count == 0)
        return status;
    batch b = {0};
    size_t total = prompt_count * group;
    j.out = calloc(total, sizeof *j.out);
    if (!j.out)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu rollouts", total);
    for (size_t i = 0; status == LB_OK && i < total; i++) {
        uint32_t longest = longest_completion(&j, i / group);
        j.out[i].tokens = calloc(longest, sizeof *j.out[i].tokens);
        j.out[i].logprobs = calloc(longest, sizeof *j.out[i].logprobs);
        if (!j.out[i].tokens || !j.out[i].logprobs)
            status = lb_fail(err, LB_ENOMEM, NULL, "no memory for a rollout of %u", longest);
    }
    lb_ops_reset(model->ops);
    if (status == LB_OK)
        status = batch_create(&j, prompt_count, &b);
    if (status == LB_OK)
        status = run(&b);
    batch_free(&b);
    for (size_t i = 0; status != LB_OK && i < total; i++)
        lb_rollout_free(&j.out[i]);
    if (status == LB_OK)
        memcpy(out, j.out, total * sizeof *out);
    free(j.out);
    return status;
}

void lb_rollout_free(lb_rollout *rollout)
{
    if (!rollout)
        return;
    free(rollout->tokens);
    free(rollout->logprobs);
    *rollout = (lb_rollout){0};
}
