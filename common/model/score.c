/* SPDX-License-Identifier: Apache-2.0
 *
 * Scoring: requests are packed into waves of rows over one KV cache, and a wave runs in chunks of
 * at most max_tokens rows. Where a chunk begins or ends does not show in the bits.
 */
#include "common/model/model_impl.h"

#include <math.h>
#include <stdlib.h>

/* The rows of a wave, in the order of its requests. The last token of a sequence predicts nothing
 * and is not run. */
typedef struct wave {
    uint32_t *tokens, *positions, *slots;
    uint32_t *table;           /* [pages]: the sequences' pages, one after the other */
    lb_kv_row *kv;
    size_t rows, pages;
} wave;

static void wave_free(wave *w)
{
    free(w->tokens);
    free(w->positions);
    free(w->slots);
    free(w->table);
    free(w->kv);
    *w = (wave){0};
}

static lb_status wave_create(const lb_score_request *requests, size_t count, wave *out,
                             lb_err *err)
{
    wave w = {0};
    size_t rows = 0, r = 0, page = 0;
    for (size_t i = 0; i < count; i++) {
        rows += requests[i].sequence.count - 1;
        w.pages += lb_kv_pages(requests[i].sequence.count - 1);
    }
    w.tokens = calloc(rows + 1, sizeof *w.tokens);
    w.positions = calloc(rows + 1, sizeof *w.positions);
    w.slots = calloc(rows + 1, sizeof *w.slots);
    w.table = calloc(w.pages + 1, sizeof *w.table);
    w.kv = calloc(rows + 1, sizeof *w.kv);
    if (!w.tokens || !w.positions || !w.slots || !w.table || !w.kv) {
        wave_free(&w);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu rows", rows);
    }
    for (size_t i = 0; i < w.pages; i++)
        w.table[i] = (uint32_t)i;
    for (size_t i = 0; i < count; i++) {
        for (uint32_t t = 0; t + 1 < requests[i].sequence.count; t++, r++) {
            w.tokens[r] = requests[i].sequence.tokens[t];
            w.positions[r] = t;
            w.slots[r] = (uint32_t)page * LB_KV_PAGE + t;
            w.kv[r] = (lb_kv_row){.pages = w.table + page, .count = t + 1};
        }
        page += lb_kv_pages(requests[i].sequence.count - 1);
    }
    w.rows = rows;
    *out = w;
    return LB_OK;
}

/* Rows of a chunk that predict a scored entry of one request, and what the head gave for them. */
typedef struct picked {
    uint32_t *rows, *targets;
    float *logprob, *entropy, *top_logprob;
    uint32_t *rank, *top_id;
    size_t count;
} picked;

static void picked_free(picked *p)
{
    free(p->rows);
    free(p->targets);
    free(p->logprob);
    free(p->entropy);
    free(p->top_logprob);
    free(p->rank);
    free(p->top_id);
    *p = (picked){0};
}

static lb_status picked_create(size_t rows, size_t k, picked *out, lb_err *err)
{
    picked p = {
        .rows = calloc(rows, sizeof *p.rows),
        .targets = calloc(rows, sizeof *p.targets),
        .logprob = calloc(rows, sizeof *p.logprob),
        .entropy = calloc(rows, sizeof *p.entropy),
        .rank = calloc(rows, sizeof *p.rank),
        .top_logprob = calloc(rows * k + 1, sizeof *p.top_logprob),
        .top_id = calloc(rows * k + 1, sizeof *p.top_id),
    };
    if (!p.rows || !p.targets || !p.logprob || !p.entropy || !p.rank || !p.top_logprob ||
        !p.top_id) {
        picked_free(&p);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the scores of %zu rows", rows);
    }
    *out = p;
    return LB_OK;
}

static bool is_scored(const lb_score_request *request, uint32_t entry)
{
    return entry >= request->start && entry < request->sequence.count;
}

/* Lists the rows [first, first + rows) of the wave that predict a scored entry, with targets. */
static void pick(lb_score_request *requests, size_t count, size_t first, size_t rows, picked *p)
{
    size_t r = 0;
    p->count = 0;
    for (size_t i = 0; i < count; i++) {
        for (uint32_t t = 0; t + 1 < requests[i].sequence.count; t++, r++) {
            if (r < first || r >= first + rows || !is_scored(&requests[i], t + 1))
                continue;
            p->rows[p->count] = (uint32_t)(r - first);
            p->targets[p->count++] = requests[i].sequence.tokens[t + 1];
        }
    }
}

static lb_status place(lb_score_request *requests, size_t count, size_t first, size_t rows,
                       const picked *p, size_t k, lb_err *err)
{
    size_t r = 0, n = 0;
    for (size_t i = 0; i < count; i++) {
        lb_score_request *q = &requests[i];
        for (uint32_t t = 0; t + 1 < q->sequence.count; t++, r++) {
            if (r < first || r >= first + rows || !is_scored(q, t + 1))
                continue;
            if (!isfinite(p->logprob[n]))
                return lb_fail(err, LB_ENUMERIC, "logprob",
                               "the log-probability of entry %u of a sequence is not finite",
                               t + 1);
            q->logprob[t + 1] = p->logprob[n];
            if (q->rank)
                q->rank[t + 1] = p->rank[n];
            if (q->entropy)
                q->entropy[t + 1] = p->entropy[n];
            for (uint32_t j = 0; q->top_id && j < q->k; j++) {
                q->top_id[(size_t)(t + 1) * q->k + j] = p->top_id[n * k + j];
                q->top_logprob[(size_t)(t + 1) * q->k + j] = p->top_logprob[n * k + j];
            }
            n++;
        }
    }
    return LB_OK;
}

/* What any of the requests wants of the head. */
static lb_head_out wanted(const lb_score_request *requests, size_t count, const picked *p,
                          size_t k)
{
    lb_head_out out = {.logprob = p->logprob, .k = k};
    for (size_t i = 0; i < count; i++) {
        if (requests[i].rank)
            out.rank = p->rank;
        if (requests[i].entropy)
            out.entropy = p->entropy;
    }
    if (k > 0) {
        out.top_id = p->top_id;
        out.top_logprob = p->top_logprob;
    }
    return out;
}

static lb_status score_wave(lb_model *model, const lb_adapter *adapter,
                            lb_score_request *requests, size_t count, lb_err *err)
{
    wave w = {0};
    picked p = {0};
    lb_kv_cache cache = {0};
    size_t k = 0, chunk = model->options.max_tokens;
    lb_ops_reset(model->ops);
    for (size_t i = 0; i < count; i++)
        k = requests[i].k > k ? requests[i].k : k;
    lb_status status = wave_create(requests, count, &w, err);
    if (status == LB_OK && w.rows > 0)
        status = lb_kv_cache_create(model, w.pages, &cache, err);
    if (status == LB_OK)
        status = picked_create(w.rows < chunk ? w.rows + 1 : chunk, k, &p, err);
    for (size_t first = 0; status == LB_OK && first < w.rows; first += chunk) {
        size_t n = w.rows - first < chunk ? w.rows - first : chunk;
        size_t mark = lb_ops_mark(model->ops);
        lb_rows rows = {n, w.tokens + first, w.positions + first, w.slots + first, w.kv + first,
                        &cache, w.pages};
        lb_tensor h = lb_forward(model, adapter, &rows);
        pick(requests, count, first, n, &p);
        lb_tensor scored = lb_ops_alloc(model->ops, LB_F32, p.count, model->config.hidden);
        lb_head_out out = wanted(requests, count, &p, k);
        if (p.count > 0) {
            lb_gather_rows(model->ops, scored, h, p.rows);
            lb_head(model->ops, scored, lb_model_head(model), p.targets, &out);
        }
        status = lb_ops_status(model->ops, err);
        if (status == LB_OK)
            status = place(requests, count, first, n, &p, k, err);
        lb_ops_release(model->ops, mark);
    }
    picked_free(&p);
    lb_kv_cache_free(&cache);
    wave_free(&w);
    return status;
}

static lb_status check_request(const lb_model *model, const lb_score_request *r, lb_err *err)
{
    if (r->start < 1)
        return lb_fail(err, LB_EINVAL, "start", "entry 0 has no log-probability; start at 1");
    if (r->k > model->config.vocab)
        return lb_fail(err, LB_EINVAL, "k", "%u is more than the vocabulary's %u", r->k,
                       model->config.vocab);
    return lb_model_check_tokens(model, &r->sequence, err);
}

static void clear_request(lb_score_request *r)
{
    for (uint32_t t = 0; t < r->sequence.count; t++) {
        r->logprob[t] = NAN;
        if (r->rank)
            r->rank[t] = 0;
        if (r->entropy)
            r->entropy[t] = NAN;
        for (uint32_t j = 0; r->top_id && j < r->k; j++) {
            r->top_id[(size_t)t * r->k + j] = 0;
            r->top_logprob[(size_t)t * r->k + j] = NAN;
        }
    }
}

lb_status lb_model_score(lb_model *model, const lb_adapter *adapter, lb_score_request *requests,
                         size_t count, lb_err *err)
{
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && i < count; i++)
        status = check_request(model, &requests[i], err);
    for (size_t i = 0; status == LB_OK && i < count; i++)
        clear_request(&requests[i]);
    for (size_t first = 0; status == LB_OK && first < count;) {
        size_t rows = 0, last = first;
        do {
            rows += requests[last].sequence.count - 1;
            last++;
        } while (last < count &&
                 rows + requests[last].sequence.count - 1 <= model->options.max_tokens);
        status = score_wave(model, adapter, requests + first, last - first, err);
        first = last;
    }
    return status;
}
