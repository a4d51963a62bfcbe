/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/json.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 63u
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

/* printf follows the locale's decimal point; a program of ours never calls setlocale, so it is a
 * full stop. */
void lb_jsonw_f32(lb_jsonw *w, float value)
{
    char text[32];
    if (!isfinite(value)) {
        lb_jsonw_null(w);
        return;
    }
    begin(w);
    int length = 0;
    for (int digits = 6; digits <= 9; digits++) {
        length = snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    lb_buf_append(w->out, text, (size_t)length);
}

void lb_jsonw_f64(lb_jsonw *w, double value)
{
    char text[40];
    if (!isfinite(value)) {
        lb_jsonw_null(w);
        return;
    }
    begin(w);
    int length = 0;
    for (int digits = 15; digits <= 17; digits++) {
        length = snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    lb_buf_append(w->out, text, (size_t)length);
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
