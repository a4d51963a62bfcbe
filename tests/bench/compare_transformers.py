#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same checkpoint through limbeck and through PyTorch with Transformers (and PEFT), in turn.

usage: compare_transformers.py LIMBECK MODEL_DIR [--threads 2] [--runs 5] [--phases score,train]

Both get random tokens of the same number. Scoring: forward, log_softmax, gather at the targets.
Training: forward and backward of a rank-16 LoRA on all projections. Each pair of runs alternates, so
that both see the same machine; medians and their ratio are printed as CSV. fast stands beside their
bf16. Without torch, transformers or peft it says that it was skipped."""
import argparse
import json
import statistics
import subprocess
import sys
import time

try:
    import torch
    from transformers import AutoModelForCausalLM
    from peft import LoraConfig, get_peft_model
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(0)

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def ours(args, phase, dtype, tokens, batch):
    line = [args.limbeck, "bench", "--model", args.model, "--phase", phase, "--dtype", dtype,
            "--tokens", str(tokens), "--batch", str(batch), "--threads", str(args.threads),
            "--runs", "1", "--json"]
    return json.loads(subprocess.run(line, check=True, capture_output=True).stdout)


def score(model, ids):
    with torch.no_grad():
        logits = model(ids).logits[:, :-1].float()
        return torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])


def train(model, ids):
    model.zero_grad()
    logits = model(ids).logits[:, :-1].float()
    logprob = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])
    (-logprob.mean()).backward()


def seconds(step, model, ids):
    start = time.perf_counter()
    step(model, ids)
    return time.perf_counter() - start


def compare(args, phase, dtype, tokens, batch):
    theirs_in = "f32" if dtype == "f32" else "bf16"
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[theirs_in]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=kind)
    vocabulary = model.config.vocab_size
    step = score
    if phase == "train":
        config = LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM")
        model, step = get_peft_model(model, config), train
        model.train()
    else:
        model.eval()
    ids = torch.randint(0, vocabulary, (batch, tokens))
    seconds(step, model, ids)
    theirs, mine, share = [], [], []
    for _ in range(args.runs):
        theirs.append(batch * tokens / seconds(step, model, ids))
        result = ours(args, phase, dtype, tokens, batch)
        mine.append(result["tokens_per_s"])
        share.append(result["limit_share"])
    ratio = statistics.median(a / b for a, b in zip(mine, theirs))
    print(f"{phase},{dtype},{theirs_in},{tokens},{batch},{statistics.median(mine):.1f},"
          f"{statistics.median(theirs):.1f},{ratio:.2f},{statistics.median(share):.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("limbeck")
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--phases", default="score,train")
    parser.add_argument("--dtypes", default="f32,bf16,fast")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("phase,dtype,transformers_dtype,tokens,batch,limbeck_tokens_per_s,transformers_tokens_per_s,ratio,"
          "limbeck_limit_share")
    for phase in args.phases.split(","):
        for dtype in args.dtypes.split(","):
            if phase == "score":
                compare(args, phase, dtype, 512, 1)
            else:
                compare(args, phase, dtype, 256, 8)


main()
