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

/* How GPT-2 splits; a ByteLevel component with use_regex applies it. */
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+"
                                   "| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static bool absent(const lb_json *node)
{
    return node == NULL || lb_json_is_null(node);
}

typedef struct lb_part {
    lb_tokenizer *tokenizer;
    const lb_json *node;
    const char *where;
    unsigned nesting;
} lb_part;

typedef lb_status (*lb_part_loader)(const lb_part *part, const char *type, lb_err *err);

static lb_status load_part(const lb_part *part, lb_part_loader loader, lb_err *err)
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
static lb_status load_sequence(const lb_part *part, const char *key, lb_part_loader loader,
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
        status = load_part(&member, loader, err);
    }
    return status;
}

static lb_status unknown(const lb_part *part, const char *type, lb_err *err)
{
    return lb_fail(err, LB_EUNSUPPORTED, part->where, "the component %s is not implemented", type);
}

/* ---- normalizer ---- */

static lb_status load_normalizer(const lb_part *part, const char *type, lb_err *err)
{
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(part, "normalizers", load_normalizer, err);
    if (strcmp(type, "NFC") != 0)
        return unknown(part, type, err);
    part->tokenizer->nfc = true;
    return LB_OK;
}

lb_status lb_load_normalizer(lb_tokenizer *tokenizer, const lb_json *node, lb_err *err)
{
    lb_part part = {.tokenizer = tokenizer, .node = node, .where = "normalizer"};
    return absent(node) ? LB_OK : load_part(&part, load_normalizer, err);
}

/* ---- pre_tokenizer ---- */

static lb_status add_step(const lb_part *part, lb_step_kind kind, lb_span pattern, lb_err *err)
{
    lb_tokenizer *tokenizer = part->tokenizer;
    if (tokenizer->step_count == LB_STEPS_MAX)
        return lb_fail(err, LB_EUNSUPPORTED, part->where, "has more than %u steps", LB_STEPS_MAX);
    lb_step step = {.kind = kind, .pattern_length = pattern.length};
    if (pattern.length > 0) {
        step.pattern = malloc(pattern.length);
        if (step.pattern == NULL)
            return lb_fail(err, LB_ENOMEM, part->where, "out of memory for a pattern");
        memcpy(step.pattern, pattern.data, pattern.length);
    }
    /* Entered before it is compiled, so that freeing the tokenizer frees it either way. */
    lb_step *entered = &tokenizer->steps[tokenizer->step_count++];
    *entered = step;
    if (kind != LB_STEP_REGEX)
        return LB_OK;
    return lb_regex_compile(pattern, part->where, &entered->regex, err);
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
        status = add_step(part, LB_STEP_REGEX, (lb_span){gpt2_pattern, strlen(gpt2_pattern)}, err);
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

static lb_status load_pre_tokenizer(const lb_part *part, const char *type, lb_err *err)
{
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(part, "pretokenizers", load_pre_tokenizer, err);
    if (strcmp(type, "Split") == 0)
        return load_split(part, err);
    if (strcmp(type, "Digits") == 0)
        return load_digits(part, err);
    if (strcmp(type, "ByteLevel") == 0)
        return load_byte_level(part, err);
    return unknown(part, type, err);
}

lb_status lb_load_pre_tokenizer(lb_tokenizer *tokenizer, const lb_json *node, lb_err *err)
{
    bool byte_level = false;
    lb_part part = {.tokenizer = tokenizer, .node = node, .where = "pre_tokenizer"};
    if (absent(node))
        return lb_fail(err, LB_EUNSUPPORTED, "pre_tokenizer",
                       "is missing; only byte-level tokenizers are implemented");
    lb_status status = load_part(&part, load_pre_tokenizer, err);
    if (status == LB_OK)
        status = find_byte_level(node, &byte_level, 0, err);
    if (status == LB_OK && !byte_level)
        return lb_fail(err, LB_EUNSUPPORTED, "pre_tokenizer",
                       "has no ByteLevel; only byte-level tokenizers are implemented");
    return status;
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
        return load_sequence(part, "processors", load_post_processor, err);
    if (strcmp(type, "ByteLevel") == 0)
        return LB_OK;  /* it moves offsets, which we do not keep */
    if (strcmp(type, "TemplateProcessing") == 0)
        return load_template(part, err);
    return unknown(part, type, err);
}

lb_status lb_load_post_processor(lb_tokenizer *tokenizer, const lb_json *node, lb_err *err)
{
    lb_part part = {.tokenizer = tokenizer, .node = node, .where = "post_processor"};
    return absent(node) ? LB_OK : load_part(&part, load_post_processor, err);
}

/* ---- decoder ---- */

static lb_status check_decoder(const lb_part *part, const char *type, lb_err *err)
{
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(part, "decoders", check_decoder, err);
    return strcmp(type, "ByteLevel") == 0 ? LB_OK : unknown(part, type, err);
}

lb_status lb_check_decoder(const lb_json *node, lb_err *err)
{
    lb_part part = {.node = node, .where = "decoder"};
    return absent(node) ? LB_OK : load_part(&part, check_decoder, err);
}
