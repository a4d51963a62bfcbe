/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads a model's tensors: one table of rows says which tensor goes where and which shape it must
 * have.
 */
#include "common/model/hasher.h"
#include "common/model/model_impl.h"
#include "common/model/source.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROPE_FACTORS "rope_freqs.weight"

typedef struct loader {
    lb_model *model;
    lb_source *source;
    lb_hasher *hash;
    lb_err *err;
} loader;

/* Finds a tensor of the given shape (cols 0: a vector) and adds it to the digest. */
static lb_status find(loader *l, const char *name, size_t rows, size_t cols,
                      lb_source_tensor *out)
{
    lb_status status = lb_source_find(l->source, name, rows, cols, out, l->err);
    if (status != LB_OK)
        return status;
    lb_hasher_add_copy(l->hash, name, strlen(name) + 1);
    lb_hasher_add_copy(l->hash, out->dtype, strlen(out->dtype));
    lb_hasher_add(l->hash, out->data, out->bytes);
    return LB_OK;
}

static lb_status load_matrix(loader *l, const char *name, size_t rows, size_t cols,
                             unsigned flags, lb_weight **out)
{
    lb_source_tensor t;
    lb_row_source source = {.read = lb_source_read, .arg = &t};
    lb_status status = find(l, name, rows, cols, &t);
    if (status == LB_OK)
        status = lb_weight_pack(l->model->backend, rows, cols, &source, l->model->options.dtype,
                                flags, out, l->err);
    if (status == LB_OK)
        l->model->weight_bytes += lb_weight_bytes(*out);
    return status;
}

/* A vector in f32; owned by the caller (free). */
static lb_status read_vector(loader *l, const char *name, size_t size, float **out)
{
    lb_source_tensor t;
    lb_status status = find(l, name, size, 0, &t);
    if (status != LB_OK)
        return status;
    *out = malloc(size * sizeof **out);
    if (!*out)
        return lb_fail(l->err, LB_ENOMEM, name, "no memory for %zu elements", size);
    lb_source_read(&t, 0, 1, *out);
    return LB_OK;
}

static lb_status load_vector(loader *l, const char *name, size_t size, lb_tensor *out)
{
    float *values = NULL;
    lb_status status = read_vector(l, name, size, &values);
    if (status == LB_OK)
        status = lb_device_alloc(l->model->backend, LB_F32, 1, size, out, l->err);
    if (status == LB_OK) {
        lb_copy_in(l->model->ops, *out, values);
        status = lb_ops_status(l->model->ops, l->err);
        l->model->weight_bytes += size * sizeof *values;
    }
    free(values);
    return status;
}

/* ---- the table of a layer ---- */

typedef enum row_kind { ROW_PROJECTION, ROW_BIAS, ROW_NORM } row_kind;

typedef struct layer_row {
    row_kind kind;
    const char *suffix;        /* after "model.layers.N." */
    lb_projection projection;  /* of ROW_PROJECTION and ROW_BIAS */
    size_t offset;             /* of ROW_NORM: of its lb_tensor in lb_layer */
    bool per_head;             /* a norm over head_dim, there only with qk_norm */
} layer_row;

static const layer_row layer_rows[] = {
    {.kind = ROW_NORM, .suffix = "input_layernorm.weight",
     .offset = offsetof(lb_layer, attention_norm)},
    {.kind = ROW_PROJECTION, .suffix = "self_attn.q_proj.weight", .projection = LB_PROJ_Q},
    {.kind = ROW_PROJECTION, .suffix = "self_attn.k_proj.weight", .projection = LB_PROJ_K},
    {.kind = ROW_PROJECTION, .suffix = "self_attn.v_proj.weight", .projection = LB_PROJ_V},
    {.kind = ROW_PROJECTION, .suffix = "self_attn.o_proj.weight", .projection = LB_PROJ_O},
    {.kind = ROW_BIAS, .suffix = "self_attn.q_proj.bias", .projection = LB_PROJ_Q},
    {.kind = ROW_BIAS, .suffix = "self_attn.k_proj.bias", .projection = LB_PROJ_K},
    {.kind = ROW_BIAS, .suffix = "self_attn.v_proj.bias", .projection = LB_PROJ_V},
    {.kind = ROW_NORM, .suffix = "self_attn.q_norm.weight", .offset = offsetof(lb_layer, q_norm),
     .per_head = true},
    {.kind = ROW_NORM, .suffix = "self_attn.k_norm.weight", .offset = offsetof(lb_layer, k_norm),
     .per_head = true},
    {.kind = ROW_NORM, .suffix = "post_attention_layernorm.weight",
     .offset = offsetof(lb_layer, mlp_norm)},
    {.kind = ROW_PROJECTION, .suffix = "mlp.gate_proj.weight", .projection = LB_PROJ_GATE},
    {.kind = ROW_PROJECTION, .suffix = "mlp.up_proj.weight", .projection = LB_PROJ_UP},
    {.kind = ROW_PROJECTION, .suffix = "mlp.down_proj.weight", .projection = LB_PROJ_DOWN},
};

static lb_status load_layer_row(loader *l, uint32_t index, const layer_row *row)
{
    const lb_model_config *c = &l->model->config;
    lb_layer *layer = &l->model->layers[index];
    uint32_t out = 0, in = 0;
    char name[LB_SOURCE_NAME_MAX];
    snprintf(name, sizeof name, "model.layers.%u.%s", index, row->suffix);
    lb_projection_shape(c, row->projection, &out, &in);
    switch (row->kind) {
    case ROW_PROJECTION:
        return load_matrix(l, name, out, in,
                           LB_WEIGHT_FORWARD |
                               (l->model->options.trainable ? LB_WEIGHT_BACKWARD : 0u),
                           &layer->projection[row->projection]);
    case ROW_BIAS:
        return c->qkv_bias ? load_vector(l, name, out, &layer->bias[row->projection]) : LB_OK;
    case ROW_NORM:
        break;
    }
    if (row->per_head && !c->qk_norm)
        return LB_OK;
    return load_vector(l, name, row->per_head ? c->head_dim : c->hidden,
                       (lb_tensor *)(void *)((char *)layer + row->offset));
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* Whether a row of the table, or one of the names beside it, asks for this tensor; besides, buffers
 * that old exports carry and a head that is stored although it is tied. */
static bool is_known(const lb_model_config *c, const char *name)
{
    static const char prefix[] = "model.layers.";
    char *rest = NULL;
    if (strcmp(name, "model.embed_tokens.weight") == 0 ||
        strcmp(name, "model.norm.weight") == 0 || strcmp(name, "lm_head.weight") == 0 ||
        ends_with(name, ".rotary_emb.inv_freq"))
        return true;
    const char *digits = name + sizeof prefix - 1;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0 || *digits < '0' || *digits > '9')
        return false;
    unsigned long layer = strtoul(digits, &rest, 10);
    if (layer >= c->layers || *rest != '.' || (*digits == '0' && rest != digits + 1))
        return false;
    for (size_t r = 0; r < sizeof layer_rows / sizeof *layer_rows; r++) {
        const layer_row *row = &layer_rows[r];
        if (strcmp(rest + 1, row->suffix) == 0)
            return (row->kind != ROW_BIAS || c->qkv_bias) && (!row->per_head || c->qk_norm);
    }
    return false;
}

/* A tensor that no row asked for is refused by name. */
static lb_status refuse_stranger(void *arg, const char *name)
{
    const loader *l = arg;
    if (is_known(&l->model->config, name) ||
        (l->model->rope_factors && strcmp(name, ROPE_FACTORS) == 0))
        return LB_OK;
    return lb_fail(l->err, LB_EUNSUPPORTED, name,
                   "the model has a tensor that its architecture does not know");
}

/* GGUF keeps llama3's rope scaling as one divisor for each frequency. */
static lb_status load_rope_factors(loader *l)
{
    size_t half = l->model->config.head_dim / 2;
    if (l->model->config.rope.llama3 || !lb_source_has(l->source, ROPE_FACTORS))
        return LB_OK;
    lb_status status = read_vector(l, ROPE_FACTORS, half, &l->model->rope_factors);
    for (size_t i = 0; status == LB_OK && i < half; i++) {
        float factor = l->model->rope_factors[i];
        if (!isfinite(factor) || factor <= 0.0f)
            status = lb_fail(l->err, LB_EDATA, ROPE_FACTORS, "factor %zu is %g", i,
                             (double)factor);
    }
    return status;
}

static lb_status load_all(loader *l)
{
    lb_model *m = l->model;
    const lb_model_config *c = &m->config;
    unsigned head = LB_WEIGHT_FORWARD | (m->options.trainable ? LB_WEIGHT_BACKWARD : 0u);
    lb_status status = load_matrix(l, "model.embed_tokens.weight", c->vocab, c->hidden,
                                   c->tied ? head : LB_WEIGHT_FORWARD, &m->embedding);
    if (status == LB_OK && !c->tied)
        status = load_matrix(l, "lm_head.weight", c->vocab, c->hidden, head, &m->unembedding);
    if (status == LB_OK)
        status = load_vector(l, "model.norm.weight", c->hidden, &m->final_norm);
    for (uint32_t i = 0; status == LB_OK && i < c->layers; i++) {
        for (size_t r = 0; status == LB_OK && r < sizeof layer_rows / sizeof *layer_rows; r++)
            status = load_layer_row(l, i, &layer_rows[r]);
    }
    if (status == LB_OK)
        status = load_rope_factors(l);
    return status == LB_OK ? lb_source_each(l->source, refuse_stranger, l, l->err) : status;
}

lb_status lb_model_load_weights(lb_model *model, const char *path, lb_err *err)
{
    loader l = {.model = model, .err = err};
    lb_status status = lb_hasher_start(&l.hash, err);
    if (status == LB_OK)
        status = lb_source_open(path, &model->config, &l.source, err);
    if (status == LB_OK) {
        /* Sizes and constants of the config that the tensors' shapes do not show. */
        char text[256];
        const lb_model_config *c = &model->config;
        int n = snprintf(text, sizeof text, "%d %u %u %a %a %d %a %a %a %u", (int)c->family,
                         c->heads, c->kv_heads, c->rms_eps, c->rope.theta, c->rope.llama3,
                         c->rope.factor, c->rope.low_freq_factor, c->rope.high_freq_factor,
                         c->rope.original_max_positions);
        lb_hasher_add_copy(l.hash, text, n > 0 && (size_t)n < sizeof text ? (size_t)n : 0);
        status = load_all(&l);
    }
    lb_status hashed = lb_hasher_end(l.hash, status == LB_OK ? model->digest : NULL, err);
    lb_source_close(l.source);
    return status == LB_OK ? hashed : status;
}
