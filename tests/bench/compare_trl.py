#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whole steps of on-policy distillation: limbeck's daemons, and TRL's DistillationTrainer, in turn.

usage: compare_trl.py BIN_DIR MODEL_DIR [--dtype f32] [--steps 3] [--rollouts 32] [--tokens 64]

The model is its own teacher. A step samples one completion for each of the prompts, has the teacher
score it, and updates a rank-16 LoRA on all projections by the reverse KL. limbeck runs a teacher, a
coordinator and a worker on loopback; TRL does it in one process, in f32, without checkpointing of
activations. The first step of each is not counted. A completion may end early, so completion tokens
a second are compared; the medians over the steps and their ratio are printed as CSV. Without torch,
trl or datasets it says that it was skipped."""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

try:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DistillationConfig, DistillationTrainer
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(0)

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOPICS = ["rivers", "bread", "glass", "tides", "bees", "clocks", "maps", "wool", "salt", "bridges"]


def prompts(count):
    return [f"Write a long story, number {i}, about {TOPICS[i % len(TOPICS)]} and what "
            f"{i * 7 % 100} people made of them:\n" for i in range(count)]


class StepTimes(TrainerCallback):
    def __init__(self):
        self.seconds = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.start)


class Counting(DistillationTrainer):
    """Notes how many tokens of completions each step had."""
    tokens = []

    def _generate_and_score_completions(self, inputs):
        out = super()._generate_and_score_completions(inputs)
        self.tokens.append(int(out["completion_mask"].sum()))
        return out


def theirs(args, folder):
    times = StepTimes()
    Counting.tokens = []
    config = DistillationConfig(
        output_dir=folder, max_steps=args.steps + 1, per_device_train_batch_size=args.rollouts,
        max_completion_length=args.tokens, temperature=1.0, beta=1.0, learning_rate=1e-4,
        bf16=False, gradient_checkpointing=False, use_cpu=True, report_to=[], save_strategy="no",
        disable_tqdm=True, logging_steps=1000)
    trainer = Counting(
        model=AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
        teacher_model=AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
        args=config, processing_class=AutoTokenizer.from_pretrained(args.model),
        train_dataset=Dataset.from_dict({"prompt": prompts(args.rollouts * (args.steps + 1))}),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM"),
        callbacks=[times])
    trainer.train()
    return [tokens / seconds for tokens, seconds in zip(Counting.tokens, times.seconds)][1:]


def job_of(args):
    return {"model": "student", "training_file": "prompts.jsonl", "seed": 7, "suffix": "bench",
            "method": {"type": "on_policy_distillation", "on_policy_distillation": {
                "teacher": {"model": "teacher"},
                "hyperparameters": {
                    "max_steps": args.steps + 1, "batch_size": args.rollouts,
                    "samples_per_prompt": 1, "units_per_step": 1, "learning_rate": 1e-4,
                    "temperature": 1.0, "max_completion_tokens": args.tokens, "kl_coef": 1.0,
                    "discount": 0.0, "lora": {"r": 16, "alpha": 32, "target_modules": TARGETS}}}}}


def steps_of(limbeck, folder, environment, count):
    data = os.path.join(folder, "prompts.jsonl")
    line = [limbeck, "job", "create", "--file", os.path.join(folder, "job.json"), "--data", data]
    job = subprocess.run(line, check=True, capture_output=True, text=True, env=environment).stdout
    rates, last = [], None
    watch = subprocess.Popen([limbeck, "job", "watch", job.strip(), "--json"], text=True,
                             stdout=subprocess.PIPE, env=environment)
    for text in watch.stdout:
        row, now = json.loads(text), time.perf_counter()
        if "step" not in row:
            continue
        if last is not None:
            rates.append(row["tokens"] / (now - last))
        last = now
    if watch.wait() != 0 or len(rates) != count:
        sys.exit("the job did not succeed")
    return rates


def ours(args, folder):
    limbeck, url = os.path.join(args.bin, "limbeck"), os.path.join(folder, "url")
    with open(os.path.join(folder, "job.json"), "w") as file:
        json.dump(job_of(args), file)
    with open(os.path.join(folder, "prompts.jsonl"), "w") as file:
        for prompt in prompts(args.rollouts * (args.steps + 1)):
            file.write(json.dumps({"prompt": prompt}) + "\n")
    up = subprocess.Popen(
        [limbeck, "up", "--teacher", args.model, "--student", args.model, "--workers", "1",
         "--threads", str(args.threads), "--dtype", args.dtype, "--data", os.path.join(folder, "d"),
         "--port", "0", "--teacher-port", "0", "--url-file", url],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not os.path.exists(url) and up.poll() is None:
            time.sleep(0.1)
        environment = dict(os.environ, LIMBECK_COORDINATOR=open(url).read().strip())
        return steps_of(limbeck, folder, environment, args.steps)
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bin")
    parser.add_argument("model")
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        mine, other = ours(args, first), theirs(args, second)
    mine, other = statistics.median(mine), statistics.median(other)
    print("dtype,rollouts,tokens,limbeck_tokens_per_s,trl_tokens_per_s,ratio")
    print(f"{args.dtype},{args.rollouts},{args.tokens},{mine:.1f},{other:.1f},{mine / other:.2f}")


main()
