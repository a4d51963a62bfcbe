/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of common/text share about a tokenizer; nobody else includes this.
 *
 * The way of a text: cut the added tokens out (added_tokens.c), normalise what lies between
 * (normalize.c) and cut again, split it by the steps of the pre-tokenizer (pretokenize.c), merge
 * the symbols of each piece (bpe.c). Tokens of a byte-level file are kept as the bytes they stand
 * for: the byte alphabet, which spells a space as U+0120 and so on, exists in the file only and is
 * undone on loading. Tokens of other files are kept as they are spelt, and decode.c has their text.
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
#define LB_TOKENIZER_NORMAL_MAX (32u << 20)  /* bytes of one text after the normalizer */
#define LB_TOKENIZER_IDS_MAX (1u << 20)    /* ids are below it */
#define LB_TOKENIZER_MERGES_MAX (1u << 21)
#define LB_TOKEN_BYTES_MAX 1024u
#define LB_ADDED_MAX 65536u
#define LB_STEPS_MAX 16u
#define LB_NORMALS_MAX 8u
#define LB_STRIPS_MAX 4u
#define LB_STRIP_CHARS_MAX 1024u
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
/* Classes of characters as the scanners need them. */
enum {
    LB_CLASS_OTHER = 0,
    LB_CLASS_LETTER,       /* \p{L} */
    LB_CLASS_NUMBER,       /* \p{N} */
    LB_CLASS_SPACE,        /* \s but for the next */
    LB_CLASS_NEWLINE,      /* \r, \n */
};
#define LB_CLASSES 0x40000u  /* characters from here on are OTHER */
/* A table [LB_CLASSES] by character, owned (free); NULL: out of memory. */
uint8_t *lb_char_classes(void);

/* ---- frames: where the bytes of a rewritten text come from (normalize.c) ---- */

typedef struct lb_frame {
    const char *data;
    size_t length;
    size_t origin;         /* without a map: offset of data in the original text */
    const lb_offset *map;  /* per byte, characters of the original; NULL: data is the original */
} lb_frame;

/* The original's characters of the byte at `at`, which is inside frame->data. */
lb_offset lb_frame_offset(const lb_frame *frame, const char *at);

typedef struct lb_rewrite {  /* a text in the making, and its map when mapped */
    lb_buf text;
    lb_buf map;
    bool mapped;
} lb_rewrite;

void lb_rewrite_clear(lb_rewrite *rewrite);
void lb_rewrite_free(lb_rewrite *rewrite);
/* Appends bytes of the frame as they are; bytes that come from the character at `from`. */
void lb_rewrite_copy(lb_rewrite *rewrite, const lb_frame *frame, lb_span bytes);
void lb_rewrite_put(lb_rewrite *rewrite, const lb_frame *frame, lb_span bytes, const char *from);
/* Appends text with every `pattern` replaced; false when there is none (and nothing appended). */
bool lb_rewrite_replace(lb_rewrite *rewrite, const lb_frame *frame, lb_span text, lb_span pattern,
                        lb_span content);
/* The result as a frame; LB_ENOMEM, or LB_ETOOBIG above LB_TOKENIZER_NORMAL_MAX bytes. */
LB_NODISCARD lb_status lb_rewrite_frame(const lb_rewrite *rewrite, lb_frame *out, lb_err *err);

/* ---- nfc.c ---- */

/* Appends Normalization Form C of the frame's text, as of the Unicode version that Hugging Face's
 * library has. When it is in that form by a quick look, nothing is appended, *changed is false. */
LB_NODISCARD lb_status lb_text_nfc(const lb_frame *frame, lb_rewrite *out, bool *changed,
                                   lb_err *err);

/* ---- scan.c: three well-known regular expressions without PCRE2 ---- */

typedef enum lb_scan_kind {
    LB_SCAN_NONE = 0,
    LB_SCAN_GPT2,
    LB_SCAN_LLAMA3,        /* digits by up to three */
    LB_SCAN_QWEN,          /* single digits */
} lb_scan_kind;

extern const char lb_pattern_gpt2[], lb_pattern_llama3[], lb_pattern_qwen[];
/* The kind whose expression has exactly this text. */
lb_scan_kind lb_scan_find(lb_span pattern);
/* End of the match that begins at `at`, which is below the length: each character is in one. */
size_t lb_scan_next(lb_scan_kind kind, const uint8_t *classes, lb_span text, size_t at);

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
    bool spelt;                        /* kept as spelt; the bytes are "<0x00>" to "<0xFF>" */
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
    LB_STEP_METASPACE,     /* spaces become `pattern`, and a piece may get one before it */
} lb_step_kind;

typedef enum lb_prepend {
    LB_PREPEND_ALWAYS = 0,
    LB_PREPEND_FIRST,      /* the piece at the start of the text */
    LB_PREPEND_NEVER,
} lb_prepend;

typedef struct lb_step {
    lb_step_kind kind;
    char *pattern;         /* owned; of REGEX, LITERAL and METASPACE */
    size_t pattern_length;
    lb_regex *regex;       /* owned; NULL where there is a scanner */
    lb_scan_kind scan;
    lb_prepend prepend;    /* of METASPACE, as the next */
    bool split;            /* each `pattern` begins a piece */
} lb_step;

typedef enum lb_normal_kind {
    LB_NORMAL_NFC = 1,
    LB_NORMAL_PREPEND,     /* content, before a text that is not empty */
    LB_NORMAL_REPLACE,     /* pattern by content */
} lb_normal_kind;

typedef struct lb_normal {
    lb_normal_kind kind;
    char *pattern;         /* owned */
    size_t pattern_length;
    char *content;         /* owned */
    size_t content_length;
} lb_normal;

typedef struct lb_strip {  /* of the ends of a decoded text */
    char content[4];       /* one character */
    size_t content_length;
    uint32_t start;        /* at most so many at the start, and at the end */
    uint32_t stop;
} lb_strip;

typedef struct lb_decoder {    /* of files that are not byte-level */
    lb_normal replaces[LB_NORMALS_MAX];
    size_t replace_count;
    bool byte_fallback;
    bool fuse;
    lb_strip strips[LB_STRIPS_MAX];
    size_t strip_count;
    lb_buf pool;               /* the text of each token */
    uint32_t *ends;            /* [size of the vocabulary], in the pool */
} lb_decoder;

struct lb_tokenizer {
    lb_vocab vocab;
    lb_merges merges;
    bool byte_level;
    bool ignore_merges;
    bool byte_fallback;
    bool fuse_unk;
    uint32_t unknown;         /* of unk_token; LB_NO_TOKEN: none */
    uint32_t word_start;      /* character before which no merge reaches back; 0: there is none */
    lb_normal normals[LB_NORMALS_MAX];
    size_t normal_count;
    lb_added_set raw;         /* added tokens that are looked for in the text as it is */
    lb_added_set normalized;  /* and those looked for after the normalizer */
    lb_step steps[LB_STEPS_MAX];
    size_t step_count;
    uint8_t *classes;         /* owned; for the scanners, NULL where no step has one */
    lb_decoder decoder;
    uint32_t bos[LB_BOS_MAX];
    size_t bos_count;
    char digest[LB_SHA256_HEX];
};

/* tokenizer_parts.c: everything in the file but the model and the added tokens. */
LB_NODISCARD lb_status lb_load_normalizer(lb_tokenizer *tokenizer, const lb_json *node,
                                          lb_err *err);
/* Whether the pre-tokenizer ends with ByteLevel; LB_EUNSUPPORTED if it is elsewhere in it. */
LB_NODISCARD lb_status lb_find_byte_level(const lb_json *pre_tokenizer, bool *found, lb_err *err);
LB_NODISCARD lb_status lb_load_pre_tokenizer(lb_tokenizer *tokenizer, const lb_json *node,
                                             lb_err *err);
LB_NODISCARD lb_status lb_load_post_processor(lb_tokenizer *tokenizer, const lb_json *node,
                                              lb_err *err);
/* Appends a step; the pattern is copied. */
LB_NODISCARD lb_status lb_add_step(lb_tokenizer *tokenizer, lb_step step, lb_span pattern,
                                   const char *where, lb_err *err);
/* decode.c: reads the decoder; and, once all tokens are there, makes their texts. */
LB_NODISCARD lb_status lb_load_decoder(lb_tokenizer *tokenizer, const lb_json *node, lb_err *err);
LB_NODISCARD lb_status lb_decoder_finish(lb_tokenizer *tokenizer, lb_err *err);
void lb_decoder_free(lb_decoder *decoder);
/* The id of two tokens together, as the file spells them; false when one is not a token. */
bool lb_merge_resolve(const lb_vocab *vocab, lb_span left, lb_span right, lb_merge *merge);
/* What is derived from the parts, once all are there. */
LB_NODISCARD lb_status lb_tokenizer_finish(lb_tokenizer *tokenizer, lb_err *err);
/* Enters an added token; normalized: it is looked for after the normalizer. lb_added_close ends
 * the list. */
LB_NODISCARD lb_status lb_added_enter(lb_tokenizer *tokenizer, lb_added added, lb_span content,
                                      bool normalized, const char *where, lb_err *err);
LB_NODISCARD lb_status lb_added_close(lb_tokenizer *tokenizer, lb_err *err);
/* tokenizer_digest.c */
LB_NODISCARD lb_status lb_tokenizer_make_digest(lb_tokenizer *tokenizer, lb_err *err);

/* A part of the file: a tree of components named by "type", where Sequence nests. */
typedef struct lb_part {
    lb_tokenizer *tokenizer;
    const lb_json *node;
    const char *where;
    unsigned nesting;
} lb_part;
typedef lb_status (*lb_part_loader)(const lb_part *part, const char *type, lb_err *err);
LB_NODISCARD lb_status lb_part_load(const lb_part *part, lb_part_loader loader, lb_err *err);
LB_NODISCARD lb_status lb_part_sequence(const lb_part *part, const char *key,
                                        lb_part_loader loader, lb_err *err);
LB_NODISCARD lb_status lb_part_unknown(const lb_part *part, const char *type, lb_err *err);
/* Replace with a string as its pattern. */
LB_NODISCARD lb_status lb_part_replace(const lb_part *part, lb_normal *out, lb_err *err);

/* ---- encoding ---- */

/* Runs the normalizer: *frame is the text before and after. The buffers hold the result. */
LB_NODISCARD lb_status lb_normalize(const lb_tokenizer *tokenizer, lb_rewrite buffers[2],
                                    lb_frame *frame, lb_err *err);

typedef struct lb_symbol lb_symbol;        /* bpe.c */
typedef struct lb_candidate lb_candidate;
typedef struct lb_cached lb_cached;        /* piece_cache.c */

typedef struct lb_encoder {    /* one call of lb_tokenizer_encode */
    const lb_tokenizer *tokenizer;
    bool special;
    lb_ranges content;         /* where special tokens are text; offsets in raw */
    const char *raw;
    lb_tokens *out;
    lb_offsets *offsets;       /* NULL: not asked for */
    lb_frame frame;            /* what the pieces point into */
    lb_rewrite normal[2];
    lb_rewrite pre;            /* of the one step that rewrites its pieces */
    lb_matcher *matcher;       /* made by the first regular expression */
    int64_t deadline_ms;
    uint32_t matches;
    lb_symbol *symbols;
    size_t symbol_capacity;
    lb_candidate *heap;
    size_t heap_capacity;
    lb_cached *cache;          /* NULL for a short text */
    uint32_t cache_mask;
} lb_encoder;

bool lb_tokens_push(lb_tokens *tokens, uint32_t id);  /* false: out of memory */
/* Appends an id for length bytes of the frame from start on. */
LB_NODISCARD lb_status lb_encoder_push(lb_encoder *encoder, uint32_t id, const char *start,
                                       size_t length, lb_err *err);
/* Splits text (valid UTF-8 inside the encoder's frame) and appends the ids of its pieces. */
LB_NODISCARD lb_status lb_pretokenize(lb_encoder *encoder, lb_span text, lb_err *err);
/* Appends the ids of one piece. */
LB_NODISCARD lb_status lb_bpe_encode(lb_encoder *encoder, lb_span piece, lb_err *err);
/* Finds the character before which pieces can be cut without a change of the result. */
void lb_bpe_find_word_start(lb_tokenizer *tokenizer);
void lb_encoder_free(lb_encoder *encoder);            /* what the fields own */

/* The ids of short pieces met in this call. Direct-mapped: a piece takes the place of another. */
#define LB_CACHED_BYTES 23u
#define LB_CACHED_IDS 8u
struct lb_cached {
    uint32_t hash;
    uint8_t length;            /* of the piece; 0: free */
    uint8_t count;
    uint8_t lengths[LB_CACHED_IDS];
    char bytes[LB_CACHED_BYTES];
    uint32_t ids[LB_CACHED_IDS];
};
void lb_cache_open(lb_encoder *encoder, size_t text_length);
/* The place of a piece of 1 to LB_CACHED_BYTES bytes; *hit: it is there. */
lb_cached *lb_cache_find(lb_encoder *encoder, lb_span piece, bool *hit);

#endif
