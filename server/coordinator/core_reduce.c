/* SPDX-License-Identifier: Apache-2.0
 *
 * From the unit blobs of a step to one gradient, and from a gradient to the next weights; the hash
 * chain over the steps.
 */
#include "server/coordinator/core_impl.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TREE_LEVELS 12                  /* blocks that wait: 1 + log2 of the most units */

/* A block of the balanced tree: the sum of `leaves` units. */
typedef struct block {
    float *sum;
    uint32_t leaves;
} block;

static void merge_last_two(block *blocks, size_t *count, size_t elements)
{
    block *left = &blocks[*count - 2], *right = &blocks[*count - 1];
    float *pair[2] = {left->sum, right->sum};
    lb_tree_reduce(pair, 2, elements, left->sum);
    left->leaves += right->leaves;
    free(right->sum);
    (*count)--;
}

static lb_status read_unit(lb_core *core, const core_job *job, uint32_t unit,
                           core_reduction *reduction, float *gradient, lb_err *err)
{
    lb_buf bytes = {0};
    lb_unit_result result = {0};
    size_t elements = job->layout.elements;
    lb_status status = core->env.blob_get(core->env.arg, job->units[unit].digest, &bytes, err);
    if (status == LB_OK)
        status = lb_unit_result_decode(bytes.data, bytes.length, elements, &result, err);
    if (status == LB_OK) {
        memcpy(gradient, result.gradient, elements * sizeof *gradient);
        reduction->tokens += result.tokens;
        lb_unit_metrics_fold(reduction->metrics, result.metrics);
    }
    if (status == LB_OK) {
        /* The leaf of units_root: unit, digest, tokens. */
        lb_buf leaf = {0};
        uint8_t digest[LB_SHA256_BYTES], chained[2 * LB_SHA256_BYTES];
        bool parsed = lb_sha256_parse(job->units[unit].digest, digest);
        assert(parsed);
        lb_buf_u64(&leaf, unit);
        lb_buf_append(&leaf, digest, sizeof digest);
        lb_buf_u64(&leaf, result.tokens);
        status = leaf.status;
        if (status == LB_OK) {
            memcpy(chained, reduction->units_root, LB_SHA256_BYTES);
            lb_sha256_of(leaf.data, leaf.length, chained + LB_SHA256_BYTES);
            lb_sha256_of(chained, sizeof chained, reduction->units_root);
        }
        lb_buf_free(&leaf);
    }
    lb_unit_result_free(&result);
    lb_buf_free(&bytes);
    return status;
}

/* The same sums as lb_tree_reduce over all units, holding log2(units) + 1 gradients at a time
 * instead of all: equal blocks merge as soon as both are there, as in a binary counter. */
lb_status lb_core_reduce(lb_core *core, const core_job *job, core_reduction *out, lb_err *err)
{
    block blocks[TREE_LEVELS] = {{0}};
    size_t count = 0, elements = job->layout.elements;
    lb_status status = LB_OK;
    *out = (core_reduction){0};
    lb_unit_metrics_init(out->metrics);
    for (uint32_t u = 0; status == LB_OK && u < job->config.units_per_step; u++) {
        assert(job->units[u].state == UNIT_DONE && count < TREE_LEVELS);
        float *gradient = malloc(elements * sizeof *gradient);
        if (!gradient) {
            status = lb_fail(err, LB_ENOMEM, NULL, "no memory for a gradient");
            break;
        }
        blocks[count++] = (block){gradient, 1};
        out->bad_unit = u;
        status = read_unit(core, job, u, out, gradient, err);
        while (status == LB_OK && count >= 2 &&
               blocks[count - 1].leaves == blocks[count - 2].leaves)
            merge_last_two(blocks, &count, elements);
    }
    while (status == LB_OK && count >= 2)
        merge_last_two(blocks, &count, elements);
    if (status == LB_OK) {
        out->gradient = blocks[0].sum;
        return LB_OK;
    }
    while (count > 0)
        free(blocks[--count].sum);
    return status;
}

lb_status lb_core_apply(const core_job *job, lb_adam *adam, float *weights, const float *gradient,
                        uint64_t tokens, lb_err *err)
{
    if (tokens == 0)
        return LB_OK;
    lb_adam_config config = lb_adam_defaults();
    double scale = job->config.normalization == LB_NORM_TOKEN_MEAN ? 1.0 / (double)tokens : 1.0;
    lb_status status = lb_adam_step(adam, &config, job->config.learning_rate, scale, gradient,
                                    weights, err);
    for (size_t i = 0; status == LB_OK && i < adam->elements; i++) {
        if (!isfinite(weights[i]))
            status = lb_fail(err, LB_ENUMERIC, "adapter", "element %zu became %g", i,
                             (double)weights[i]);
    }
    return status;
}

/* ---- the chain ---- */

static void append_digest(lb_buf *out, const char *hex)
{
    uint8_t digest[LB_SHA256_BYTES] = {0};
    /* A row that was damaged gives another hash than the recorded one, which is what finds it. */
    (void)lb_sha256_parse(hex, digest);
    lb_buf_append(out, digest, sizeof digest);
}

static lb_status hash_of(lb_buf *text, char out[LB_SHA256_HEX], lb_err *err)
{
    uint8_t digest[LB_SHA256_BYTES];
    lb_status status = text->status;
    if (status == LB_OK) {
        lb_sha256_of(text->data, text->length, digest);
        lb_sha256_hex(digest, out);
    } else {
        (void)lb_fail(err, status, NULL, "no memory for a hash of the chain");
    }
    lb_buf_free(text);
    return status;
}

lb_status lb_core_chain_start(const lb_job_row *row, char out[LB_SHA256_HEX], lb_err *err)
{
    lb_buf text = {0};
    lb_buf_puts(&text, "run1");
    lb_buf_puts(&text, row->id);
    append_digest(&text, row->config_sha);
    append_digest(&text, row->adapter_sha);
    return hash_of(&text, out, err);
}

lb_status lb_core_chain_hash(const lb_job_row *job, const lb_step_row *row,
                             char out[LB_SHA256_HEX], lb_err *err)
{
    lb_buf text = {0};
    lb_buf_puts(&text, "upd1");
    append_digest(&text, row->prev);
    lb_buf_puts(&text, job->id);
    lb_buf_u64(&text, row->step);
    append_digest(&text, row->units_root);
    append_digest(&text, row->grad_sha);
    append_digest(&text, row->adapter_sha);
    append_digest(&text, row->opt_sha);
    append_digest(&text, job->config_sha);
    lb_buf_u64(&text, row->tokens);
    return hash_of(&text, out, err);
}
