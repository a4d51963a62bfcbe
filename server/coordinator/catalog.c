/* SPDX-License-Identifier: Apache-2.0 */
#include "server/coordinator/daemon_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Names of models and teachers may look like "org/model-0.6B". */
static bool is_name(const char *text, size_t length)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:/-";
    return length > 0 && length < LB_NAME_SIZE && strspn(text, allowed) >= length;
}

/* Splits "NAME=VALUE"; *value is borrowed from item. */
static lb_status split(const char *item, const char *option, char name[LB_NAME_SIZE],
                       const char **value, lb_err *err)
{
    const char *equals = strchr(item, '=');
    if (!equals || !is_name(item, (size_t)(equals - item)) || !equals[1])
        return lb_fail(err, LB_EINVAL, option, "'%.100s' is not NAME=VALUE, NAME of letters, "
                       "digits and _.:/-", item);
    snprintf(name, LB_NAME_SIZE, "%.*s", (int)(equals - item), item);
    *value = equals + 1;
    return LB_OK;
}

static lb_status add_model(lb_coordinator *c, const char *item, lb_err *err)
{
    const char *dir = NULL;
    size_t count = c->config.model_count;
    if (count == LB_CORE_MODELS_MAX)
        return lb_fail(err, LB_EINVAL, "model", "more than %u models", LB_CORE_MODELS_MAX);
    lb_core_model *model = &c->config.models[count];
    lb_status status = split(item, "model", model->name, &dir, err);
    for (size_t i = 0; status == LB_OK && i < count; i++) {
        if (strcmp(c->config.models[i].name, model->name) == 0)
            status = lb_fail(err, LB_EINVAL, "model", "'%s' is given twice", model->name);
    }
    if (status == LB_OK)
        status = lb_config_load(dir, &model->config, err);
    lb_catalog_text *text = &c->texts[count];
    if (status == LB_OK)
        status = lb_tokenizer_load(dir, &text->tokenizer, err);
    if (status == LB_OK && !(text->path = strdup(dir)))
        status = lb_fail(err, LB_ENOMEM, NULL, "no memory for a model's path");
    if (status != LB_OK)
        return status;
    /* A model without a template that we know takes prompts, but no messages. */
    if (lb_chat_load(dir, &text->chat, &text->no_chat) == LB_OK)
        text->no_chat = (lb_err){0};
    snprintf(model->tokenizer_sha, sizeof model->tokenizer_sha, "%s",
             lb_tokenizer_digest(text->tokenizer));
    c->config.model_count++;
    return LB_OK;
}

static lb_status add_teacher(lb_coordinator *c, const char *item, lb_err *err)
{
    const char *url = NULL;
    size_t count = c->config.teacher_count;
    if (count == LB_CORE_TEACHERS_MAX)
        return lb_fail(err, LB_EINVAL, "teacher", "more than %u teachers", LB_CORE_TEACHERS_MAX);
    lb_core_teacher *teacher = &c->config.teachers[count];
    lb_status status = split(item, "teacher", teacher->name, &url, err);
    for (size_t i = 0; status == LB_OK && i < count; i++) {
        if (strcmp(c->config.teachers[i].name, teacher->name) == 0)
            status = lb_fail(err, LB_EINVAL, "teacher", "'%s' is given twice", teacher->name);
    }
    if (status != LB_OK)
        return status;
    if ((strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0) ||
        strlen(url) >= LB_CORE_URL_MAX)
        return lb_fail(err, LB_EINVAL, "teacher", "'%.100s' is not an http or https URL of at most"
                       " %u bytes", url, LB_CORE_URL_MAX - 1);
    snprintf(teacher->url, sizeof teacher->url, "%s", url);
    c->config.teacher_count++;
    return LB_OK;
}

lb_status lb_catalog_load(lb_coordinator *c, const lb_coordinator_config *config, lb_err *err)
{
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && i < config->models.count; i++)
        status = add_model(c, config->models.items[i], err);
    for (size_t i = 0; status == LB_OK && i < config->teachers.count; i++)
        status = add_teacher(c, config->teachers.items[i], err);
    return status;
}

void lb_catalog_free(lb_coordinator *c)
{
    for (size_t i = 0; i < LB_CORE_MODELS_MAX; i++) {
        lb_tokenizer_free(c->texts[i].tokenizer);
        free(c->texts[i].path);
    }
}
