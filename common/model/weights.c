/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads a Hugging Face folder's safetensors into a model: one table of rows says which tensor goes
 * where and which shape it must have.
 */
#include "common/io/file.h"
#include "common/io/safetensors.h"
#include "common/model/model_impl.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARDS_MAX 256u
#define INDEX_MAX (64u << 20)
#define NAME_BYTES 128

typedef struct shard {
    char name[NAME_BYTES];
    lb_mapping mapping;
    lb_safetensors *file;
} shard;

typedef struct loader {
    lb_model *model;
    const char *dir;
    shard *shards;             /* [SHARDS_MAX] */
    size_t shard_count;
    lb_sha256 *hash;
    lb_err *err;
} loader;

/* ---- files ---- */

static lb_status open_shard(loader *l, const char *name)
{
    char path[LB_PATH_MAX];
    for (size_t i = 0; i < l->shard_count; i++) {
        if (strcmp(l->shards[i].name, name) == 0)
            return LB_OK;
    }
    if (!*name || strlen(name) >= NAME_BYTES || strchr(name, '/') || strstr(name, ".."))
        return lb_fail(l->err, LB_EDATA, "weight_map", "'%.60s' is no name of a shard", name);
    if (l->shard_count == SHARDS_MAX)
        return lb_fail(l->err, LB_ETOOBIG, "weight_map", "there are more than %u shards",
                       SHARDS_MAX);
    shard *s = &l->shards[l->shard_count++];
    memcpy(s->name, name, strlen(name) + 1);
    lb_status status = lb_path_join(path, sizeof path, l->dir, name, l->err);
    if (status == LB_OK)
        status = lb_file_map(path, &s->mapping, l->err);
    if (status == LB_OK) {
        status = lb_safetensors_open(s->mapping.data, s->mapping.length,
                                     LB_SAFETENSORS_HEADER_MAX, &s->file, l->err);
        if (status != LB_OK)
            lb_err_wrap(l->err, "%.60s", name);
    }
    return status;
}

static lb_status open_mapped_shard(void *arg, const char *key, const lb_json *value)
{
    loader *l = arg;
    const char *name = lb_json_string(value);
    if (!name)
        return lb_fail(l->err, LB_EDATA, "weight_map", "the shard of '%.60s' is not a string",
                       key);
    lb_status status = open_shard(l, name);
    for (size_t i = 0; status == LB_OK && i < l->shard_count; i++) {
        if (strcmp(l->shards[i].name, name) == 0 && !lb_safetensors_find(l->shards[i].file, key))
            status = lb_fail(l->err, LB_EDATA, key, "the index promises it in %.60s", name);
    }
    return status;
}

static lb_status open_shards(loader *l)
{
    char path[LB_PATH_MAX];
    lb_buf text = {0};
    lb_json *index = NULL;
    lb_status status = lb_path_join(path, sizeof path, l->dir, "model.safetensors.index.json",
                                    l->err);
    if (status != LB_OK || !lb_path_is_file(path))
        return status == LB_OK ? open_shard(l, "model.safetensors") : status;
    status = lb_file_read(path, INDEX_MAX, &text, l->err);
    if (status == LB_OK)
        status = lb_json_parse((const char *)text.data, text.length, &index, l->err);
    if (status == LB_OK && !lb_json_is_object(lb_json_get(index, "weight_map")))
        status = lb_fail(l->err, LB_EDATA, "weight_map", "the index has no weight_map");
    if (status == LB_OK)
        status = lb_json_each(lb_json_get(index, "weight_map"), open_mapped_shard, l);
    lb_json_free(index);
    lb_buf_free(&text);
    return status;
}

/* ---- tensors ---- */

/* Finds a tensor of the given shape (cols 0: a vector) and adds it to the digest. */
static lb_status find(loader *l, const char *name, size_t rows, size_t cols,
                      const lb_st_tensor **out)
{
    const lb_st_tensor *t = NULL;
    for (size_t i = 0; !t && i < l->shard_count; i++)
        t = lb_safetensors_find(l->shards[i].file, name);
    if (!t)
        return lb_fail(l->err, LB_EDATA, name, "the model lacks this tensor");
    bool fits = cols ? t->rank == 2 && t->shape[0] == rows && t->shape[1] == cols
                     : t->rank == 1 && t->shape[0] == rows;
    if (!fits)
        return cols ? lb_fail(l->err, LB_EDATA, name, "its shape is not [%zu, %zu]", rows, cols)
                    : lb_fail(l->err, LB_EDATA, name, "its shape is not [%zu]", rows);
    if (t->dtype != LB_ST_F32 && t->dtype != LB_ST_BF16 && t->dtype != LB_ST_F16)
        return lb_fail(l->err, LB_EUNSUPPORTED, name, "dtype %s is none of F32, BF16 and F16",
                       lb_st_dtype_name(t->dtype));
    lb_sha256_update(l->hash, name, strlen(name) + 1);
    lb_sha256_update(l->hash, lb_st_dtype_name(t->dtype), strlen(lb_st_dtype_name(t->dtype)));
    lb_sha256_update(l->hash, t->data, t->bytes);
    *out = t;
    return LB_OK;
}

/* The tensor's values as f32; owned by the caller (free). */
static lb_status expand(const lb_st_tensor *t, size_t elements, float **out, lb_err *err)
{
    float *values = malloc(elements * sizeof *values);
    if (!values)
        return lb_fail(err, LB_ENOMEM, t->name, "no memory for %zu elements", elements);
    for (size_t i = 0; i < elements; i++) {
        uint16_t half = 0;
        if (t->dtype == LB_ST_F32) {
            memcpy(&values[i], t->data + 4 * i, sizeof *values);
            continue;
        }
        memcpy(&half, t->data + 2 * i, sizeof half);
        values[i] = t->dtype == LB_ST_BF16 ? lb_bf16_to_f32(half) : lb_f16_to_f32(half);
    }
    *out = values;
    return LB_OK;
}

static lb_status load_matrix(loader *l, const char *name, size_t rows, size_t cols,
                             unsigned flags, lb_weight **out)
{
    const lb_st_tensor *t = NULL;
    float *values = NULL;
    lb_status status = find(l, name, rows, cols, &t);
    if (status != LB_OK)
        return status;
    const void *source = t->data;
    if (t->dtype == LB_ST_F16) {
        status = expand(t, rows * cols, &values, l->err);
        source = values;
    }
    if (status == LB_OK)
        status = lb_weight_create(l->model->backend, rows, cols, source,
                                  t->dtype == LB_ST_BF16 ? LB_BF16 : LB_F32,
                                  l->model->options.dtype, flags, out, l->err);
    free(values);
    if (status == LB_OK)
        l->model->weight_bytes += lb_weight_bytes(*out);
    return status;
}

static lb_status load_vector(loader *l, const char *name, size_t size, lb_tensor *out)
{
    const lb_st_tensor *t = NULL;
    float *values = NULL;
    lb_status status = find(l, name, size, 0, &t);
    if (status == LB_OK)
        status = expand(t, size, &values, l->err);
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
    char name[NAME_BYTES];
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

/* Tensors that no row asked for, or that stand in two shards, are refused by name. */
static lb_status refuse_strangers(loader *l)
{
    for (size_t i = 0; i < l->shard_count; i++) {
        for (size_t j = 0; j < lb_safetensors_count(l->shards[i].file); j++) {
            const char *name = lb_safetensors_at(l->shards[i].file, j)->name;
            if (!is_known(&l->model->config, name))
                return lb_fail(l->err, LB_EUNSUPPORTED, name,
                               "the model has a tensor that its architecture does not know");
            for (size_t k = i + 1; k < l->shard_count; k++) {
                if (lb_safetensors_find(l->shards[k].file, name))
                    return lb_fail(l->err, LB_EDATA, name, "it stands in two shards");
            }
        }
    }
    return LB_OK;
}

static lb_status load_all(loader *l)
{
    lb_model *m = l->model;
    const lb_model_config *c = &m->config;
    unsigned head = LB_WEIGHT_FORWARD | (m->options.trainable ? LB_WEIGHT_BACKWARD : 0u);
    lb_status status = load_matrix(l, "model.embed_tokens.weight", c->vocab, c->hidden,
                                   LB_WEIGHT_ROWS | (c->tied ? head : 0u), &m->embedding);
    if (status == LB_OK && !c->tied)
        status = load_matrix(l, "lm_head.weight", c->vocab, c->hidden, head, &m->unembedding);
    if (status == LB_OK)
        status = load_vector(l, "model.norm.weight", c->hidden, &m->final_norm);
    for (uint32_t i = 0; status == LB_OK && i < c->layers; i++) {
        for (size_t r = 0; status == LB_OK && r < sizeof layer_rows / sizeof *layer_rows; r++)
            status = load_layer_row(l, i, &layer_rows[r]);
    }
    return status == LB_OK ? refuse_strangers(l) : status;
}

lb_status lb_model_load_weights(lb_model *model, const char *dir, lb_err *err)
{
    loader l = {.model = model, .dir = dir, .err = err};
    uint8_t digest[LB_SHA256_BYTES];
    l.shards = calloc(SHARDS_MAX, sizeof *l.shards);
    lb_status status = l.shards ? lb_sha256_new(&l.hash, err)
                                : lb_fail(err, LB_ENOMEM, NULL, "no memory for the loader");
    if (status == LB_OK)
        status = open_shards(&l);
    if (status == LB_OK) {
        /* Sizes and constants of the config that the tensors' shapes do not show. */
        char text[256];
        const lb_model_config *c = &model->config;
        int n = snprintf(text, sizeof text, "%d %u %u %a %a %d %a %a %a %u", (int)c->family,
                         c->heads, c->kv_heads, c->rms_eps, c->rope.theta, c->rope.llama3,
                         c->rope.factor, c->rope.low_freq_factor, c->rope.high_freq_factor,
                         c->rope.original_max_positions);
        lb_sha256_update(l.hash, text, n > 0 && (size_t)n < sizeof text ? (size_t)n : 0);
        status = load_all(&l);
    }
    if (status == LB_OK) {
        lb_sha256_final(l.hash, digest);
        lb_sha256_hex(digest, model->digest);
    }
    for (size_t i = 0; i < l.shard_count; i++) {
        lb_safetensors_close(l.shards[i].file);
        lb_file_unmap(&l.shards[i].mapping);
    }
    free(l.shards);
    lb_sha256_free(l.hash);
    return status;
}
