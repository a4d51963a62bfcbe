/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/hub.h"

#include "common/io/file.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORD_MAX 96            /* of an organisation, a model or a revision */
#define REF_BYTES_MAX 256

lb_status lb_hub_cache_root(lb_hub_lookup lookup, char *out, size_t size, lb_err *err)
{
    static const struct {
        const char *variable, *below;
    } places[] = {
        {"HF_HUB_CACHE", ""},
        {"HF_HOME", "/hub"},
        {"XDG_CACHE_HOME", "/huggingface/hub"},
        {"HOME", "/.cache/huggingface/hub"},
    };
    int length = 0;
    out[0] = '\0';
    for (size_t i = 0; i < sizeof places / sizeof *places && length == 0; i++) {
        const char *value = lookup(places[i].variable);
        if (value && *value)
            length = snprintf(out, size, "%s%s", value, places[i].below);
        if (length < 0 || (size_t)length >= size)
            return lb_fail(err, LB_ETOOBIG, places[i].variable, "its path is too long");
    }
    return LB_OK;
}

/* Letters, digits and inner . _ -, as the hub allows them; no "..", and no "--", which parts the
 * words of a cache's folder. */
static bool is_word(const char *text, size_t length)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    if (length == 0 || length > WORD_MAX || *text == '.' || *text == '-')
        return false;
    for (size_t i = 0; i < length; i++) {
        bool twice = i > 0 && text[i] == text[i - 1] && (text[i] == '.' || text[i] == '-');
        if (!strchr(allowed, text[i]) || twice)
            return false;
    }
    return true;
}

/* The slash of ORG/NAME; NULL when it is no such name. */
static const char *find_slash(const char *name)
{
    const char *slash = strchr(name, '/');
    if (!slash || !is_word(name, (size_t)(slash - name)) || !is_word(slash + 1, strlen(slash + 1)))
        return NULL;
    return slash;
}

/* The revision that refs/main of an entry names. */
static lb_status read_main(const char *entry, char revision[WORD_MAX + 1], lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_buf text = {0};
    lb_status status = lb_path_join(path, sizeof path, entry, "refs/main", err);
    if (status == LB_OK && !lb_path_is_file(path))
        status = lb_fail(err, LB_ENOTFOUND, "model", "there is no %.200s", path);
    if (status == LB_OK)
        status = lb_file_read(path, REF_BYTES_MAX, &text, err);
    if (status == LB_OK) {
        const char *start = (const char *)text.data;
        size_t length = text.length;
        while (length > 0 && (start[length - 1] == '\n' || start[length - 1] == ' '))
            length--;
        if (length > 0 && is_word(start, length)) {
            memcpy(revision, start, length);
            revision[length] = '\0';
        } else {
            status = lb_fail(err, LB_EDATA, "model", "%.200s names no revision", path);
        }
    }
    lb_buf_free(&text);
    return status;
}

static lb_status look_up(const char *name, const char *root, char *path, size_t size, lb_err *err)
{
    const char *slash = find_slash(name);
    char entry[LB_PATH_MAX], folder[2 * WORD_MAX + 16], below[WORD_MAX + 16];
    char revision[WORD_MAX + 1];
    if (!slash)
        return lb_fail(err, LB_ENOTFOUND, "model", "'%.200s' is neither a folder nor a file, and "
                       "no name ORG/NAME", name);
    if (!root || !*root)
        return lb_fail(err, LB_ENOTFOUND, "model", "there is no '%.120s' here, and no Hugging Face "
                       "cache: HF_HUB_CACHE, HF_HOME and HOME are unset", name);
    snprintf(folder, sizeof folder, "models--%.*s--%s", (int)(slash - name), name, slash + 1);
    lb_status status = lb_path_join(entry, sizeof entry, root, folder, err);
    if (status == LB_OK && !lb_path_is_dir(entry))
        status = lb_fail(err, LB_ENOTFOUND, "model", "'%.100s' is no folder, nor is it in the "
                         "Hugging Face cache %.100s; to fetch it: hf download %.80s", name, root,
                         name);
    if (status != LB_OK)
        return status;
    status = read_main(entry, revision, err);
    if (status == LB_OK) {
        snprintf(below, sizeof below, "snapshots/%s", revision);
        status = lb_path_join(path, size, entry, below, err);
    }
    if (status == LB_OK && !lb_path_is_dir(path))
        status = lb_fail(err, LB_ENOTFOUND, "model", "there is no folder %.180s", path);
    if (status == LB_ENOTFOUND && err) {
        size_t used = strlen(err->message);
        snprintf(err->message + used, sizeof err->message - used,
                 "; to fetch it: hf download %.80s", name);
    }
    return status;
}

lb_status lb_hub_resolve(const char *name_or_path, const char *cache_root, char *path, size_t size,
                         lb_err *err)
{
    char found[LB_PATH_MAX];
    const char *from = name_or_path;
    if (!*from)
        return lb_fail(err, LB_EINVAL, "model", "a model has no empty name");
    if (!lb_path_is_dir(from) && !lb_path_is_file(from)) {
        lb_status status = look_up(from, cache_root, found, sizeof found, err);
        if (status != LB_OK)
            return status;
        from = found;
    }
    size_t length = strlen(from);
    if (length >= size)
        return lb_fail(err, LB_ETOOBIG, "model", "its path has %zu bytes, %zu fit", length, size);
    memcpy(path, from, length + 1);
    return LB_OK;
}

lb_status lb_hub_find(lb_hub_lookup lookup, const char *name_or_path, char *path, size_t size,
                      lb_err *err)
{
    char root[LB_PATH_MAX];
    lb_status status = lb_hub_cache_root(lookup, root, sizeof root, err);
    return status == LB_OK ? lb_hub_resolve(name_or_path, root, path, size, err) : status;
}

lb_status lb_hub_find_named(lb_hub_lookup lookup, const char **items, size_t count, char **owned,
                            lb_err *err)
{
    for (size_t i = 0; i < count; i++) {
        char path[LB_PATH_MAX];
        const char *equals = strchr(items[i], '=');
        if (!equals || !equals[1])
            continue;          /* whoever reads the item says what is wrong with it */
        lb_status status = lb_hub_find(lookup, equals + 1, path, sizeof path, err);
        if (status != LB_OK)
            return status;
        if (strcmp(path, equals + 1) == 0)
            continue;
        size_t head = (size_t)(equals + 1 - items[i]), tail = strlen(path);
        owned[i] = malloc(head + tail + 1);
        if (!owned[i])
            return lb_fail(err, LB_ENOMEM, NULL, "no memory for a path");
        memcpy(owned[i], items[i], head);
        memcpy(owned[i] + head, path, tail + 1);
        items[i] = owned[i];
    }
    return LB_OK;
}
