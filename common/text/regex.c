/* SPDX-License-Identifier: Apache-2.0
 *
 * The files' regular expressions are written for Oniguruma. PCRE2 reads the part that tokenizers
 * use alike, with one difference that is mended here (\s, which in PCRE2 takes U+180E in); what
 * the two would read differently is refused by name rather than matched differently.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/text/tokenizer_impl.h"

#include <assert.h>
#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* White_Space of Unicode, as it is written inside a class. */
#define SPACES "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
               "\\x{202f}\\x{205f}\\x{3000}"
/* Letters that may follow a backslash and mean the same in both engines. */
#define KNOWN_ESCAPES "sSdDpPrntfx"
/* One match of an ordinary pattern backs over a run of spaces once, a step a character. */
#define MATCH_STEPS_MAX (4u * LB_TOKENIZER_TEXT_MAX)
#define MATCH_HEAP_KIB_MAX 65536u

struct lb_regex {
    pcre2_code *code;
};

struct lb_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
};

/* ---- from Oniguruma's syntax to PCRE2's ---- */

typedef struct lb_translation {
    lb_span pattern;
    size_t at;
    bool in_class;
    const char *field;
    lb_buf *out;
} lb_translation;

static char peek(const lb_translation *t, size_t ahead)
{
    return t->at + ahead < t->pattern.length ? t->pattern.data[t->at + ahead] : '\0';
}

static lb_status refuse(const lb_translation *t, const char *what, lb_err *err)
{
    return lb_fail(err, LB_EUNSUPPORTED, t->field, "the regular expression uses %s at offset %zu",
                   what, t->at);
}

/* Copies \p{...} and \x{...} as a whole, so that their brace is not taken for a quantifier's. */
static void copy_braced(lb_translation *t)
{
    size_t end = t->at + 2;
    if (peek(t, 2) == '{')
        while (end < t->pattern.length && t->pattern.data[end] != '}')
            end++;
    if (end >= t->pattern.length)
        end = t->pattern.length - 1;
    lb_buf_append(t->out, t->pattern.data + t->at, end + 1 - t->at);
    t->at = end + 1;
}

static lb_status translate_escape(lb_translation *t, lb_err *err)
{
    char letter = peek(t, 1);
    if (letter == 's' && t->in_class) {
        lb_buf_puts(t->out, SPACES);
    } else if (letter == 's') {
        lb_buf_puts(t->out, "[" SPACES "]");
    } else if (letter == 'S' && !t->in_class) {
        lb_buf_puts(t->out, "[^" SPACES "]");
    } else if (letter == 'x' && peek(t, 2) != '{') {
        return refuse(t, "\\x without braces", err);
    } else if (letter == 'S' || t->at + 1 >= t->pattern.length ||
               (isalnum((unsigned char)letter) && strchr(KNOWN_ESCAPES, letter) == NULL)) {
        char what[] = "\\?";
        what[1] = letter;
        return refuse(t, letter == 'S' ? "\\S inside a class" : what, err);
    } else if (letter == 'p' || letter == 'P' || letter == 'x') {
        copy_braced(t);
        return LB_OK;
    } else {
        lb_buf_append(t->out, t->pattern.data + t->at, 2);
    }
    t->at += 2;
    return LB_OK;
}

static lb_status translate_in_class(lb_translation *t, lb_err *err)
{
    char c = peek(t, 0);
    if (c == '[')
        return refuse(t, "a class inside a class", err);
    if (c == '&' && peek(t, 1) == '&')
        return refuse(t, "an intersection of classes", err);
    t->in_class = c != ']';
    lb_buf_append(t->out, &c, 1);
    t->at++;
    return LB_OK;
}

static bool group_is_known(const lb_translation *t)
{
    static const char *const openings[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:"};
    for (size_t i = 0; i < sizeof openings / sizeof openings[0]; i++) {
        size_t length = strlen(openings[i]);
        if (t->pattern.length - t->at >= length &&
            memcmp(t->pattern.data + t->at, openings[i], length) == 0)
            return true;
    }
    return false;
}

static lb_status translate_plain(lb_translation *t, lb_err *err)
{
    char c = peek(t, 0);
    if (c == '(' && peek(t, 1) == '?' && !group_is_known(t))
        return refuse(t, "a group of a kind that is not implemented", err);
    if (c == '(' && peek(t, 1) == '*')
        return refuse(t, "a verb", err);
    if (c == '{' && peek(t, 1) == ',')
        return refuse(t, "{,n}, which the two engines read differently", err);
    if (c == '}' && peek(t, 1) == '+')
        return refuse(t, "a repeated {n,m}+, which the two engines read differently", err);
    lb_buf_append(t->out, &c, 1);
    t->at++;
    if (c == '[') {
        t->in_class = true;
        if (peek(t, 0) == '^') {
            lb_buf_puts(t->out, "^");
            t->at++;
        }
        if (peek(t, 0) == ']')
            return refuse(t, "a class that begins with ]", err);
    }
    return LB_OK;
}

static lb_status translate(lb_span pattern, const char *field, lb_buf *out, lb_err *err)
{
    lb_translation t = {.pattern = pattern, .field = field, .out = out};
    lb_status status = LB_OK;
    while (status == LB_OK && t.at < pattern.length) {
        if (peek(&t, 0) == '\\')
            status = translate_escape(&t, err);
        else if (t.in_class)
            status = translate_in_class(&t, err);
        else
            status = translate_plain(&t, err);
    }
    if (status == LB_OK && out->status != LB_OK)
        return lb_fail(err, out->status, field, "out of memory for the regular expression");
    return status;
}

/* ---- compiling and matching ---- */

static lb_status compile(const lb_buf *source, const char *field, pcre2_code **out, lb_err *err)
{
    int code = 0;
    PCRE2_SIZE offset = 0;
    PCRE2_UCHAR message[128];
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context == NULL)
        return lb_fail(err, LB_ENOMEM, field, "out of memory for the regular expression");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    *out = pcre2_compile(source->data, source->length,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code,
                         &offset, context);
    pcre2_compile_context_free(context);
    if (*out != NULL)
        return LB_OK;
    pcre2_get_error_message(code, message, sizeof message);
    return lb_fail(err, LB_EUNSUPPORTED, field, "the regular expression does not compile: %s",
                   (const char *)message);
}

lb_status lb_regex_compile(lb_span pattern, const char *field, lb_regex **out, lb_err *err)
{
    lb_buf source = {0};
    lb_status status;
    lb_regex *regex = NULL;
    if (pattern.length == 0 || pattern.length > LB_PATTERN_MAX)
        return lb_fail(err, LB_EUNSUPPORTED, field,
                       "the regular expression has %zu bytes; 1 to %u are supported",
                       pattern.length, LB_PATTERN_MAX);
    status = translate(pattern, field, &source, err);
    if (status != LB_OK)
        goto done;
    regex = calloc(1, sizeof *regex);
    if (regex == NULL) {
        status = lb_fail(err, LB_ENOMEM, field, "out of memory for the regular expression");
        goto done;
    }
    status = compile(&source, field, &regex->code, err);
    if (status != LB_OK)
        goto done;
    /* Where memory may not be made executable this fails, and the interpreter runs instead. */
    (void)pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE);
    *out = regex;
    regex = NULL;
done:
    lb_regex_free(regex);
    lb_buf_free(&source);
    return status;
}

void lb_regex_free(lb_regex *regex)
{
    if (regex == NULL)
        return;
    pcre2_code_free(regex->code);
    free(regex);
}

lb_status lb_matcher_create(lb_matcher **out, lb_err *err)
{
    lb_matcher *matcher = calloc(1, sizeof *matcher);
    if (matcher == NULL)
        return lb_fail(err, LB_ENOMEM, NULL, "out of memory for a match");
    matcher->data = pcre2_match_data_create(1, NULL);
    matcher->context = pcre2_match_context_create(NULL);
    if (matcher->data == NULL || matcher->context == NULL) {
        lb_matcher_free(matcher);
        return lb_fail(err, LB_ENOMEM, NULL, "out of memory for a match");
    }
    pcre2_set_match_limit(matcher->context, MATCH_STEPS_MAX);
    pcre2_set_heap_limit(matcher->context, MATCH_HEAP_KIB_MAX);
    *out = matcher;
    return LB_OK;
}

void lb_matcher_free(lb_matcher *matcher)
{
    if (matcher == NULL)
        return;
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    free(matcher);
}

lb_status lb_regex_find(const lb_regex *regex, lb_matcher *matcher, lb_span text, size_t from,
                        lb_match *match, lb_err *err)
{
    assert(from <= text.length);
    PCRE2_SPTR subject = (PCRE2_SPTR)text.data;
    int count = pcre2_match(regex->code, subject, text.length, from, PCRE2_NO_UTF_CHECK,
                            matcher->data, matcher->context);
    /* The machine stack that compiled code uses is small; the interpreter uses the heap. */
    if (count == PCRE2_ERROR_JIT_STACKLIMIT)
        count = pcre2_match(regex->code, subject, text.length, from,
                            PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, matcher->data, matcher->context);
    match->found = count >= 0;
    if (count == PCRE2_ERROR_NOMATCH)
        return LB_OK;
    if (count < 0) {
        PCRE2_UCHAR message[128];
        pcre2_get_error_message(count, message, sizeof message);
        return lb_fail(err, LB_EDATA, "text", "splitting the text at byte %zu stopped: %s", from,
                       (const char *)message);
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(matcher->data);
    if (range[0] < from || range[1] < range[0] || range[1] > text.length)
        return lb_fail(err, LB_EUNSUPPORTED, "pre_tokenizer",
                       "the regular expression moves the start of its match");
    match->start = range[0];
    match->end = range[1];
    return LB_OK;
}
