#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares Limbeck with Transformers and PEFT, live, on the demonstration's student.

Runs a short distillation through the real daemons, loads the finished adapter with PEFT and holds
its log-probabilities against `limbeck score --adapter`; the base model too. Then the other way: PEFT
saves adapters with the options of VARIANTS, and ours reads them. Called by tests/run when torch,
transformers and peft are there.

    compare_adapter.py --bin DIR [--adapter DIR]
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
QUICKSTART = os.path.join(ROOT, "deploy", "quickstart")
STUDENT = os.path.join(QUICKSTART, "models", "student")
TEACHER = os.path.join(QUICKSTART, "models", "teacher")
TOLERANCE = 1e-4
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VARIANTS = {
    "rslora": dict(r=6, lora_alpha=9, use_rslora=True, target_modules=LINEAR),
    "rank 64, all-linear": dict(r=64, lora_alpha=32, target_modules="all-linear"),
    "patterns": dict(
        r=4, lora_alpha=8, target_modules=LINEAR,
        rank_pattern={"q_proj": 7, "layers.1.mlp.up_proj": 2, r"layers\.[02]\.mlp\..*": 3},
        alpha_pattern={"self_attn.v_proj": 16, "model.layers.0.mlp.down_proj": 1.5}),
    "rslora with patterns": dict(
        r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "o_proj", "down_proj"],
        rank_pattern={r"(q|o)_proj": 9}, alpha_pattern={"down_proj": 3}),
    "some layers": dict(r=4, lora_alpha=8, target_modules=["self_attn.q_proj", "mlp.up_proj"],
                        layers_to_transform=[1]),
    "one regular expression": dict(
        r=4, lora_alpha=8,
        target_modules=r"model\.layers\.\d+\.(?:self_attn|mlp)\.(?:q|k|down|up)_proj"),
}
PROMPTS = ["347+586=", "12+30=", "999+1=", "500+500="]


def make_adapter(bin_dir, folder):
    """A four-step job through limbeck up; returns the PEFT folder."""
    url_file = os.path.join(folder, "url")
    up = subprocess.Popen(
        [os.path.join(bin_dir, "limbeck"), "up", "--teacher", TEACHER, "--student", STUDENT,
         "--data", os.path.join(folder, "data"), "--port", "0", "--teacher-port", "0",
         "--url-file", url_file], stdout=subprocess.DEVNULL)
    try:
        deadline = time.time() + 60
        while not os.path.exists(url_file):
            if time.time() > deadline or up.poll() is not None:
                sys.exit("the daemons did not start")
            time.sleep(0.05)
        environment = dict(os.environ, LIMBECK_COORDINATOR=open(url_file).read().strip())
        with open(os.path.join(QUICKSTART, "job.json")) as file:
            job = json.load(file)
        parameters = job["method"]["on_policy_distillation"]["hyperparameters"]
        parameters.update(max_steps=4, batch_size=8)
        path = os.path.join(folder, "job.json")
        with open(path, "w") as file:
            json.dump(job, file)

        def limbeck(*words):
            return subprocess.run([os.path.join(bin_dir, "limbeck"), *words], env=environment,
                                  check=True, capture_output=True, text=True).stdout.strip()

        name = limbeck("job", "create", "--file", path, "--data",
                       os.path.join(QUICKSTART, "data", "train.jsonl"))
        limbeck("job", "watch", name)
        adapter = os.path.join(folder, "adapter")
        limbeck("adapter", "get", "quickstart-latest", "--out", adapter)
        return adapter
    finally:
        up.terminate()
        up.wait()


def ours(bin_dir, tokens, adapter):
    command = [os.path.join(bin_dir, "limbeck"), "score", "--model", STUDENT, "--json",
               "--tokens", ",".join(map(str, tokens))]
    if adapter:
        command += ["--adapter", adapter]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output)["logprobs"]


def theirs(model, tokens):
    import torch
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].double()
    scores = torch.log_softmax(logits, dim=-1)
    return [None] + [scores[t, tokens[t + 1]].item() for t in range(len(tokens) - 1)]


def random_adapter(options, folder):
    """Saves an adapter with PEFT, A and B random; returns the model with it."""
    import math
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    base = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3 / math.sqrt(p.shape[1]))
    model.save_pretrained(folder)
    return model


def compare_variants(bin_dir, sequences, plain):
    """The largest difference, and the least change that an adapter made."""
    worst, least = 0.0, float("inf")
    for name, options in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            model = random_adapter(options, folder)
            rows = [(theirs(model, s), ours(bin_dir, s, folder)) for s in sequences]
        difference = largest(rows)
        moved = largest([(x, y[0]) for x, y in zip(plain, rows)])
        print("  PEFT's %s: largest |logprob difference| %.2e (it moves them by %.2e)"
              % (name, difference, moved))
        worst, least = max(worst, difference), min(least, moved)
    return worst, least


def largest(rows):
    return max(abs(a - b) for x, y in rows for a, b in zip(x[1:], y[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--adapter")
    arguments = parser.parse_args()
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    worst = {}
    with tempfile.TemporaryDirectory() as folder:
        adapter = arguments.adapter or make_adapter(arguments.bin, folder)
        base = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32).eval()
        texts = [p + "7+6=13 carry;4+8+1=13;9" for p in PROMPTS]
        sequences = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
        rows = [(theirs(base, s), ours(arguments.bin, s, None)) for s in sequences]
        plain = [row[0] for row in rows]
        worst["base"] = largest(rows)
        tuned = PeftModel.from_pretrained(base, adapter).eval()
        tuned_rows = [(theirs(tuned, s), ours(arguments.bin, s, adapter)) for s in sequences]
        worst["adapter"] = largest(tuned_rows)
        moved = largest([(x, y[0]) for x, y in zip(plain, tuned_rows)])
    print("  largest |logprob difference|: base %.2e, adapter %.2e (the adapter moves them by %.2e)"
          % (worst["base"], worst["adapter"], moved))
    worst["variants"], least = compare_variants(arguments.bin, sequences, plain)
    if max(worst.values()) > TOLERANCE or min(moved, least) <= TOLERANCE:
        sys.exit("  FAILED: above %g, or an adapter changes nothing" % TOLERANCE)


if __name__ == "__main__":
    main()
