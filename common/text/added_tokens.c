/* SPDX-License-Identifier: Apache-2.0
 *
 * Added tokens are cut out of a text before anything else sees it: the leftmost first, the longest
 * among those that begin at one place.
 */
#include "common/text/tokenizer_impl.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MIN 16u
#define WHERE_MAX 64

/* ---- loading ---- */

static int compare(const void *a, const void *b)
{
    const lb_added *x = a, *y = b;
    size_t shorter = x->length < y->length ? x->length : y->length;
    int order = memcmp(x->text, y->text, shorter);
    if (order != 0)
        return order;
    if (x->length != y->length)
        return x->length < y->length ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static void close_set(lb_added_set *set)
{
    if (set->count > 0)
        qsort(set->items, set->count, sizeof *set->items, compare);
    uint32_t item = 0;
    for (unsigned byte = 0; byte <= LB_BYTE_VALUES; byte++) {
        while (item < set->count && (uint8_t)set->items[item].text[0] < byte)
            item++;
        set->first[byte] = item;
    }
}

static lb_status append(lb_added_set *set, lb_added added, lb_span text, const char *where,
                        lb_err *err)
{
    if (set->count == set->capacity) {
        size_t capacity = set->capacity == 0 ? LIST_MIN : 2 * set->capacity;
        lb_added *items = realloc(set->items, capacity * sizeof *items);
        if (items == NULL)
            return lb_fail(err, LB_ENOMEM, where, "out of memory for an added token");
        set->items = items;
        set->capacity = capacity;
    }
    added.text = malloc(text.length);
    if (added.text == NULL)
        return lb_fail(err, LB_ENOMEM, where, "out of memory for an added token");
    memcpy(added.text, text.data, text.length);
    added.length = text.length;
    set->items[set->count++] = added;
    return LB_OK;
}

/* Gives the id its text, or checks that the model's vocabulary has the same token under it. */
static lb_status enter(lb_vocab *vocab, lb_span content, const lb_added *added, const char *where,
                       lb_err *err)
{
    unsigned flags = LB_TOKEN_ADDED | (added->special ? LB_TOKEN_SPECIAL : 0u);
    uint32_t known = LB_NO_TOKEN;
    bool in_model = lb_vocab_find_spelling(vocab, content, &known);
    if (in_model && known != added->id)
        return lb_fail(err, LB_EDATA, where, "has id %u, but model.vocab gives its text id %u",
                       added->id, known);
    if (!in_model && lb_vocab_has(vocab, added->id))
        return lb_fail(err, LB_EDATA, where, "has id %u, which another token has", added->id);
    if (!in_model)
        return lb_vocab_add(vocab, added->id, content, flags | LB_TOKEN_OUTSIDE, err);
    if ((vocab->tokens[known].flags & LB_TOKEN_ADDED) != 0)
        return lb_fail(err, LB_EDATA, where, "the id %u is listed twice", known);
    vocab->tokens[known].flags |= (uint16_t)flags;
    return LB_OK;
}

static lb_status read_content(const lb_json *node, const char *where, lb_span *content,
                              lb_err *err)
{
    const char *text;
    lb_status status = lb_json_need_string(node, where, "content", &text, err);
    if (status != LB_OK)
        return status;
    content->data = text;
    content->length = lb_json_string_length(lb_json_get(node, "content"));
    if (content->length == 0 || content->length > LB_TOKEN_BYTES_MAX)
        return lb_fail(err, LB_EDATA, where, "content has %zu bytes; 1 to %u are allowed",
                       content->length, LB_TOKEN_BYTES_MAX);
    return LB_OK;
}

static lb_status read_flags(const lb_json *node, const char *where, lb_added *added,
                            bool *normalized, lb_err *err)
{
    const struct {
        const char *key;
        bool *out;
    } flags[] = {
        {"special", &added->special},         {"lstrip", &added->lstrip},
        {"rstrip", &added->rstrip},           {"single_word", &added->single_word},
        {"normalized", normalized},
    };
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        lb_status status = lb_json_opt_bool(node, where, flags[i].key, flags[i].out, err);
        if (status != LB_OK)
            return status;
    }
    return LB_OK;
}

lb_status lb_added_enter(lb_tokenizer *tokenizer, lb_added added, lb_span content,
                         bool normalized, const char *where, lb_err *err)
{
    lb_rewrite buffers[2] = {0};
    lb_frame frame = {.data = content.data, .length = content.length};
    lb_status status = enter(&tokenizer->vocab, content, &added, where, err);
    if (status != LB_OK)
        return status;
    if (!normalized)
        return append(&tokenizer->raw, added, content, where, err);
    status = lb_normalize(tokenizer, buffers, &frame, err);
    if (status == LB_OK && frame.length == 0)
        status = lb_fail(err, LB_EDATA, where, "the normalizer leaves nothing of it");
    if (status == LB_OK)
        status = append(&tokenizer->normalized, added, (lb_span){frame.data, frame.length}, where,
                        err);
    lb_rewrite_free(&buffers[0]);
    lb_rewrite_free(&buffers[1]);
    return status;
}

static lb_status load_one(lb_tokenizer *tokenizer, const lb_json *node, const char *where,
                          lb_err *err)
{
    lb_added added = {0};
    lb_span content = {0};
    bool normalized = false;
    if (node == NULL || !lb_json_is_object(node))
        return lb_fail(err, LB_EDATA, where, "is not an object");
    lb_status status = lb_json_need_u32(node, where, "id", 0, LB_TOKENIZER_IDS_MAX - 1, &added.id,
                                        err);
    if (status == LB_OK)
        status = read_content(node, where, &content, err);
    if (status == LB_OK)
        status = read_flags(node, where, &added, &normalized, err);
    if (status == LB_OK)
        status = lb_added_enter(tokenizer, added, content, normalized, where, err);
    return status;
}

static lb_status refuse_equal(const lb_added_set *set, lb_err *err)
{
    for (size_t i = 1; i < set->count; i++) {
        const lb_added *a = &set->items[i - 1], *b = &set->items[i];
        if (a->length == b->length && memcmp(a->text, b->text, a->length) == 0)
            return lb_fail(err, LB_EDATA, "added_tokens", "the ids %u and %u have the same text",
                           a->id, b->id);
    }
    return LB_OK;
}

lb_status lb_added_load(lb_tokenizer *tokenizer, const lb_json *list, lb_err *err)
{
    size_t count = list == NULL ? 0 : lb_json_array_size(list);
    if (count > LB_ADDED_MAX)
        return lb_fail(err, LB_ETOOBIG, "added_tokens", "there are %zu; at most %u are supported",
                       count, LB_ADDED_MAX);
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && i < count; i++) {
        char where[WHERE_MAX];
        snprintf(where, sizeof where, "added_tokens[%zu]", i);
        status = load_one(tokenizer, lb_json_at(list, i), where, err);
    }
    return status == LB_OK ? lb_added_close(tokenizer, err) : status;
}

lb_status lb_added_close(lb_tokenizer *tokenizer, lb_err *err)
{
    close_set(&tokenizer->raw);
    close_set(&tokenizer->normalized);
    lb_status status = refuse_equal(&tokenizer->raw, err);
    if (status == LB_OK)
        status = refuse_equal(&tokenizer->normalized, err);
    return status;
}

void lb_added_free(lb_added_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        free(set->items[i].text);
    free(set->items);
}

/* ---- cutting ---- */

/* The first item of [low, high) whose byte at depth is at least value; all agree up to depth and
 * are longer. */
static size_t lower_bound(const lb_added_set *set, size_t low, size_t high, size_t depth,
                          unsigned value)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uint8_t)set->items[middle].text[depth] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool lb_ranges_meet(lb_ranges ranges, size_t begin, size_t end)
{
    size_t low = 0, high = ranges.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ranges.items[middle].end <= begin)
            low = middle + 1;
        else
            high = middle;
    }
    return low < ranges.count && ranges.items[low].begin < end;
}

/* Of a text that may have special tokens. */
static bool allowed(const lb_cutter *cutter, const lb_added *added, size_t offset)
{
    if (!added->special)
        return true;
    size_t begin = cutter->origin + offset;
    return !lb_ranges_meet(cutter->content, begin, begin + added->length);
}

/* The longest token that begins at offset, NULL if none: the range of items that agree with the
 * text is narrowed byte by byte, and one that ends there comes first in it. */
static const lb_added *longest_at(const lb_cutter *cutter, size_t offset)
{
    const lb_added_set *set = cutter->set;
    const lb_added *best = NULL;
    uint8_t head = (uint8_t)cutter->text.data[offset];
    size_t low = set->first[head], high = set->first[head + 1u];
    for (size_t depth = 1; low < high; depth++) {
        if (set->items[low].length == depth) {
            if (!cutter->special || allowed(cutter, &set->items[low], offset))
                best = &set->items[low];
            low++;
        }
        if (offset + depth >= cutter->text.length)
            break;
        uint8_t next = (uint8_t)cutter->text.data[offset + depth];
        high = lower_bound(set, low, high, depth, next + 1u);
        low = lower_bound(set, low, high, depth, next);
    }
    return best;
}

static bool stands_alone(lb_span text, size_t start, size_t end)
{
    size_t bytes;
    if (start > 0 && lb_char_is_word(lb_utf8_before(text, start, &bytes)))
        return false;
    return end == text.length || !lb_char_is_word(lb_utf8_at(text, end, &bytes));
}

static void strip(const lb_cutter *cutter, const lb_added *added, size_t *start, size_t *end)
{
    size_t bytes;
    while (added->lstrip && *start > cutter->offset &&
           lb_char_is_space(lb_utf8_before(cutter->text, *start, &bytes)))
        *start -= bytes;
    while (added->rstrip && *end < cutter->text.length &&
           lb_char_is_space(lb_utf8_at(cutter->text, *end, &bytes)))
        *end += bytes;
}

bool lb_cutter_next(lb_cutter *cutter, lb_span *before, uint32_t *id)
{
    lb_span text = cutter->text;
    if (cutter->finished)
        return false;
    for (size_t at = cutter->offset; cutter->set->count > 0 && at < text.length;) {
        const lb_added *added = longest_at(cutter, at);
        if (added == NULL) {
            at++;
            continue;
        }
        size_t start = at, end = at + added->length;
        /* As in the library, what was found and does not count hides what lies inside of it. */
        if ((added->special && !cutter->special) ||
            (added->single_word && !stands_alone(text, start, end))) {
            at = end;
            continue;
        }
        strip(cutter, added, &start, &end);
        *before = (lb_span){text.data + cutter->offset, start - cutter->offset};
        *id = added->id;
        cutter->offset = end;
        return true;
    }
    *before = (lb_span){text.data + cutter->offset, text.length - cutter->offset};
    *id = LB_NO_TOKEN;
    cutter->finished = true;
    return true;
}
