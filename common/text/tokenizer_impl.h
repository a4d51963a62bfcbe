/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of common/text share about a tokenizer; nobody else includes this.
 *
 * The way of a text: cut the added tokens out (added_tokens.c), normalise what lies between and cut
 * again, split it by the steps of the pre-tokenizer (pretokenize.c), merge the bytes of each piece
 * (bpe.c). Tokens are kept as the bytes they stand for: the byte alphabet, which spells a space as
 * U+0120 and so on, exists in the file only and is undone on loading.
 */
#ifndef LB_COMMON_TEXT_TOKENIZER_IMPL_H
#define LB_COMMON_TEXT_TOKENIZER_IMPL_H

#include "common/base/buf.h"
#include "common/base/digest.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_TOKENIZER_FILE_MAX (64u << 20)  /* bytes of tokenizer.json */
#define LB_TOKENIZER_TEXT_MAX (4u << 20)   /* bytes of one text to encode */
#define LB_TOKENIZER_IDS_MAX (1u << 20)    /* ids are below it */
#define LB_TOKENIZER_MERGES_MAX (1u << 21)
#define LB_TOKEN_BYTES_MAX 1024u
#define LB_ADDED_MAX 65536u
#define LB_STEPS_MAX 16u
#define LB_BOS_MAX 8u
#define LB_PATTERN_MAX 4096u               /* bytes of a regular expression */
#define LB_BYTE_VALUES 256u
#define LB_NO_TOKEN UINT32_MAX

typedef struct lb_span {      /* borrowed bytes */
    const char *data;
    size_t length;
} lb_span;

/* ---- unicode.c ---- */

/* Offset of the first byte that is not part of well-formed UTF-8; the length if all is well. */
size_t lb_utf8_valid_prefix(const char *text, size_t length);
/* The character at or just before an offset of valid UTF-8; *bytes is its length. */
int32_t lb_utf8_at(lb_span text, size_t offset, size_t *bytes);
int32_t lb_utf8_before(lb_span text, size_t offset, size_t *bytes);
bool lb_char_is_space(int32_t character);    /* White_Space */
bool lb_char_is_word(int32_t character);     /* letter, mark, digit, connector, joiner */
bool lb_char_is_numeric(int32_t character);  /* Nd, Nl, No */
/* Normalization Form C of valid UTF-8. When text is in that form by a quick look, *out is left
 * alone and *changed is false; otherwise the result is appended to out. */
LB_NODISCARD lb_status lb_text_nfc(lb_span text, lb_buf *out, bool *changed, lb_err *err);

/* ---- regex.c: the only user of PCRE2 ---- */

typedef struct lb_regex lb_regex;
typedef struct lb_matcher lb_matcher;  /* the working memory of one thread's matches */

/* The pattern is in the syntax of Oniguruma, as the files have it; what PCRE2 would read in
 * another way is refused (LB_EUNSUPPORTED). field names it in errors. */
LB_NODISCARD lb_status lb_regex_compile(lb_span pattern, const char *field, lb_regex **out,
                                        lb_err *err);
void lb_regex_free(lb_regex *regex);
LB_NODISCARD lb_status lb_matcher_create(lb_matcher **out, lb_err *err);
void lb_matcher_free(lb_matcher *matcher);
/* The first match at or after from. *found says whether there is one at [*start, *end). */
typedef struct lb_match {
    bool found;
    size_t start;
    size_t end;
} lb_match;
LB_NODISCARD lb_status lb_regex_find(const lb_regex *regex, lb_matcher *matcher, lb_span text,
                                     size_t from, lb_match *match, lb_err *err);

/* ---- vocab.c ---- */

enum {
    LB_TOKEN_TEXT = 1,     /* the id exists */
    LB_TOKEN_ADDED = 2,
    LB_TOKEN_SPECIAL = 4,
    LB_TOKEN_OUTSIDE = 8,  /* its text is not spelt in the byte alphabet: BPE never makes it */
};

typedef struct lb_token_text {
    uint32_t offset;       /* in the pool */
    uint16_t length;
    uint16_t flags;
} lb_token_text;

typedef struct lb_vocab {
    lb_token_text *tokens;             /* [capacity], by id */
    uint32_t size;                     /* largest id, plus 1 */
    uint32_t capacity;
    lb_buf pool;
    uint32_t *slots;                   /* bytes -> id + 1, open addressing; 0 is free */
    uint32_t mask;
    uint32_t byte_ids[LB_BYTE_VALUES]; /* LB_NO_TOKEN where a byte has no token */
} lb_vocab;

/* count: tokens of the model, which size the hash table once. */
LB_NODISCARD lb_status lb_vocab_init(lb_vocab *vocab, size_t count, lb_err *err);
void lb_vocab_free(lb_vocab *vocab);
/* The id must be free. Tokens flagged OUTSIDE or ADDED are not entered for lb_vocab_find. */
LB_NODISCARD lb_status lb_vocab_add(lb_vocab *vocab, uint32_t id, lb_span bytes, unsigned flags,
                                    lb_err *err);
bool lb_vocab_has(const lb_vocab *vocab, uint32_t id);
lb_span lb_vocab_text(const lb_vocab *vocab, uint32_t id);
bool lb_vocab_find(const lb_vocab *vocab, lb_span bytes, uint32_t *id);
/* Finds a token as the file spells it, whether or not it is spelt in the byte alphabet. */
bool lb_vocab_find_spelling(const lb_vocab *vocab, lb_span spelling, uint32_t *id);
/* Undoes the byte alphabet; false when a character is outside it or the result exceeds
 * LB_TOKEN_BYTES_MAX bytes, the size of out. */
bool lb_alphabet_decode(lb_span spelling, char *out, size_t *length);

typedef struct lb_merge {
    uint32_t left;   /* LB_NO_TOKEN: a free slot */
    uint32_t right;
    uint32_t rank;
    uint32_t id;     /* the token of both together */
} lb_merge;

typedef struct lb_merges {
    lb_merge *slots;
    uint32_t mask;
    uint32_t count;
} lb_merges;

LB_NODISCARD lb_status lb_merges_init(lb_merges *merges, size_t count, lb_err *err);
void lb_merges_free(lb_merges *merges);
/* A pair that is there already takes the new rank. */
LB_NODISCARD lb_status lb_merges_put(lb_merges *merges, lb_merge merge, lb_err *err);
const lb_merge *lb_merges_find(const lb_merges *merges, uint32_t left, uint32_t right);

/* ---- added_tokens.c ---- */

typedef struct lb_added {
    char *text;            /* owned; normalised in the set of normalised tokens */
    size_t length;
    uint32_t id;
    bool special;
    bool lstrip;
    bool rstrip;
    bool single_word;
} lb_added;

typedef struct lb_added_set {
    lb_added *items;                        /* sorted by text once the set is closed */
    size_t count;
    size_t capacity;
    uint32_t first[LB_BYTE_VALUES + 1];     /* of items that begin with a byte; and the count */
} lb_added_set;

LB_NODISCARD lb_status lb_added_load(struct lb_tokenizer *tokenizer, const lb_json *list,
                                     lb_err *err);
void lb_added_free(lb_added_set *set);

typedef struct lb_ranges {    /* ascending, apart; borrowed */
    const lb_range *items;
    size_t count;
} lb_ranges;

/* Whether [begin, end) has a byte of one of the ranges. */
bool lb_ranges_meet(lb_ranges ranges, size_t begin, size_t end);

typedef struct lb_cutter {
    const lb_added_set *set;
    lb_span text;
    bool special;          /* whether special tokens are cut out too, */
    lb_ranges content;     /* but none that meets one of these ranges, */
    size_t origin;         /* which count from this many bytes before the text */
    bool finished;
    size_t offset;         /* end of the last token */
} lb_cutter;

/* Gives the text before the next added token (maybe empty) and the token's id; the last call that
 * returns true gives the rest and LB_NO_TOKEN. */
bool lb_cutter_next(lb_cutter *cutter, lb_span *before, uint32_t *id);

/* ---- the loaded tokenizer ---- */

typedef enum lb_step_kind {
    LB_STEP_REGEX = 1,     /* matches and what lies between them are pieces */
    LB_STEP_LITERAL,       /* the same with a fixed string */
    LB_STEP_DIGITS,        /* runs of numeric characters are pieces */
    LB_STEP_EACH_DIGIT,    /* each numeric character is a piece */
    LB_STEP_PREFIX_SPACE,  /* a piece that does not begin with a space gets one */
} lb_step_kind;

typedef struct lb_step {
    lb_step_kind kind;
    char *pattern;         /* owned; of REGEX and LITERAL */
    size_t pattern_length;
    lb_regex *regex;       /* owned */
} lb_step;

struct lb_tokenizer {
    lb_vocab vocab;
    lb_merges merges;
    bool ignore_merges;
    bool nfc;
    lb_added_set raw;         /* added tokens that are looked for in the text as it is */
    lb_added_set normalized;  /* and those looked for after the normalizer */
    lb_step steps[LB_STEPS_MAX];
    size_t step_count;
    uint32_t bos[LB_BOS_MAX];
    size_t bos_count;
    char digest[LB_SHA256_HEX];
};

/* tokenizer_parts.c: everything in the file but the model and the added tokens. */
LB_NODISCARD lb_status lb_load_normalizer(lb_tokenizer *tokenizer, const lb_json *node,
                                          lb_err *err);
LB_NODISCARD lb_status lb_load_pre_tokenizer(lb_tokenizer *tokenizer, const lb_json *node,
                                             lb_err *err);
LB_NODISCARD lb_status lb_load_post_processor(lb_tokenizer *tokenizer, const lb_json *node,
                                              lb_err *err);
LB_NODISCARD lb_status lb_check_decoder(const lb_json *node, lb_err *err);
/* tokenizer_digest.c */
LB_NODISCARD lb_status lb_tokenizer_make_digest(lb_tokenizer *tokenizer, lb_err *err);

/* ---- encoding ---- */

typedef struct lb_symbol lb_symbol;        /* bpe.c */
typedef struct lb_candidate lb_candidate;

typedef struct lb_encoder {    /* one call of lb_tokenizer_encode */
    const lb_tokenizer *tokenizer;
    bool special;
    lb_ranges content;         /* where special tokens are text; offsets in raw */
    const char *raw;
    lb_tokens *out;
    lb_matcher *matcher;       /* made by the first regular expression */
    int64_t deadline_ms;
    uint32_t matches;
    lb_buf prefixed;           /* the piece of LB_STEP_PREFIX_SPACE */
    lb_symbol *symbols;
    size_t symbol_capacity;
    lb_candidate *heap;
    size_t heap_capacity;
} lb_encoder;

bool lb_tokens_push(lb_tokens *tokens, uint32_t id);  /* false: out of memory */
/* Splits text (valid UTF-8, normalised) and appends the ids of its pieces. */
LB_NODISCARD lb_status lb_pretokenize(lb_encoder *encoder, lb_span text, lb_err *err);
/* Appends the ids of one piece. */
LB_NODISCARD lb_status lb_bpe_encode(lb_encoder *encoder, lb_span piece, lb_err *err);
void lb_encoder_free(lb_encoder *encoder);            /* what the fields own */

#endif
