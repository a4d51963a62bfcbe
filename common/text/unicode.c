/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables are utf8proc's (Unicode 15 in its version 2.8). The Hugging Face library normalises by
 * older ones, and PCRE2 10.42 splits by Unicode 14: all three agree on characters that were there
 * by Unicode 9, and may order or split a character added since differently.
 */
#include "common/text/tokenizer_impl.h"

#include <string.h>
#include <utf8proc.h>

#define ZERO_WIDTH_NON_JOINER 0x200C
#define ZERO_WIDTH_JOINER 0x200D
#define MARK_RUN_SHORT 16u    /* up to here insertion sort is faster than counting */
#define DECOMPOSITION_MAX 8   /* code points; the longest canonical one has 4 */
#define UTF8_MAX 4
/* Below U+0300, whose first byte this is, every text is in NFC. */
#define FIRST_BYTE_OF_MARKS 0xCCu

/* Length of the sequence that a first byte begins and the range of its second byte, which is where
 * overlong forms, surrogates and values above U+10FFFF show (Unicode, table 3-7). */
static size_t sequence_length(uint8_t first, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xBF;
    if (first < 0x80)
        return 1;
    if (first < 0xC2 || first > 0xF4)
        return 0;
    if (first < 0xE0)
        return 2;
    if (first < 0xF0) {
        if (first == 0xE0)
            *low = 0xA0;
        if (first == 0xED)
            *high = 0x9F;
        return 3;
    }
    if (first == 0xF0)
        *low = 0x90;
    if (first == 0xF4)
        *high = 0x8F;
    return 4;
}

size_t lb_utf8_valid_prefix(const char *text, size_t length)
{
    const uint8_t *bytes = (const uint8_t *)text;
    size_t offset = 0;
    while (offset < length) {
        uint8_t low, high;
        size_t need = sequence_length(bytes[offset], &low, &high);
        if (need == 0 || need > length - offset)
            return offset;
        if (need > 1 && (bytes[offset + 1] < low || bytes[offset + 1] > high))
            return offset;
        for (size_t i = 2; i < need; i++)
            if ((bytes[offset + i] & 0xC0) != 0x80)
                return offset;
        offset += need;
    }
    return length;
}

int32_t lb_utf8_at(lb_span text, size_t offset, size_t *bytes)
{
    utf8proc_int32_t character = 0;
    utf8proc_ssize_t read = utf8proc_iterate((const uint8_t *)text.data + offset,
                                             (utf8proc_ssize_t)(text.length - offset), &character);
    *bytes = read > 0 ? (size_t)read : 1;
    return character;
}

int32_t lb_utf8_before(lb_span text, size_t offset, size_t *bytes)
{
    size_t start = offset - 1;
    while (start > 0 && ((uint8_t)text.data[start] & 0xC0) == 0x80)
        start--;
    return lb_utf8_at(text, start, bytes);
}

bool lb_char_is_space(int32_t c)
{
    return (c >= '\t' && c <= '\r') || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

/* Letters in circles and squares are symbols by category and alphabetic all the same. */
static bool is_enclosed_letter(int32_t c)
{
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
           (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

bool lb_char_is_word(int32_t character)
{
    switch (utf8proc_category(character)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return character == ZERO_WIDTH_NON_JOINER || character == ZERO_WIDTH_JOINER ||
               is_enclosed_letter(character);
    }
}

bool lb_char_is_numeric(int32_t character)
{
    utf8proc_category_t category = utf8proc_category(character);
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_NO;
}

/* ---- NFC ---- */

static unsigned combining_class(int32_t character)
{
    return (unsigned)utf8proc_get_property(character)->combining_class;
}

static void sort_short_run(int32_t *run, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        int32_t mark = run[i];
        unsigned class = combining_class(mark);
        size_t at = i;
        for (; at > 0 && combining_class(run[at - 1]) > class; at--)
            run[at] = run[at - 1];
        run[at] = mark;
    }
}

/* A stable counting sort: marks of one class keep their order. */
static bool sort_long_run(int32_t *run, size_t count, lb_buf *scratch)
{
    size_t starts[LB_BYTE_VALUES + 1] = {0};
    lb_buf_clear(scratch);
    int32_t *copy = lb_buf_extend(scratch, count * sizeof *copy);
    if (copy == NULL)
        return false;
    memcpy(copy, run, count * sizeof *copy);
    for (size_t i = 0; i < count; i++)
        starts[combining_class(copy[i]) % LB_BYTE_VALUES + 1]++;
    for (size_t class = 1; class <= LB_BYTE_VALUES; class++)
        starts[class] += starts[class - 1];
    for (size_t i = 0; i < count; i++)
        run[starts[combining_class(copy[i]) % LB_BYTE_VALUES]++] = copy[i];
    return true;
}

/* Canonical ordering. utf8proc's own does it by exchanging neighbours, which takes time quadratic
 * in the length of a run: a megabyte of marks in a hostile text would hold a thread for minutes. */
static bool order_marks(int32_t *characters, size_t count, lb_buf *scratch)
{
    size_t start = 0;
    while (start < count) {
        if (combining_class(characters[start]) == 0) {
            start++;
            continue;
        }
        size_t end = start + 1;
        while (end < count && combining_class(characters[end]) != 0)
            end++;
        if (end - start <= MARK_RUN_SHORT)
            sort_short_run(characters + start, end - start);
        else if (!sort_long_run(characters + start, end - start, scratch))
            return false;
        start = end;
    }
    return true;
}

static bool decompose(lb_span text, lb_buf *out)
{
    for (size_t offset = 0, bytes; offset < text.length; offset += bytes) {
        int32_t parts[DECOMPOSITION_MAX];
        int boundary = 0;
        int32_t character = lb_utf8_at(text, offset, &bytes);
        utf8proc_ssize_t count = utf8proc_decompose_char(character, parts, DECOMPOSITION_MAX,
                                                         UTF8PROC_DECOMPOSE, &boundary);
        if (count < 0 || count > DECOMPOSITION_MAX)
            return false;
        lb_buf_append(out, parts, (size_t)count * sizeof parts[0]);
    }
    return out->status == LB_OK;
}

lb_status lb_text_nfc(lb_span text, lb_buf *out, bool *changed, lb_err *err)
{
    lb_status status = LB_OK;
    lb_buf characters = {0}, scratch = {0};
    size_t plain = 0;
    while (plain < text.length && (uint8_t)text.data[plain] < FIRST_BYTE_OF_MARKS)
        plain++;
    *changed = plain < text.length;
    if (!*changed)
        return LB_OK;
    if (!decompose(text, &characters)) {
        status = lb_fail(err, LB_ENOMEM, NULL, "out of memory while normalising text");
        goto done;
    }
    int32_t *list = (int32_t *)(void *)characters.data;
    size_t count = characters.length / sizeof *list;
    if (!order_marks(list, count, &scratch)) {
        status = lb_fail(err, LB_ENOMEM, NULL, "out of memory while normalising text");
        goto done;
    }
    utf8proc_ssize_t composed = utf8proc_normalize_utf32(list, (utf8proc_ssize_t)count,
                                                         UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        uint8_t bytes[UTF8_MAX];
        utf8proc_ssize_t length = utf8proc_encode_char(list[i], bytes);
        lb_buf_append(out, bytes, (size_t)length);
    }
    if (composed < 0 || out->status != LB_OK)
        status = lb_fail(err, LB_ENOMEM, NULL, "out of memory while normalising text");
done:
    lb_buf_free(&characters);
    lb_buf_free(&scratch);
    return status;
}
