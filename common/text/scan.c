/* SPDX-License-Identifier: Apache-2.0
 *
 * Scanners for the three regular expressions that most files have, by their exact text: several
 * times as fast as PCRE2, and with the letters of Hugging Face's Unicode version. Each expression
 * matches at every character, so a match begins where the last one ended.
 */
#include "common/text/tokenizer_impl.h"

#include <string.h>

const char lb_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+"
                               "| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
const char lb_pattern_llama3[] = CONTRACTIONS "\\p{N}{1,3}" REST;
const char lb_pattern_qwen[] = CONTRACTIONS "\\p{N}" REST;

#define DIGITS_MAX 3

typedef struct lb_scan {
    const uint8_t *classes;
    const char *data;
    size_t length;
} lb_scan;

lb_scan_kind lb_scan_find(lb_span pattern)
{
    static const struct {
        const char *text;
        lb_scan_kind kind;
    } rows[] = {
        {lb_pattern_gpt2, LB_SCAN_GPT2},
        {lb_pattern_llama3, LB_SCAN_LLAMA3},
        {lb_pattern_qwen, LB_SCAN_QWEN},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (pattern.length == strlen(rows[i].text) &&
            memcmp(pattern.data, rows[i].text, pattern.length) == 0)
            return rows[i].kind;
    return LB_SCAN_NONE;
}

/* Class of the character at `at` of valid UTF-8, and its length. */
static inline uint8_t class_at(const lb_scan *s, size_t at, size_t *bytes)
{
    const uint8_t *p = (const uint8_t *)s->data + at;
    uint32_t c;
    if (p[0] < 0x80) {
        *bytes = 1;
        return s->classes[p[0]];
    }
    if (p[0] < 0xE0) {
        *bytes = 2;
        c = (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
    } else if (p[0] < 0xF0) {
        *bytes = 3;
        c = (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    } else {
        *bytes = 4;
        c = (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
    }
    return c < LB_CLASSES ? s->classes[c] : LB_CLASS_OTHER;
}

/* End of the run of one class, at most `most` characters. */
static size_t run_of(const lb_scan *s, size_t at, uint8_t class, size_t most)
{
    size_t bytes;
    while (at < s->length && most > 0 && class_at(s, at, &bytes) == class) {
        at += bytes;
        most--;
    }
    return at;
}

/* Length of 's, 't, 're, 've, 'm, 'll or 'd at an apostrophe, 0 if none. Without regard to case
 * the long s, U+017F, is an s too. */
static size_t contraction(const lb_scan *s, size_t at, bool any_case)
{
    uint8_t c[3] = {0};
    for (size_t i = 0; i < 3 && at + i < s->length; i++) {
        c[i] = (uint8_t)s->data[at + i];
        if (any_case && c[i] >= 'A' && c[i] <= 'Z')
            c[i] = (uint8_t)(c[i] - 'A' + 'a');
    }
    if (c[1] == 's' || c[1] == 't' || c[1] == 'm' || c[1] == 'd')
        return 2;
    if ((c[1] == 'r' && c[2] == 'e') || (c[1] == 'v' && c[2] == 'e') ||
        (c[1] == 'l' && c[2] == 'l'))
        return 3;
    return any_case && c[1] == 0xC5 && c[2] == 0xBF ? 3 : 0;
}

static bool is_white(uint8_t class)
{
    return class == LB_CLASS_SPACE || class == LB_CLASS_NEWLINE;
}

/* White space: \s*[\r\n]+ when there is a newline and it counts, else all but the last character
 * when something follows, which the next match may take in. */
static size_t white_space(const lb_scan *s, size_t at, bool newlines)
{
    size_t end = at, last = at, newline = 0, bytes;
    while (end < s->length) {
        uint8_t class = class_at(s, end, &bytes);
        if (!is_white(class))
            break;
        last = end;
        end += bytes;
        if (class == LB_CLASS_NEWLINE)
            newline = end;
    }
    if (newlines && newline > 0)
        return newline;
    return end == s->length || last == at ? end : last;
}

static size_t next_gpt2(const lb_scan *s, size_t at)
{
    size_t bytes, start = at;
    if (s->data[at] == '\'') {
        size_t length = contraction(s, at, false);
        if (length > 0)
            return at + length;
    }
    if (s->data[at] == ' ' && at + 1 < s->length)
        start = at + 1;
    uint8_t class = class_at(s, start, &bytes);
    if (is_white(class))
        return white_space(s, at, false);
    return run_of(s, start, class, SIZE_MAX);
}

static size_t next_llama(const lb_scan *s, size_t at, size_t digits)
{
    size_t bytes, more;
    uint8_t class = class_at(s, at, &bytes);
    if (s->data[at] == '\'') {
        size_t length = contraction(s, at, true);
        if (length > 0)
            return at + length;
    }
    if (class == LB_CLASS_LETTER)
        return run_of(s, at, class, SIZE_MAX);
    if (class == LB_CLASS_NUMBER)
        return run_of(s, at, class, digits);
    bool follows = at + bytes < s->length;
    if (class != LB_CLASS_NEWLINE && follows &&
        class_at(s, at + bytes, &more) == LB_CLASS_LETTER)
        return run_of(s, at + bytes, LB_CLASS_LETTER, SIZE_MAX);
    size_t start = at;
    if (s->data[at] == ' ' && follows) {
        start = at + 1;
        class = class_at(s, start, &more);
    }
    if (class == LB_CLASS_OTHER)
        return run_of(s, run_of(s, start, class, SIZE_MAX), LB_CLASS_NEWLINE, SIZE_MAX);
    return white_space(s, at, true);
}

size_t lb_scan_next(lb_scan_kind kind, const uint8_t *classes, lb_span text, size_t at)
{
    lb_scan s = {classes, text.data, text.length};
    if (kind == LB_SCAN_GPT2)
        return next_gpt2(&s, at);
    return next_llama(&s, at, kind == LB_SCAN_LLAMA3 ? DIGITS_MAX : 1);
}
