/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/json.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 63u
#define REAL_BYTES 40u
#define F32_DIGITS_MIN 6u
#define F32_DIGITS_MAX 9u    /* enough for any f32 */
#define F64_DIGITS_MIN 15
#define F64_DIGITS_MAX 17    /* enough for any f64 */
#define FAST_MIN 1e-5
#define FAST_MAX 1e6
/* The bits of a double that a float in the normal range drops, and their value half way. */
#define F32_REST_MASK 0x1FFFFFFFull
#define F32_REST_MIDWAY 0x10000000ull
#define REPLACEMENT "\xEF\xBF\xBD"

/* A comma when one is due; then a value may be written. */
static void begin(lb_jsonw *w)
{
    uint64_t bit = 1ull << w->depth;
    if (w->after_key)
        w->after_key = false;
    else if (w->has_items & bit)
        lb_buf_append(w->out, ",", 1);
    w->has_items |= bit;
}

static void open_level(lb_jsonw *w, const char *bracket)
{
    begin(w);
    assert(w->depth < DEPTH_MAX);
    w->depth++;
    w->has_items &= ~(1ull << w->depth);
    lb_buf_append(w->out, bracket, 1);
}

static void close_level(lb_jsonw *w, const char *bracket)
{
    assert(w->depth > 0 && !w->after_key);
    w->depth--;
    lb_buf_append(w->out, bracket, 1);
}

void lb_jsonw_object(lb_jsonw *w)
{
    open_level(w, "{");
}

void lb_jsonw_object_end(lb_jsonw *w)
{
    close_level(w, "}");
}

void lb_jsonw_array(lb_jsonw *w)
{
    open_level(w, "[");
}

void lb_jsonw_array_end(lb_jsonw *w)
{
    close_level(w, "]");
}

/* Bytes of the valid UTF-8 sequence at text, 0 if there is none. */
static size_t utf8_length(const unsigned char *text, size_t left)
{
    unsigned char c = text[0];
    size_t need = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : (c & 0xF0) == 0xE0 ? 3
                : c >= 0xF0 && c < 0xF5 ? 4 : 0;
    if (need == 0 || need > left)
        return 0;
    for (size_t i = 1; i < need; i++) {
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    }
    bool bad = (c == 0xE0 && text[1] < 0xA0) || (c == 0xED && text[1] > 0x9F) ||
               (c == 0xF0 && text[1] < 0x90) || (c == 0xF4 && text[1] > 0x8F);
    return bad ? 0 : need;
}

static void put_text(lb_buf *out, const char *text, size_t length)
{
    static const char escapes[] = {['"'] = '"', ['\\'] = '\\', ['\n'] = 'n', ['\r'] = 'r',
                                   ['\t'] = 't', ['\b'] = 'b', ['\f'] = 'f'};
    const unsigned char *at = (const unsigned char *)text;
    lb_buf_append(out, "\"", 1);
    while (length > 0) {
        size_t run = 0;
        while (run < length && at[run] >= 0x20 && at[run] < 0x7F && at[run] != '"' &&
               at[run] != '\\')
            run++;
        lb_buf_append(out, at, run);
        at += run;
        length -= run;
        if (length == 0)
            break;
        size_t step = utf8_length(at, length);
        if (*at < sizeof escapes && escapes[*at])
            lb_buf_printf(out, "\\%c", escapes[*at]);
        else if (*at < 0x20 || *at == 0x7F)
            lb_buf_printf(out, "\\u%04x", *at);
        else if (step > 0)
            lb_buf_append(out, at, step);
        else
            lb_buf_puts(out, REPLACEMENT);
        step = step ? step : 1;
        at += step;
        length -= step;
    }
    lb_buf_append(out, "\"", 1);
}

void lb_jsonw_key(lb_jsonw *w, const char *key)
{
    assert(!w->after_key);
    begin(w);
    put_text(w->out, key, strlen(key));
    lb_buf_append(w->out, ":", 1);
    w->after_key = true;
}

void lb_jsonw_string(lb_jsonw *w, const char *text)
{
    if (!text) {
        lb_jsonw_null(w);
        return;
    }
    begin(w);
    put_text(w->out, text, strlen(text));
}

void lb_jsonw_string_n(lb_jsonw *w, const char *text, size_t length)
{
    begin(w);
    put_text(w->out, text, length);
}

void lb_jsonw_i64(lb_jsonw *w, int64_t value)
{
    begin(w);
    lb_buf_printf(w->out, "%" PRId64, value);
}

void lb_jsonw_u64(lb_jsonw *w, uint64_t value)
{
    begin(w);
    lb_buf_printf(w->out, "%" PRIu64, value);
}

/* Writes digits * 10^-places without trailing zeros; out holds REAL_BYTES. Returns the length. */
static size_t put_decimal(char *out, bool negative, uint64_t digits, unsigned places)
{
    char reversed[REAL_BYTES];
    size_t n = 0, length = 0;
    while (places > 0 && digits % 10 == 0) {
        digits /= 10;
        places--;
    }
    for (; digits > 0 || n <= places; digits /= 10)
        reversed[n++] = (char)('0' + digits % 10);
    if (negative)
        out[length++] = '-';
    while (n > 0) {
        out[length++] = reversed[--n];
        if (n == places && n > 0)
            out[length++] = '.';
    }
    return length;
}

/* The text of a magnitude in [FAST_MIN, FAST_MAX), where logprobs lie; 0 when it has to be found
 * the slow way. A reply holds thousands of them, and snprintf with strtof takes most of its time
 * then. A decimal n / 10^k (n < 2^53, k <= 22) rounds to one double, and that double rounds to the
 * same float as the decimal itself unless it lies midway between two floats. */
static size_t fast_f32(float value, char *out)
{
    static const double tens[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
                                  1e12, 1e13};
    float magnitude = fabsf(value);
    double wide = (double)magnitude;
    if (!(wide >= FAST_MIN && wide < FAST_MAX))
        return 0;
    unsigned places = F32_DIGITS_MIN - 1;   /* of six digits, when one stands before the point */
    for (unsigned i = 1; wide >= tens[i]; i++)
        places--;
    for (unsigned i = 0; wide * tens[i] < 1.0; i++)
        places++;
    for (unsigned more = 0; more <= F32_DIGITS_MAX - F32_DIGITS_MIN; more++) {
        uint64_t digits = (uint64_t)(wide * tens[places + more] + 0.5), bits;
        double back = (double)digits / tens[places + more];
        memcpy(&bits, &back, sizeof bits);
        if ((float)back == magnitude && (bits & F32_REST_MASK) != F32_REST_MIDWAY)
            return put_decimal(out, signbit(value) != 0, digits, places + more);
    }
    return 0;
}

/* Appends what snprintf made, with a full stop where the locale has another decimal point. */
static void put_real(lb_buf *out, const char *text)
{
    size_t whole = strspn(text, "-0123456789");
    size_t point = strcspn(text + whole, "e0123456789");
    lb_buf_append(out, text, whole);
    if (point > 0)
        lb_buf_append(out, ".", 1);
    lb_buf_puts(out, text + whole + point);
}

/* What JSON has no plain number for. "-0" would be read back as an integer, which has no sign. */
static bool special_real(lb_jsonw *w, double value)
{
    if (!isfinite(value)) {
        lb_jsonw_null(w);
        return true;
    }
    if (value != 0.0)
        return false;
    begin(w);
    lb_buf_puts(w->out, signbit(value) ? "-0.0" : "0");
    return true;
}

void lb_jsonw_f32(lb_jsonw *w, float value)
{
    char text[REAL_BYTES];
    if (special_real(w, (double)value))
        return;
    begin(w);
    size_t length = fast_f32(value, text);
    if (length > 0) {
        lb_buf_append(w->out, text, length);
        return;
    }
    for (int digits = F32_DIGITS_MIN; digits <= (int)F32_DIGITS_MAX; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    put_real(w->out, text);
}

void lb_jsonw_f64(lb_jsonw *w, double value)
{
    char text[REAL_BYTES];
    if (special_real(w, value))
        return;
    begin(w);
    for (int digits = F64_DIGITS_MIN; digits <= F64_DIGITS_MAX; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    put_real(w->out, text);
}

void lb_jsonw_bool(lb_jsonw *w, bool value)
{
    begin(w);
    lb_buf_puts(w->out, value ? "true" : "false");
}

void lb_jsonw_null(lb_jsonw *w)
{
    begin(w);
    lb_buf_puts(w->out, "null");
}

void lb_jsonw_node(lb_jsonw *w, const lb_json *node)
{
    begin(w);
    lb_json_dump(w->out, node, false);
}

void lb_jsonw_raw(lb_jsonw *w, const char *json, size_t length)
{
    begin(w);
    lb_buf_append(w->out, json, length);
}
