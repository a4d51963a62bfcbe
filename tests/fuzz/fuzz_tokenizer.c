/* SPDX-License-Identifier: Apache-2.0
 *
 * The first byte chooses: 'J' reads the rest as tokenizer.json and, when it loads, encodes a short
 * text with it; 'G' reads it as GGUF; any other byte gives the flags of encoding the rest with a
 * fixed tokenizer, byte-level or of characters, whose result has to decode to the text again and
 * whose offsets have to be in order.
 */
#include "common/base/buf.h"
#include "common/io/gguf.h"
#include "common/text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BYTE_JSON 'J'
#define FIRST_BYTE_GGUF 'G'
#define FLAG_SPECIAL 1u
#define FLAG_BOS 2u
#define FLAG_SPELT 4u

static const char probe_text[] = "ab <s> 12\n\xc3\xa9 e\xcc\x81  <think>x";

static const char head[] =
    "{\"added_tokens\":[{\"id\":300,\"content\":\"<s>\",\"special\":true},"
    "{\"id\":301,\"content\":\"<t>\"}],"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
    "{\"Regex\":\"(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}"
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
    "\"behavior\":\"Isolated\"},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{";
static const char tail[] = "\"ab\":256,\"abc\":257,\"aa\":258},"
                           "\"merges\":[\"a b\",\"ab c\",\"a a\"]}}";

static const char spelt_head[] =
    "{\"added_tokens\":[{\"id\":300,\"content\":\"<s>\",\"special\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
    "\"\\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":"
    "\"\\u2581\"}]},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
    "\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
    "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
    "\"model\":{\"byte_fallback\":true,\"vocab\":{";
static const char spelt_tail[] =
    "\"a\":256,\"b\":257,\"\\u2581\":258,\"ab\":259,\"\\u2581a\":260,\"\\u2581\\u2581\":261,"
    "\"aa\":262,\"\\u00e9\":263,\"\\u2581ab\":264},\"merges\":[\"a b\",\"\\u2581 a\","
    "\"\\u2581 \\u2581\",\"a a\",\"\\u2581 ab\"]}}";

static lb_tokenizer *make_spelt(void)
{
    lb_buf text = {0};
    lb_tokenizer *tokenizer = NULL;
    lb_buf_puts(&text, spelt_head);
    for (unsigned byte = 0; byte < 256; byte++)
        lb_buf_printf(&text, "\"<0x%02X>\":%u,", byte, byte);
    lb_buf_puts(&text, spelt_tail);
    if (lb_tokenizer_parse((const char *)text.data, text.length, &tokenizer, NULL) != LB_OK)
        abort();
    lb_buf_free(&text);
    return tokenizer;
}

static lb_tokenizer *make_tokenizer(void)
{
    lb_buf text = {0};
    lb_tokenizer *tokenizer = NULL;
    unsigned other = 0x100;
    lb_buf_puts(&text, head);
    for (unsigned byte = 0; byte < 256; byte++) {
        bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
        lb_buf_printf(&text, "\"\\u%04x\":%u,", prints ? byte : other++, byte);
    }
    lb_buf_puts(&text, tail);
    if (lb_tokenizer_parse((const char *)text.data, text.length, &tokenizer, NULL) != LB_OK)
        abort();
    lb_buf_free(&text);
    return tokenizer;
}

static void fuzz_json(const char *json, size_t length)
{
    lb_tokenizer *tokenizer = NULL;
    lb_tokens tokens = {0};
    lb_buf decoded = {0};
    lb_err err = {0};
    if (lb_tokenizer_parse(json, length, &tokenizer, &err) != LB_OK)
        return;
    if (lb_tokenizer_encode(tokenizer, probe_text, strlen(probe_text), true, true, &tokens,
                            &err) == LB_OK)
        lb_tokenizer_decode(tokenizer, tokens.ids, tokens.count, true, &decoded);
    lb_buf_free(&decoded);
    lb_tokens_free(&tokens);
    lb_tokenizer_free(tokenizer);
}

static void fuzz_gguf(const uint8_t *data, size_t length)
{
    lb_gguf *file = NULL;
    lb_tokenizer *tokenizer = NULL;
    lb_err err = {0};
    if (lb_gguf_open(data, length, &file, &err) == LB_OK &&
        lb_tokenizer_from_gguf(file, &tokenizer, &err) != LB_OK && tokenizer != NULL)
        abort();
    lb_tokenizer_free(tokenizer);
    lb_gguf_close(file);
}

/* A text of U+2581 does not come back: the decoder takes it for a space. */
static bool comes_back(const char *text, size_t length, bool spelt)
{
    return !spelt || memmem(text, length, "\xe2\x96\x81", 3) == NULL;
}

static void fuzz_text(const lb_tokenizer *tokenizer, uint8_t flags, const char *text, size_t length)
{
    bool spelt = (flags & FLAG_SPELT) != 0;
    lb_tokens tokens = {0};
    lb_offsets offsets = {0};
    lb_buf decoded = {0};
    lb_err err = {0};
    unsigned how = ((flags & FLAG_SPECIAL) != 0 ? LB_ENCODE_SPECIAL : 0u) |
                   ((flags & FLAG_BOS) != 0 ? LB_ENCODE_BOS : 0u);
    if (lb_tokenizer_encode_offsets(tokenizer, text, length, how, &tokens, &offsets, &err) ==
        LB_OK) {
        lb_tokenizer_decode(tokenizer, tokens.ids, tokens.count, false, &decoded);
        bool special = spelt && (flags & FLAG_SPECIAL) != 0;  /* a space begins each part */
        if (!special && comes_back(text, length, spelt) &&
            (decoded.length != length || (length > 0 && memcmp(decoded.data, text, length) != 0)))
            abort();
        if (offsets.count != tokens.count)
            abort();
        for (size_t i = 0; i < offsets.count; i++)
            if (offsets.items[i].start >= offsets.items[i].end || offsets.items[i].end > length ||
                (i > 0 && offsets.items[i].start < offsets.items[i - 1].start))
                abort();
    }
    lb_buf_free(&decoded);
    lb_offsets_free(&offsets);
    lb_tokens_free(&tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lb_tokenizer *tokenizer, *spelt;
    if (tokenizer == NULL)
        tokenizer = make_tokenizer();
    if (spelt == NULL)
        spelt = make_spelt();
    if (size == 0)
        return 0;
    if (data[0] == FIRST_BYTE_JSON)
        fuzz_json((const char *)data + 1, size - 1);
    else if (data[0] == FIRST_BYTE_GGUF)
        fuzz_gguf(data + 1, size - 1);
    else
        fuzz_text((data[0] & FLAG_SPELT) != 0 ? spelt : tokenizer, data[0],
                  (const char *)data + 1, size - 1);
    return 0;
}
