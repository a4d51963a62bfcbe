/* SPDX-License-Identifier: Apache-2.0
 *
 * The normalizer, and where the bytes of a rewritten text come from. Offsets follow the rules of
 * Hugging Face's tokenizers: what is put in belongs to the character beside it.
 */
#include "common/text/tokenizer_impl.h"

#include <string.h>

/* ---- frames ---- */

lb_offset lb_frame_offset(const lb_frame *frame, const char *at)
{
    size_t start = (size_t)(at - frame->data);
    if (frame->map != NULL)
        return frame->map[start];
    size_t end = start + 1;
    while (start > 0 && ((uint8_t)frame->data[start] & 0xC0) == 0x80)
        start--;
    while (end < frame->length && ((uint8_t)frame->data[end] & 0xC0) == 0x80)
        end++;
    return (lb_offset){(uint32_t)(frame->origin + start), (uint32_t)(frame->origin + end)};
}

void lb_rewrite_clear(lb_rewrite *rewrite)
{
    lb_buf_clear(&rewrite->text);
    lb_buf_clear(&rewrite->map);
    rewrite->text.limit = LB_TOKENIZER_NORMAL_MAX;
}

void lb_rewrite_free(lb_rewrite *rewrite)
{
    lb_buf_free(&rewrite->text);
    lb_buf_free(&rewrite->map);
}

void lb_rewrite_copy(lb_rewrite *rewrite, const lb_frame *frame, lb_span bytes)
{
    lb_buf_append(&rewrite->text, bytes.data, bytes.length);
    if (!rewrite->mapped || bytes.length == 0 || rewrite->text.status != LB_OK)
        return;
    if (frame->map != NULL) {
        lb_buf_append(&rewrite->map, frame->map + (bytes.data - frame->data),
                      bytes.length * sizeof *frame->map);
        return;
    }
    lb_offset *map = lb_buf_extend(&rewrite->map, bytes.length * sizeof *map);
    for (size_t i = 0; map != NULL && i < bytes.length; i++) {
        bool inside = i > 0 && ((uint8_t)bytes.data[i] & 0xC0) == 0x80;
        map[i] = inside ? map[i - 1] : lb_frame_offset(frame, bytes.data + i);
    }
}

void lb_rewrite_put(lb_rewrite *rewrite, const lb_frame *frame, lb_span bytes, const char *from)
{
    lb_buf_append(&rewrite->text, bytes.data, bytes.length);
    if (!rewrite->mapped || rewrite->text.status != LB_OK)
        return;
    lb_offset offset = lb_frame_offset(frame, from);
    for (size_t i = 0; i < bytes.length; i++)
        lb_buf_append(&rewrite->map, &offset, sizeof offset);
}

bool lb_rewrite_replace(lb_rewrite *rewrite, const lb_frame *frame, lb_span text, lb_span pattern,
                        lb_span content)
{
    const char *done = text.data, *end = text.data + text.length;
    const char *at = memmem(done, text.length, pattern.data, pattern.length);
    if (at == NULL)
        return false;
    while (at != NULL && rewrite->text.status == LB_OK) {
        lb_rewrite_copy(rewrite, frame, (lb_span){done, (size_t)(at - done)});
        lb_rewrite_put(rewrite, frame, content, at + pattern.length - 1);
        done = at + pattern.length;
        at = memmem(done, (size_t)(end - done), pattern.data, pattern.length);
    }
    lb_rewrite_copy(rewrite, frame, (lb_span){done, (size_t)(end - done)});
    return true;
}

lb_status lb_rewrite_frame(const lb_rewrite *rewrite, lb_frame *out, lb_err *err)
{
    if (rewrite->text.status == LB_ETOOBIG)
        return lb_fail(err, LB_ETOOBIG, "text", "has more than %u bytes once it is normalised",
                       LB_TOKENIZER_NORMAL_MAX);
    if (rewrite->text.status != LB_OK || rewrite->map.status != LB_OK)
        return lb_fail(err, LB_ENOMEM, NULL, "out of memory while normalising text");
    *out = (lb_frame){
        .data = rewrite->text.length == 0 ? "" : (const char *)rewrite->text.data,
        .length = rewrite->text.length,
        .map = rewrite->mapped ? (const lb_offset *)(const void *)rewrite->map.data : NULL,
    };
    return LB_OK;
}

/* ---- the steps ---- */

static lb_status run_step(const lb_normal *step, const lb_frame *frame, lb_rewrite *out,
                          bool *changed, lb_err *err)
{
    lb_span text = {frame->data, frame->length};
    lb_span content = {step->content, step->content_length};
    *changed = false;
    switch (step->kind) {
    case LB_NORMAL_NFC:
        return lb_text_nfc(frame, out, changed, err);
    case LB_NORMAL_PREPEND:
        lb_rewrite_put(out, frame, content, text.data);
        lb_rewrite_copy(out, frame, text);
        *changed = true;
        return LB_OK;
    case LB_NORMAL_REPLACE:
        *changed = lb_rewrite_replace(out, frame, text,
                                      (lb_span){step->pattern, step->pattern_length}, content);
        return LB_OK;
    }
    return lb_fail(err, LB_EINTERNAL, "normalizer", "a step is of no known kind");
}

lb_status lb_normalize(const lb_tokenizer *tokenizer, lb_rewrite buffers[2], lb_frame *frame,
                       lb_err *err)
{
    lb_status status = LB_OK;
    size_t origin = frame->origin;
    unsigned next = 0;
    for (size_t i = 0; status == LB_OK && i < tokenizer->normal_count; i++) {
        bool changed = false;
        if (frame->length == 0)
            return LB_OK;
        lb_rewrite_clear(&buffers[next]);
        status = run_step(&tokenizer->normals[i], frame, &buffers[next], &changed, err);
        if (status != LB_OK || !changed)
            continue;
        status = lb_rewrite_frame(&buffers[next], frame, err);
        frame->origin = origin;
        next = 1 - next;
    }
    return status;
}
