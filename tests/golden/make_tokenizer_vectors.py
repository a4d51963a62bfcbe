#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what Hugging Face's `tokenizers` does with small tokenizers, one or more for each option.

Writes tokenizer_options.json beside this script: for each of CONFIGS the tokenizer.json itself and,
for each text, ids, byte offsets and decoded text, with special tokens and without. The vocabularies
are made up here; nothing is trained, so that the file is the same every time.

usage: make_tokenizer_vectors.py [--out FILE]
"""

import argparse
import json
import pathlib

import tokenizers

HERE = pathlib.Path(__file__).resolve().parent
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
QWEN, LLAMA3 = HEAD + r"\p{N}" + REST, HEAD + r"\p{N}{1,3}" + REST

TEXTS = [
    "",
    " ",
    "a",
    "ab abc  abcab",
    "  ab\n\n ab \r\n\tabc ",
    "don't DON'T I'll 'ſ x's",
    "é e\u0301 ab",
    "e\u0323\u0301\u0323 \uac00\u11a8 \u0344a \u1100\u1161\u11a8",
    "1 12 123 1234 12345 ½²٣",
    "日本語 ab日本",
    "🤗👨‍👩‍👧 a🤗b",
    "<s>ab</s> <s",
    "ab <mask>  ab",
    "ab  <l>  <r>  ab",
    "word words sword word",
    "▁ab a▁b ▁▁ab",
    "<0x41>a<0xC3>",
    "\x00\x01a\x7f",
    "\u00a0a\u3000b\u2028c",
    "ab.ab!ab?!",
    "caféab",
    "aaaa bbbb abababab",
    "xyz…xyz —ab—",
    "a\u0301\u0323b\u0345\u1df7\u05b0",
    "qqqab  qab q",
    "é!e\u0301! \u00c9!",
    "\u2581",
    "a\u0305\u0301 e\u0301",
    "ab<s>e\u0301",
    "   \u2581 a",
    "\ufb01 \ud7a3\u11a8 \u0f71\u0f72\u0f74 \u0958",
    "ab" * 40 + " " + "a" * 50 + "日" * 30,
]
MERGES = [
    "a b",
    "ab c",
    "b c",
    "a a",
    "aa aa",
    "{s} a",
    "{s} ab",
    "{s}a b",
    "{s} {s}",
    "1 2",
    "12 3",
    "b b",
    "ab ab",
    "a ▁",
]


def alphabet():
    """The characters that stand for the bytes 0 to 255."""
    prints = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 255 and b != 173]
    other = [b for b in range(256) if b not in prints]
    names = {b: chr(b) for b in prints}
    names.update({b: chr(256 + i) for i, b in enumerate(other)})
    return [names[b] for b in range(256)]


def build(symbols, merges, space):
    """vocab and merges; merges of symbols that are not there are left out."""
    vocab = {s: i for i, s in enumerate(symbols)}
    kept = []
    for merge in merges:
        a, b = merge.replace("{s}", space).split(" ")
        if a in vocab and b in vocab:
            vocab.setdefault(a + b, len(vocab))
            kept.append([a, b])
    return vocab, kept


def added(identity, content, **flags):
    token = dict(
        id=identity,
        content=content,
        single_word=False,
        lstrip=False,
        rstrip=False,
        normalized=False,
        special=False,
    )
    token.update(flags)
    return token


ADDED = [
    ("<s>", dict(special=True)),
    ("</s>", dict(special=True)),
    ("<mask>", dict(special=True, lstrip=True)),
    ("<l>", dict(lstrip=True)),
    ("<r>", dict(rstrip=True)),
    ("word", dict(single_word=True)),
    ("é!", dict(normalized=True)),
    ("xyz", dict(normalized=True)),
]


def document(vocab, merges, model=None, **parts):
    new = [content for content, _ in ADDED if content not in vocab]
    names = {content: len(vocab) + i for i, content in enumerate(new)}
    names.update({c: vocab[c] for c, _ in ADDED if c in vocab})
    rows = sorted((added(names[c], c, **flags) for c, flags in ADDED), key=lambda row: row["id"])
    body = dict(
        type="BPE",
        dropout=None,
        unk_token=None,
        continuing_subword_prefix=None,
        end_of_word_suffix=None,
        fuse_unk=False,
        byte_fallback=False,
        ignore_merges=False,
    )
    body.update(model or {}, vocab=vocab, merges=merges)
    file = dict(
        version="1.0",
        truncation=None,
        padding=None,
        added_tokens=rows,
        normalizer=None,
        pre_tokenizer=None,
        post_processor=None,
        decoder=None,
    )
    file.update(parts, model=body)
    if file["post_processor"] == "bos":
        file["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [names["<s>"]], "tokens": ["<s>"]}},
        }
    return file


def byte_level(regex=None, before=(), without=(), prefix=False, extra=(), **more):
    symbols = [s for i, s in enumerate(alphabet()) if i not in without] + list(extra)
    vocab, merges = build(symbols, MERGES + ["Ã ©"], "Ġ")
    level = {
        "type": "ByteLevel",
        "add_prefix_space": prefix,
        "trim_offsets": False,
        "use_regex": regex == "GPT2",
    }
    steps = list(before)
    if regex not in (None, "GPT2"):
        steps.append(
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        )
    pre = {"type": "Sequence", "pretokenizers": steps + [level]} if steps else level
    decoder = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }
    return document(vocab, merges, pre_tokenizer=pre, decoder=decoder, **more)


def spelt(fallback=range(256), merges=None, model=None, strip=(1, 0), extra=(), **more):
    symbols = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in fallback]
    symbols += list("▁abc12345.!?é日\n") + list(extra)
    vocab, kept = build(symbols, [m for m in merges or MERGES if merges or m != "a ▁"], "▁")
    settings = dict(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    settings.update(model or {})
    decoder = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": strip[0], "stop": strip[1]},
        ],
    }
    return document(vocab, kept, settings, decoder=decoder, **more)


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def replace(pattern, content):
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


LEGACY = {
    "type": "Sequence",
    "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")],
}
NFC = {"type": "NFC"}
DIGITS = [{"type": "Digits", "individual_digits": True}]
CONFIGS = {
    "qwen": lambda: byte_level(QWEN, normalizer=NFC),
    "llama3": lambda: byte_level(
        LLAMA3, model=dict(ignore_merges=True), post_processor="bos", extra=["abcab", "Ġx"]
    ),
    "gpt2": lambda: byte_level("GPT2"),
    "smollm": lambda: byte_level("GPT2", DIGITS, without=[0, 1, 0x13, 0xF0]),
    "byte level, space in front": lambda: byte_level(
        "GPT2", [{"type": "Digits", "individual_digits": False}], prefix=True, normalizer=NFC
    ),
    "byte level, no split": lambda: byte_level(),
    "byte level, unknown bytes": lambda: byte_level(
        QWEN, without=[0, 1, 0x96, 0xE6], extra=["<unk>"], model=dict(unk_token="<unk>")
    ),
    "byte level, fused unknown bytes": lambda: byte_level(
        QWEN,
        without=[0, 1, 0x96, 0xE6, 0x97],
        extra=["<unk>"],
        model=dict(unk_token="<unk>", fuse_unk=True),
    ),
    "mistral, prepend and replace": lambda: spelt(normalizer=LEGACY, post_processor="bos"),
    "mistral, metaspace": lambda: spelt(
        pre_tokenizer=metaspace("first", False), post_processor="bos"
    ),
    "metaspace, always, split": lambda: spelt(pre_tokenizer=metaspace("always", True)),
    "metaspace, never, split": lambda: spelt(
        pre_tokenizer=metaspace("never", True), normalizer=NFC
    ),
    "metaspace, first, after NFC": lambda: spelt(
        pre_tokenizer=metaspace("first", False), normalizer=NFC
    ),
    "metaspace after digits": lambda: spelt(
        pre_tokenizer={"type": "Sequence", "pretokenizers": DIGITS + [metaspace("first", False)]}
    ),
    "no fallback, fused": lambda: spelt([], model=dict(byte_fallback=False), normalizer=LEGACY),
    "no fallback, single": lambda: spelt(
        [], model=dict(byte_fallback=False, fuse_unk=False), normalizer=LEGACY
    ),
    "some bytes, fused": lambda: spelt(
        [0xC3, 0xA9, 0xE6, 0x71, 0x72, 0x77, 0xF0, 0x9F, 0xA4, 0x97], normalizer=LEGACY
    ),
    "merges over words": lambda: spelt(merges=MERGES + ["b ▁", "b▁ a"], normalizer=LEGACY),
    "whole pieces": lambda: spelt(
        model=dict(ignore_merges=True),
        pre_tokenizer=metaspace("first", False),
        extra=["▁abcab", "ab▁abc▁▁abcab"],
    ),
    "replace more": lambda: spelt(
        normalizer={
            "type": "Sequence",
            "normalizers": [
                replace("ab", "日"),
                replace("!", ""),
                NFC,
                {"type": "Prepend", "prepend": "a▁"},
                replace(" ", "▁▁"),
            ],
        },
        strip=(2, 1),
    ),
}


def byte_offsets(text, pairs):
    return [[len(text[:a].encode()), len(text[:b].encode())] for a, b in pairs]


def record(file):
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(file))
    rows = []
    for text in TEXTS:
        for special in (False, True):
            tokenizer.encode_special_tokens = not special
            out = tokenizer.encode(text, add_special_tokens=special)
            row = {
                "text": text,
                "special": special,
                "ids": out.ids,
                "offsets": byte_offsets(text, out.offsets),
            }
            try:
                decoded = [
                    tokenizer.decode(out.ids, skip_special_tokens=skip) for skip in (False, True)
                ]
            except BaseException as error:  # Strip of the end of nothing panics
                if type(error).__name__ != "PanicException":
                    raise
                decoded = ["\ufffd"]
            if "\ufffd" not in decoded[0]:  # else ours has the bytes
                row["decoded"], row["decoded_skip_special"] = decoded
            rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "tokenizer_options.json")
    out = parser.parse_args().out
    lines = []
    for name, make in CONFIGS.items():
        file = make()
        rows = ",\n   ".join(json.dumps(row, separators=(",", ":")) for row in record(file))
        lines.append(
            '{"name":%s,\n  "tokenizer":%s,\n  "rows":[\n   %s]}'
            % (json.dumps(name), json.dumps(file, separators=(",", ":")), rows)
        )
    out.write_text("[" + ",\n ".join(lines) + "]\n")
    print(
        "%s: %d tokenizers, %d texts, tokenizers %s"
        % (out.name, len(CONFIGS), len(TEXTS), tokenizers.__version__)
    )


if __name__ == "__main__":
    main()
