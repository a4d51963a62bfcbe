#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares Limbeck's tokenizer with Hugging Face's `tokenizers`, live: ids, offsets, decoded text.

Makes text that is the same every time: sources of the repository and of Python's library, words of
many scripts, emoji with joiners and modifiers, combining marks in any order, control characters,
CRLF, long runs of spaces and digits, look-alikes of special tokens, unassigned code points. All of
it goes through `limbeck tokenize --jsonl` in one process for each tokenizer, without special
tokens; a part of it once more with them, decoded too. Nothing may differ.

The tokenizers are those in the tree and the files or folders of $LIMBECK_TOKENIZERS (separated by
colons; a .gguf file is compared with the tokenizer.json that follows it after an equals sign).

    compare_tokenizer.py --bin DIR [--megabytes N] [--seed N] [--dump FILE]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import unicodedata

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IN_TREE = [os.path.join(ROOT, "deploy", "quickstart", "models", "student", "tokenizer.json")]
BATCH = 200
SHARE_SPECIAL = 4  # one text in so many is compared with special tokens and decoded

SCRIPTS = [(0x21, 0x7E)] * 6 + [
    (0xA1, 0xFF),
    (0x100, 0x24F),
    (0x250, 0x2FF),
    (0x370, 0x3FF),
    (0x400, 0x4FF),
    (0x531, 0x587),
    (0x590, 0x5FF),
    (0x600, 0x6FF),
    (0x700, 0x7FF),
    (0x900, 0x97F),
    (0x980, 0x9FF),
    (0xB80, 0xBFF),
    (0xC80, 0xDFF),
    (0xE00, 0xEFF),
    (0xF00, 0xFFF),
    (0x1000, 0x109F),
    (0x10A0, 0x10FF),
    (0x1100, 0x11FF),
    (0x1200, 0x137F),
    (0x13A0, 0x13FF),
    (0x1780, 0x17FF),
    (0x1800, 0x18AF),
    (0x1E00, 0x1EFF),
    (0x1F00, 0x1FFF),
    (0x2000, 0x206F),
    (0x2070, 0x218F),
    (0x2190, 0x2BFF),
    (0x2E80, 0x303F),
    (0x3040, 0x30FF),
    (0x3100, 0x318F),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xA000, 0xA4CF),
    (0xA640, 0xA6FF),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF),
    (0xFB00, 0xFDFF),
    (0xFE00, 0xFEFF),
    (0xFF00, 0xFFEF),
    (0x10000, 0x100FF),
    (0x10300, 0x103FF),
    (0x11000, 0x1107F),
    (0x12000, 0x123FF),
    (0x1D100, 0x1D1FF),
    (0x1D400, 0x1D7FF),
    (0x1E900, 0x1E95F),
    (0x1F000, 0x1F2FF),
    (0x20000, 0x2A6DF),
    (0x2F800, 0x2FA1F),
    (0xE0001, 0xE01EF),
]
MARKS = [
    (0x300, 0x36F),
    (0x483, 0x487),
    (0x591, 0x5BD),
    (0x64B, 0x65F),
    (0x93C, 0x94D),
    (0x1DC0, 0x1DFF),
    (0x20D0, 0x20F0),
    (0x302A, 0x302F),
    (0x3099, 0x309A),
    (0xFE20, 0xFE2F),
    (0x1D165, 0x1D169),
]
WORDS = """the of and to in that Don't I'LL we've it's 'S 'ſ SHE'D they'Re don’t naïve café Straße ffi
résumé e\u0301 A\u030a o\u0323\u0302 \u0f71\u0f72 \u0344 \u1100\u1161\u11a8 \uac00\u11a8 \u212b \u2126
日本語 テスト ガギ カ\u3099 한국어 조선말 Привет мир مرحبا بالعالم שלום नमस्ते क्षि தமிழ் ไทย ខ្មែរ ქართული
ελληνικά ά Ωμέγα Tiếng Việt İstanbul ıI ǅ ﬁ ½ ² Ⅷ ٣٤٥ १२३ 〇 一二三 ＡＢＣ １２３ 𝔘𝔫𝔦 🤗 👩🏽‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇩🇪 ✌🏿 ☃︎ ▁ ▁▁a a▁b
<s> </s> <unk> <0x41> <0xC3> [INST] [/INST] <|im_start|> <|im_end|> <|im_ <|endoftext|> <|eot_id|> <think>
</think> <tool_call> <|begin_of_text|> <|fim_prefix|> <|im_start|>user <s <|<|im_end|>|> \u200b \u200d \ufeff
http://example.org/a?b=c&d=%20 foo_bar fooBar FOO-BAR x=1;y+=2 // /* */ -> => !== ... ——— “q” «r» §3.6 €9,99
3.14159 1234567890 0x7fff 1e-9 12 123 1234 100,000 2026-01-02T03:04:05Z a.b.c $HOME ~/x C:\\\\dir""".split()
SPACES = [
    " ",
    " ",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\r\n",
    "\r\n\r\n",
    " \n",
    "\n  ",
    "\t",
    "\t\t",
    " \t ",
    "\r",
    "\v",
    "\f",
    "\u0085",
    "\u00a0",
    "\u2003",
    "\u2028",
    "\u2029",
    "\u3000",
    "\u180e",
    " \u00a0 ",
]


def is_assigned(code):
    return unicodedata.category(chr(code)) not in ("Cn", "Cs")


class Maker:
    """Texts of a few kilobytes, with all code points or only those that Python knows."""

    def __init__(self, seed, only_assigned):
        self.rng = random.Random(seed)
        self.only_assigned = only_assigned

    def character(self, low, high):
        code = self.rng.randint(low, high)
        if 0xD800 <= code <= 0xDFFF or (self.only_assigned and not is_assigned(code)):
            return "x"
        return chr(code)

    def word(self):
        rng, kind = self.rng, self.rng.random()
        if kind < 0.5:
            return rng.choice(WORDS)
        if kind < 0.8:
            script = rng.choice(SCRIPTS)
            return "".join(self.character(*script) for _ in range(rng.randint(1, 9)))
        if kind < 0.87:
            marks = (self.character(*rng.choice(MARKS)) for _ in range(rng.randint(1, 6)))
            return self.character(*rng.choice(SCRIPTS[:20])) + "".join(marks)
        if kind < 0.91:
            return str(rng.getrandbits(rng.choice([3, 7, 13, 40, 200])))
        if kind < 0.94:
            return self.character(0, 0x33FFF)
        if kind < 0.96:
            return self.character(0, 0x10FFFF)
        if kind < 0.98:
            return "".join(chr(rng.randint(0, 0x1F)) for _ in range(rng.randint(1, 4)))
        return rng.choice(" \n=-_.a1é日🤗\u0301\t") * rng.choice([2, 3, 9, 40, 300])

    def text(self):
        rng, parts = self.rng, []
        for _ in range(rng.choice([1, 3, 30, 300, 700])):
            parts.append(self.word())
            if rng.random() < 0.7:
                parts.append(rng.choice(SPACES))
        return "".join(parts)


def sources():
    """Files as text, from the repository and from Python's library, in a fixed order."""
    folders = [
        os.path.join(ROOT, name)
        for name in ("common", "server", "client", "proto", "docs", "tests", "deploy")
    ]
    folders.append(sysconfig.get_paths()["stdlib"])
    for top in folders:
        for folder, names, files in os.walk(top):
            names[:] = sorted(n for n in names if n not in ("site-packages", "dist-packages"))
            for name in sorted(files):
                if name.endswith((".c", ".h", ".py", ".md", ".sh", ".yaml", ".cmake")):
                    with open(
                        os.path.join(folder, name), encoding="utf-8", newline="", errors="ignore"
                    ) as file:
                        yield file.read()


def make_texts(size, seed, only_assigned):
    """At least size bytes: half made up, half sources; a tenth of the sources with CRLF."""
    texts, total = [], 0
    for index, text in enumerate(sources()):
        if total > size // 2:
            break
        if text:
            texts.append(text.replace("\n", "\r\n") if index % 10 == 0 else text)
            total += len(texts[-1].encode())
    maker = Maker(seed, only_assigned)
    while total < size:
        texts.append(maker.text())
        total += len(texts[-1].encode())
    texts += [
        "",
        " ",
        "  a",
        "\n",
        "a" * 100000,
        " " * 50001,
        "é" * 30000,
        "1" * 20000,
        "".join(texts[len(texts) // 2 :])[:400000],
    ]
    return texts, total


def byte_offsets(text, pairs):
    """Offsets in characters as offsets in bytes of UTF-8."""
    if text.isascii():
        return [list(p) for p in pairs]
    place, starts = 0, [0]
    for c in text:
        code = ord(c)
        place += 1 if code < 0x80 else 2 if code < 0x800 else 3 if code < 0x10000 else 4
        starts.append(place)
    return [[starts[a], starts[b]] for a, b in pairs]


def ours(bin_dir, path, texts, options):
    """The replies of one process, line by line."""
    with tempfile.TemporaryFile() as lines:
        for text in texts:
            lines.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
        lines.seek(0)
        command = [os.path.join(bin_dir, "limbeck"), "tokenize", "--model", path, "--jsonl"]
        with subprocess.Popen(command + options, stdin=lines, stdout=subprocess.PIPE) as process:
            for line in process.stdout:
                yield json.loads(line)
            if process.wait() != 0:
                sys.exit("  FAILED: limbeck tokenize on %s" % path)


def compare(arguments, path, oracle, texts, special):
    """Returns the numbers of tokens and of texts that differ."""
    options = ["--special", "--bos", "--decode"] if special else []
    replies = ours(arguments.bin, path, texts, options + ["--offsets"])
    oracle.encode_special_tokens = not special
    tokens = wrong = 0
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        for text, want in zip(batch, oracle.encode_batch(batch, add_special_tokens=special)):
            got = next(replies, None)
            if got is None:
                sys.exit("  FAILED: %s: too few replies" % path)
            tokens += len(want.ids)
            good = got["tokens"] == want.ids and got["offsets"] == byte_offsets(text, want.offsets)
            if special:
                good = good and got["text"] == oracle.decode(want.ids, skip_special_tokens=True)
            if not good:
                wrong += 1
                if wrong <= arguments.show:
                    show(oracle, text, want, got)
    next(replies, None)
    return tokens, wrong


def show(oracle, text, want, got):
    """Where a text first differs."""
    pairs = byte_offsets(text, want.offsets)
    for i in range(max(len(pairs), len(got["tokens"]))):
        theirs = (want.ids[i], pairs[i]) if i < len(pairs) else None
        mine = (got["tokens"][i], got["offsets"][i]) if i < len(got["tokens"]) else None
        if theirs != mine:
            at = want.offsets[min(i, len(pairs) - 1)][0] if pairs else 0
            print(
                "    token %d: theirs %s, ours %s, near %s"
                % (i, theirs, mine, ascii(text[max(0, at - 12) : at + 20]))
            )
            return
    decoded = oracle.decode(want.ids, skip_special_tokens=True)
    at = next((i for i, (a, b) in enumerate(zip(decoded, got.get("text", ""))) if a != b), -1)
    print(
        "    decoded: theirs %s, ours %s"
        % (
            ascii(decoded[max(0, at - 9) : at + 20]),
            ascii(got.get("text", "")[max(0, at - 9) : at + 20]),
        )
    )


def knows_newer(path):
    """Whether the file's splits are those for which we have the library's Unicode version."""
    with open(path, encoding="utf-8") as file:
        pre = json.dumps(json.load(file).get("pre_tokenizer"))
    return '"Regex"' not in pre or "(?i:'s" in pre


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=5, help="differences to print")
    parser.add_argument("--dump", help="write the texts as JSON lines, and stop")
    arguments = parser.parse_args()
    if arguments.dump:
        texts, _ = make_texts(int(arguments.megabytes * 1e6), arguments.seed, False)
        with open(arguments.dump, "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)
        return
    import tokenizers

    named = [p for p in os.environ.get("LIMBECK_TOKENIZERS", "").split(":") if p]
    if not named:
        print("  $LIMBECK_TOKENIZERS names none: only the tokenizers in the tree")
    failed, made = False, {}
    for name in IN_TREE + named:
        path, _, oracle_path = name.partition("=")
        oracle_path = oracle_path or path
        if os.path.isdir(oracle_path):
            oracle_path = os.path.join(oracle_path, "tokenizer.json")
        if not os.path.exists(oracle_path) or not os.path.exists(path):
            print("  skipped %s: it is not there" % name)
            continue
        all_points = knows_newer(oracle_path)
        if all_points not in made:
            made[all_points] = make_texts(
                int(arguments.megabytes * 1e6), arguments.seed, not all_points
            )
        texts, size = made[all_points]
        oracle = tokenizers.Tokenizer.from_file(oracle_path)
        tokens, wrong = compare(arguments, path, oracle, texts, False)
        more, worse = compare(arguments, path, oracle, texts[::SHARE_SPECIAL], True)
        print(
            "  %s: %d texts, %.1f MB, %d tokens%s: %d texts differ; with special tokens %d, %d "
            "differ"
            % (
                os.path.relpath(path, ROOT) if path.startswith(ROOT) else path,
                len(texts),
                size / 1e6,
                tokens,
                "" if all_points else " (assigned characters)",
                wrong,
                more,
                worse,
            )
        )
        failed = failed or wrong + worse > 0
    if failed:
        sys.exit("  FAILED: tokens, offsets or texts differ")


if __name__ == "__main__":
    main()
