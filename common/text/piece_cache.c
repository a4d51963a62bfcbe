/* SPDX-License-Identifier: Apache-2.0
 *
 * Most pieces of a text have been there before: their ids are kept for the length of one call, in
 * a table of bounded size, which has no entry for a long piece or one of many ids.
 */
#include "common/text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

#define TEXT_MIN 2048u          /* bytes of a text for which a table is worth its zeroing */
#define ENTRIES_MIN 512u
#define ENTRIES_MAX 32768u
#define FNV_OFFSET 0xcbf29ce484222325ull
#define MULTIPLIER 0x9fb21c651e98df25ull

void lb_cache_open(lb_encoder *encoder, size_t text_length)
{
    uint32_t entries = ENTRIES_MIN;
    if (text_length < TEXT_MIN)
        return;
    while (entries < ENTRIES_MAX && entries < text_length / 8)
        entries *= 2;
    encoder->cache = calloc(entries, sizeof *encoder->cache);
    encoder->cache_mask = entries - 1;  /* without memory for it, there is none */
}

static uint32_t hash_of(lb_span piece)
{
    uint64_t hash = FNV_OFFSET ^ piece.length;
    size_t at = 0;
    for (; at + 8 <= piece.length; at += 8) {
        uint64_t word;
        memcpy(&word, piece.data + at, sizeof word);
        hash = (hash ^ word) * MULTIPLIER;
        hash ^= hash >> 29;
    }
    uint64_t rest = 0;
    for (; at < piece.length; at++)
        rest = rest << 8 | (uint8_t)piece.data[at];
    hash = (hash ^ rest) * MULTIPLIER;
    return (uint32_t)(hash >> 32);
}

lb_cached *lb_cache_find(lb_encoder *encoder, lb_span piece, bool *hit)
{
    uint32_t hash = hash_of(piece);
    lb_cached *entry = &encoder->cache[hash & encoder->cache_mask];
    *hit = entry->hash == hash && entry->length == piece.length &&
           memcmp(entry->bytes, piece.data, piece.length) == 0;
    if (!*hit) {
        entry->hash = hash;
        entry->length = 0;  /* until the ids are known */
    }
    return entry;
}
