/* SPDX-License-Identifier: Apache-2.0
 *
 * Byte-pair encoding of one piece (Sennrich, Haddow and Birch, "Neural Machine Translation of Rare
 * Words with Subword Units", ACL 2016): of all neighbouring pairs the one of lowest rank, leftmost
 * among equals, is merged until none is left. The symbols are a doubly linked list and the pairs a
 * binary heap, so that a piece of n bytes costs O(n log n): a text may be one long piece.
 */
#include "common/text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

#define NOWHERE UINT32_MAX
#define CAPACITY_MIN 64u

struct lb_symbol {
    uint32_t id;      /* LB_NO_TOKEN: merged into its left neighbour */
    uint32_t previous;
    uint32_t next;
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

static lb_status lay_out(lb_encoder *encoder, lb_span piece, lb_err *err)
{
    void *symbols = encoder->symbols;
    if (!reserve(&symbols, &encoder->symbol_capacity, piece.length, sizeof *encoder->symbols))
        return lb_fail(err, LB_ENOMEM, NULL, "out of memory for a piece of %zu bytes",
                       piece.length);
    encoder->symbols = symbols;
    for (size_t i = 0; i < piece.length; i++) {
        uint8_t byte = (uint8_t)piece.data[i];
        uint32_t id = encoder->tokenizer->vocab.byte_ids[byte];
        if (id == LB_NO_TOKEN)
            return lb_fail(err, LB_EDATA, "text", "the vocabulary has no token for byte 0x%02x",
                           byte);
        uint32_t at = (uint32_t)i;
        encoder->symbols[i] = (lb_symbol){.id = id, .previous = at == 0 ? NOWHERE : at - 1,
                                          .next = i + 1 < piece.length ? at + 1 : NOWHERE};
    }
    return LB_OK;
}

lb_status lb_bpe_encode(lb_encoder *encoder, lb_span piece, lb_err *err)
{
    uint32_t whole;
    if (piece.length == 0)
        return LB_OK;
    if (encoder->tokenizer->ignore_merges &&
        lb_vocab_find(&encoder->tokenizer->vocab, piece, &whole)) {
        if (!lb_tokens_push(encoder->out, whole))
            return lb_fail(err, LB_ENOMEM, NULL, "out of memory for tokens");
        return LB_OK;
    }
    lb_status status = lay_out(encoder, piece, err);
    if (status != LB_OK)
        return status;
    if (!merge_all(encoder, (uint32_t)piece.length))
        return lb_fail(err, LB_ENOMEM, NULL, "out of memory for a piece of %zu bytes",
                       piece.length);
    for (uint32_t at = 0; at != NOWHERE; at = encoder->symbols[at].next)
        if (!lb_tokens_push(encoder->out, encoder->symbols[at].id))
            return lb_fail(err, LB_ENOMEM, NULL, "out of memory for tokens");
    return LB_OK;
}
