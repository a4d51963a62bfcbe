/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of tokenizer.json around the model. Each is a tree of components named by "type";
 * Sequence nests. A type that no table below has is refused by name.
 */
#include "common/text/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHERE_MAX 96
#define NESTING_MAX 8u

static bool absent(const lb_json *node)
{
    return node == NULL || lb_json_is_null(node);
}

lb_status lb_part_load(const lb_part *part, lb_part_loader loader, lb_err *err)
{
    const char *type = NULL;
    if (!lb_json_is_object(part->node))
        return lb_fail(err, LB_EDATA, part->where, "is not an object");
    lb_status status = lb_json_need_string(part->node, part->where, "type", &type, err);
    if (status != LB_OK)
        return status;
    return loader(part, type, err);
}

/* The members of a Sequence, in their order. */
lb_status lb_part_sequence(const lb_part *part, const char *key, lb_part_loader loader,
                           lb_err *err)
{
    const lb_json *list = NULL;
    if (part->nesting == NESTING_MAX)
        return lb_fail(err, LB_EUNSUPPORTED, part->where, "is nested too deep");
    lb_status status = lb_json_need_array(part->node, part->where, key, &list, err);
    for (size_t i = 0; status == LB_OK && i < lb_json_array_size(list); i++) {
        char where[WHERE_MAX];
        snprintf(where, sizeof where, "%.60s.%s[%zu]", part->where, key, i);
        lb_part member = {.tokenizer = part->tokenizer, .node = lb_json_at(list, i),
                          .where = where, .nesting = part->nesting + 1};
        status = lb_part_load(&member, loader, err);
    }
    return status;
}

lb_status lb_part_unknown(const lb_part *part, const char *type, lb_err *err)
{
    return lb_fail(err, LB_EUNSUPPORTED, part->where, "the component %s is not implemented", type);
}

static lb_status copy_text(lb_span text, const char *where, char **out, size_t *length, lb_err *err)
{
    *length = text.length;
    if (text.length == 0)
        return LB_OK;
    *out = malloc(text.length);
    if (*out == NULL)
        return lb_fail(err, LB_ENOMEM, where, "out of memory for a pattern");
    memcpy(*out, text.data, text.length);
    return LB_OK;
}

static lb_status need_text(const lb_json *node, const char *where, const char *key, lb_span *out,
                           lb_err *err)
{
    const char *text = NULL;
    lb_status status = lb_json_need_string(node, where, key, &text, err);
    if (status != LB_OK)
        return status;
    *out = (lb_span){text, lb_json_string_length(lb_json_get(node, key))};
    if (out->length > LB_PATTERN_MAX)
        return lb_fail(err, LB_EUNSUPPORTED, where, "%s has %zu bytes; at most %u are supported",
                       key, out->length, LB_PATTERN_MAX);
    return LB_OK;
}

lb_status lb_part_replace(const lb_part *part, lb_normal *out, lb_err *err)
{
    const lb_json *pattern = NULL;
    lb_span from = {0}, to = {0};
    lb_status status = lb_json_need_object(part->node, part->where, "pattern", &pattern, err);
    if (status == LB_OK && lb_json_get(pattern, "Regex") != NULL)
        return lb_fail(err, LB_EUNSUPPORTED, part->where,
                       "Replace with a regular expression is not implemented");
    if (status == LB_OK)
        status = need_text(pattern, part->where, "String", &from, err);
    if (status == LB_OK)
        status = need_text(part->node, part->where, "content", &to, err);
    if (status != LB_OK)
        return status;
    if (from.length == 0)
        return lb_fail(err, LB_EUNSUPPORTED, part->where, "Replace of an empty pattern");
    out->kind = LB_NORMAL_REPLACE;
    status = copy_text(from, part->where, &out->pattern, &out->pattern_length, err);
    if (status == LB_OK)
        status = copy_text(to, part->where, &out->content, &out->content_length, err);
    return status;
}

/* ---- normalizer ---- */

static lb_status load_prepend(const lb_part *part, lb_normal *out, lb_err *err)
{
    lb_span content = {0};
    lb_status status = need_text(part->node, part->where, "prepend", &content, err);
    if (status != LB_OK)
        return status;
    out->kind = LB_NORMAL_PREPEND;
    return copy_text(content, part->where, &out->content, &out->content_length, err);
}

static lb_status load_normalizer(const lb_part *part, const char *type, lb_err *err)
{
    lb_tokenizer *tokenizer = part->tokenizer;
    if (strcmp(type, "Sequence") == 0)
        return lb_part_sequence(part, "normalizers", load_normalizer, err);
    if (tokenizer->normal_count == LB_NORMALS_MAX)
        return lb_fail(err, LB_EUNSUPPORTED, part->where, "has more than %u steps",
                       LB_NORMALS_MAX);
    lb_normal *next = &tokenizer->normals[tokenizer->normal_count];
    if (strcmp(type, "NFC") == 0)
        next->kind = LB_NORMAL_NFC;
    else if (strcmp(type, "Prepend") != 0 && strcmp(type, "Replace") != 0)
        return lb_part_unknown(part, type, err);
    tokenizer->normal_count++;
    if (type[0] == 'P')
        return load_prepend(part, next, err);
    return type[0] == 'R' ? lb_part_replace(part, next, err) : LB_OK;
}

lb_status lb_load_normalizer(lb_tokenizer *tokenizer, const lb_json *node, lb_err *err)
{
    lb_part part = {.tokenizer = tokenizer, .node = node, .where = "normalizer"};
    return absent(node) ? LB_OK : lb_part_load(&part, load_normalizer, err);
}

/* ---- pre_tokenizer ---- */

static bool rewrites(lb_step_kind kind)
{
    return kind == LB_STEP_PREFIX_SPACE || kind == LB_STEP_METASPACE;
}

lb_status lb_add_step(lb_tokenizer *tokenizer, lb_step step, lb_span pattern, const char *where,
                      lb_err *err)
{
    if (tokenizer->step_count == LB_STEPS_MAX)
        return lb_fail(err, LB_EUNSUPPORTED, where, "has more than %u steps", LB_STEPS_MAX);
    for (size_t i = 0; rewrites(step.kind) && i < tokenizer->step_count; i++)
        if (rewrites(tokenizer->steps[i].kind))
            return lb_fail(err, LB_EUNSUPPORTED, where,
                           "a second step that puts spaces in is not implemented");
    /* Entered before it is complete, so that freeing the tokenizer frees it either way. */
    lb_step *entered = &tokenizer->steps[tokenizer->step_count++];
    *entered = step;
    lb_status status = copy_text(pattern, where, &entered->pattern, &entered->pattern_length, err);
    if (status != LB_OK || step.kind != LB_STEP_REGEX)
        return status;
    entered->scan = lb_scan_find(pattern);
    if (entered->scan == LB_SCAN_NONE)
        return lb_regex_compile(pattern, where, &entered->regex, err);
    if (tokenizer->classes == NULL)
        tokenizer->classes = lb_char_classes();
    if (tokenizer->classes == NULL)
        return lb_fail(err, LB_ENOMEM, where, "out of memory for classes of characters");
    return LB_OK;
}

static lb_status add_step(const lb_part *part, lb_step_kind kind, lb_span pattern, lb_err *err)
{
    return lb_add_step(part->tokenizer, (lb_step){.kind = kind}, pattern, part->where, err);
}

static lb_status load_split(const lb_part *part, lb_err *err)
{
    const lb_json *pattern = NULL;
    const char *behavior = NULL, *text = NULL;
    lb_status status = lb_json_need_string(part->node, part->where, "behavior", &behavior, err);
    if (status == LB_OK)
        status = lb_json_need_object(part->node, part->where, "pattern", &pattern, err);
    if (status != LB_OK)
        return status;
    /* "invert" swaps what is a match and what is not, which Isolated treats alike. */
    if (strcmp(behavior, "Isolated") != 0)
        return lb_fail(err, LB_EUNSUPPORTED, part->where,
                       "Split with the behavior %s is not implemented", behavior);
    const char *key = lb_json_get(pattern, "Regex") != NULL ? "Regex" : "String";
    status = lb_json_need_string(pattern, part->where, key, &text, err);
    if (status != LB_OK)
        return status;
    lb_span span = {text, lb_json_string_length(lb_json_get(pattern, key))};
    if (span.length == 0 || span.length > LB_PATTERN_MAX)
        return lb_fail(err, LB_EUNSUPPORTED, part->where,
                       "the pattern has %zu bytes; 1 to %u are supported", span.length,
                       LB_PATTERN_MAX);
    return add_step(part, key[0] == 'R' ? LB_STEP_REGEX : LB_STEP_LITERAL, span, err);
}

static lb_status load_digits(const lb_part *part, lb_err *err)
{
    bool each = false;
    lb_status status = lb_json_opt_bool(part->node, part->where, "individual_digits", &each, err);
    if (status != LB_OK)
        return status;
    return add_step(part, each ? LB_STEP_EACH_DIGIT : LB_STEP_DIGITS, (lb_span){"", 0}, err);
}

static lb_status load_byte_level(const lb_part *part, lb_err *err)
{
    bool prefix = true, regex = true;  /* the defaults of the format */
    lb_status status = lb_json_opt_bool(part->node, part->where, "add_prefix_space", &prefix, err);
    if (status == LB_OK)
        status = lb_json_opt_bool(part->node, part->where, "use_regex", &regex, err);
    if (status == LB_OK && prefix)
        status = add_step(part, LB_STEP_PREFIX_SPACE, (lb_span){"", 0}, err);
    if (status == LB_OK && regex)
        status = add_step(part, LB_STEP_REGEX,
                          (lb_span){lb_pattern_gpt2, strlen(lb_pattern_gpt2)}, err);
    return status;
}

/* After ByteLevel the text is in the byte alphabet, where a further component would see other
 * characters than ours does; so it has to be the last one, once. */
static lb_status find_byte_level(const lb_json *node, bool *found, unsigned nesting, lb_err *err)
{
    const char *type = lb_json_string(lb_json_get(node, "type"));
    if (*found)
        return lb_fail(err, LB_EUNSUPPORTED, "pre_tokenizer",
                       "a component after ByteLevel is not implemented");
    if (type != NULL && strcmp(type, "ByteLevel") == 0)
        *found = true;
    if (type == NULL || strcmp(type, "Sequence") != 0 || nesting == NESTING_MAX)
        return LB_OK;
    const lb_json *list = lb_json_get(node, "pretokenizers");
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && list != NULL && i < lb_json_array_size(list); i++)
        if (lb_json_is_object(lb_json_at(list, i)))
            status = find_byte_level(lb_json_at(list, i), found, nesting + 1, err);
    return status;
}

lb_status lb_find_byte_level(const lb_json *pre_tokenizer, bool *found, lb_err *err)
{
    *found = false;
    return pre_tokenizer == NULL ? LB_OK : find_byte_level(pre_tokenizer, found, 0, err);
}

static lb_status read_prepend(const lb_part *part, lb_prepend *out, lb_err *err)
{
    static const char *const names[] = {"always", "first", "never"};
    const char *scheme = names[0];
    bool prefix = true;
    lb_status status = lb_json_opt_string(part->node, part->where, "prepend_scheme", &scheme, err);
    if (status == LB_OK)  /* of older files, which have no scheme */
        status = lb_json_opt_bool(part->node, part->where, "add_prefix_space", &prefix, err);
    if (status != LB_OK)
        return status;
    if (!prefix && lb_json_get(part->node, "prepend_scheme") == NULL)
        scheme = names[LB_PREPEND_NEVER];
    if (!prefix && strcmp(scheme, names[LB_PREPEND_NEVER]) != 0)
        return lb_fail(err, LB_EDATA, part->where, "add_prefix_space contradicts prepend_scheme");
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(scheme, names[i]) == 0) {
            *out = (lb_prepend)i;
            return LB_OK;
        }
    }
    return lb_fail(err, LB_EUNSUPPORTED, part->where, "the prepend_scheme %.40s is not implemented",
                   scheme);
}

static lb_status load_metaspace(const lb_part *part, lb_err *err)
{
    lb_step step = {.kind = LB_STEP_METASPACE, .split = true};
    lb_span mark = {0};
    size_t bytes = 0;
    lb_status status = need_text(part->node, part->where, "replacement", &mark, err);
    if (status == LB_OK && mark.length > 0)
        (void)lb_utf8_at(mark, 0, &bytes);
    if (status == LB_OK && (mark.length == 0 || bytes != mark.length))
        return lb_fail(err, LB_EDATA, part->where, "the replacement is not one character");
    if (status == LB_OK)
        status = read_prepend(part, &step.prepend, err);
    if (status == LB_OK)
        status = lb_json_opt_bool(part->node, part->where, "split", &step.split, err);
    if (status == LB_OK)
        status = lb_add_step(part->tokenizer, step, mark, part->where, err);
    return status;
}

static lb_status load_pre_tokenizer(const lb_part *part, const char *type, lb_err *err)
{
    if (strcmp(type, "Sequence") == 0)
        return lb_part_sequence(part, "pretokenizers", load_pre_tokenizer, err);
    if (strcmp(type, "Split") == 0)
        return load_split(part, err);
    if (strcmp(type, "Digits") == 0)
        return load_digits(part, err);
    if (strcmp(type, "ByteLevel") == 0)
        return load_byte_level(part, err);
    if (strcmp(type, "Metaspace") == 0)
        return load_metaspace(part, err);
    return lb_part_unknown(part, type, err);
}

lb_status lb_load_pre_tokenizer(lb_tokenizer *tokenizer, const lb_json *node, lb_err *err)
{
    lb_part part = {.tokenizer = tokenizer, .node = node, .where = "pre_tokenizer"};
    return absent(node) ? LB_OK : lb_part_load(&part, load_pre_tokenizer, err);
}

/* ---- post_processor ---- */

static lb_status add_bos(const lb_part *part, const char *name, lb_err *err)
{
    lb_tokenizer *tokenizer = part->tokenizer;
    const lb_json *table = NULL, *entry = NULL, *ids = NULL;
    lb_status status = lb_json_need_object(part->node, part->where, "special_tokens", &table, err);
    if (status == LB_OK)
        status = lb_json_need_object(table, part->where, name, &entry, err);
    if (status == LB_OK)
        status = lb_json_need_array(entry, part->where, "ids", &ids, err);
    if (status != LB_OK)
        return status;
    for (size_t i = 0; i < lb_json_array_size(ids); i++) {
        const lb_json *node = lb_json_at(ids, i);
        int64_t id = lb_json_is_integer(node) ? lb_json_integer(node) : -1;
        if (id < 0 || id >= LB_TOKENIZER_IDS_MAX || !lb_vocab_has(&tokenizer->vocab, (uint32_t)id))
            return lb_fail(err, LB_EDATA, part->where, "an id of %s is not a token", name);
        if (tokenizer->bos_count == LB_BOS_MAX)
            return lb_fail(err, LB_EUNSUPPORTED, part->where, "adds more than %u tokens",
                           LB_BOS_MAX);
        tokenizer->bos[tokenizer->bos_count++] = (uint32_t)id;
    }
    return LB_OK;
}

/* "single" is special tokens and one Sequence, the text. */
static lb_status load_template(const lb_part *part, lb_err *err)
{
    const lb_json *single = NULL;
    size_t texts = 0;
    if (part->tokenizer->bos_count > 0)
        return lb_fail(err, LB_EUNSUPPORTED, part->where, "a second TemplateProcessing");
    lb_status status = lb_json_need_array(part->node, part->where, "single", &single, err);
    for (size_t i = 0; status == LB_OK && i < lb_json_array_size(single); i++) {
        const lb_json *item = lb_json_at(single, i);
        const lb_json *special = NULL;
        const char *name = NULL;
        if (!lb_json_is_object(item))
            return lb_fail(err, LB_EDATA, part->where, "an item of single is not an object");
        if (lb_json_get(item, "Sequence") != NULL) {
            texts++;
            continue;
        }
        status = lb_json_need_object(item, part->where, "SpecialToken", &special, err);
        if (status == LB_OK)
            status = lb_json_need_string(special, part->where, "id", &name, err);
        if (status == LB_OK && texts > 0)
            return lb_fail(err, LB_EUNSUPPORTED, part->where,
                           "TemplateProcessing that adds %s after the text is not implemented",
                           name);
        if (status == LB_OK)
            status = add_bos(part, name, err);
    }
    if (status == LB_OK && texts != 1)
        return lb_fail(err, LB_EUNSUPPORTED, part->where,
                       "TemplateProcessing with %zu texts in single is not implemented", texts);
    return status;
}

static lb_status load_post_processor(const lb_part *part, const char *type, lb_err *err)
{
    if (strcmp(type, "Sequence") == 0)
        return lb_part_sequence(part, "processors", load_post_processor, err);
    if (strcmp(type, "ByteLevel") == 0)
        return LB_OK;  /* it may trim offsets, which ours never are */
    if (strcmp(type, "TemplateProcessing") == 0)
        return load_template(part, err);
    return lb_part_unknown(part, type, err);
}

lb_status lb_load_post_processor(lb_tokenizer *tokenizer, const lb_json *node, lb_err *err)
{
    lb_part part = {.tokenizer = tokenizer, .node = node, .where = "post_processor"};
    return absent(node) ? LB_OK : lb_part_load(&part, load_post_processor, err);
}
