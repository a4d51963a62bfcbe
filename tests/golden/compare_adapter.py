#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares Limbeck with Transformers and PEFT, live, on the demonstration's student.

Runs a short distillation through the real daemons, loads the finished adapter with PEFT and holds
its log-probabilities against `limbeck score --adapter`; the base model too. Called by tests/run when
torch, transformers and peft are there.

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
        worst["base"] = max(abs(a - b) for x, y in rows for a, b in zip(x[1:], y[1:]))
        tuned = PeftModel.from_pretrained(base, adapter).eval()
        tuned_rows = [(theirs(tuned, s), ours(arguments.bin, s, adapter)) for s in sequences]
        worst["adapter"] = max(abs(a - b) for x, y in tuned_rows for a, b in zip(x[1:], y[1:]))
        moved = max(abs(a - b) for x, y in zip(rows, tuned_rows)
                    for a, b in zip(x[0][1:], y[0][1:]))
    print("  largest |logprob difference|: base %.2e, adapter %.2e (the adapter moves them by %.2e)"
          % (worst["base"], worst["adapter"], moved))
    if max(worst.values()) > TOLERANCE or moved <= TOLERANCE:
        sys.exit("  FAILED: above %g, or the adapter changes nothing" % TOLERANCE)


if __name__ == "__main__":
    main()
