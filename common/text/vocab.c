/* SPDX-License-Identifier: Apache-2.0
 *
 * The two hash tables, tokens by their bytes and merges by their pair, both of open addressing at
 * most half full. A file made to collide is refused at PROBES_MAX; an honest one needs fewer than
 * a hundred probes.
 */
#include "common/text/tokenizer_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PROBES_MAX 1024u
#define SLOTS_MIN 16u
#define IDS_MIN 512u
#define FNV_OFFSET 0xcbf29ce484222325ull
#define FNV_PRIME 0x100000001b3ull

/* ---- the byte alphabet of GPT-2 ---- */

/* Bytes that print as Latin-1 spell themselves; the other 68 are U+0100 onwards in their order. */
enum {
    OTHER_FIRST = 0x100,
    LOW_CONTROLS = 33,  /* 0x00 to the space */
    HIGH_START = 127,   /* delete, C1 controls, no-break space */
    HIGH_COUNT = 34,
    SOFT_HYPHEN = 173,
};

static int alphabet_byte(int32_t character)
{
    if ((character >= '!' && character <= '~') || (character >= 0xA1 && character <= 0xFF &&
                                                   character != SOFT_HYPHEN))
        return character;
    int32_t other = character - OTHER_FIRST;
    if (other < 0)
        return -1;
    if (other < LOW_CONTROLS)
        return other;
    if (other < LOW_CONTROLS + HIGH_COUNT)
        return HIGH_START + other - LOW_CONTROLS;
    return other == LOW_CONTROLS + HIGH_COUNT ? SOFT_HYPHEN : -1;
}

bool lb_alphabet_decode(lb_span spelling, char *out, size_t *length)
{
    size_t count = 0;
    for (size_t offset = 0, bytes; offset < spelling.length; offset += bytes) {
        int value = alphabet_byte(lb_utf8_at(spelling, offset, &bytes));
        if (value < 0 || count == LB_TOKEN_BYTES_MAX)
            return false;
        out[count++] = (char)(unsigned char)value;
    }
    *length = count;
    return true;
}

/* ---- hashes ---- */

/* The finaliser of MurmurHash3 (Appleby), so that the low bits depend on all. */
static uint32_t mix(uint64_t value)
{
    value ^= value >> 33;
    value *= 0xff51afd7ed558ccdull;
    value ^= value >> 33;
    value *= 0xc4ceb9fe1a85ec53ull;
    value ^= value >> 33;
    return (uint32_t)value;
}

static uint32_t hash_bytes(lb_span bytes)
{
    uint64_t hash = FNV_OFFSET;
    for (size_t i = 0; i < bytes.length; i++)
        hash = (hash ^ (uint8_t)bytes.data[i]) * FNV_PRIME;
    return mix(hash);
}

static uint32_t hash_pair(uint32_t left, uint32_t right)
{
    return mix((uint64_t)left << 32 | right);
}

static uint32_t slots_for(size_t count)
{
    uint32_t slots = SLOTS_MIN;
    while (slots < 2 * count)
        slots *= 2;
    return slots;
}

/* ---- tokens ---- */

lb_status lb_vocab_init(lb_vocab *vocab, size_t count, lb_err *err)
{
    assert(count <= LB_TOKENIZER_IDS_MAX);
    uint32_t slots = slots_for(count);
    for (size_t i = 0; i < LB_BYTE_VALUES; i++)
        vocab->byte_ids[i] = LB_NO_TOKEN;
    vocab->slots = calloc(slots, sizeof *vocab->slots);
    if (vocab->slots == NULL)
        return lb_fail(err, LB_ENOMEM, "model.vocab", "out of memory for %zu tokens", count);
    vocab->mask = slots - 1;
    return LB_OK;
}

void lb_vocab_free(lb_vocab *vocab)
{
    free(vocab->tokens);
    free(vocab->slots);
    lb_buf_free(&vocab->pool);
}

bool lb_vocab_has(const lb_vocab *vocab, uint32_t id)
{
    return id < vocab->size && (vocab->tokens[id].flags & LB_TOKEN_TEXT) != 0;
}

lb_span lb_vocab_text(const lb_vocab *vocab, uint32_t id)
{
    if (!lb_vocab_has(vocab, id))
        return (lb_span){"", 0};
    const lb_token_text *token = &vocab->tokens[id];
    return (lb_span){(const char *)vocab->pool.data + token->offset, token->length};
}

static bool reserve_ids(lb_vocab *vocab, uint32_t id)
{
    if (id < vocab->capacity)
        return true;
    uint32_t capacity = vocab->capacity == 0 ? IDS_MIN : vocab->capacity;
    while (capacity <= id)
        capacity *= 2;
    lb_token_text *tokens = realloc(vocab->tokens, capacity * sizeof *tokens);
    if (tokens == NULL)
        return false;
    memset(tokens + vocab->capacity, 0, (capacity - vocab->capacity) * sizeof *tokens);
    vocab->tokens = tokens;
    vocab->capacity = capacity;
    return true;
}

static bool spans_equal(lb_span a, lb_span b)
{
    return a.length == b.length && memcmp(a.data, b.data, a.length) == 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Remembers the token of a byte: the byte itself, or "<0x0A>" where tokens are kept as spelt. */
static void note_byte(lb_vocab *vocab, lb_span bytes, uint32_t id)
{
    if (!vocab->spelt && bytes.length == 1)
        vocab->byte_ids[(uint8_t)bytes.data[0]] = id;
    if (!vocab->spelt || bytes.length != 6 || memcmp(bytes.data, "<0x", 3) != 0 ||
        bytes.data[5] != '>')
        return;
    int high = hex_digit(bytes.data[3]), low = hex_digit(bytes.data[4]);
    if (high >= 0 && low >= 0)
        vocab->byte_ids[high * 16 + low] = id;
}

static lb_status enter(lb_vocab *vocab, uint32_t id, lb_span bytes, lb_err *err)
{
    uint32_t slot = hash_bytes(bytes) & vocab->mask;
    for (uint32_t probe = 0; probe < PROBES_MAX; probe++, slot = (slot + 1) & vocab->mask) {
        if (vocab->slots[slot] == 0) {
            vocab->slots[slot] = id + 1;
            note_byte(vocab, bytes, id);
            return LB_OK;
        }
    }
    return lb_fail(err, LB_EDATA, "model.vocab", "too many tokens collide in the hash table");
}

lb_status lb_vocab_add(lb_vocab *vocab, uint32_t id, lb_span bytes, unsigned flags, lb_err *err)
{
    assert(id < LB_TOKENIZER_IDS_MAX && bytes.length <= LB_TOKEN_BYTES_MAX);
    if (lb_vocab_has(vocab, id))
        return lb_fail(err, LB_EDATA, "model.vocab", "two tokens have the id %u", id);
    size_t offset = vocab->pool.length;
    /* The NUL keeps data from being NULL when all that was added so far is empty. */
    lb_buf_append(&vocab->pool, bytes.data, bytes.length);
    lb_buf_append(&vocab->pool, "", 1);
    if (vocab->pool.status != LB_OK || offset > UINT32_MAX || !reserve_ids(vocab, id))
        return lb_fail(err, LB_ENOMEM, "model.vocab", "out of memory for the text of token %u", id);
    vocab->tokens[id] = (lb_token_text){.offset = (uint32_t)offset,
                                        .length = (uint16_t)bytes.length,
                                        .flags = (uint16_t)(flags | LB_TOKEN_TEXT)};
    if (id >= vocab->size)
        vocab->size = id + 1;
    if ((flags & (LB_TOKEN_ADDED | LB_TOKEN_OUTSIDE)) != 0)
        return LB_OK;
    return enter(vocab, id, bytes, err);
}

bool lb_vocab_find(const lb_vocab *vocab, lb_span bytes, uint32_t *id)
{
    uint32_t slot = hash_bytes(bytes) & vocab->mask;
    for (uint32_t probe = 0; probe < PROBES_MAX; probe++, slot = (slot + 1) & vocab->mask) {
        if (vocab->slots[slot] == 0)
            return false;
        uint32_t found = vocab->slots[slot] - 1;
        if (spans_equal(lb_vocab_text(vocab, found), bytes)) {
            *id = found;
            return true;
        }
    }
    return false;
}

bool lb_vocab_find_spelling(const lb_vocab *vocab, lb_span spelling, uint32_t *id)
{
    char bytes[LB_TOKEN_BYTES_MAX];
    size_t length = 0;
    if (vocab->spelt)
        return lb_vocab_find(vocab, spelling, id);
    if (lb_alphabet_decode(spelling, bytes, &length))
        return lb_vocab_find(vocab, (lb_span){bytes, length}, id);
    for (uint32_t i = 0; i < vocab->size; i++) {
        if ((vocab->tokens[i].flags & LB_TOKEN_OUTSIDE) != 0 &&
            spans_equal(lb_vocab_text(vocab, i), spelling)) {
            *id = i;
            return true;
        }
    }
    return false;
}

/* ---- merges ---- */

lb_status lb_merges_init(lb_merges *merges, size_t count, lb_err *err)
{
    assert(count <= LB_TOKENIZER_MERGES_MAX);
    uint32_t slots = slots_for(count);
    merges->slots = malloc(slots * sizeof *merges->slots);
    if (merges->slots == NULL)
        return lb_fail(err, LB_ENOMEM, "model.merges", "out of memory for %zu merges", count);
    for (uint32_t i = 0; i < slots; i++)
        merges->slots[i].left = LB_NO_TOKEN;
    merges->mask = slots - 1;
    return LB_OK;
}

void lb_merges_free(lb_merges *merges)
{
    free(merges->slots);
}

lb_status lb_merges_put(lb_merges *merges, lb_merge merge, lb_err *err)
{
    uint32_t slot = hash_pair(merge.left, merge.right) & merges->mask;
    for (uint32_t probe = 0; probe < PROBES_MAX; probe++, slot = (slot + 1) & merges->mask) {
        lb_merge *entry = &merges->slots[slot];
        bool free_slot = entry->left == LB_NO_TOKEN;
        if (free_slot || (entry->left == merge.left && entry->right == merge.right)) {
            *entry = merge;
            merges->count += free_slot;
            return LB_OK;
        }
    }
    return lb_fail(err, LB_EDATA, "model.merges", "too many merges collide in the hash table");
}

const lb_merge *lb_merges_find(const lb_merges *merges, uint32_t left, uint32_t right)
{
    uint32_t slot = hash_pair(left, right) & merges->mask;
    for (uint32_t probe = 0; probe < PROBES_MAX; probe++, slot = (slot + 1) & merges->mask) {
        const lb_merge *entry = &merges->slots[slot];
        if (entry->left == LB_NO_TOKEN)
            return NULL;
        if (entry->left == left && entry->right == right)
            return entry;
    }
    return NULL;
}
