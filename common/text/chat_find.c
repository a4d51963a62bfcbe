/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/digest.h"
#include "common/text/chat.h"

#include <stdio.h>
#include <string.h>

typedef struct family {
    const char *name;
    const char *bos;
    const char *eos;
} family;

static const family families[LB_CHAT_KINDS] = {
    [LB_CHAT_CHATML] = {"chatml", "", "<|im_end|>"},
    [LB_CHAT_QWEN2_5] = {"qwen2.5", "", "<|im_end|>"},
    [LB_CHAT_QWEN3] = {"qwen3", "", "<|im_end|>"},
    [LB_CHAT_SMOLLM2] = {"smollm2", "", "<|im_end|>"},
    [LB_CHAT_LLAMA3] = {"llama3", "<|begin_of_text|>", "<|eot_id|>"},
    [LB_CHAT_LLAMA3_FIRST] = {"llama3-first", "<|begin_of_text|>", "<|eot_id|>"},
    [LB_CHAT_LLAMA3_1] = {"llama3.1", "<|begin_of_text|>", "<|eot_id|>"},
    [LB_CHAT_LLAMA3_2] = {"llama3.2", "<|begin_of_text|>", "<|eot_id|>"},
    [LB_CHAT_MISTRAL_V3] = {"mistral-v3", "<s>", "</s>"},
};

/* Each text was at hand and agreed with its family on all of tests/golden/chat_vectors.json. */
static const struct {
    const char *digest;
    lb_chat_kind kind;
} known[] = {
    {"58c1a1f04baa7adaeaba1f90267c3d57d9396f0c1f0129bdde9e76d3c6784af7",
     LB_CHAT_CHATML},  /* Dolphin Mixtral; Axolotl */
    {"e7a3df47d72feec173403ca6c63b3632edde3536fc0f5a4413ab432a2cfddb8d",
     LB_CHAT_CHATML},  /* Axolotl, with a final newline */
    {"3e3e4ccd01b95ae100e861475e34dd42d044d15858f876bb73fe2934fe1603db",
     LB_CHAT_CHATML},  /* Unsloth */
    {"64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326",
     LB_CHAT_CHATML},  /* Qwen3 Instruct 2507 */
    {"48e17aa3caf5bf20075b6e7366864ee943e00b6f0752aadfe8b670c2ab0291a5",
     LB_CHAT_CHATML},  /* the same of TRL, for training */
    {"d287fb2edf144207f868ae1b282755dc19db2a3f1c5b3a3d57e9e5abffa98392",
     LB_CHAT_CHATML},  /* Qwen3 Coder */
    {"eae48a3307931acb10a6fce475a36b711709672ea79ee1a9bc52f083d8b0a2af",
     LB_CHAT_CHATML},  /* the same without the final newline */
    {"cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f",
     LB_CHAT_QWEN2_5},  /* Qwen2.5 Instruct */
    {"55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a",
     LB_CHAT_QWEN2_5},  /* the same without the final newline */
    {"d5495a1e5db0611132a97e46a65dbb64a642a499421228b9c8b93229097fa9a4",
     LB_CHAT_QWEN2_5},  /* Qwen2.5, first revision */
    {"0cd86fb80f520885e35040a8df321540e729d3358da41f27cf74d33103d94f62",
     LB_CHAT_QWEN2_5},  /* TRL, for training */
    {"f3714f7117c9d447db80ceb3fcb67a64ba08d149dd4434fe53add9c7f1dd344b",
     LB_CHAT_QWEN2_5},  /* the same without the final newline */
    {"87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5",
     LB_CHAT_QWEN3},  /* Qwen3, first revision */
    {"a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8",
     LB_CHAT_QWEN3},  /* Qwen3 */
    {"f2e03cfdf930fb26e7c88ca83abc3a0c1e7c5b1fe68ee43ba81d0c47c8460ceb",
     LB_CHAT_QWEN3},  /* Unsloth */
    {"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
     LB_CHAT_SMOLLM2},  /* SmolLM2 Instruct */
    {"ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122",
     LB_CHAT_LLAMA3},  /* Llama 3 Instruct */
    {"99195f2f7dc1344662663119562b46fc067034c0ea660cf1cab333617c7290c2",
     LB_CHAT_LLAMA3},  /* Unsloth */
    {"68da1281c0c8bd7dd19f04fc1e8435b63858cb511819beafc270b70c8821a9bf",
     LB_CHAT_LLAMA3},  /* Axolotl */
    {"e7f0dce6b67524c32dc234d159dd4ce1cc92b74bc0ec905caa1b7765e448259e",
     LB_CHAT_LLAMA3},  /* Axolotl, with a final newline */
    {"9dce981e2954cf77d4d0ad2dbacf8006a5fda34a0bdf4923075a933d08b69470",
     LB_CHAT_LLAMA3},  /* TRL, for training */
    {"bc213ef03ac49e40c58b11933b109235e63d25f13e7cd4df966c577966d2345e",
     LB_CHAT_LLAMA3},  /* the same without the final newline */
    {"b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2",
     LB_CHAT_LLAMA3_FIRST},  /* Llama 3 Instruct, first revision */
    {"e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65",
     LB_CHAT_LLAMA3_1},  /* Llama 3.1 and 3.3 Instruct */
    {"93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7",
     LB_CHAT_LLAMA3_1},  /* the same without the final newline */
    {"5816fce10444e03c2e9ee1ef8a4a1ea61ae7e69e438613f3b17b69d0426223a4",
     LB_CHAT_LLAMA3_2},  /* Llama 3.2 Instruct */
    {"d82792f95932f1c9cef5c4bd992f171225e3bf8c7b609b4557c9e1ec96be819f",
     LB_CHAT_LLAMA3_2},  /* the same without the final newline */
    {"e16746b40344d6c5b5265988e0328a0bf7277be86f1c335156eae07e29c82826",
     LB_CHAT_MISTRAL_V3},  /* Mistral 7B Instruct v0.3 */
    {"a2a37622b263c675745fdfac04fccc35f2e187bd0dee26abdfa0c2bf03841adb",
     LB_CHAT_MISTRAL_V3},  /* Axolotl, for Mistral v2 and v3 */
    {"76824445ead161c5bf886e3f4d683007ef79f1b508d41f16cafaecc9ceab0361",
     LB_CHAT_MISTRAL_V3},  /* the same without the final newline */
};

const char *lb_chat_name(lb_chat_kind kind)
{
    return families[kind].name;
}

lb_chat lb_chat_of(lb_chat_kind kind)
{
    lb_chat chat = {.kind = kind};
    snprintf(chat.bos, sizeof chat.bos, "%s", families[kind].bos);
    snprintf(chat.eos, sizeof chat.eos, "%s", families[kind].eos);
    return chat;
}

lb_status lb_chat_parse_name(const char *name, lb_chat_kind *out, lb_err *err)
{
    char names[LB_ERR_MESSAGE_MAX] = "";
    size_t used = 0;
    for (unsigned i = 0; i < LB_CHAT_KINDS; i++) {
        if (strcmp(name, families[i].name) == 0) {
            *out = (lb_chat_kind)i;
            return LB_OK;
        }
        int n = snprintf(names + used, sizeof names - used, " %s", families[i].name);
        used += n > 0 && (size_t)n < sizeof names - used ? (size_t)n : 0;
    }
    return lb_fail(err, LB_EINVAL, "chat_template", "\"%.32s\" is not known; there are%s", name,
                   names);
}

bool lb_chat_find_digest(const char *hex, lb_chat_kind *out)
{
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(hex, known[i].digest) == 0) {
            *out = known[i].kind;
            return true;
        }
    }
    return false;
}

lb_status lb_chat_find(const char *text, size_t length, lb_chat_kind *out, lb_err *err)
{
    uint8_t digest[LB_SHA256_BYTES];
    char hex[LB_SHA256_HEX];
    lb_sha256_of(text, length, digest);
    lb_sha256_hex(digest, hex);
    if (lb_chat_find_digest(hex, out))
        return LB_OK;
    return lb_fail(err, LB_EUNSUPPORTED, "chat_template",
                   "the template with SHA-256 %s is not known; give rendered text as \"prompt\", "
                   "or token ids as \"prompt_ids\", or name a template that renders the same with "
                   "--chat-template", hex);
}
