/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/source.h"

#include "common/base/json.h"
#include "common/io/file.h"
#include "common/io/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARDS_MAX 256u
#define HEADER_MAX (32u << 20)
#define INDEX_MAX (16u << 20)
#define INDEX_OPENED_MAX 1024u   /* objects and arrays; it has three */

typedef struct shard {
    char name[LB_SOURCE_NAME_MAX];
    lb_mapping mapping;
    lb_safetensors *file;
} shard;

struct lb_source {
    const char *dir;           /* only while opening */
    lb_err *err;               /* likewise */
    uint32_t interleaved;      /* head_dim of q and k rows that stand interleaved, or 0 */
    shard *shards;             /* [SHARDS_MAX]; NULL for a GGUF file */
    size_t shard_count;
    lb_gguf *gguf;
};

/* ---- names of GGUF ---- */

typedef struct name_pair {
    const char *hugging_face, *gguf;
} name_pair;

static const name_pair model_names[] = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
    {"rope_freqs.weight", "rope_freqs.weight"},
};

static const name_pair layer_names[] = {
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"self_attn.q_proj.bias", "attn_q.bias"},
    {"self_attn.k_proj.bias", "attn_k.bias"},
    {"self_attn.v_proj.bias", "attn_v.bias"},
    {"self_attn.q_norm.weight", "attn_q_norm.weight"},
    {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
};

#define COUNT(table) (sizeof(table) / sizeof *(table))
#define LAYER_PREFIX "model.layers."
#define BLOCK_PREFIX "blk."

static const char *name_of(const name_pair *pair, bool gguf)
{
    return gguf ? pair->gguf : pair->hugging_face;
}

/* Translates a name; one that the tables lack is copied. */
static void translate(const char *name, bool to_gguf, char out[LB_SOURCE_NAME_MAX])
{
    const char *from = to_gguf ? LAYER_PREFIX : BLOCK_PREFIX;
    const char *to = to_gguf ? BLOCK_PREFIX : LAYER_PREFIX;
    snprintf(out, LB_SOURCE_NAME_MAX, "%s", name);
    for (size_t i = 0; i < COUNT(model_names); i++) {
        if (strcmp(name, name_of(&model_names[i], !to_gguf)) == 0)
            snprintf(out, LB_SOURCE_NAME_MAX, "%s", name_of(&model_names[i], to_gguf));
    }
    if (strncmp(name, from, strlen(from)) != 0)
        return;
    const char *digits = name + strlen(from);
    size_t length = strspn(digits, "0123456789");
    if (length == 0 || digits[length] != '.')
        return;
    for (size_t i = 0; i < COUNT(layer_names); i++) {
        if (strcmp(digits + length + 1, name_of(&layer_names[i], !to_gguf)) == 0)
            snprintf(out, LB_SOURCE_NAME_MAX, "%s%.*s.%s", to, (int)length, digits,
                     name_of(&layer_names[i], to_gguf));
    }
}

/* ---- files ---- */

static lb_status open_shard(lb_source *l, const char *name)
{
    char path[LB_PATH_MAX];
    for (size_t i = 0; i < l->shard_count; i++) {
        if (strcmp(l->shards[i].name, name) == 0)
            return LB_OK;
    }
    if (!*name || strlen(name) >= LB_SOURCE_NAME_MAX || strchr(name, '/') || strstr(name, ".."))
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
        status = lb_safetensors_open(s->mapping.data, s->mapping.length, HEADER_MAX, &s->file,
                                     l->err);
        if (status != LB_OK)
            lb_err_wrap(l->err, "%.60s", name);
    }
    return status;
}

static lb_status open_mapped_shard(void *arg, const char *key, const lb_json *value)
{
    lb_source *l = arg;
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

static lb_status open_shards(lb_source *l)
{
    char path[LB_PATH_MAX];
    lb_buf text = {0};
    lb_json *index = NULL;
    l->shards = calloc(SHARDS_MAX, sizeof *l->shards);
    if (!l->shards)
        return lb_fail(l->err, LB_ENOMEM, NULL, "no memory for the loader");
    lb_status status = lb_path_join(path, sizeof path, l->dir, "model.safetensors.index.json",
                                    l->err);
    if (status != LB_OK || !lb_path_is_file(path))
        return status == LB_OK ? open_shard(l, "model.safetensors") : status;
    status = lb_file_read(path, INDEX_MAX, &text, l->err);
    if (status == LB_OK &&
        lb_json_count_opened((const char *)text.data, text.length) > INDEX_OPENED_MAX)
        status = lb_fail(l->err, LB_ETOOBIG, "weight_map", "the index has more than %u objects "
                         "and arrays", INDEX_OPENED_MAX);
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

lb_status lb_source_open(const char *path, const lb_model_config *config, lb_source **out,
                         lb_err *err)
{
    lb_source *source = calloc(1, sizeof *source);
    if (!source)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the loader");
    source->dir = path;
    source->err = err;
    bool gguf = lb_path_is_gguf(path);
    /* ggml's converter of Llama turns the halves that rotate together into neighbours. */
    source->interleaved = gguf && config->family == LB_FAMILY_LLAMA ? config->head_dim : 0;
    lb_status status = gguf ? lb_gguf_load(path, &source->gguf, err) : open_shards(source);
    source->dir = NULL;
    source->err = NULL;
    if (status != LB_OK) {
        lb_source_close(source);
        return status;
    }
    *out = source;
    return LB_OK;
}

void lb_source_close(lb_source *source)
{
    if (!source)
        return;
    for (size_t i = 0; i < source->shard_count; i++) {
        lb_safetensors_close(source->shards[i].file);
        lb_file_unmap(&source->shards[i].mapping);
    }
    lb_gguf_close(source->gguf);
    free(source->shards);
    free(source);
}

/* ---- tensors ---- */

/* The tensor as a file has it: its shape, outermost first. */
typedef struct stored {
    lb_source_tensor tensor;   /* type, dtype, data, bytes */
    bool readable;
    uint32_t rank;
    uint64_t shape[2];
} stored;

static bool find_safetensors(const lb_source *source, const char *name, stored *out)
{
    static const struct {
        lb_st_dtype from;
        lb_gguf_type to;
    } types[] = {{LB_ST_F32, LB_GGUF_F32}, {LB_ST_BF16, LB_GGUF_BF16}, {LB_ST_F16, LB_GGUF_F16}};
    const lb_st_tensor *t = NULL;
    for (size_t i = 0; !t && i < source->shard_count; i++)
        t = lb_safetensors_find(source->shards[i].file, name);
    if (!t)
        return false;
    *out = (stored){.rank = t->rank, .shape = {t->shape[0], t->shape[1]},
                    .tensor = {.dtype = lb_st_dtype_name(t->dtype), .data = t->data,
                               .bytes = t->bytes}};
    for (size_t i = 0; i < COUNT(types); i++) {
        if (types[i].from == t->dtype) {
            out->readable = true;
            out->tensor.type = types[i].to;
        }
    }
    return true;
}

static bool find_gguf(const lb_source *source, const char *name, stored *out)
{
    char own[LB_SOURCE_NAME_MAX];
    translate(name, true, own);
    const lb_gguf_tensor *t = lb_gguf_find(source->gguf, own);
    if (!t)
        return false;
    *out = (stored){.rank = t->rank, .readable = true,
                    .shape = {t->rank > 1 ? t->shape[1] : t->shape[0], t->shape[0]},
                    .tensor = {.dtype = lb_gguf_type_name(t->type), .type = t->type,
                               .data = t->data, .bytes = t->bytes}};
    return true;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

bool lb_source_has(const lb_source *source, const char *name)
{
    stored t;
    return source->gguf ? find_gguf(source, name, &t) : find_safetensors(source, name, &t);
}

lb_status lb_source_find(const lb_source *source, const char *name, size_t rows, size_t cols,
                         lb_source_tensor *out, lb_err *err)
{
    stored t;
    bool found = source->gguf ? find_gguf(source, name, &t) : find_safetensors(source, name, &t);
    if (!found)
        return lb_fail(err, LB_EDATA, name, "the model lacks this tensor");
    bool fits = cols ? t.rank == 2 && t.shape[0] == rows && t.shape[1] == cols
                     : t.rank == 1 && t.shape[0] == rows;
    if (!fits)
        return cols ? lb_fail(err, LB_EDATA, name, "its shape is not [%zu, %zu]", rows, cols)
                    : lb_fail(err, LB_EDATA, name, "its shape is not [%zu]", rows);
    if (!t.readable)
        return lb_fail(err, LB_EUNSUPPORTED, name, "dtype %s is none of F32, BF16 and F16",
                       t.tensor.dtype);
    *out = t.tensor;
    out->rows = cols ? rows : 1;
    out->cols = cols ? cols : rows;
    out->row_bytes = t.tensor.bytes / out->rows;
    if (cols && source->interleaved &&
        (ends_with(name, ".q_proj.weight") || ends_with(name, ".k_proj.weight")))
        out->head_dim = source->interleaved;
    return LB_OK;
}

void lb_source_read(const void *tensor, size_t first, size_t count, float *out)
{
    const lb_source_tensor *t = tensor;
    if (!t->head_dim) {
        lb_gguf_expand(t->type, t->data + first * t->row_bytes, count * t->cols, out);
        return;
    }
    /* Row i + j * d / 2 of a head stands at 2 i + j, j being the half. */
    size_t half = t->head_dim / 2;
    for (size_t r = 0; r < count; r++) {
        size_t row = first + r, within = row % t->head_dim;
        size_t at = row - within + 2 * (within % half) + within / half;
        lb_gguf_expand(t->type, t->data + at * t->row_bytes, t->cols, out + r * t->cols);
    }
}

lb_status lb_source_each(const lb_source *source, lb_source_visit visit, void *arg, lb_err *err)
{
    lb_status status = LB_OK;
    for (size_t i = 0; source->gguf && status == LB_OK && i < lb_gguf_count(source->gguf); i++) {
        char name[LB_SOURCE_NAME_MAX];
        translate(lb_gguf_at(source->gguf, i)->name, false, name);
        status = visit(arg, name);
    }
    for (size_t i = 0; i < source->shard_count; i++) {
        const lb_safetensors *file = source->shards[i].file;
        for (size_t j = 0; status == LB_OK && j < lb_safetensors_count(file); j++) {
            const char *name = lb_safetensors_at(file, j)->name;
            status = visit(arg, name);
            for (size_t k = i + 1; status == LB_OK && k < source->shard_count; k++) {
                if (lb_safetensors_find(source->shards[k].file, name))
                    status = lb_fail(err, LB_EDATA, name, "it stands in two shards");
            }
        }
    }
    return status;
}
