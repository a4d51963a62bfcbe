/* SPDX-License-Identifier: Apache-2.0
 *
 * Splitting a text into pieces: each step hands its pieces to the next one, and the last to BPE,
 * so that no list of pieces is kept.
 */
#include "common/text/tokenizer_impl.h"

#include "common/base/clock.h"

#include <assert.h>
#include <string.h>

/* An honest expression splits the longest text in about a second. The deadline is for one that
 * takes long at every character, which a limit for each single match does not catch. */
#define SPLIT_MS_MAX 30000
#define MATCHES_BETWEEN_LOOKS 16u

static lb_status run(lb_encoder *encoder, size_t step, lb_span text, lb_err *err);

static lb_span part(lb_span text, size_t start, size_t end)
{
    return (lb_span){text.data + start, end - start};
}

static lb_status look_at_clock(lb_encoder *encoder, lb_err *err)
{
    if (encoder->matches++ % MATCHES_BETWEEN_LOOKS != 0)
        return LB_OK;
    int64_t now = lb_clock_ms();
    if (encoder->deadline_ms == 0)
        encoder->deadline_ms = now + SPLIT_MS_MAX;
    if (now <= encoder->deadline_ms)
        return LB_OK;
    return lb_fail(err, LB_ETIMEOUT, "text", "splitting the text took longer than %d ms",
                   SPLIT_MS_MAX);
}

static lb_status find_literal(const lb_step *step, lb_span text, size_t from, lb_match *match)
{
    const char *at = memmem(text.data + from, text.length - from, step->pattern,
                            step->pattern_length);
    match->found = at != NULL;
    if (at != NULL) {
        match->start = (size_t)(at - text.data);
        match->end = match->start + step->pattern_length;
    }
    return LB_OK;
}

static lb_status find(lb_encoder *encoder, const lb_step *step, lb_span text, size_t from,
                      lb_match *match, lb_err *err)
{
    if (step->kind == LB_STEP_LITERAL)
        return find_literal(step, text, from, match);
    if (encoder->matcher == NULL) {
        lb_status status = lb_matcher_create(&encoder->matcher, err);
        if (status != LB_OK)
            return status;
    }
    lb_status status = look_at_clock(encoder, err);
    if (status != LB_OK)
        return status;
    return lb_regex_find(step->regex, encoder->matcher, text, from, match, err);
}

/* Matches are pieces, and so is what lies between them. An empty match only ends a piece. */
static lb_status split_by_matches(lb_encoder *encoder, size_t step, lb_span text, lb_err *err)
{
    size_t done = 0, from = 0;
    while (from < text.length) {
        lb_match match = {0};
        lb_status status = find(encoder, &encoder->tokenizer->steps[step], text, from, &match,
                                err);
        if (status != LB_OK)
            return status;
        if (!match.found || match.start == text.length)
            break;
        status = run(encoder, step + 1, part(text, done, match.start), err);
        if (status == LB_OK)
            status = run(encoder, step + 1, part(text, match.start, match.end), err);
        if (status != LB_OK)
            return status;
        size_t bytes = 0;
        if (match.end == match.start)
            (void)lb_utf8_at(text, match.end, &bytes);
        done = match.end;
        from = match.end + bytes;
    }
    return run(encoder, step + 1, part(text, done, text.length), err);
}

static lb_status split_digits(lb_encoder *encoder, size_t step, lb_span text, lb_err *err)
{
    bool each = encoder->tokenizer->steps[step].kind == LB_STEP_EACH_DIGIT;
    bool last = false;
    size_t done = 0;
    for (size_t offset = 0, bytes; offset < text.length; offset += bytes) {
        bool numeric = lb_char_is_numeric(lb_utf8_at(text, offset, &bytes));
        bool boundary = numeric != last || (numeric && each);
        last = numeric;
        if (!boundary)
            continue;
        lb_status status = run(encoder, step + 1, part(text, done, offset), err);
        if (status != LB_OK)
            return status;
        done = offset;
    }
    return run(encoder, step + 1, part(text, done, text.length), err);
}

static lb_status split_by_scan(lb_encoder *encoder, size_t step, lb_span text, lb_err *err)
{
    const lb_tokenizer *tokenizer = encoder->tokenizer;
    lb_scan_kind kind = tokenizer->steps[step].scan;
    lb_status status = LB_OK;
    for (size_t at = 0, end; status == LB_OK && at < text.length; at = end) {
        end = lb_scan_next(kind, tokenizer->classes, text, at);
        status = run(encoder, step + 1, part(text, at, end), err);
    }
    return status;
}

/* Hands on the text in encoder->pre, piece by piece where the step splits. */
static lb_status run_rewritten(lb_encoder *encoder, size_t step, lb_err *err)
{
    const lb_step *with = &encoder->tokenizer->steps[step];
    lb_frame outer = encoder->frame;
    lb_status status = lb_rewrite_frame(&encoder->pre, &encoder->frame, err);
    lb_span text = {encoder->frame.data, encoder->frame.length};
    size_t at = 0;
    while (status == LB_OK && with->split && at < text.length) {
        size_t from = at, end = text.length;
        if (end - at >= with->pattern_length &&
            memcmp(text.data + at, with->pattern, with->pattern_length) == 0)
            from = at + with->pattern_length;
        const char *next = memmem(text.data + from, end - from, with->pattern,
                                  with->pattern_length);
        if (next != NULL)
            end = (size_t)(next - text.data);
        status = run(encoder, step + 1, part(text, at, end), err);
        at = end;
    }
    if (status == LB_OK && !with->split)
        status = run(encoder, step + 1, text, err);
    encoder->frame = outer;
    return status;
}

/* A tokenizer has at most one step that rewrites, so its buffer is free when this is called. */
static lb_status prefix_space(lb_encoder *encoder, size_t step, lb_span text, lb_err *err)
{
    if (text.data[0] == ' ')
        return run(encoder, step + 1, text, err);
    lb_rewrite_clear(&encoder->pre);
    lb_rewrite_put(&encoder->pre, &encoder->frame, (lb_span){" ", 1}, text.data);
    lb_rewrite_copy(&encoder->pre, &encoder->frame, text);
    return run_rewritten(encoder, step, err);
}

static bool begins_with(lb_span text, lb_span with)
{
    return text.length >= with.length && memcmp(text.data, with.data, with.length) == 0;
}

static lb_status metaspace(lb_encoder *encoder, size_t step, lb_span text, lb_err *err)
{
    const lb_step *with = &encoder->tokenizer->steps[step];
    lb_span mark = {with->pattern, with->pattern_length};
    lb_rewrite *out = &encoder->pre;
    bool first = encoder->frame.origin == 0 && text.data == encoder->frame.data;
    lb_rewrite_clear(out);
    if (!begins_with(text, mark) && text.data[0] != ' ' &&
        (with->prepend == LB_PREPEND_ALWAYS || (with->prepend == LB_PREPEND_FIRST && first)))
        lb_rewrite_put(out, &encoder->frame, mark, text.data);
    if (!lb_rewrite_replace(out, &encoder->frame, text, (lb_span){" ", 1}, mark))
        lb_rewrite_copy(out, &encoder->frame, text);
    return run_rewritten(encoder, step, err);
}

static lb_status run(lb_encoder *encoder, size_t step, lb_span text, lb_err *err)
{
    if (text.length == 0)
        return LB_OK;
    if (step == encoder->tokenizer->step_count)
        return lb_bpe_encode(encoder, text, err);
    switch (encoder->tokenizer->steps[step].kind) {
    case LB_STEP_REGEX:
    case LB_STEP_LITERAL:
        if (encoder->tokenizer->steps[step].scan != LB_SCAN_NONE)
            return split_by_scan(encoder, step, text, err);
        return split_by_matches(encoder, step, text, err);
    case LB_STEP_DIGITS:
    case LB_STEP_EACH_DIGIT:
        return split_digits(encoder, step, text, err);
    case LB_STEP_PREFIX_SPACE:
        return prefix_space(encoder, step, text, err);
    case LB_STEP_METASPACE:
        return metaspace(encoder, step, text, err);
    }
    return lb_fail(err, LB_EINTERNAL, "pre_tokenizer", "step %zu is of no known kind", step);
}

lb_status lb_pretokenize(lb_encoder *encoder, lb_span text, lb_err *err)
{
    return run(encoder, 0, text, err);
}
