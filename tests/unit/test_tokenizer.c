/* SPDX-License-Identifier: Apache-2.0
 *
 * The tokenizer against small files made here, one per option and one per refusal.
 *
 * They have the 256 bytes as ids 0 to 255 and the tokens of `extra_tokens` from 256
 * on. Expected encodings are written as the texts of the tokens with | between them.
 */
#include "common/base/buf.h"
#include "common/text/tokenizer.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONG_TEXT (1u << 20)

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define GPT2 "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define SPLIT(pattern) "{\"type\":\"Split\",\"pattern\":" pattern ",\"behavior\":\"Isolated\"}"
#define SEQUENCE(first) "{\"type\":\"Sequence\",\"pretokenizers\":[" first "," BYTE_LEVEL "]}"
#define REGEX(text) SEQUENCE(SPLIT("{\"Regex\":\"" text "\"}"))
#define ADDED(id, content, flags) "{\"id\":" #id ",\"content\":\"" content "\"" flags "}"
#define SPECIAL ",\"special\":true"

/* Parts of a tokenizer.json; NULL takes the default. */
typedef struct parts {
    const char *pre, *normalizer, *post, *decoder, *added, *merges, *model, *tokens;
} parts;

static const char extra_tokens[] = "\"12\":256,\"123\":257,\"ab\":258,\"abc\":259,\"bc\":260,"
                                   "\"\\u0120a\":261,\"aa\":262,\"aaa\":263,\"\\u0120\\u0120\":264,"
                                   "\"\\u00c3\\u00a9\":265,\"a1\":266,\"<e>\":280";
static const char default_merges[] = "\"1 2\",\"12 3\",\"b c\",\"a bc\",\"a b\",\"\\u0120 a\","
                                     "\"a a\",\"\\u0120 \\u0120\",\"\\u00c3 \\u00a9\",\"a 1\"";

static bool spells_itself(unsigned byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
}

static void put_bytes(lb_buf *out, unsigned first)
{
    unsigned other = 0x100;
    for (unsigned byte = 0; byte < 256; byte++) {
        unsigned spelling = spells_itself(byte) ? byte : other++;
        if (byte >= first)
            lb_buf_printf(out, "\"\\u%04x\":%u,", spelling, byte);
    }
}

static const char *either(const char *value, const char *otherwise)
{
    return value == NULL ? otherwise : value;
}

static void make(const parts *p, unsigned first_byte, lb_buf *out)
{
    lb_buf_printf(out, "{\"added_tokens\":[%s],\"normalizer\":%s,", either(p->added, ""),
                  either(p->normalizer, "null"));
    lb_buf_printf(out, "\"pre_tokenizer\":%s,", either(p->pre, BYTE_LEVEL));
    lb_buf_printf(out, "\"post_processor\":%s,\"decoder\":%s,", either(p->post, "null"),
                  either(p->decoder, "{\"type\":\"ByteLevel\"}"));
    lb_buf_printf(out, "\"model\":{%s\"vocab\":{", either(p->model, "\"type\":\"BPE\","));
    put_bytes(out, first_byte);
    lb_buf_printf(out, "%s},\"merges\":[%s]}}", either(p->tokens, extra_tokens),
                  either(p->merges, default_merges));
    assert_int_equal(out->status, LB_OK);
}

static lb_tokenizer *load(const parts *p)
{
    lb_buf text = {0};
    lb_err err = {0};
    lb_tokenizer *tokenizer = NULL;
    make(p, 0, &text);
    if (lb_tokenizer_parse((const char *)text.data, text.length, &tokenizer, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    lb_buf_free(&text);
    return tokenizer;
}

static void expect(const lb_tokenizer *tokenizer, const char *text, bool special, bool bos,
                   const char *expected)
{
    lb_tokens tokens = {0};
    lb_buf joined = {0};
    lb_err err = {0};
    if (lb_tokenizer_encode(tokenizer, text, strlen(text), special, bos, &tokens, &err) != LB_OK)
        fail_msg("%s: %s", text, err.message);
    lb_buf_puts(&joined, "");
    for (size_t i = 0; i < tokens.count; i++) {
        if (i > 0)
            lb_buf_puts(&joined, "|");
        lb_tokenizer_decode(tokenizer, &tokens.ids[i], 1, false, &joined);
    }
    assert_string_equal(joined.data == NULL ? "" : (const char *)joined.data, expected);
    lb_buf_free(&joined);
    lb_tokens_free(&tokens);
}

/* ---- splitting and merging ---- */

static const struct {
    const char *label;
    parts parts;
    const char *text, *expected;
} pieces[] = {
    {"empty text", {0}, "", ""},
    {"lowest rank first", {0}, "abc", "abc"},
    {"b c before a b", {.merges = "\"b c\",\"a b\""}, "abc", "a|bc"},
    {"leftmost among equals", {0}, "aaa", "aa|a"},
    {"rank, not place", {0}, "aabc", "a|abc"},
    {"pairs as arrays", {.merges = "[\"b\",\"c\"],[\"a\",\"b\"]"}, "abc", "a|bc"},
    {"a version line", {.merges = "\"#version: 0.2\",\"a b\""}, "abc", "ab|c"},
    {"the last of two ranks counts",
     {.merges = "\"a b\",\"b c\",\"a b\""}, "abc", "a|bc"},
    {"a merge far to the left", {.merges = "\"a a\",\"1 2\",\"12 3\""}, "1231", "123|1"},
    {"no merges at all", {.merges = ""}, "ab", "a|b"},
    {"a whole piece needs merges", {.merges = ""}, "aaa", "a|a|a"},
    {"ignore_merges", {.merges = "", .model = "\"type\":\"BPE\",\"ignore_merges\":true,"},
     "aaa", "aaa"},
    {"ignore_merges, another piece",
     {.merges = "", .model = "\"ignore_merges\":true,"}, "aaaa", "a|a|a|a"},
    {"each digit",
     {.pre = SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true}")},
     "a12b3", "a|1|2|b|3"},
    {"runs of digits",
     {.pre = SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":false}")},
     "a123a1", "a|123|a|1"},
    {"numeric is not only 0 to 9",
     {.pre = SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true}"),
      .merges = "\"a \\u00c2\"", .tokens = "\"a\\u00c2\":256"},
     "a\xc2\xb2", "a|\xc2|\xb2"},
    {"digits by three", {.pre = REGEX("\\\\p{N}{1,3}")}, "a12123", "a|12|1|2|3"},
    {"a string", {.pre = SEQUENCE(SPLIT("{\"String\":\"b\"}"))}, "abcab", "a|b|c|a|b"},
    {"an empty match ends a piece", {.pre = REGEX("(?=b)")}, "abcabc", "a|bc|a|bc"},
    {"a match may be empty everywhere", {.pre = REGEX("x*")}, "ab", "a|b"},
    {"\\s is White_Space", {.pre = REGEX("\\\\s+"), .merges = "\"\\u0120 \\u0120\""},
     "a  b", "a|  |b"},
    {"\\s in a class", {.pre = REGEX("[x\\\\s]"), .merges = "\"\\u0120 a\""}, " a", " |a"},
    {"ByteLevel splits as GPT-2", {.pre = GPT2}, "ab  12", "ab| | |12"},
    {"it does not without use_regex", {0}, "ab  12", "ab|  |12"},
    {"a space before the text",
     {.pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":true}"},
     "a b", " a| |b"},
    {"no second space",
     {.pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":false}"},
     " ab", " |ab"},
    {"none before an empty text",
     {.pre = "{\"type\":\"ByteLevel\"}"}, "", ""},
    {"NFC", {.normalizer = "{\"type\":\"NFC\"}"}, "e\xcc\x81", "\xc3\xa9"},
    {"NFC in a sequence",
     {.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}"},
     "e\xcc\x81", "\xc3\xa9"},
    {"no NFC", {0}, "e\xcc\x81", "e|\xcc|\x81"},
};

static void test_pieces(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        print_message("%s\n", pieces[i].label);
        lb_tokenizer *tokenizer = load(&pieces[i].parts);
        expect(tokenizer, pieces[i].text, false, false, pieces[i].expected);
        lb_tokenizer_free(tokenizer);
    }
}

/* Canonical order of a run of marks, short and long: dot below (220) before acute and grave (230),
 * which keep their order. */
static void test_order_of_marks(void **state)
{
    (void)state;
    lb_tokenizer *tokenizer = load(&(parts){.normalizer = "{\"type\":\"NFC\"}"});
    for (size_t count = 1; count < 40; count++) {
        lb_buf text = {0}, expected = {0}, decoded = {0};
        lb_tokens tokens = {0};
        lb_buf_puts(&text, "q");
        lb_buf_puts(&expected, "q");
        for (size_t i = 0; i < count; i++) {
            lb_buf_puts(&text, "\xcc\x81\xcc\xa3\xcc\x80");
            lb_buf_puts(&expected, "\xcc\xa3");
        }
        for (size_t i = 0; i < count; i++)
            lb_buf_puts(&expected, "\xcc\x81\xcc\x80");
        assert_int_equal(lb_tokenizer_encode(tokenizer, (const char *)text.data, text.length, false,
                                             false, &tokens, NULL), LB_OK);
        lb_tokenizer_decode(tokenizer, tokens.ids, tokens.count, false, &decoded);
        assert_string_equal((const char *)decoded.data, (const char *)expected.data);
        lb_tokens_free(&tokens);
        lb_buf_free(&text);
        lb_buf_free(&expected);
        lb_buf_free(&decoded);
    }
    lb_tokenizer_free(tokenizer);
}

/* U+180E has been no White_Space since Unicode 6.3, but PCRE2's \s takes it in. "a" merges with its
 * first byte where the two are in one piece. */
static void test_spaces_of_unicode(void **state)
{
    static const struct {
        const char *pre, *expected;
    } rows[] = {
        {REGEX("[^\\\\s]+"), "a\xe1|\xa0|\x8e"},
        {REGEX("\\\\S+"), "a\xe1|\xa0|\x8e"},
        {REGEX("\\\\s"), "a\xe1|\xa0|\x8e"},
        {REGEX("\\\\x{180e}"), "a|\xe1|\xa0|\x8e"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        lb_tokenizer *tokenizer = load(&(parts){.pre = rows[i].pre, .merges = "\"a \\u00e1\"",
                                                .tokens = "\"a\\u00e1\":256"});
        expect(tokenizer, "a\xe1\xa0\x8e", false, false, rows[i].expected);
        lb_tokenizer_free(tokenizer);
    }
}

/* ---- added tokens ---- */

static void test_added_tokens(void **state)
{
    static const char added[] =
        ADDED(300, "<s>", SPECIAL) "," ADDED(301, "<s>x", SPECIAL) ","
        ADDED(302, "<think>", "") ","
        ADDED(303, "<l>", ",\"lstrip\":true") "," ADDED(304, "<r>", ",\"rstrip\":true") ","
        ADDED(305, "word", ",\"single_word\":true") ","
        ADDED(306, "e\xcc\x81!", ",\"normalized\":true") "," ADDED(307, "d<", "") ","
        ADDED(280, "<e>", SPECIAL);
    static const struct {
        const char *text;
        bool special;
        const char *expected;
    } rows[] = {
        {"a<s>b", true, "a|<s>|b"},
        {"a<s>b", false, "a|<|s|>|b"},
        {"<s>x<s>y", true, "<s>x|<s>|y"},
        {"<s", true, "<|s"},
        {"<e>", true, "<e>"},
        {"<e>", false, "<|e|>"},
        {"<think>a</think>", false, "<think>|a|<|/|t|h|i|n|k|>"},
        {"a  <l> a", false, "a|<l>| a"},
        {"<l> <l>", false, "<l>|<l>"},
        {"a<r> \xe2\x80\x83 a", false, "a|<r>|a"},
        {"a word.", false, "a| |word|."},
        {"sword", false, "s|w|o|r|d"},
        {"sword<", false, "s|w|o|r|d|<"},
        {"ad<", false, "a|d<"},
        {"<r>  <l>", false, "<r>|<l>"},
        {"words word", false, "w|o|r|d|s| |word"},
        {"word_ word", false, "w|o|r|d|_| |word"},
        {"\xc3\xa9!", false, "e\xcc\x81!"},
        {"e\xcc\x81!", false, "e\xcc\x81!"},
        {"<think><think>", false, "<think>|<think>"},
        {"ab<think>c", false, "ab|<think>|c"},
    };
    (void)state;
    lb_tokenizer *tokenizer = load(&(parts){.added = added,
                                            .normalizer = "{\"type\":\"NFC\"}"});
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        expect(tokenizer, rows[i].text, rows[i].special, false, rows[i].expected);
    lb_tokenizer_free(tokenizer);
}

static void test_bos(void **state)
{
    static const char template[] =
        "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},"
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
        "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\","
        "\"ids\":[300]}}}]}";
    (void)state;
    lb_tokenizer *tokenizer = load(&(parts){.post = template,
                                            .added = ADDED(300, "<s>", SPECIAL)});
    expect(tokenizer, "ab", false, true, "<s>|ab");
    expect(tokenizer, "ab", false, false, "ab");
    expect(tokenizer, "", false, true, "<s>");
    lb_tokenizer_free(tokenizer);
}

/* ---- decoding and queries ---- */

static void test_decode(void **state)
{
    (void)state;
    static const uint32_t ids[] = {0xe6, 258, 300, 290, UINT32_MAX, 0x20, 265};
    lb_tokenizer *tokenizer = load(&(parts){.added = ADDED(300, "<s>", SPECIAL)});
    lb_buf out = {0};
    lb_tokenizer_decode(tokenizer, ids, 7, false, &out);
    assert_string_equal((const char *)out.data, "\xe6" "ab<s> \xc3\xa9");
    lb_buf_clear(&out);
    lb_tokenizer_decode(tokenizer, ids, 7, true, &out);
    assert_string_equal((const char *)out.data, "\xe6" "ab \xc3\xa9");
    assert_int_equal(lb_tokenizer_size(tokenizer), 301);
    assert_true(lb_tokenizer_has_text(tokenizer, 300));
    assert_false(lb_tokenizer_has_text(tokenizer, 299));
    assert_false(lb_tokenizer_has_text(tokenizer, 301));
    assert_true(lb_tokenizer_is_special(tokenizer, 300));
    assert_false(lb_tokenizer_is_special(tokenizer, 258));
    uint32_t id = 0;
    assert_true(lb_tokenizer_find(tokenizer, "<s>", &id) && id == 300);
    assert_true(lb_tokenizer_find(tokenizer, "\xc4\xa0" "a", &id) && id == 261);
    assert_false(lb_tokenizer_find(tokenizer, "nothing", &id));
    lb_buf_free(&out);
    lb_tokenizer_free(tokenizer);
}

static void test_digest(void **state)
{
    static const parts other[] = {
        {.merges = "\"a b\""},
        {.merges = "\"b c\",\"a b\""},
        {.merges = "\"a b\",\"b c\"", .pre = GPT2},
        {.merges = "\"a b\",\"b c\"", .normalizer = "{\"type\":\"NFC\"}"},
        {.merges = "\"a b\",\"b c\"", .added = ADDED(300, "<s>", SPECIAL)},
        {.merges = "\"a b\",\"b c\"", .added = ADDED(300, "<s>", "")},
        {.merges = "\"a b\",\"b c\"", .model = "\"ignore_merges\":true,"},
    };
    (void)state;
    lb_tokenizer *strings = load(&(parts){.merges = "\"a b\",\"b c\""});
    lb_tokenizer *pairs = load(&(parts){.merges = "[\"a\",\"b\"],[\"b\",\"c\"]"});
    assert_int_equal(strlen(lb_tokenizer_digest(strings)), 64);
    assert_string_equal(lb_tokenizer_digest(strings), lb_tokenizer_digest(pairs));
    lb_tokenizer *twice = load(&(parts){.merges = "\"b c\",\"a b\",\"b c\""});
    assert_string_equal(lb_tokenizer_digest(strings), lb_tokenizer_digest(twice));
    lb_tokenizer_free(twice);
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        lb_tokenizer *tokenizer = load(&other[i]);
        assert_string_not_equal(lb_tokenizer_digest(strings), lb_tokenizer_digest(tokenizer));
        lb_tokenizer_free(tokenizer);
    }
    lb_tokenizer_free(strings);
    lb_tokenizer_free(pairs);
}

/* ---- refusals ---- */

static const struct {
    parts parts;
    const char *field, *message;
} refusals[] = {
    {{.model = "\"type\":\"Unigram\","}, "model.type", "Unigram"},
    {{.model = "\"dropout\":0.1,"}, "model.dropout", ""},
    {{.model = "\"byte_fallback\":3,"}, "model.byte_fallback", ""},
    {{.model = "\"continuing_subword_prefix\":\"##\","}, "continuing_subword_prefix", ""},
    {{.model = "\"end_of_word_suffix\":\"</w>\","}, "end_of_word_suffix", ""},
    {{.model = "\"ignore_merges\":3,"}, "ignore_merges", ""},
    {{.merges = "\"ab\""}, "model.merges[0]", "neither"},
    {{.merges = "\"a b\",\"a b c\""}, "model.merges[1]", "neither"},
    {{.merges = "[\"a\"]"}, "model.merges[0]", "neither"},
    {{.merges = "17"}, "model.merges[0]", "neither"},
    {{.merges = "\"x y\""}, "model.merges[0]", "not in model.vocab"},
    {{.tokens = "\"zz\":0"}, "model.vocab", "id 0"},
    {{.tokens = "\"zz\":-1", .merges = ""}, "model.vocab", "zz"},
    {{.tokens = "\"zz\":1048576", .merges = ""}, "model.vocab", "zz"},
    {{.tokens = "\"zz\":\"1\"", .merges = ""}, "model.vocab", "zz"},
    {{.normalizer = "{\"type\":\"NFKC\"}"}, "normalizer", "NFKC"},
    {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}"},
     "normalizer.normalizers[0]", "Lowercase"},
    {{.normalizer = "{}"}, "type", ""},
    {{.pre = "null"}, "decoder", "ByteLevel"},
    {{.pre = "[]"}, "pre_tokenizer", "object"},
    {{.pre = "{\"type\":\"Metaspace\"}"}, "pre_tokenizer", "replacement"},
    {{.pre = "{\"type\":\"CharDelimiterSplit\"}"}, "pre_tokenizer", "CharDelimiterSplit"},
    {{.pre = "{\"type\":\"Digits\"}"}, "decoder", "ByteLevel"},
    {{.pre = SEQUENCE(BYTE_LEVEL)}, "pre_tokenizer", "after ByteLevel"},
    {{.pre = SEQUENCE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},"
                      "\"behavior\":\"Removed\"}")}, "pretokenizers[0]", "Removed"},
    {{.pre = SEQUENCE(SPLIT("{\"Regexp\":\"a\"}"))}, "String", ""},
    {{.pre = SEQUENCE(SPLIT("{\"String\":\"\"}"))}, "pretokenizers[0]", "0 bytes"},
    {{.pre = REGEX("(a")}, "pretokenizers[0]", "does not compile"},
    {{.pre = REGEX("\\\\w+")}, "pretokenizers[0]", "\\w"},
    {{.pre = REGEX("[\\\\S]")}, "pretokenizers[0]", "\\S inside a class"},
    {{.pre = REGEX("[a&&b]")}, "pretokenizers[0]", "intersection"},
    {{.pre = REGEX("[a[b]]")}, "pretokenizers[0]", "class inside"},
    {{.pre = REGEX("[]a]")}, "pretokenizers[0]", "begins with ]"},
    {{.pre = REGEX("a{1,3}+")}, "pretokenizers[0]", "{n,m}+"},
    {{.pre = REGEX("a{,3}")}, "pretokenizers[0]", "{,n}"},
    {{.pre = REGEX("(?m:a)")}, "pretokenizers[0]", "group"},
    {{.pre = REGEX("(*NO_JIT)a")}, "pretokenizers[0]", "verb"},
    {{.pre = REGEX("\\\\xe9")}, "pretokenizers[0]", "braces"},
    {{.pre = REGEX("a\\\\")}, "pretokenizers[0]", "\\"},
    {{.post = "{\"type\":\"RobertaProcessing\"}"}, "post_processor", "RobertaProcessing"},
    {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[]}"}, "post_processor", "0 texts"},
    {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{}},"
              "{\"SpecialToken\":{\"id\":\"<s>\"}}]}"}, "post_processor", "after the text"},
    {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}},"
              "{\"Sequence\":{}}],\"special_tokens\":{\"x\":{\"ids\":[999]}}}"},
     "post_processor", "not a token"},
    {{.decoder = "{\"type\":\"WordPiece\"}"}, "decoder", "WordPiece"},
    {{.added = "7"}, "added_tokens[0]", "object"},
    {{.added = "{\"id\":300}"}, "content", ""},
    {{.added = ADDED(300, "", "")}, "added_tokens[0]", "0 bytes"},
    {{.added = ADDED(300, "<s>", "") "," ADDED(300, "<t>", "")}, "added_tokens[1]", "300"},
    {{.added = ADDED(300, "<s>", "") "," ADDED(301, "<s>", "")}, "added_tokens", "same text"},
    {{.added = ADDED(300, "ab", "")}, "added_tokens[0]", "258"},
    {{.added = ADDED(300, "<s>", ",\"special\":1")}, "special", ""},
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        lb_buf text = {0};
        lb_err err = {0};
        lb_tokenizer *tokenizer = NULL;
        make(&refusals[i].parts, 0, &text);
        lb_status status = lb_tokenizer_parse((const char *)text.data, text.length, &tokenizer,
                                              &err);
        if (status == LB_OK || tokenizer != NULL || strstr(err.field, refusals[i].field) == NULL ||
            strstr(err.message, refusals[i].message) == NULL)
            fail_msg("row %zu: status %d, field \"%s\", message \"%s\"", i, (int)status, err.field,
                     err.message);
        lb_buf_free(&text);
    }
}

static void test_missing_bytes(void **state)
{
    (void)state;
    lb_buf text = {0};
    lb_err err = {0};
    lb_tokenizer *tokenizer = NULL;
    lb_tokens tokens = {0};
    make(&(parts){.tokens = "\"zz\":300", .merges = "", .model = "\"unk_token\":\"zy\","}, 0x20,
         &text);
    assert_int_equal(lb_tokenizer_parse((const char *)text.data, text.length, &tokenizer, &err),
                     LB_EDATA);
    assert_string_equal(err.field, "model.unk_token");
    lb_buf_clear(&text);
    make(&(parts){.tokens = "\"zz\":300", .merges = "", .pre = GPT2}, 0x20, &text);
    assert_int_equal(lb_tokenizer_parse((const char *)text.data, text.length, &tokenizer, &err),
                     LB_OK);
    assert_int_equal(lb_tokenizer_encode(tokenizer, "\na\nb", 4, false, false, &tokens, &err),
                     LB_OK);  /* left out, as the library does */
    assert_int_equal(tokens.count, 2);
    assert_true(tokens.ids[0] == 'a' && tokens.ids[1] == 'b');
    lb_tokens_free(&tokens);
    lb_tokenizer_free(tokenizer);
    lb_buf_free(&text);
}

static void test_invalid_utf8(void **state)
{
    static const struct {
        const char *text;
        const char *offset;
    } rows[] = {
        {"\x80", "byte 0"}, {"ab\xff", "byte 2"}, {"a\xc0\x80", "byte 1"}, {"\xc3", "byte 0"},
        {"\xe0\x9f\xbf", "byte 0"}, {"\xed\xa0\x80", "byte 0"}, {"a\xf0\x8f\xbf\xbf", "byte 1"},
        {"\xf4\x90\x80\x80", "byte 0"}, {"\xe6\x97", "byte 0"}, {"\xe6\x97" "a", "byte 0"},
        {"\xf5\x80\x80\x80", "byte 0"},
    };
    (void)state;
    lb_tokenizer *tokenizer = load(&(parts){0});
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        lb_tokens tokens = {0};
        lb_err err = {0};
        assert_int_equal(lb_tokenizer_encode(tokenizer, rows[i].text, strlen(rows[i].text), true,
                                             true, &tokens, &err), LB_EDATA);
        assert_non_null(strstr(err.message, rows[i].offset));
        lb_tokens_free(&tokens);
    }
    lb_tokenizer_free(tokenizer);
}

/* ---- hostile texts ---- */

static lb_status encode_repeated(const lb_tokenizer *tokenizer, const char *unit, size_t length,
                                 size_t *count, lb_err *err)
{
    lb_tokens tokens = {0};
    size_t unit_length = strlen(unit), whole = length / unit_length * unit_length;
    char *text = malloc(whole);
    assert_non_null(text);
    for (size_t i = 0; i < whole; i++)
        text[i] = unit[i % unit_length];
    lb_status status = lb_tokenizer_encode(tokenizer, text, whole, false, false, &tokens, err);
    *count = tokens.count;
    lb_tokens_free(&tokens);
    free(text);
    return status;
}

/* Each of these took minutes with the obvious algorithm: a scan for the best pair after each merge,
 * exchanging neighbours to order marks. */
static void test_long_texts(void **state)
{
    static const char qwen[] = REGEX("[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}"
                                     "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+"
                                     "|\\\\s+(?!\\\\S)|\\\\s+");
    static const struct {
        const char *unit;
        size_t tokens;
    } rows[] = {
        {"a", LONG_TEXT / 2}, {" ", LONG_TEXT / 2}, {"1", LONG_TEXT}, {"<", LONG_TEXT},
        {" a\n", LONG_TEXT / 3 * 2},
        {"\xcc\x81\xcc\xa3", LONG_TEXT},  /* acute above, dot below: classes 230 and 220 */
    };
    (void)state;
    lb_tokenizer *tokenizer = load(&(parts){.pre = qwen, .normalizer = "{\"type\":\"NFC\"}",
                                            .added = ADDED(300, "<think>", "")});
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        lb_err err = {0};
        size_t count = 0;
        assert_int_equal(encode_repeated(tokenizer, rows[i].unit, LONG_TEXT, &count, &err), LB_OK);
        assert_int_equal(count, rows[i].tokens);
    }
    size_t count = 0;
    assert_int_equal(encode_repeated(tokenizer, "a", 4 * LONG_TEXT + 1, &count, NULL), LB_ETOOBIG);
    lb_tokenizer_free(tokenizer);
}

/* SentencePiece's way: no splits, so that a word may be as long as the text. */
static void test_long_words(void **state)
{
    static const char json[] =
        "{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"_\"},\"pre_tokenizer\":{\"type\":"
        "\"Metaspace\",\"replacement\":\"\\u2581\"},"
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":["
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"},"
        "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
        "\"model\":{\"unk_token\":\"?\",\"fuse_unk\":true,\"vocab\":{\"?\":0,\"a\":1,\"aa\":2,"
        "\"\\u2581\":3,\"\\u2581a\":4},\"merges\":[\"a a\",\"\\u2581 a\"]}}";
    static const struct {
        const char *unit;
        size_t tokens;
    } rows[] = {{"a", LONG_TEXT / 2 + 2}, {"\xe2\x96\x81", LONG_TEXT / 3 + 2}, {"x", 2},
                {"aaaa a", LONG_TEXT / 6 * 4 + 2}};
    (void)state;
    lb_tokenizer *tokenizer = NULL;
    lb_err err = {0};
    lb_buf piece = {0};
    if (lb_tokenizer_parse(json, strlen(json), &tokenizer, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t count = 0;
        assert_int_equal(encode_repeated(tokenizer, rows[i].unit, LONG_TEXT, &count, &err), LB_OK);
        if (count > rows[i].tokens || count + 4 < rows[i].tokens)
            fail_msg("\"%s\": %zu tokens", rows[i].unit, count);
    }
    const uint32_t id = 4;
    lb_tokenizer_decode(tokenizer, &id, 1, false, &piece);
    assert_string_equal((const char *)piece.data, "a");
    lb_buf_clear(&piece);
    lb_tokenizer_piece(tokenizer, id, &piece);
    assert_string_equal((const char *)piece.data, " a");
    lb_buf_free(&piece);
    lb_tokenizer_free(tokenizer);
}

static void test_exponential_pattern(void **state)
{
    (void)state;
    lb_err err = {0};
    size_t count = 0;
    lb_tokenizer *tokenizer = load(&(parts){.pre = REGEX("(?:a|a|aa)*[cd]")});
    static const size_t lengths[] = {60, 1000};  /* too many steps; too deep */
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(encode_repeated(tokenizer, "a", lengths[i], &count, &err), LB_EDATA);
        assert_string_equal(err.field, "text");
        assert_non_null(strstr(err.message, "limit"));
    }
    lb_tokenizer_free(tokenizer);
}

/* ---- the file ---- */

static void test_load_names_the_file(void **state)
{
    (void)state;
    lb_tokenizer *tokenizer = NULL;
    lb_err err = {0};
    assert_int_not_equal(lb_tokenizer_load("tests/golden/no-such-folder", &tokenizer, &err), LB_OK);
    assert_non_null(strstr(err.message, "no-such-folder"));
    assert_null(tokenizer);
    lb_tokenizer_free(NULL);
    lb_tokens_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),          cmocka_unit_test(test_spaces_of_unicode),
        cmocka_unit_test(test_order_of_marks),
        cmocka_unit_test(test_added_tokens),    cmocka_unit_test(test_bos),
        cmocka_unit_test(test_decode),          cmocka_unit_test(test_digest),
        cmocka_unit_test(test_refusals),        cmocka_unit_test(test_missing_bytes),
        cmocka_unit_test(test_invalid_utf8),    cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_exponential_pattern),
        cmocka_unit_test(test_load_names_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
