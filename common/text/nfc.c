/* SPDX-License-Identifier: Apache-2.0
 *
 * Normalization Form C (Unicode Standard Annex 15). Most text is in it already: runs of characters
 * that neither change nor combine are copied, and only what lies around the others is decomposed,
 * ordered and composed, each character with the count of originals it stands for, from which
 * offsets follow as in Hugging Face's library.
 */
#include "common/text/tokenizer_impl.h"

#include <string.h>
#include <utf8proc.h>

#define DECOMPOSITION_MAX 8   /* code points; the longest canonical one has 4 */
#define UTF8_MAX 4
#define MARK_RUN_SHORT 16u    /* up to here insertion sort is faster than counting */
#define FIRST_BYTE_OF_MARKS 0xCCu  /* below U+0300 every text is in NFC */

/* Combining characters newer than the tables of Hugging Face's library, which takes them for
 * unassigned: they neither move nor combine. */
static const int32_t newer[][2] = {
    {0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0xece, 0xece},
    {0x1715, 0x1715},   {0x1abf, 0x1aff},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},
    {0x105c0, 0x105ff}, {0x10d24, 0x10d27}, {0x10d69, 0x10d6d}, {0x10eab, 0x10eac},
    {0x10efa, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070},
    {0x1133b, 0x1133b}, {0x11380, 0x113ff}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x11930, 0x11930}, {0x11935, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34},
    {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d45}, {0x11d97, 0x11d97},
    {0x11f41, 0x11f42}, {0x16100, 0x1613f}, {0x16d40, 0x16d7f}, {0x16ff0, 0x16ff1},
    {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
    {0x1e4ec, 0x1e4ef}, {0x1e5ee, 0x1e5ef}, {0x1e6e0, 0x1e6ff},
};

typedef struct lb_point {
    int32_t character;
    int32_t change;    /* 1: put in; 0: in place of one character; -n: of n more than one */
} lb_point;

static bool is_newer(int32_t c)
{
    size_t low = 0, high = sizeof newer / sizeof newer[0];
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c > newer[middle][1])
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof newer / sizeof newer[0] && c >= newer[low][0];
}

static unsigned combining_class(int32_t character)
{
    unsigned class = (unsigned)utf8proc_get_property(character)->combining_class;
    return class != 0 && is_newer(character) ? 0 : class;
}

static int decompose_one(int32_t character, int32_t parts[DECOMPOSITION_MAX])
{
    int boundary = 0;
    utf8proc_ssize_t count = utf8proc_decompose_char(character, parts, DECOMPOSITION_MAX,
                                                     UTF8PROC_DECOMPOSE, &boundary);
    return count < 1 || count > DECOMPOSITION_MAX ? 0 : (int)count;
}

/* Whether a character is itself in NFC whatever surrounds it, and no later part of a composition;
 * false may also be said of one that is. */
static bool is_inert(int32_t c)
{
    int32_t parts[DECOMPOSITION_MAX];
    if (c < 0x300 || (c >= 0x3400 && c <= 0x9FFF) || (c >= 0xAC00 && c <= 0xD7A3))
        return true;
    if (c >= 0x1160 && c <= 0x11FF)  /* vowels and finals of Hangul */
        return false;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return is_newer(c);
    default:
        break;
    }
    if (combining_class(c) == 0 && decompose_one(c, parts) == 1 && parts[0] == c)
        return true;
    return is_newer(c);
}

/* ---- one segment: decompose, order, compose ---- */

static bool decompose(lb_span text, lb_buf *out)
{
    for (size_t offset = 0, bytes; offset < text.length; offset += bytes) {
        int32_t parts[DECOMPOSITION_MAX];
        int32_t character = lb_utf8_at(text, offset, &bytes);
        int count = is_newer(character) ? 0 : decompose_one(character, parts);
        lb_point point = {character, 0};
        for (int i = 0; i < (count == 0 ? 1 : count); i++) {
            point.character = count == 0 ? character : parts[i];
            point.change = i > 0;
            lb_buf_append(out, &point, sizeof point);
        }
    }
    return out->status == LB_OK;
}

static void sort_short_run(lb_point *run, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        lb_point mark = run[i];
        unsigned class = combining_class(mark.character);
        size_t at = i;
        for (; at > 0 && combining_class(run[at - 1].character) > class; at--)
            run[at] = run[at - 1];
        run[at] = mark;
    }
}

/* A stable counting sort: marks of one class keep their order. */
static bool sort_long_run(lb_point *run, size_t count, lb_buf *scratch)
{
    size_t starts[LB_BYTE_VALUES + 1] = {0};
    lb_buf_clear(scratch);
    lb_point *copy = lb_buf_extend(scratch, count * sizeof *copy);
    if (copy == NULL)
        return false;
    memcpy(copy, run, count * sizeof *copy);
    for (size_t i = 0; i < count; i++)
        starts[combining_class(copy[i].character) % LB_BYTE_VALUES + 1]++;
    for (size_t class = 1; class <= LB_BYTE_VALUES; class++)
        starts[class] += starts[class - 1];
    for (size_t i = 0; i < count; i++)
        run[starts[combining_class(copy[i].character) % LB_BYTE_VALUES]++] = copy[i];
    return true;
}

/* Canonical ordering. utf8proc's own exchanges neighbours, which takes time quadratic in the length
 * of a run: a megabyte of marks in a hostile text would hold a thread for minutes. */
static bool order_marks(lb_point *points, size_t count, lb_buf *scratch)
{
    size_t start = 0;
    while (start < count) {
        if (combining_class(points[start].character) == 0) {
            start++;
            continue;
        }
        size_t end = start + 1;
        while (end < count && combining_class(points[end].character) != 0)
            end++;
        if (end - start <= MARK_RUN_SHORT)
            sort_short_run(points + start, end - start);
        else if (!sort_long_run(points + start, end - start, scratch))
            return false;
        start = end;
    }
    return true;
}

/* The primary composite of two characters, -1 if there is none. */
static int32_t compose_pair(int32_t first, int32_t second)
{
    utf8proc_int32_t pair[3] = {first, second, 0};
    if (is_newer(first) || is_newer(second))
        return -1;
    utf8proc_ssize_t count = utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    return count == 1 ? pair[0] : -1;
}

/* In place; returns the new count. A mark combines with the last starter unless one of its own
 * class or a higher one, or another starter, is left between them. */
static size_t compose(lb_point *points, size_t count)
{
    size_t starter = SIZE_MAX, kept = 0;
    unsigned last_class = 0;
    for (size_t i = 0; i < count; i++) {
        lb_point point = points[i];
        unsigned class = combining_class(point.character);
        bool adjacent = starter != SIZE_MAX && kept == starter + 1;
        if (starter != SIZE_MAX && (adjacent || (class > last_class && class != 0))) {
            int32_t both = compose_pair(points[starter].character, point.character);
            if (both >= 0) {
                points[starter].character = both;
                points[starter].change += point.change - 1;
                continue;
            }
        }
        if (class == 0)
            starter = kept;
        last_class = class;
        points[kept++] = point;
    }
    return kept;
}

/* ---- the whole text ---- */

typedef struct lb_nfc {
    const lb_frame *frame;
    lb_rewrite *out;
    lb_buf points;
    lb_buf scratch;
} lb_nfc;

static void put_point(lb_nfc *nfc, lb_point point, size_t *from)
{
    const lb_frame *frame = nfc->frame;
    uint8_t bytes[UTF8_MAX];
    size_t length = (size_t)utf8proc_encode_char(point.character, bytes);
    size_t beside = point.change > 0 && *from > 0 ? *from - 1 : *from;
    lb_rewrite_put(nfc->out, frame, (lb_span){(const char *)bytes, length}, frame->data + beside);
    for (int32_t taken = point.change; taken <= 0 && *from < frame->length; taken++) {
        do {
            ++*from;
        } while (*from < frame->length && ((uint8_t)frame->data[*from] & 0xC0) == 0x80);
    }
}

static bool put_segment(lb_nfc *nfc, size_t start, size_t end)
{
    lb_buf_clear(&nfc->points);
    if (!decompose((lb_span){nfc->frame->data + start, end - start}, &nfc->points))
        return false;
    lb_point *points = (lb_point *)(void *)nfc->points.data;
    size_t count = nfc->points.length / sizeof *points, from = start;
    if (!order_marks(points, count, &nfc->scratch))
        return false;
    count = compose(points, count);
    for (size_t i = 0; i < count; i++)
        put_point(nfc, points[i], &from);
    return true;
}

static lb_span between(const lb_frame *frame, size_t start, size_t end)
{
    return (lb_span){frame->data + start, end - start};
}

lb_status lb_text_nfc(const lb_frame *frame, lb_rewrite *out, bool *changed, lb_err *err)
{
    lb_nfc nfc = {.frame = frame, .out = out};
    lb_span text = {frame->data, frame->length};
    size_t done = 0, last = 0;  /* what is in out; start of the last inert character */
    bool good = true;
    *changed = false;
    for (size_t at = 0, bytes; good && at < text.length; at += bytes) {
        bytes = 1;
        if ((uint8_t)text.data[at] < FIRST_BYTE_OF_MARKS ||
            is_inert(lb_utf8_at(text, at, &bytes))) {
            if (((uint8_t)text.data[at] & 0xC0) != 0x80)
                last = at;
            continue;
        }
        size_t end = at + bytes;
        while (end < text.length && !is_inert(lb_utf8_at(text, end, &bytes)))
            end += bytes;
        lb_rewrite_copy(out, frame, between(frame, done, last));
        good = put_segment(&nfc, last, end);
        *changed = true;
        done = last = end;
        at = end;
        bytes = 0;
    }
    if (*changed)
        lb_rewrite_copy(out, frame, between(frame, done, text.length));
    lb_buf_free(&nfc.points);
    lb_buf_free(&nfc.scratch);
    return good ? LB_OK : lb_fail(err, LB_ENOMEM, NULL, "out of memory while normalising text");
}
