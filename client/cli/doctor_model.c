/* SPDX-License-Identifier: Apache-2.0
 *
 * The examination of a model, a folder or a GGUF file: which of its parts are there, which are
 * supported, and what memory it will take.
 */
#include "client/cli/doctor.h"
#include "common/io/config.h"
#include "common/io/file.h"
#include "common/io/gguf.h"
#include "common/io/safetensors.h"
#include "common/model/memory.h"
#include "common/text/chat.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX ((size_t)16 << 20)
#define SHARDS_MAX 512u
#define POSITIONS_SERVED 32768u
#define TOKENS_SHORT 512u
#define TOKENS_LONG 4096u
#define MIB 1048576.0

static const char *family_name(lb_family family)
{
    static const char *const names[] = {[LB_FAMILY_LLAMA] = "llama", [LB_FAMILY_QWEN2] = "qwen2",
                                        [LB_FAMILY_QWEN3] = "qwen3"};
    return names[family];
}

static void fail(lb_doctor *doctor, const char *subject, const lb_err *err)
{
    lb_doctor_find(doctor, LB_VERDICT_FAIL, subject, "%s%s%s", err->field,
                   err->field[0] ? ": " : "", err->message);
}

static bool check_config(const char *dir, lb_doctor *doctor, lb_model_config *config)
{
    lb_err err = {0};
    if (lb_config_load(dir, config, &err) != LB_OK) {
        fail(doctor, "config", &err);
        return false;
    }
    lb_doctor_find(doctor, LB_VERDICT_OK, "config",
                   "%s: %u layers of %u, %u heads of %u (%u for keys and values), vocab %u, %s",
                   family_name(config->family), config->layers, config->hidden, config->heads,
                   config->head_dim, config->kv_heads, config->vocab,
                   config->tied ? "tied" : "not tied");
    bool cut = config->max_positions > POSITIONS_SERVED;
    lb_doctor_find(doctor, cut ? LB_VERDICT_NOTE : LB_VERDICT_OK, "context", "%u tokens%s",
                   config->max_positions, cut ? ", of which 32768 are served" : "");
    lb_doctor_measure(doctor, "context_tokens", config->max_positions);
    lb_doctor_measure(doctor, "vocab", config->vocab);
    if (config->eos_count == 0)
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "stop ids",
                       "none in config.json or generation_config.json: nothing ends a completion");
    else
        lb_doctor_find(doctor, LB_VERDICT_OK, "stop ids", "%u, the first is %u", config->eos_count,
                       config->eos[0]);
    return true;
}

static void check_tokenizer(const char *dir, const lb_model_config *config, lb_doctor *doctor)
{
    lb_err err = {0};
    lb_tokenizer *tokenizer = NULL;
    char path[LB_PATH_MAX];
    if (!lb_path_is_gguf(dir) &&
        lb_path_join(path, sizeof path, dir, "tokenizer.json", NULL) == LB_OK &&
        !lb_path_is_file(path)) {
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "tokenizer",
                       "no tokenizer.json: prompts have to be ids");
        return;
    }
    if (lb_tokenizer_load(dir, &tokenizer, &err) != LB_OK) {
        fail(doctor, "tokenizer", &err);
        return;
    }
    size_t size = lb_tokenizer_size(tokenizer);
    lb_doctor_find(doctor, LB_VERDICT_OK, "tokenizer", "%zu ids, sha256 %s", size,
                   lb_tokenizer_digest(tokenizer));
    lb_doctor_measure(doctor, "tokenizer_ids", (double)size);
    if (config && size > config->vocab)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "tokenizer",
                       "its ids reach %zu, the model's vocabulary has %u", size - 1, config->vocab);
    for (uint32_t i = 0; config && i < config->eos_count; i++) {
        if (!lb_tokenizer_has_text(tokenizer, config->eos[i]))
            lb_doctor_find(doctor, LB_VERDICT_NOTE, "tokenizer", "it does not know the stop id %u",
                           config->eos[i]);
    }
    lb_tokenizer_free(tokenizer);
}

static void check_template(const char *model, lb_doctor *doctor)
{
    lb_err err = {0};
    lb_chat chat;
    lb_status status = lb_chat_load(model, &chat, &err);
    if (status == LB_OK)
        lb_doctor_find(doctor, LB_VERDICT_OK, "chat template", "%s", lb_chat_name(chat.kind));
    else if (status == LB_ENOTFOUND)
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "chat template",
                       "none: prompts have to be texts or ids");
    else
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "chat template", "%s", err.message);
}

/* ---- weights ---- */

typedef struct weights {
    size_t files, tensors;
    uint64_t parameters, bytes;
    uint64_t by_dtype[LB_ST_U64 + 1];
    uint64_t by_type[LB_GGUF_BF16 + 1];   /* of a GGUF file */
    bool head;                 /* a separate lm_head.weight */
} weights;

static lb_status count_file(const char *path, weights *w, lb_err *err)
{
    lb_mapping mapping = {0};
    lb_safetensors *file = NULL;
    lb_status status = lb_file_map(path, &mapping, err);
    if (status == LB_OK)
        status = lb_safetensors_open(mapping.data, mapping.length, LB_SAFETENSORS_HEADER_MAX, &file,
                                     err);
    for (size_t i = 0; status == LB_OK && i < lb_safetensors_count(file); i++) {
        const lb_st_tensor *t = lb_safetensors_at(file, i);
        uint64_t count = t->bytes / lb_st_dtype_size(t->dtype);
        w->tensors++;
        w->parameters += count;
        w->bytes += t->bytes;
        w->by_dtype[t->dtype] += count;
        w->head |= strcmp(t->name, "lm_head.weight") == 0;
    }
    w->files += status == LB_OK;
    lb_safetensors_close(file);
    lb_file_unmap(&mapping);
    return status;
}

typedef struct shard_walk {
    const char *dir;
    weights *weights;
    const char *seen[SHARDS_MAX];      /* into the index */
    lb_err *err;
} shard_walk;

static lb_status count_named(const char *dir, const char *name, weights *w, lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_status status = lb_path_join(path, sizeof path, dir, name, err);
    return status == LB_OK ? count_file(path, w, err) : status;
}

/* A member of the index's weight_map, tensor to file: each file is counted once. */
static lb_status walk_shard(void *arg, const char *tensor, const lb_json *value)
{
    shard_walk *walk = arg;
    const char *name = lb_json_string(value);
    if (!name || strchr(name, '/'))
        return lb_fail(walk->err, LB_EDATA, "weight_map", "the file of %.100s has no plain name",
                       tensor);
    for (size_t i = 0; i < walk->weights->files; i++) {
        if (strcmp(walk->seen[i], name) == 0)
            return LB_OK;
    }
    if (walk->weights->files == SHARDS_MAX)
        return lb_fail(walk->err, LB_ETOOBIG, "weight_map", "it names more than %u files",
                       SHARDS_MAX);
    walk->seen[walk->weights->files] = name;
    return count_named(walk->dir, name, walk->weights, walk->err);
}

/* The files that a model is loaded from: those of the index, or the single one. */
static lb_status count_folder(const char *dir, weights *w, lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_buf text = {0};
    lb_json *index = NULL;
    const lb_json *map = NULL;
    lb_status status = lb_path_join(path, sizeof path, dir, "model.safetensors.index.json", err);
    if (status == LB_OK && !lb_path_is_file(path))
        return count_named(dir, "model.safetensors", w, err);
    shard_walk *walk = calloc(1, sizeof *walk);
    if (!walk)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the index");
    *walk = (shard_walk){.dir = dir, .weights = w, .err = err};
    if (status == LB_OK)
        status = lb_file_read(path, TEXT_MAX, &text, err);
    if (status == LB_OK)
        status = lb_json_parse((const char *)text.data, text.length, &index, err);
    if (status == LB_OK)
        status = lb_json_need_object(index, "", "weight_map", &map, err);
    if (status == LB_OK)
        status = lb_json_each(map, walk_shard, walk);
    free(walk);
    lb_json_free(index);
    lb_buf_free(&text);
    return status;
}

static lb_status count_gguf(const char *path, weights *w, lb_err *err)
{
    lb_gguf *file = NULL;
    lb_status status = lb_gguf_load(path, &file, err);
    for (size_t i = 0; status == LB_OK && i < lb_gguf_count(file); i++) {
        const lb_gguf_tensor *t = lb_gguf_at(file, i);
        uint64_t count = 1;
        for (uint32_t d = 0; d < t->rank; d++)
            count *= t->shape[d];
        w->tensors++;
        w->parameters += count;
        w->bytes += t->bytes;
        w->by_type[t->type] += count;
        w->head |= strcmp(t->name, "output.weight") == 0;
    }
    w->files += status == LB_OK;
    lb_gguf_close(file);
    return status;
}

static void report_types(const weights *w, lb_doctor *doctor)
{
    for (int type = 0; type <= LB_GGUF_BF16; type++) {
        if (w->by_type[type])
            lb_doctor_find(doctor, LB_VERDICT_OK, "dtype", "%s: %" PRIu64 " values",
                           lb_gguf_type_name((lb_gguf_type)type), w->by_type[type]);
    }
}

static void report_dtypes(const weights *w, lb_doctor *doctor)
{
    for (int d = 0; d <= LB_ST_U64; d++) {
        if (w->by_dtype[d] == 0)
            continue;
        bool known = d == LB_ST_F32 || d == LB_ST_BF16 || d == LB_ST_F16;
        lb_doctor_find(doctor, known ? LB_VERDICT_OK : LB_VERDICT_FAIL, "dtype",
                       "%s: %" PRIu64 " values%s", lb_st_dtype_name((lb_st_dtype)d),
                       w->by_dtype[d], known ? "" : ", which is not read");
    }
}

static void check_weights(const char *dir, const lb_model_config *config, lb_doctor *doctor)
{
    lb_err err = {0};
    weights w = {0};
    bool gguf = lb_path_is_gguf(dir);
    if ((gguf ? count_gguf(dir, &w, &err) : count_folder(dir, &w, &err)) != LB_OK) {
        fail(doctor, "weights", &err);
        return;
    }
    lb_doctor_find(doctor, LB_VERDICT_OK, "weights",
                   "%" PRIu64 " parameters (%.3g billion) in %zu tensors, %zu files, %.1f MiB",
                   w.parameters, (double)w.parameters / 1e9, w.tensors, w.files,
                   (double)w.bytes / MIB);
    lb_doctor_measure(doctor, "parameters", (double)w.parameters);
    lb_doctor_measure(doctor, "weight_bytes", (double)w.bytes);
    report_dtypes(&w, doctor);
    report_types(&w, doctor);
    if (config && !config->tied && !w.head)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "weights",
                       "tie_word_embeddings is false and there is no lm_head.weight");
    else if (config && config->tied && w.head)
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "weights",
                       "tie_word_embeddings is true: lm_head.weight is not used");
}

/* ---- memory ---- */

/* Resident size of a process that scored one sequence; 0 when it cannot be told. */
static double resident(const lb_model_config *config, lb_dtype dtype, bool trainable,
                       uint32_t tokens)
{
    lb_model_options options = {.dtype = dtype, .trainable = trainable};
    lb_memory_estimate estimate;
    if (tokens > config->max_positions)
        tokens = config->max_positions;
    if (lb_model_estimate_memory(config, &options, tokens, &estimate, NULL) != LB_OK)
        return 0;
    return (double)estimate.total_resident;
}

static void predict_memory(const lb_model_config *config, lb_doctor *doctor)
{
    static const struct {
        lb_dtype dtype;
        bool trainable;
        const char *what, *measure;
    } rows[] = {
        {LB_F32, false, "teacher, f32", "teacher_f32_bytes"},
        {LB_BF16, false, "teacher, bf16", "teacher_bf16_bytes"},
        {LB_INT16, false, "teacher, fast", "teacher_fast_bytes"},
        {LB_INT8, false, "teacher, int8", "teacher_int8_bytes"},
        {LB_F32, true, "worker, f32", "worker_f32_bytes"},
        {LB_BF16, true, "worker, bf16", "worker_bf16_bytes"},
        {LB_INT16, true, "worker, fast", "worker_fast_bytes"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double least = resident(config, rows[i].dtype, rows[i].trainable, TOKENS_SHORT);
        double most = resident(config, rows[i].dtype, rows[i].trainable, TOKENS_LONG);
        if (least <= 0 || most <= 0)
            continue;
        lb_doctor_find(doctor, LB_VERDICT_OK, "memory", "%s: %.0f MiB resident for a sequence of "
                       "%u tokens, %.0f MiB for %u", rows[i].what, least / MIB, TOKENS_SHORT,
                       most / MIB, TOKENS_LONG);
        lb_doctor_measure(doctor, rows[i].measure, least);
    }
}

lb_status lb_doctor_model(const char *path, lb_doctor *doctor, lb_err *err)
{
    lb_model_config config = {0};
    if (!lb_path_is_dir(path) && !(lb_path_is_gguf(path) && lb_path_is_file(path)))
        return lb_fail(err, LB_ENOTFOUND, "MODEL", "%.200s is no folder and no GGUF file", path);
    bool known = check_config(path, doctor, &config);
    check_tokenizer(path, known ? &config : NULL, doctor);
    check_template(path, doctor);
    check_weights(path, known ? &config : NULL, doctor);
    if (known)
        predict_memory(&config, doctor);
    return LB_OK;
}
