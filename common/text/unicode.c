/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables are utf8proc's (Unicode 15 in its version 2.8). The Hugging Face library normalises by
 * older ones, and PCRE2 10.42 splits by Unicode 14: all three agree on characters that were there
 * by Unicode 9, and may order or split a character added since differently.
 */
#include "common/text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define ZERO_WIDTH_NON_JOINER 0x200C
#define ZERO_WIDTH_JOINER 0x200D

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

/* Letters and numbers of Unicode 15 and 16, and numbers of 17, which only Digits knows. */
static const int32_t letters[][2] = {
    {0x1c89, 0x1c8a}, {0xa7cb, 0xa7cd}, {0xa7da, 0xa7dc}, {0x105c0, 0x105f3},
    {0x10d4a, 0x10d65}, {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4}, {0x1123f, 0x11240},
    {0x11380, 0x11389}, {0x1138b, 0x1138b}, {0x1138e, 0x1138e}, {0x11390, 0x113b5},
    {0x113b7, 0x113b7}, {0x113d1, 0x113d1}, {0x113d3, 0x113d3}, {0x11bc0, 0x11be0},
    {0x11f02, 0x11f02}, {0x11f04, 0x11f10}, {0x11f12, 0x11f33}, {0x1342f, 0x1342f},
    {0x13441, 0x13446}, {0x13460, 0x143fa}, {0x16100, 0x1611d}, {0x16d40, 0x16d6c},
    {0x18cff, 0x18cff}, {0x1b132, 0x1b132}, {0x1b155, 0x1b155}, {0x1df25, 0x1df2a},
    {0x1e030, 0x1e06d}, {0x1e4d0, 0x1e4eb}, {0x1e5d0, 0x1e5ed}, {0x1e5f0, 0x1e5f0},
    {0x2b739, 0x2b739}, {0x2ebf0, 0x2ee5d}, {0x31350, 0x323af},
};
static const int32_t numbers[][2] = {
    {0x10d40, 0x10d49}, {0x116d0, 0x116e3}, {0x11bf0, 0x11bf9}, {0x11f50, 0x11f59},
    {0x16130, 0x16139}, {0x16d70, 0x16d79}, {0x1ccf0, 0x1ccf9}, {0x1d2c0, 0x1d2d3},
    {0x1e4f0, 0x1e4f9}, {0x1e5f1, 0x1e5fa},
};
static const int32_t digits[][2] = {{0x11de0, 0x11de9}, {0x16ff4, 0x16ff6}};

static bool is_in(const int32_t ranges[][2], size_t count, int32_t character)
{
    for (size_t i = 0; i < count; i++)
        if (character >= ranges[i][0] && character <= ranges[i][1])
            return true;
    return false;
}

static void set_class(uint8_t *classes, const int32_t ranges[][2], size_t count, uint8_t class)
{
    for (size_t i = 0; i < count; i++)
        memset(classes + ranges[i][0], class, (size_t)(ranges[i][1] - ranges[i][0] + 1));
}

static uint8_t class_of(int32_t character)
{
    if (character == '\r' || character == '\n')
        return LB_CLASS_NEWLINE;
    if (lb_char_is_space(character))
        return LB_CLASS_SPACE;
    switch (utf8proc_category(character)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return LB_CLASS_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return LB_CLASS_NUMBER;
    default:
        return LB_CLASS_OTHER;
    }
}

uint8_t *lb_char_classes(void)
{
    uint8_t *classes = malloc(LB_CLASSES);
    if (classes == NULL)
        return NULL;
    for (uint32_t c = 0; c < LB_CLASSES; c++)
        classes[c] = class_of((int32_t)c);
    set_class(classes, letters, sizeof letters / sizeof letters[0], LB_CLASS_LETTER);
    set_class(classes, numbers, sizeof numbers / sizeof numbers[0], LB_CLASS_NUMBER);
    return classes;
}

bool lb_char_is_numeric(int32_t character)
{
    utf8proc_category_t category = utf8proc_category(character);
    if (is_in(numbers, sizeof numbers / sizeof numbers[0], character) ||
        is_in(digits, sizeof digits / sizeof digits[0], character))
        return true;
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_NO;
}
