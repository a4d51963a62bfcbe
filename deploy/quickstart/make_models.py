#!/usr/bin/env python3
"""Makes the quickstart: two small Qwen3 models, their tokenizer, and the prompts.

The task is adding two three-digit numbers with the working written out, from the
units to the hundreds, and the sum at the end:

    prompt      347+586=
    completion  7+6=13 carry;4+8+1=13 carry;3+5+1=9;933<|im_end|>

Both models are trained here from random weights on problems made up on the way.

teacher   The larger one. It is trained to write right working. Half of what it reads
          holds slips, which it is not trained to write (their tokens carry no loss):
          it learns to go on consistently after a slip, so that its scores put the
          blame on the token that was wrong and not on those that follow from it.
student   The smaller one, made worse on purpose, and by a fault that is known: it is
          trained on the working of a sloppy hand, that leaves out a carry more
          often than not (CARRY_DROPPED) and now and then writes a wrong sum
          (SUM_WRONG). It has therefore learned the notation and the sums of digits,
          and puts some, but too little, probability on the right working. It is not
          a model that was left short of training.

Of all pairs of numbers a twentieth is kept for data/heldout.jsonl and a twentieth for
data/train.jsonl; neither model is trained on any of those. The rows of train.jsonl
hold a prompt and its answer, and no working: distillation needs the prompt alone.

usage: make_models.py [--out FOLDER] [--only data|teacher|student] [--threads N]

One seed and one thread count give the same files on one machine. On one core the
student takes about ten minutes and the teacher about eight.
"""

import argparse
import json
import math
import pathlib
import random
import shutil
import time
import zlib

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

HERE = pathlib.Path(__file__).resolve().parent

EOS, PAD = "<|im_end|>", "<|endoftext|>"
MERGES = 60
VOCABULARY = 320            # 256 bytes, the merges, two special tokens, and two ids without text

CARRY_DROPPED = 0.62        # the student's sloppy hand
SUM_WRONG = 0.02

SHAPES = {
    "teacher": dict(seed=1, steps=600, batch=128, peak=3e-3, config=dict(
        hidden_size=160, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
        head_dim=32, intermediate_size=448, tie_word_embeddings=False)),
    "student": dict(seed=2, steps=1400, batch=128, peak=3e-3, config=dict(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, intermediate_size=320, tie_word_embeddings=True)),
}

# What the merges are learned from, beside worked sums.
PROSE = """
To add two numbers write them one under the other and add the digits of each column.
Begin with the units, then the tens, then the hundreds. When the sum of a column is ten
or more, write down its last digit and carry one to the next column. Add the carry to
the digits of that column. The answer is read from the last column to the first.
"""


# ---------------------------------------------------------------- the task

def part(a, b):
    """Which part of the problems a+b belongs to: heldout, train, or the models' own."""
    h = zlib.crc32(f"{a}+{b}".encode()) % 20
    return "heldout" if h == 0 else "train" if h == 1 else "models"


def problem(rng, wanted):
    while True:
        a, b = rng.randint(100, 999), rng.randint(100, 999)
        if part(a, b) == wanted:
            return a, b


def working(a, b, rng, dropped=0.0, wrong=0.0):
    """The tokens of the working as text, and for each whether it is a slip.

    After a slip the working goes on from what is written, not from what should have been.
    """
    tokens, slips = [], []

    def put(text, slip=False):
        tokens.append(text)
        slips.append(slip)

    da, db, out, carry = str(a)[::-1], str(b)[::-1], "", False
    for i in range(3):
        put(da[i]), put("+"), put(db[i])
        total = int(da[i]) + int(db[i])
        if carry:
            put("+"), put("1")
            total += 1
        put("=")
        slip = rng.random() < wrong
        shown = total
        if slip:
            shown = rng.choice([s for s in (total - 2, total - 1, total + 1, total + 2)
                                if 0 <= s <= 19])
        text, right = str(shown), str(total)
        blamed = False              # only the first digit that differs is the slip
        for k, c in enumerate(text):
            differs = slip and not blamed and text[:k + 1] != right[:k + 1]
            blamed = blamed or differs
            put(c, differs)
        # Where a one-digit number was written for ten and more (1 for 10), its end is the slip.
        short = slip and not blamed
        carry = shown > 9
        if i < 2:
            out = text[-1] + out
            if carry:
                if rng.random() < dropped:
                    carry = False
                    put(";", True)
                    continue
                put(" carry", short)
                put(";")
            else:
                put(";", short)
        else:
            out = text + out
            put(";", short)
    for c in out:
        put(c)
    put(EOS)
    return tokens, slips


# ----------------------------------------------------------- the tokenizer

def make_tokenizer():
    """A byte-level BPE as Qwen's: its splitting rule, every byte, few merges."""
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    rule = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+")
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(rule), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    rng = random.Random(0)
    text = [PROSE]
    for _ in range(50):
        a, b = problem(rng, "models")
        text.append(f"{a}+{b}=" + "".join(working(a, b, rng)[0][:-1]))
    t.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=256 + MERGES, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[], show_progress=False))
    t.add_special_tokens([PAD, EOS])
    assert t.get_vocab_size() == 256 + MERGES + 2 <= VOCABULARY
    return t


# ------------------------------------------------------------ the training

class Documents:
    """Worked sums as tensors of ids and of loss weights."""

    def __init__(self, tokenizer, rng, teacher):
        self.rng, self.teacher = rng, teacher
        self.pad = tokenizer.token_to_id(PAD)
        self.ids = {}
        for c in list("0123456789+=;") + [" carry"]:
            (self.ids[c],) = tokenizer.encode(c).ids
        self.ids[EOS] = tokenizer.token_to_id(EOS)
        # What is trained on is what the tokenizer makes of the text.
        for _ in range(100):
            a, b = problem(rng, "models")
            tokens, _ = working(a, b, rng, 0.3, 0.1)
            text = f"{a}+{b}=" + "".join(tokens)
            assert tokenizer.encode(text).ids == self.one(a, b, tokens), text

    def one(self, a, b, tokens):
        return [self.ids[c] for c in f"{a}+{b}="] + [self.ids[c] for c in tokens]

    def batch(self, size):
        rows = []
        for _ in range(size):
            a, b = problem(self.rng, "models")
            if not self.teacher:
                tokens, slips = working(a, b, self.rng, CARRY_DROPPED, SUM_WRONG)
                slips = [False] * len(slips)
            elif self.rng.random() < 0.5:
                tokens, slips = working(a, b, self.rng, 0.4, 0.1)
            else:
                tokens, slips = working(a, b, self.rng)
            ids = self.one(a, b, tokens)
            rows.append((ids, [0.0] * (len(ids) - len(slips)) + [0.0 if s else 1.0 for s in slips]))
        width = max(len(ids) for ids, _ in rows)
        ids = torch.full((size, width), self.pad)
        weights = torch.zeros(size, width)
        for i, (x, w) in enumerate(rows):
            ids[i, :len(x)] = torch.tensor(x)
            weights[i, :len(w)] = torch.tensor(w)
        return ids, weights


def train(name, tokenizer, out):
    shape = SHAPES[name]
    torch.manual_seed(shape["seed"])
    documents = Documents(tokenizer, random.Random(shape["seed"]), name == "teacher")
    config = Qwen3Config(
        vocab_size=VOCABULARY, max_position_embeddings=128, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None, eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=tokenizer.token_to_id(PAD), initializer_range=0.04, **shape["config"])
    model = Qwen3ForCausalLM(config)
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW([
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}],
        betas=(0.9, 0.98))
    print(f"{name}: {sum(p.numel() for p in parameters)} parameters")
    began = time.time()
    for step in range(shape["steps"]):
        rate = shape["peak"] * min(1.0, (step + 1) / 60) * \
            (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / shape["steps"])))
        for group in optimiser.param_groups:
            group["lr"] = rate
        ids, weights = documents.batch(shape["batch"])
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(
            logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1), reduction="none")
        w = weights[:, 1:].reshape(-1)
        loss = (losses * w).sum() / w.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % 50 == 49:
            print(f"  step {step + 1}  loss {loss.item():.4f}  {time.time() - began:.0f} s", flush=True)

    folder = out / "models" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=48,
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD,
                            model_max_length=128,
                            clean_up_tokenization_spaces=False).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    # The class under the name that Transformers 4 and 5 both know.
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("backend", None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    for f in folder.iterdir():
        f.chmod(0o644)


# ---------------------------------------------------------------- the data

def write_data(out):
    (out / "data").mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", 4000), ("heldout", 400)):
        rng = random.Random(name)
        seen = set()
        with open(out / "data" / f"{name}.jsonl", "w") as f:
            while len(seen) < rows:
                a, b = problem(rng, name)
                if (a, b) not in seen:
                    seen.add((a, b))
                    f.write(json.dumps({"prompt": f"{a}+{b}=", "answer": str(a + b)}) + "\n")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--out", type=pathlib.Path, default=HERE)
    arguments.add_argument("--only", choices=["data", "teacher", "student"])
    arguments.add_argument("--threads", type=int, default=1)
    a = arguments.parse_args()
    torch.set_num_threads(a.threads)
    tokenizer = make_tokenizer()
    if a.only in (None, "data"):
        write_data(a.out)
    for name in SHAPES:
        if a.only in (None, name):
            train(name, tokenizer, a.out)


if __name__ == "__main__":
    main()
