/* SPDX-License-Identifier: Apache-2.0
 *
 * The digest: all that decides which ids a text gets, in one fixed order. Two files that spell
 * their merges in two ways, or list their vocabulary in two orders, have one digest.
 */
#include "common/text/tokenizer_impl.h"

#include <stdlib.h>

static const char digest_magic[] = "limbeck tokenizer 1";

static void put_bytes(lb_buf *out, const char *data, size_t length)
{
    lb_buf_u32(out, (uint32_t)length);
    lb_buf_append(out, data, length);
}

static void put_vocab(lb_buf *out, const lb_vocab *vocab)
{
    lb_buf_u32(out, vocab->size);
    for (uint32_t id = 0; id < vocab->size; id++) {
        lb_span text = lb_vocab_text(vocab, id);
        if (!lb_vocab_has(vocab, id))
            continue;
        lb_buf_u32(out, id);
        lb_buf_u32(out, vocab->tokens[id].flags);
        put_bytes(out, text.data, text.length);
    }
}

static int by_rank(const void *a, const void *b)
{
    const lb_merge *x = a, *y = b;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

static bool put_merges(lb_buf *out, const lb_merges *merges)
{
    size_t count = 0;
    lb_buf_u32(out, merges->count);
    if (merges->count == 0)
        return true;
    lb_merge *sorted = malloc(merges->count * sizeof *sorted);
    if (sorted == NULL)
        return false;
    for (size_t i = 0; i <= merges->mask; i++)
        if (merges->slots[i].left != LB_NO_TOKEN)
            sorted[count++] = merges->slots[i];
    qsort(sorted, count, sizeof *sorted, by_rank);
    for (size_t i = 0; i < count; i++) {
        lb_buf_u32(out, sorted[i].left);
        lb_buf_u32(out, sorted[i].right);
        lb_buf_u32(out, sorted[i].id);
    }
    free(sorted);
    return true;
}

static void put_added(lb_buf *out, const lb_added_set *set)
{
    lb_buf_u32(out, (uint32_t)set->count);
    for (size_t i = 0; i < set->count; i++) {
        const lb_added *added = &set->items[i];
        uint8_t flags = (uint8_t)(added->special | added->lstrip << 1 | added->rstrip << 2 |
                                  added->single_word << 3);
        lb_buf_u32(out, added->id);
        lb_buf_append(out, &flags, 1);
        put_bytes(out, added->text, added->length);
    }
}

static void put_steps(lb_buf *out, const lb_tokenizer *tokenizer)
{
    bool nfc = tokenizer->normal_count == 1 && tokenizer->normals[0].kind == LB_NORMAL_NFC;
    uint8_t flags = (uint8_t)(nfc | tokenizer->ignore_merges << 1);
    lb_buf_append(out, &flags, 1);
    lb_buf_u32(out, (uint32_t)tokenizer->step_count);
    for (size_t i = 0; i < tokenizer->step_count; i++) {
        lb_buf_u32(out, (uint32_t)tokenizer->steps[i].kind);
        put_bytes(out, tokenizer->steps[i].pattern, tokenizer->steps[i].pattern_length);
    }
    lb_buf_u32(out, (uint32_t)tokenizer->bos_count);
    for (size_t i = 0; i < tokenizer->bos_count; i++)
        lb_buf_u32(out, tokenizer->bos[i]);
}

/* What a byte-level file with NFC or no normalizer has none of adds nothing, so that the digests
 * of such files are those of releases that knew no others. */
static void put_options(lb_buf *out, const lb_tokenizer *tokenizer)
{
    uint8_t flags = (uint8_t)((tokenizer->byte_level ? 0 : 1) | tokenizer->byte_fallback << 1 |
                              tokenizer->fuse_unk << 2);
    if (flags != 0 || tokenizer->unknown != LB_NO_TOKEN) {
        lb_buf_append(out, &flags, 1);
        lb_buf_u32(out, tokenizer->unknown);
    }
    for (size_t i = 0; i < tokenizer->normal_count; i++) {
        const lb_normal *normal = &tokenizer->normals[i];
        if (tokenizer->normal_count == 1 && normal->kind == LB_NORMAL_NFC)
            break;
        lb_buf_u32(out, (uint32_t)normal->kind);
        put_bytes(out, normal->pattern, normal->pattern_length);
        put_bytes(out, normal->content, normal->content_length);
    }
    for (size_t i = 0; i < tokenizer->step_count; i++) {
        const lb_step *step = &tokenizer->steps[i];
        uint8_t how[2] = {(uint8_t)step->prepend, step->split};
        if (step->kind == LB_STEP_METASPACE)
            lb_buf_append(out, how, sizeof how);
    }
}

lb_status lb_tokenizer_make_digest(lb_tokenizer *tokenizer, lb_err *err)
{
    lb_buf text = {0};
    uint8_t digest[LB_SHA256_BYTES];
    lb_status status = LB_OK;
    lb_buf_append(&text, digest_magic, sizeof digest_magic);
    put_vocab(&text, &tokenizer->vocab);
    bool sorted = put_merges(&text, &tokenizer->merges);
    put_added(&text, &tokenizer->raw);
    put_added(&text, &tokenizer->normalized);
    put_steps(&text, tokenizer);
    put_options(&text, tokenizer);
    if (!sorted || text.status != LB_OK) {
        status = lb_fail(err, LB_ENOMEM, NULL, "out of memory for the tokenizer's digest");
        goto done;
    }
    lb_sha256_of(text.data, text.length, digest);
    lb_sha256_hex(digest, tokenizer->digest);
done:
    lb_buf_free(&text);
    return status;
}
