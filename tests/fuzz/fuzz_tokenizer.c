/* SPDX-License-Identifier: Apache-2.0
 *
 * The first byte chooses: 'J' reads the rest as tokenizer.json and, when it loads, encodes a short
 * text with it; any other byte gives the flags of encoding the rest with a fixed tokenizer, whose
 * result has to decode to the text again.
 */
#include "common/base/buf.h"
#include "common/text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BYTE_JSON 'J'
#define FLAG_SPECIAL 1u
#define FLAG_BOS 2u

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

static void fuzz_text(const lb_tokenizer *tokenizer, uint8_t flags, const char *text, size_t length)
{
    lb_tokens tokens = {0};
    lb_buf decoded = {0};
    lb_err err = {0};
    if (lb_tokenizer_encode(tokenizer, text, length, (flags & FLAG_SPECIAL) != 0,
                            (flags & FLAG_BOS) != 0, &tokens, &err) == LB_OK) {
        lb_tokenizer_decode(tokenizer, tokens.ids, tokens.count, false, &decoded);
        if (decoded.length != length || (length > 0 && memcmp(decoded.data, text, length) != 0))
            abort();
    }
    lb_buf_free(&decoded);
    lb_tokens_free(&tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lb_tokenizer *tokenizer;
    if (tokenizer == NULL)
        tokenizer = make_tokenizer();
    if (size == 0)
        return 0;
    if (data[0] == FIRST_BYTE_JSON)
        fuzz_json((const char *)data + 1, size - 1);
    else
        fuzz_text(tokenizer, data[0], (const char *)data + 1, size - 1);
    return 0;
}
