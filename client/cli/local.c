/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cli/cli.h"

#include "common/io/file.h"
#include "common/io/hub.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static lb_status parse_dtype(const char *name, lb_dtype *out, lb_err *err)
{
    if (!lb_dtype_parse(name ? name : "f32", out))
        return lb_fail(err, LB_EINVAL, "dtype", "'%.20s' is none of " LB_DTYPE_NAMES, name);
    return LB_OK;
}

static lb_status load_adapter(const char *dir, lb_local *local, lb_err *err)
{
    lb_lora_layout layout = {0};
    float *flat = NULL;
    lb_status status = lb_lora_load(dir, lb_model_get_config(local->model), &layout, &flat, err);
    if (status == LB_OK)
        status = lb_adapter_create(local->model, &layout, flat, &local->adapter, err);
    lb_lora_layout_free(&layout);
    free(flat);
    return status;
}

/* Which ids may be sampled: those with text, and the ends of a sequence. */
static lb_status mark_allowed(lb_local *local, lb_err *err)
{
    const lb_model_config *config = lb_model_get_config(local->model);
    local->allowed = calloc(config->vocab, 1);
    if (!local->allowed)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the vocabulary");
    for (uint32_t id = 0; id < config->vocab; id++) {
        bool text = lb_tokenizer_has_text(local->tokenizer, id) &&
                    !lb_tokenizer_is_special(local->tokenizer, id);
        local->allowed[id] = text || lb_config_is_eos(config, id);
    }
    return LB_OK;
}

lb_status lb_local_open(const lb_local_options *options, bool with_tokenizer, lb_local *out,
                        lb_err *err)
{
    lb_local local = {0};
    lb_model_options model = {0};
    if (!options->model)
        return lb_fail(err, LB_EINVAL, "model", "--model DIR is required");
    lb_status status = parse_dtype(options->dtype, &model.dtype, err);
    if (status == LB_OK)
        status = lb_hub_find(getenv, options->model, local.path, sizeof local.path, err);
    if (status == LB_OK)
        status = lb_backend_open("cpu", options->threads, NULL, &local.backend, err);
    if (status == LB_OK)
        status = lb_model_load(local.backend, local.path, &model, &local.model, err);
    if (status == LB_OK && options->adapter)
        status = load_adapter(options->adapter, &local, err);
    if (status == LB_OK && with_tokenizer)
        status = lb_tokenizer_load(local.path, &local.tokenizer, err);
    if (status == LB_OK && with_tokenizer)
        status = mark_allowed(&local, err);
    if (status != LB_OK) {
        lb_local_close(&local);
        return status;
    }
    *out = local;
    return LB_OK;
}

void lb_local_close(lb_local *local)
{
    free(local->allowed);
    lb_tokenizer_free(local->tokenizer);
    lb_adapter_free(local->adapter);
    lb_model_free(local->model);
    lb_backend_close(local->backend);
    *local = (lb_local){0};
}

/* Without its end among the model's, an answer would run on into turns of its own making. */
static lb_status check_end(const lb_chat *chat, const lb_local *local, lb_err *err)
{
    uint32_t id = 0;
    if (lb_tokenizer_find(local->tokenizer, chat->eos, &id) &&
        lb_config_is_eos(lb_model_get_config(local->model), id))
        return LB_OK;
    return lb_fail(err, LB_EUNSUPPORTED, "chat_template", "turns of %s end with \"%s\", which is "
                   "no eos_token_id of the model's generation_config.json or config.json",
                   lb_chat_name(chat->kind), chat->eos);
}

lb_status lb_local_load_chat(const lb_local *local, const char *name, lb_chat *out, lb_err *err)
{
    lb_chat chat = {0};
    lb_status status = name ? lb_chat_load_named(local->path, name, &chat, err)
                            : lb_chat_load(local->path, &chat, err);
    if (status == LB_OK)
        status = check_end(&chat, local, err);
    if (status == LB_OK)
        *out = chat;
    return status;
}

lb_status lb_parse_token_list(const char *text, lb_tokens *out, lb_err *err)
{
    const char *at = text;
    size_t commas = 1;
    for (const char *c = text; *c; c++)
        commas += *c == ',';
    out->ids = calloc(commas, sizeof *out->ids);
    if (!out->ids)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu tokens", commas);
    out->capacity = commas;
    do {
        char *end = NULL;
        errno = 0;
        unsigned long id = strtoul(at, &end, 10);
        if (*at < '0' || *at > '9' || errno || id > UINT32_MAX || (*end && *end != ','))
            return lb_fail(err, LB_EINVAL, "tokens", "entry %zu of '%.40s' is not a token id",
                           out->count, text);
        out->ids[out->count++] = (uint32_t)id;
        at = *end ? end + 1 : end;
    } while (*at || at[-1] == ',');
    return LB_OK;
}
