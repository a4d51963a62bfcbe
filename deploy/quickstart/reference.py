#!/usr/bin/env python3
"""The quickstart's job in PyTorch: what the service should reach, and from where.

Reads job.json, the two model folders and the prompts, and does what the service does,
in one process: the student samples, the teacher scores every sampled token, and the
student's LoRA is trained with the per-token negative reverse KL as its advantage under
the importance-sampling loss. Weights are the stored BF16 expanded to f32.

    advantage  A = -kl_coef (lp_b - lp_T)        on sampled tokens, the stop token included
    loss       - sum exp(lp_theta - lp_b) A      divided by the step's token count where
                                                 loss_normalization is token_mean
    optimiser  Adam 0.9 / 0.95 / 1e-8, constant rate, no clip, no decay
    LoRA       y = W x + (alpha / r) B (A x), A uniform (Kaiming, a = sqrt 5), B zero

Every step prints teacher_kl (the mean of lp_b - lp_T over sampled tokens), the share of
its samples that are right, their mean length and the share that were cut off. Held-out
accuracy is printed before and after, greedy and sampled, and the teacher's.

Ids beyond the tokenizer are never sampled. The log-probabilities are those of the whole
softmax, those ids included. Right: the sample ended with the stop token, and its last
run of digits, leading zeros off, is the answer.

usage: reference.py [--job job.json] [--seeds 7,8,9] [--steps N] [--batch N] [--rate X] [--rank R]
                    [--alpha X] [--group N] [--threads N] [--quiet] [--export FOLDER]
"""

import argparse
import json
import math
import pathlib
import random
import re
import time

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, DynamicCache

HERE = pathlib.Path(__file__).resolve().parent


class LoRA(torch.nn.Module):
    def __init__(self, base, rank, alpha, generator):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        # Kaiming uniform with a = sqrt(5): the bound is 1 / sqrt(inputs).
        bound = 1.0 / math.sqrt(base.in_features)
        a = torch.rand(rank, base.in_features, generator=generator) * 2 - 1
        self.lora_A = torch.nn.Parameter(a * bound)
        self.lora_B = torch.nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + self.scale * ((x @ self.lora_A.T) @ self.lora_B.T)


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model.requires_grad_(False)


def attach(model, rank, alpha, targets, generator):
    parameters = []
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name.split(".")[-1] in targets:
            parent = model.get_submodule(name.rsplit(".", 1)[0])
            lora = LoRA(module, rank, alpha, generator)
            setattr(parent, name.rsplit(".", 1)[1], lora)
            parameters += [lora.lora_A, lora.lora_B]
    return parameters


class Task:
    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.known = self.tokenizer.get_vocab_size()
        config = json.loads((folder / "config.json").read_text())
        self.eos, self.pad = config["eos_token_id"], config["pad_token_id"]

    def encode(self, row):
        return self.tokenizer.encode(row["prompt"], add_special_tokens=False).ids

    def right(self, row, completion):
        if not completion or completion[-1] != self.eos:
            return False
        runs = re.findall("[0-9]+", self.tokenizer.decode(completion, skip_special_tokens=True))
        return bool(runs) and runs[-1].lstrip("0") == row["answer"].lstrip("0") != ""


@torch.no_grad()
def sample(model, task, prompts, limit, generator, greedy=False):
    """The completion of every prompt: its tokens. Prompts of one length go together."""
    results = [None] * len(prompts)
    for length in sorted({len(p) for p in prompts}):
        which = [i for i, p in enumerate(prompts) if len(p) == length]
        out = [[] for _ in which]
        live = list(range(len(which)))
        cache = DynamicCache()
        ids = torch.tensor([prompts[i] for i in which])
        for _ in range(limit):
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True,
                           logits_to_keep=1).logits[:, -1, :task.known]
            if greedy:
                ids = logits.argmax(-1, keepdim=True)
            else:
                ids = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)
            keep = []
            for row, (j, t) in enumerate(zip(live, ids[:, 0].tolist())):
                out[j].append(t)
                if t != task.eos:
                    keep.append(row)
            if not keep:
                break
            if len(keep) < len(live):
                cache.batch_select_indices(torch.tensor(keep))
                ids = ids[keep]
                live = [live[row] for row in keep]
        for j, i in enumerate(which):
            results[i] = out[j]
    return results


def scores(model, ids):
    """lp[i, t] = log p(ids[i, t + 1] | ids[i, ..t])"""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]


def accuracy(model, task, rows, limit, seed, greedy):
    generator = torch.Generator().manual_seed(seed)
    done = sample(model, task, [task.encode(r) for r in rows], limit, generator, greedy)
    return sum(task.right(r, c) for r, c in zip(rows, done)) / len(rows)


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def run(folder, job, seed, quiet, export=None):
    method = job["method"]["on_policy_distillation"]
    h = method["hyperparameters"]
    rows = read_rows(folder / job["training_file"])
    heldout = read_rows(folder / "data" / "heldout.jsonl")
    student = load(folder / "models" / job["model"])
    teacher = load(folder / "models" / method["teacher"]["model"])
    task = Task(folder / "models" / job["model"])
    limit = h["max_completion_tokens"]
    generator = torch.Generator().manual_seed(seed)
    parameters = attach(student, h["lora"]["r"], h["lora"]["alpha"],
                        h["lora"]["target_modules"], generator)
    optimiser = torch.optim.Adam(parameters, lr=h["learning_rate"], betas=(0.9, 0.95), eps=1e-8)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)

    before = {g: accuracy(student, task, heldout, limit, seed, g) for g in (True, False)}
    top = {g: accuracy(teacher, task, heldout, limit, seed, g) for g in (True, False)}

    began, kls, tokens, context = time.time(), [], 0, 0
    for step in range(h["max_steps"]):
        batch = [rows[order[(step * h["batch_size"] + i) % len(rows)]]
                 for i in range(h["batch_size"]) for _ in range(h["samples_per_prompt"])]
        prompts = [task.encode(r) for r in batch]
        done = sample(student, task, prompts, limit, generator)
        width = max(len(p) + len(c) for p, c in zip(prompts, done))
        ids = torch.full((len(batch), width), task.pad)
        mask = torch.zeros(len(batch), width - 1, dtype=torch.bool)
        for i, (p, c) in enumerate(zip(prompts, done)):
            ids[i, :len(p) + len(c)] = torch.tensor(p + c)
            mask[i, len(p) - 1:len(p) + len(c) - 1] = True
        with torch.no_grad():
            lp_teacher = scores(teacher, ids)
        lp = scores(student, ids)
        lp_b = lp.detach()              # sampler and trainer are the same weights here
        rkl = torch.where(mask, lp_b - lp_teacher, 0.0)
        advantage = -h["kl_coef"] * rkl
        count = int(mask.sum())
        loss = -torch.where(mask, torch.exp(lp - lp_b) * advantage, 0.0).sum()
        if h["loss_normalization"] == "token_mean":
            loss = loss / count
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        kls.append(rkl.sum().item() / count)
        tokens += count
        context += sum(len(p) for p in prompts)
        if not quiet:
            right = sum(task.right(r, c) for r, c in zip(batch, done)) / len(batch)
            cut = sum(c[-1] != task.eos for c in done) / len(batch)
            print(f"  step {step:2d}  teacher_kl {kls[-1]:8.5f}  right {right:.3f}  "
                  f"length {count / len(batch):.1f}  cut {cut:.3f}", flush=True)
    wall = time.time() - began

    after = {g: accuracy(student, task, heldout, limit, seed, g) for g in (True, False)}
    gap = {g: (after[g] - before[g]) / (top[g] - before[g]) for g in (True, False)}
    last = sum(kls[-3:]) / len(kls[-3:])
    sizes = [sum(p.numel() for p in m.parameters()) for m in (student, teacher)]
    flops = (context + tokens) * (8 * sizes[0] + 2 * sizes[1])
    print(f"seed {seed}: greedy {before[True]:.3f} -> {after[True]:.3f} (teacher {top[True]:.3f}, "
          f"gap closed {gap[True]:.1%}), sampled {before[False]:.3f} -> {after[False]:.3f} "
          f"(teacher {top[False]:.3f}, gap closed {gap[False]:.1%}), teacher_kl {kls[0]:.4f} -> "
          f"{last:.5f} ({kls[0] / last:.1f}x), {h['max_steps']} steps, {tokens} tokens sampled, "
          f"{flops / 1e12:.2f} TFLOP, {wall:.0f} s", flush=True)
    if export:
        export.mkdir(parents=True, exist_ok=True)
        (export / f"seed-{seed}.json").write_text(json.dumps({
            "seed": seed, "teacher_kl": kls, "before": before[False], "after": after[False],
            "teacher": top[False], "before_greedy": before[True], "after_greedy": after[True],
            "teacher_greedy": top[True]}, indent=1) + "\n")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--job", type=pathlib.Path, default=HERE / "job.json")
    arguments.add_argument("--seeds")
    arguments.add_argument("--steps", type=int)
    arguments.add_argument("--batch", type=int)
    arguments.add_argument("--group", type=int)
    arguments.add_argument("--rate", type=float)
    arguments.add_argument("--rank", type=int)
    arguments.add_argument("--alpha", type=float)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--quiet", action="store_true")
    arguments.add_argument("--export", type=pathlib.Path)
    a = arguments.parse_args()
    torch.set_num_threads(a.threads)
    job = json.loads(a.job.read_text())
    h = job["method"]["on_policy_distillation"]["hyperparameters"]
    for key, value in (("max_steps", a.steps), ("batch_size", a.batch), ("learning_rate", a.rate),
                       ("samples_per_prompt", a.group)):
        if value is not None:
            h[key] = value
    for key, value in (("r", a.rank), ("alpha", a.alpha)):
        if value is not None:
            h["lora"][key] = value
    for seed in ([int(s) for s in a.seeds.split(",")] if a.seeds else [job["seed"]]):
        run(a.job.resolve().parent, job, seed, a.quiet, a.export)


if __name__ == "__main__":
    main()
