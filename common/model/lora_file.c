/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/lora.h"

#include "common/io/file.h"
#include "common/io/safetensors.h"
#include "common/tensor/tensor.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_MAX (1u << 20)
#define HEADER_MAX (8u << 20)
#define ADAPTER_NAME_MAX 64
#define STORED_NAME_MAX 192

/* ---- writing ---- */

lb_status lb_lora_encode(const lb_lora_layout *layout, const float *flat, lb_buf *safetensors,
                         lb_err *err)
{
    lb_st_source *sources = calloc(layout->count, sizeof *sources);
    if (!sources)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu tensors", layout->count);
    for (size_t i = 0; i < layout->count; i++) {
        const lb_lora_tensor *t = &layout->tensors[i];
        sources[i] = (lb_st_source){.name = t->name, .dtype = LB_ST_F32, .rank = 2,
                                    .shape = {t->rows, t->cols}, .data = flat + t->offset};
    }
    lb_status status = lb_safetensors_write(sources, layout->count, NULL, 0, safetensors, err);
    free(sources);
    return status;
}

/* ---- reading ---- */

/* One stored tensor into its place; every value must be finite. */
static lb_status read_tensor(const lb_lora_tensor *t, const lb_st_tensor *stored, float *out,
                             lb_err *err)
{
    if (stored->rank != 2 || stored->shape[0] != t->rows || stored->shape[1] != t->cols)
        return lb_fail(err, LB_EDATA, t->name, "its shape is not [%u, %u]", t->rows, t->cols);
    if (stored->dtype != LB_ST_F32 && stored->dtype != LB_ST_BF16 && stored->dtype != LB_ST_F16)
        return lb_fail(err, LB_EDATA, t->name, "its dtype %s is none of F32, BF16 and F16",
                       lb_st_dtype_name(stored->dtype));
    size_t elements = (size_t)t->rows * t->cols;
    for (size_t i = 0; i < elements; i++) {
        uint16_t half = 0;
        if (stored->dtype == LB_ST_F32) {
            memcpy(&out[i], stored->data + 4 * i, sizeof *out);
        } else {
            memcpy(&half, stored->data + 2 * i, sizeof half);
            out[i] = stored->dtype == LB_ST_BF16 ? lb_bf16_to_f32(half) : lb_f16_to_f32(half);
        }
        if (!isfinite(out[i]))
            return lb_fail(err, LB_EDATA, t->name, "element %zu is not finite", i);
    }
    return LB_OK;
}

/* PEFT's own state has the adapter's name in each tensor's (lora_A.default.weight), its files do
 * not. The name in a file's first tensor is taken for all; empty where there is none. */
static void find_adapter_name(const lb_safetensors *file, char out[ADAPTER_NAME_MAX])
{
    static const char before[] = ".lora_A.", after[] = ".weight";
    for (size_t i = 0; i < lb_safetensors_count(file); i++) {
        const char *name = lb_safetensors_at(file, i)->name, *at = strstr(name, before);
        if (!at)
            continue;
        const char *word = at + strlen(before), *dot = strchr(word, '.');
        if (dot && dot > word && dot - word < ADAPTER_NAME_MAX && strcmp(dot, after) == 0) {
            memcpy(out, word, (size_t)(dot - word));
            out[dot - word] = '\0';
            return;
        }
    }
}

static void stored_name(const lb_lora_tensor *t, const char *adapter, char out[STORED_NAME_MAX])
{
    int stem = (int)(strlen(t->name) - strlen(".weight"));
    snprintf(out, STORED_NAME_MAX, "%.*s%s%s.weight", stem, t->name, *adapter ? "." : "", adapter);
}

static bool is_stored_name(const lb_lora_tensor *t, const char *adapter, const char *name)
{
    size_t stem = strlen(t->name) - strlen(".weight"), length = strlen(adapter);
    if (strncmp(name, t->name, stem) != 0)
        return false;
    name += stem;
    if (length > 0 && (*name != '.' || strncmp(name + 1, adapter, length) != 0))
        return false;
    return strcmp(name + (length > 0 ? length + 1 : 0), ".weight") == 0;
}

/* Every wanted name was found, and names are unique: more tensors means strangers. */
static lb_status refuse_strangers(const lb_lora_layout *layout, const lb_safetensors *file,
                                  const char *adapter, lb_err *err)
{
    if (lb_safetensors_count(file) <= layout->count)
        return LB_OK;
    for (size_t i = 0; i < lb_safetensors_count(file); i++) {
        const char *name = lb_safetensors_at(file, i)->name;
        bool known = false;
        for (size_t j = 0; !known && j < layout->count; j++)
            known = is_stored_name(&layout->tensors[j], adapter, name);
        if (!known)
            return lb_fail(err, LB_EDATA, name, "the adapter has a tensor that its configuration "
                           "does not name");
    }
    return LB_OK;
}

lb_status lb_lora_decode(const lb_lora_layout *layout, const uint8_t *safetensors, size_t length,
                         float *flat, lb_err *err)
{
    lb_safetensors *file = NULL;
    char adapter[ADAPTER_NAME_MAX] = "";
    lb_status status = lb_safetensors_open(safetensors, length, HEADER_MAX, &file, err);
    if (status != LB_OK)
        return status;
    find_adapter_name(file, adapter);
    for (size_t i = 0; status == LB_OK && i < layout->count; i++) {
        const lb_lora_tensor *t = &layout->tensors[i];
        char name[STORED_NAME_MAX];
        stored_name(t, adapter, name);
        const lb_st_tensor *stored = lb_safetensors_find(file, name);
        if (!stored)
            status = lb_fail(err, LB_EDATA, name, "the adapter lacks this tensor");
        else
            status = read_tensor(t, stored, flat + t->offset, err);
    }
    if (status == LB_OK)
        status = refuse_strangers(layout, file, adapter, err);
    lb_safetensors_close(file);
    return status;
}

lb_status lb_lora_load(const char *dir, const lb_model_config *model, lb_lora_layout *layout,
                       float **flat, lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_buf text = {0};
    lb_mapping mapping = {0};
    lb_lora_layout made = {0};
    float *values = NULL;
    lb_status status = lb_path_join(path, sizeof path, dir, "adapter_config.json", err);
    if (status == LB_OK)
        status = lb_file_read(path, CONFIG_MAX, &text, err);
    if (status == LB_OK)
        status = lb_lora_layout_parse((const char *)text.data, text.length, model, &made, err);
    if (status == LB_OK)
        status = lb_path_join(path, sizeof path, dir, "adapter_model.safetensors", err);
    if (status == LB_OK)
        status = lb_file_map(path, &mapping, err);
    /* A value has two bytes at least: a short file cannot ask for much memory. */
    if (status == LB_OK && mapping.length / 2 < made.elements)
        status = lb_fail(err, LB_EDATA, "adapter_model.safetensors",
                         "%zu bytes cannot hold the adapter's %zu values", mapping.length,
                         made.elements);
    if (status == LB_OK) {
        values = calloc(made.elements, sizeof *values);
        status = values ? lb_lora_decode(&made, mapping.data, mapping.length, values, err)
                        : lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu adapter elements",
                                  made.elements);
    }
    if (status == LB_OK) {
        *layout = made;
        *flat = values;
    } else {
        lb_lora_layout_free(&made);
        free(values);
    }
    lb_file_unmap(&mapping);
    lb_buf_free(&text);
    return status;
}
