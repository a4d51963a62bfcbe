/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_tokenizer - BPE as tokenizer.json of Hugging Face describes it, over bytes (ByteLevel) or over
 * characters with a fallback to bytes (SentencePiece): added tokens, the normalizers NFC, Prepend
 * and Replace, the pre-tokenizers Split, Digits, Metaspace and ByteLevel, merges by rank (strings
 * "a b" or pairs), ignore_merges, unk_token, fuse_unk, byte_fallback, TemplateProcessing's BOS, the
 * decoders ByteLevel, Replace, ByteFallback, Fuse and Strip. Or the same from a GGUF file.
 *
 * A component that is not implemented is refused with its name. Immutable after loading; encode
 * and decode may be called from any thread.
 */
#ifndef LB_COMMON_TEXT_TOKENIZER_H
#define LB_COMMON_TEXT_TOKENIZER_H

#include "common/base/buf.h"
#include "common/base/digest.h"
#include "common/base/status.h"
#include "common/io/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lb_tokenizer lb_tokenizer;

typedef struct lb_tokens {      /* a growing list; free with lb_tokens_free */
    uint32_t *ids;
    size_t count;
    size_t capacity;
} lb_tokens;
void lb_tokens_free(lb_tokens *tokens);

typedef struct lb_offset {      /* bytes of the text: [start, end) */
    uint32_t start;
    uint32_t end;
} lb_offset;

typedef struct lb_offsets {     /* a growing list; free with lb_offsets_free */
    lb_offset *items;
    size_t count;
    size_t capacity;
} lb_offsets;
void lb_offsets_free(lb_offsets *offsets);

typedef struct lb_range {       /* bytes [begin, end) of a text */
    size_t begin;
    size_t end;
} lb_range;

LB_NODISCARD lb_status lb_tokenizer_parse(const char *json, size_t length, lb_tokenizer **out,
                                          lb_err *err);
/* The tokenizer in a GGUF file's metadata: byte-level BPE with a pre-tokenizer that we know.
 * LB_EUNSUPPORTED names the key. */
LB_NODISCARD lb_status lb_tokenizer_from_gguf(const lb_gguf *file, lb_tokenizer **out,
                                              lb_err *err);
/* path: a folder with tokenizer.json, a file of that format that ends in .json, or one in .gguf. */
LB_NODISCARD lb_status lb_tokenizer_load(const char *path, lb_tokenizer **out, lb_err *err);
void lb_tokenizer_free(lb_tokenizer *tokenizer);

/* Appends the ids of text[length] (UTF-8; LB_EDATA otherwise). special: text such as "<|im_end|>"
 * becomes that token; without it, it is ordinary text, which is the only safe choice for text of
 * users. add_bos: whether the file's post-processor may add its own tokens. */
LB_NODISCARD lb_status lb_tokenizer_encode(const lb_tokenizer *tokenizer, const char *text,
                                           size_t length, bool special, bool add_bos,
                                           lb_tokens *out, lb_err *err);
/* The same for a text made from a template, special and without the post-processor's tokens: what
 * overlaps one of the content ranges (ascending, apart) is never a special token. Tokens may still
 * reach over the border of a range, so that a text without special tokens in its content becomes
 * the same tokens as without ranges. */
LB_NODISCARD lb_status lb_tokenizer_encode_chat(const lb_tokenizer *tokenizer, const char *text,
                                                size_t length, const lb_range *content,
                                                size_t content_count, lb_tokens *out,
                                                lb_err *err);

enum {
    LB_ENCODE_SPECIAL = 1,     /* as special above */
    LB_ENCODE_BOS = 2,         /* as add_bos above */
};
/* The same, and appends for each id the bytes of text it stands for: whole characters, so that
 * tokens of parts of one character have the same offsets. A character that the normalizer or a
 * pre-tokenizer put in has those of the one it was put beside; a token of the post-processor has
 * {0, 0}. These are the offsets of Hugging Face's tokenizers, there in characters, without
 * trim_offsets. */
LB_NODISCARD lb_status lb_tokenizer_encode_offsets(const lb_tokenizer *tokenizer, const char *text,
                                                   size_t length, unsigned flags, lb_tokens *out,
                                                   lb_offsets *offsets, lb_err *err);
/* Appends the text of the ids: exact bytes of each token (partial UTF-8 stays as it is), special
 * tokens left out when skip_special. Ids without text add nothing. Where the decoder strips the
 * ends of a text (SentencePiece: one leading space), the ends are those of the ids given. */
void lb_tokenizer_decode(const lb_tokenizer *tokenizer, const uint32_t *ids, size_t count,
                         bool skip_special, lb_buf *out);
/* Appends the bytes of one id inside a text, where nothing is stripped: what joins to the text
 * when ids come one by one. */
void lb_tokenizer_piece(const lb_tokenizer *tokenizer, uint32_t id, lb_buf *out);

size_t lb_tokenizer_size(const lb_tokenizer *tokenizer);      /* largest id with text, plus 1 */
bool lb_tokenizer_has_text(const lb_tokenizer *tokenizer, uint32_t id);
bool lb_tokenizer_is_special(const lb_tokenizer *tokenizer, uint32_t id);
bool lb_tokenizer_find(const lb_tokenizer *tokenizer, const char *token, uint32_t *id);
/* SHA-256 over the vocabulary, merges and added tokens in a fixed order (not over the file's
 * spelling): equal digests tokenise equally. Hex, borrowed. */
const char *lb_tokenizer_digest(const lb_tokenizer *tokenizer);

#endif
