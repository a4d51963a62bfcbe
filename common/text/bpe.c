/* SPDX-License-Identifier: Apache-2.0
 *
 * Byte-pair encoding of one piece (Sennrich, Haddow and Birch, "Neural Machine Translation of Rare
 * Words with Subword Units", ACL 2016): of all neighbouring pairs the one of lowest rank, leftmost
 * among equals, is merged until none is left. In a long piece the symbols are a doubly linked list
 * and the pairs a binary heap, so that n bytes cost O(n log n): a text may be one piece.
 */
#include "common/text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

#define NOWHERE UINT32_MAX
#define CAPACITY_MIN 64u
#define SHORT_PIECE 24u  /* symbols up to which looking at every pair is faster than a heap */

struct lb_symbol {
    uint32_t id;      /* LB_NO_TOKEN: merged into its left neighbour */
    uint32_t previous;
    uint32_t next;
    uint32_t length;  /* bytes of the piece */
};

/* A pair that could be merged. It is stale once either symbol has changed, which is seen when it
 * comes to the top, since taking it out of the middle would cost more. */
struct lb_candidate {
    uint32_t rank;
    uint32_t position;
    uint32_t left;
    uint32_t right;
    uint32_t id;
};

static bool before(const lb_candidate *a, const lb_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

static bool reserve(void **array, size_t *capacity, size_t need, size_t item)
{
    if (need <= *capacity)
        return true;
    size_t wanted = *capacity == 0 ? CAPACITY_MIN : *capacity;
    while (wanted < need)
        wanted *= 2;
    void *grown = realloc(*array, wanted * item);
    if (grown == NULL)
        return false;
    *array = grown;
    *capacity = wanted;
    return true;
}

static bool heap_push(lb_encoder *encoder, size_t *count, lb_candidate candidate)
{
    void *heap = encoder->heap;
    if (!reserve(&heap, &encoder->heap_capacity, *count + 1, sizeof *encoder->heap))
        return false;
    encoder->heap = heap;
    size_t at = (*count)++;
    while (at > 0 && before(&candidate, &encoder->heap[(at - 1) / 2])) {
        encoder->heap[at] = encoder->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    encoder->heap[at] = candidate;
    return true;
}

static lb_candidate heap_pop(lb_candidate *heap, size_t *count)
{
    lb_candidate top = heap[0];
    lb_candidate last = heap[--*count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= *count)
            break;
        if (child + 1 < *count && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &last))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* Enters the pair of the symbol at position and its right neighbour, if it has a merge. */
static bool consider(lb_encoder *encoder, size_t *count, uint32_t position)
{
    if (position == NOWHERE || encoder->symbols[position].next == NOWHERE)
        return true;
    const lb_symbol *left = &encoder->symbols[position];
    const lb_symbol *right = &encoder->symbols[left->next];
    const lb_merge *merge = lb_merges_find(&encoder->tokenizer->merges, left->id, right->id);
    if (merge == NULL)
        return true;
    return heap_push(encoder, count, (lb_candidate){.rank = merge->rank, .position = position,
                                                    .left = left->id, .right = right->id,
                                                    .id = merge->id});
}

static bool merge_all(lb_encoder *encoder, uint32_t length)
{
    lb_symbol *symbols = encoder->symbols;
    size_t count = 0;
    for (uint32_t i = 0; i + 1 < length; i++)
        if (!consider(encoder, &count, i))
            return false;
    while (count > 0) {
        lb_candidate top = heap_pop(encoder->heap, &count);
        lb_symbol *left = &symbols[top.position];
        if (left->id != top.left || left->next == NOWHERE ||
            symbols[left->next].id != top.right)
            continue;
        lb_symbol *right = &symbols[left->next];
        left->id = top.id;
        left->length += right->length;
        left->next = right->next;
        right->id = LB_NO_TOKEN;
        if (left->next != NOWHERE)
            symbols[left->next].previous = top.position;
        if (!consider(encoder, &count, left->previous) ||
            !consider(encoder, &count, top.position))
            return false;
    }
    return true;
}

/* The same for a few symbols, which lie side by side: returns how many are left. */
static uint32_t merge_short(const lb_merges *merges, lb_symbol *symbols, uint32_t count)
{
    const lb_merge *pairs[SHORT_PIECE];
    for (uint32_t i = 0; i + 1 < count; i++)
        pairs[i] = lb_merges_find(merges, symbols[i].id, symbols[i + 1].id);
    for (;;) {
        uint32_t best = NOWHERE;
        for (uint32_t i = 0; i + 1 < count; i++)
            if (pairs[i] != NULL && (best == NOWHERE || pairs[i]->rank < pairs[best]->rank))
                best = i;
        if (best == NOWHERE)
            return count;
        symbols[best].id = pairs[best]->id;
        symbols[best].length += symbols[best + 1].length;
        count--;
        for (uint32_t i = best + 1; i < count; i++) {
            symbols[i].id = symbols[i + 1].id;
            symbols[i].length = symbols[i + 1].length;
            pairs[i - 1] = pairs[i];
        }
        if (best > 0)
            pairs[best - 1] = lb_merges_find(merges, symbols[best - 1].id, symbols[best].id);
        if (best + 1 < count)
            pairs[best] = lb_merges_find(merges, symbols[best].id, symbols[best + 1].id);
    }
}

/* ---- the symbols to begin with ---- */

static void add_symbol(lb_encoder *encoder, uint32_t *count, uint32_t id, size_t length)
{
    uint32_t at = (*count)++;
    encoder->symbols[at] = (lb_symbol){.id = id, .previous = at == 0 ? NOWHERE : at - 1,
                                       .next = at + 1, .length = (uint32_t)length};
}

/* Symbols without a token that follow one another, and are one token if fuse_unk. */
typedef struct lb_unknown_run {
    size_t length;     /* 0: none */
} lb_unknown_run;

static void end_unknown(lb_encoder *encoder, uint32_t *count, lb_unknown_run *run)
{
    if (run->length > 0)
        add_symbol(encoder, count, encoder->tokenizer->unknown, run->length);
    run->length = 0;
}

/* A symbol without a token. Where the file has no unk_token either, the library leaves it out, and
 * counts the lengths of later tokens from there. */
static void add_unknown(lb_encoder *encoder, uint32_t *count, size_t length, lb_unknown_run *run)
{
    const lb_tokenizer *tokenizer = encoder->tokenizer;
    if (tokenizer->unknown == LB_NO_TOKEN)
        return;
    if (!tokenizer->fuse_unk)
        end_unknown(encoder, count, run);
    run->length += length;
}

static void lay_out_bytes(lb_encoder *encoder, lb_span piece, uint32_t *count)
{
    lb_unknown_run run = {0};
    for (size_t i = 0; i < piece.length; i++) {
        uint32_t id = encoder->tokenizer->vocab.byte_ids[(uint8_t)piece.data[i]];
        if (id == LB_NO_TOKEN) {
            add_unknown(encoder, count, 1, &run);
            continue;
        }
        end_unknown(encoder, count, &run);
        add_symbol(encoder, count, id, 1);
    }
    end_unknown(encoder, count, &run);
}

/* False when a byte of the character has no token; then none is added. */
static bool fall_back(lb_encoder *encoder, lb_span character, uint32_t *count)
{
    const uint32_t *ids = encoder->tokenizer->vocab.byte_ids;
    for (size_t i = 0; i < character.length; i++)
        if (ids[(uint8_t)character.data[i]] == LB_NO_TOKEN)
            return false;
    for (size_t i = 0; i < character.length; i++)
        add_symbol(encoder, count, ids[(uint8_t)character.data[i]], 1);
    return true;
}

/* A run of unknown characters goes on over one that falls back to bytes, and its token comes after
 * them: so the library does it, and only a vocabulary without some bytes shows it. */
static void lay_out_characters(lb_encoder *encoder, lb_span piece, uint32_t *count)
{
    const lb_tokenizer *tokenizer = encoder->tokenizer;
    lb_unknown_run run = {0};
    for (size_t at = 0, bytes; at < piece.length; at += bytes) {
        uint32_t id;
        (void)lb_utf8_at(piece, at, &bytes);
        lb_span character = {piece.data + at, bytes};
        if (lb_vocab_find(&tokenizer->vocab, character, &id)) {
            end_unknown(encoder, count, &run);
            add_symbol(encoder, count, id, bytes);
        } else if (!tokenizer->byte_fallback || !fall_back(encoder, character, count)) {
            add_unknown(encoder, count, bytes, &run);
        }
    }
    end_unknown(encoder, count, &run);
}

static lb_status lay_out(lb_encoder *encoder, lb_span piece, uint32_t *count, lb_err *err)
{
    void *symbols = encoder->symbols;
    if (!reserve(&symbols, &encoder->symbol_capacity, piece.length, sizeof *encoder->symbols))
        return lb_fail(err, LB_ENOMEM, NULL, "out of memory for a piece of %zu bytes",
                       piece.length);
    encoder->symbols = symbols;
    *count = 0;
    if (encoder->tokenizer->byte_level)
        lay_out_bytes(encoder, piece, count);
    else
        lay_out_characters(encoder, piece, count);
    if (*count > 0)
        encoder->symbols[*count - 1].next = NOWHERE;
    return LB_OK;
}

/* ---- pieces ---- */

static lb_status push_list(lb_encoder *encoder, const char *at, lb_err *err)
{
    lb_status status = LB_OK;
    for (uint32_t i = 0; status == LB_OK && i != NOWHERE; i = encoder->symbols[i].next) {
        const lb_symbol *symbol = &encoder->symbols[i];
        status = lb_encoder_push(encoder, symbol->id, at, symbol->length, err);
        at += symbol->length;
    }
    return status;
}

static lb_status push_array(lb_encoder *encoder, const char *at, uint32_t count, lb_err *err)
{
    lb_status status = LB_OK;
    for (uint32_t i = 0; status == LB_OK && i < count; i++) {
        const lb_symbol *symbol = &encoder->symbols[i];
        status = lb_encoder_push(encoder, symbol->id, at, symbol->length, err);
        at += symbol->length;
    }
    return status;
}

/* Bytes of a byte's character in the byte alphabet. */
static size_t alphabet_width(char byte)
{
    return byte >= '!' && byte <= '~' ? 1 : 2;
}

/* Moves *at, with *into bytes of its character done, on by width bytes of the alphabet. */
static void advance(lb_span piece, size_t *at, size_t *into, size_t width)
{
    for (*into += width; *at < piece.length; ++*at) {
        size_t one = alphabet_width(piece.data[*at]);
        if (*into < one)
            return;
        *into -= one;
    }
}

/* The tokens of a byte-level piece of which bytes were left out. Their offsets are the library's,
 * which adds up the lengths of the tokens in the byte alphabet. */
static lb_status push_with_gaps(lb_encoder *encoder, lb_span piece, lb_err *err)
{
    size_t at = 0, into = 0;
    lb_status status = LB_OK;
    for (uint32_t i = 0; status == LB_OK && i != NOWHERE; i = encoder->symbols[i].next) {
        uint32_t id = encoder->symbols[i].id;
        lb_span token = lb_vocab_text(&encoder->tokenizer->vocab, id);
        size_t width = 0, start = at;
        for (size_t k = 0; k < token.length; k++)
            width += alphabet_width(token.data[k]);
        advance(piece, &at, &into, width - 1);
        status = lb_encoder_push(encoder, id, piece.data + start, at + 1 - start, err);
        advance(piece, &at, &into, 1);
    }
    return status;
}

static void keep(lb_cached *entry, const lb_symbol *symbols, uint32_t count, lb_span piece)
{
    if (entry == NULL || count > LB_CACHED_IDS)
        return;
    for (uint32_t i = 0; i < count; i++) {
        entry->ids[i] = symbols[i].id;
        entry->lengths[i] = (uint8_t)symbols[i].length;
    }
    memcpy(entry->bytes, piece.data, piece.length);
    entry->count = (uint8_t)count;
    entry->length = (uint8_t)piece.length;
}

static lb_status encode_anew(lb_encoder *encoder, lb_span piece, lb_cached *entry, lb_err *err)
{
    uint32_t count = 0;
    lb_status status = lay_out(encoder, piece, &count, err);
    if (status != LB_OK || count == 0)
        return status;
    bool gaps = encoder->tokenizer->byte_level && count < piece.length &&
                encoder->offsets != NULL && encoder->tokenizer->unknown == LB_NO_TOKEN;
    if (count > SHORT_PIECE || gaps) {
        if (!merge_all(encoder, count))
            return lb_fail(err, LB_ENOMEM, NULL, "out of memory for a piece of %zu bytes",
                           piece.length);
        return gaps ? push_with_gaps(encoder, piece, err) : push_list(encoder, piece.data, err);
    }
    count = merge_short(&encoder->tokenizer->merges, encoder->symbols, count);
    keep(entry, encoder->symbols, count, piece);
    return push_array(encoder, piece.data, count, err);
}

static lb_status encode_piece(lb_encoder *encoder, lb_span piece, bool whole, lb_err *err)
{
    uint32_t id;
    bool hit = false;
    lb_cached *entry = NULL;
    if (encoder->cache != NULL && piece.length <= LB_CACHED_BYTES)
        entry = lb_cache_find(encoder, piece, &hit);
    if (!hit && whole && lb_vocab_find(&encoder->tokenizer->vocab, piece, &id)) {
        keep(entry, &(lb_symbol){.id = id, .length = (uint32_t)piece.length}, 1, piece);
        return lb_encoder_push(encoder, id, piece.data, piece.length, err);
    }
    if (!hit)
        return encode_anew(encoder, piece, entry, err);
    lb_status status = LB_OK;
    const char *at = piece.data;
    for (uint32_t i = 0; status == LB_OK && i < entry->count; i++) {
        status = lb_encoder_push(encoder, entry->ids[i], at, entry->lengths[i], err);
        at += entry->lengths[i];
    }
    return status;
}

/* ---- words of a piece ---- */

/* Whether the word-starting character stands in text behind another one. */
static bool reaches_back(lb_span text, uint32_t word_start)
{
    bool other = false;
    for (size_t at = 0, bytes; at < text.length; at += bytes) {
        bool start = (uint32_t)lb_utf8_at(text, at, &bytes) == word_start;
        if (start && other)
            return true;
        other = !start;
    }
    return false;
}

/* Without a step that splits, as SentencePiece's files have none, a text is one piece. But when no
 * merge makes a token in which U+2581 follows another character, nothing merges across the start
 * of a word, and words can be merged by themselves. */
void lb_bpe_find_word_start(lb_tokenizer *tokenizer)
{
    static const char metaspace[] = "\xe2\x96\x81";
    uint32_t id;
    const lb_merges *merges = &tokenizer->merges;
    tokenizer->word_start = 0;
    if (tokenizer->byte_level ||
        !lb_vocab_find(&tokenizer->vocab, (lb_span){metaspace, strlen(metaspace)}, &id))
        return;
    for (size_t i = 0; i <= merges->mask; i++)
        if (merges->slots[i].left != LB_NO_TOKEN &&
            reaches_back(lb_vocab_text(&tokenizer->vocab, merges->slots[i].id), 0x2581))
            return;
    for (unsigned byte = 0; tokenizer->byte_fallback && byte < LB_BYTE_VALUES; byte++)
        if (tokenizer->vocab.byte_ids[byte] == LB_NO_TOKEN)
            return;  /* an unknown character may be fused with one beyond the word */
    tokenizer->word_start = 0x2581;
}

/* End of the word that begins at `at`: before a U+2581 that follows another character. */
static size_t word_end(lb_span piece, size_t at)
{
    static const char metaspace[] = "\xe2\x96\x81";
    const size_t width = sizeof metaspace - 1;
    while (piece.length - at >= width && memcmp(piece.data + at, metaspace, width) == 0)
        at += width;
    if (at == piece.length)
        return at;
    const char *next = memmem(piece.data + at, piece.length - at, metaspace, width);
    return next == NULL ? piece.length : (size_t)(next - piece.data);
}

lb_status lb_bpe_encode(lb_encoder *encoder, lb_span piece, lb_err *err)
{
    const lb_tokenizer *tokenizer = encoder->tokenizer;
    bool whole = tokenizer->ignore_merges;
    uint32_t id;
    if (piece.length == 0)
        return LB_OK;
    if (tokenizer->word_start == 0)
        return encode_piece(encoder, piece, whole, err);
    if (whole && piece.length <= LB_TOKEN_BYTES_MAX && lb_vocab_find(&tokenizer->vocab, piece, &id))
        return lb_encoder_push(encoder, id, piece.data, piece.length, err);
    lb_status status = LB_OK;
    for (size_t at = 0, end; status == LB_OK && at < piece.length; at = end) {
        end = word_end(piece, at);
        status = encode_piece(encoder, (lb_span){piece.data + at, end - at}, false, err);
    }
    return status;
}
