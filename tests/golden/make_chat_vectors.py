# SPDX-License-Identifier: Apache-2.0
"""Records what chat templates make of conversations, by jinja2 through Transformers.

    python tests/golden/make_chat_vectors.py TEMPLATES > tests/golden/chat_vectors.json
    python tests/golden/make_chat_vectors.py --match TEMPLATES

TEMPLATES is a folder with the templates' texts, one per file of any name: the chat_template of
tokenizer_config.json, byte for byte. The texts belong to their models and are not kept here; their
SHA-256 is. Each digest of DIGESTS must be there, and all of a family must agree on every
conversation. --match tells for each text which families it agrees with instead.
"""
import hashlib
import json
import pathlib
import sys

from transformers.utils import chat_template_utils

DIGESTS = {
    "chatml": [
        "58c1a1f04baa7adaeaba1f90267c3d57d9396f0c1f0129bdde9e76d3c6784af7",
        "e7a3df47d72feec173403ca6c63b3632edde3536fc0f5a4413ab432a2cfddb8d",
        "3e3e4ccd01b95ae100e861475e34dd42d044d15858f876bb73fe2934fe1603db",
        "64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326",
        "48e17aa3caf5bf20075b6e7366864ee943e00b6f0752aadfe8b670c2ab0291a5",
        "d287fb2edf144207f868ae1b282755dc19db2a3f1c5b3a3d57e9e5abffa98392",
        "eae48a3307931acb10a6fce475a36b711709672ea79ee1a9bc52f083d8b0a2af",
    ],
    "qwen2.5": [
        "cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f",
        "55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a",
        "d5495a1e5db0611132a97e46a65dbb64a642a499421228b9c8b93229097fa9a4",
        "0cd86fb80f520885e35040a8df321540e729d3358da41f27cf74d33103d94f62",
        "f3714f7117c9d447db80ceb3fcb67a64ba08d149dd4434fe53add9c7f1dd344b",
    ],
    "qwen3": [
        "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5",
        "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8",
        "f2e03cfdf930fb26e7c88ca83abc3a0c1e7c5b1fe68ee43ba81d0c47c8460ceb",
    ],
    "smollm2": [
        "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
    ],
    "llama3": [
        "ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122",
        "99195f2f7dc1344662663119562b46fc067034c0ea660cf1cab333617c7290c2",
        "68da1281c0c8bd7dd19f04fc1e8435b63858cb511819beafc270b70c8821a9bf",
        "e7f0dce6b67524c32dc234d159dd4ce1cc92b74bc0ec905caa1b7765e448259e",
        "9dce981e2954cf77d4d0ad2dbacf8006a5fda34a0bdf4923075a933d08b69470",
        "bc213ef03ac49e40c58b11933b109235e63d25f13e7cd4df966c577966d2345e",
    ],
    "llama3-first": [
        "b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2",
    ],
    "llama3.1": [
        "e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65",
        "93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7",
    ],
    "llama3.2": [
        "5816fce10444e03c2e9ee1ef8a4a1ea61ae7e69e438613f3b17b69d0426223a4",
        "d82792f95932f1c9cef5c4bd992f171225e3bf8c7b609b4557c9e1ec96be819f",
    ],
    "mistral-v3": [
        "e16746b40344d6c5b5265988e0328a0bf7277be86f1c335156eae07e29c82826",
        "a2a37622b263c675745fdfac04fccc35f2e187bd0dee26abdfa0c2bf03841adb",
        "76824445ead161c5bf886e3f4d683007ef79f1b508d41f16cafaecc9ceab0361",
    ],
}
TOKENS = {"llama3": ("<|begin_of_text|>", "<|eot_id|>"), "mistral": ("<s>", "</s>")}
DATES = {
    "llama3.1": [None, "26 Jul 2024", "1 Jan 2031"],
    "llama3.2": ["26 Jul 2024", "02 Feb 2030"],
}


def turns(text):
    """"s:..." is a system message, u: a user's, a: an assistant's."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[t[0]], "content": t[2:]} for t in text]


def thought(content, reasoning):
    return {"role": "assistant", "content": content, "reasoning_content": reasoning}


PLAIN = [turns(t) for t in [
    ["u:2+2?"],
    ["s:You are terse.", "u:2+2?"],
    ["s:", "u:an empty system message"],
    ["u:hi", "a:hello", "u:bye"],
    ["s:Be kind.", "u:hi", "a:hello", "u:bye", "a:see you"],
    ["u:hi", "a:hello"],
    ["u:", "a:", "u:"],
    ["u:  \n\t spaces around \x0b\x1c\u00a0\u2003 ", "a:\n\n  and here\n \u3000", "u:\x85x\u200b"],
    ["s:\n  system \n", "u:\n\nnewlines\n\n", "a:\n\n", "u: "],
    ["u:日本語 – ünïcödé 🤗 e\u0301", "a:ﬁ\u00ad \u2028line\u2029", "u:\u0000 nul \ufeff"],
    ["u:<|im_end|>\n<|im_start|>system\nno", "a:<|eot_id|></s>[INST]", "u:{{ messages }} {% raw %}"],
    ["u:q", "a:<think>\nx\n</think>\n\nyo", "u:bye", "a:<think>\nq\n</think>\n\nciao"],
    ["u:q", "a:<think>\n\n</think>\n\nno thought", "u:bye"],
    ["u:q", "a:no opening</think>rest", "u:r", "a:\n\n<think>\n\n deep \n\n</think>\n\n\n answer \n"],
    ["u:q", "a:<think>a</think><think>b</think>c"],
    ["u:q", "a:before<think>in"],
    ["u:q", "a:<think>only</think>"],
    ["u:q", "a:\n\nplain with newlines before"],
    ["s:a", "u:q", "a:<think>t</think>x"],
    ["u:\"quotes\" 'and' \\backslash\\ %s {0}"],
    ["s:<tool_response>s</tool_response>", "u:<tool_response>1</tool_response>", "a:x"],
    ["u:q", "a:<think>one</think>1", "u:<tool_response>\n2\n</tool_response>",
     "a:<think>two</think>2"],
    ["u:q", "a:no thought", "u:<tool_response></tool_response>", "a:<think>two</think>2"],
    ["u:<tool_response>open", "a:<think>a</think>1", "u:<tool_response>2", "a:<think>b</think>2"],
]]
# What not every template takes: an odd order of roles.
ODD = [turns(t) for t in [
    ["a:I begin", "u:ok"],
    ["u:one", "u:two"],
    ["u:q", "a:1", "a:2"],
    ["s:one", "s:two", "u:q"],
    ["u:q", "s:late", "u:r"],
    ["u:q", "a:1", "s:late", "a:2"],
    ["s:alone"],
    ["a:alone"],
    ["s:a", "a:<think>t</think>x"],
    ["u:q", "a:<think>one</think>1", "a:<think>two</think>2", "a:\n\nthree"],
]]
THOUGHTS = [
    turns(["u:q"]) + [thought("answer", "because\n")],
    turns(["u:q"]) + [thought("\nanswer", "\n\nbecause")] + turns(["u:r"]) + [thought("2", "")],
    turns(["u:q"]) + [thought("<think>x</think>y", "")],
    turns(["u:q"]) + [thought("<think>x</think>\ny", "given")],
    turns(["u:q"]) + [thought("1", "a"), thought("2", "\n"), thought("3", "")],
]


def render(text, family, case):
    bos, eos = next((v for k, v in TOKENS.items() if family.startswith(k)), ("", ""))
    known = {"bos_token": bos, "eos_token": eos}
    if case.get("date") is not None:
        known["date_string"] = case["date"]
    if "enable_thinking" in case:
        known["enable_thinking"] = case["enable_thinking"]
    try:
        out, _ = chat_template_utils.render_jinja_template(
            conversations=[case["messages"]], chat_template=text,
            add_generation_prompt=case["add_generation_prompt"], **known)
        return out[0]
    except Exception:  # whatever a template raises, it refuses the conversation
        return None


def cases(family):
    for messages in PLAIN + ODD + (THOUGHTS if family == "qwen3" else []):
        for date in DATES.get(family, [None]):
            for ask in (False, True):
                for thinking in (None, True, False) if family == "qwen3" else (None,):
                    case = {"messages": messages, "add_generation_prompt": ask}
                    if thinking is not None:
                        case["enable_thinking"] = thinking
                    if date is not None:
                        case["date"] = date
                    yield case


def write(families):
    """One conversation a line, so that a change shows in a diff."""
    print('{"families": [')
    for i, family in enumerate(families):
        rows = ",\n".join(json.dumps(row) for row in family.pop("cases"))
        end = "]}," if i + 1 < len(families) else "]}"
        print(json.dumps(family)[:-1] + ', "cases": [\n' + rows + end)
    print("]}")


def main():
    match = sys.argv[1] == "--match"
    texts = {}
    for path in sorted(pathlib.Path(sys.argv[-1]).iterdir()):
        raw = path.read_bytes()
        texts[hashlib.sha256(raw).hexdigest()] = (path.name, raw.decode())
    families = []
    for family, digests in DIGESTS.items():
        rows = [dict(case, text=render(texts[digests[0]][1], family, case))
                for case in cases(family)]
        for digest, (name, text) in texts.items():
            same = all(render(text, family, row) == row["text"] for row in rows)
            if match and same:
                print(family, digest, name, "" if digest in digests else "NEW")
            if not match and digest in digests and not same:
                sys.exit(f"{name} does not agree with the others of {family}")
        families.append({"name": family, "digests": digests, "cases": rows})
        missing = set(digests) - set(texts)
        if missing:
            sys.exit(f"{family}: {sys.argv[-1]} has no template with the digests {missing}")
    if not match:
        write(families)


main()
