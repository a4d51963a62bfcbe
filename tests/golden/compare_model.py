#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares `limbeck score` with Transformers, live, on random models of each family.

For every family a small model with fresh random weights is saved in a temporary folder, in BF16,
and scored by both: in f32 (weights expanded, arithmetic in f32) every logprob must agree; with
weights and Transformers' arithmetic in bf16 the mean differences must be small. The demonstration's trained student and teacher are compared too. With --model one folder
alone is compared, such as a downloaded model. Called by tests/run when torch and transformers are
there.

    compare_model.py --bin DIR [--model DIR] [--tokens N] [--seed N]
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TRAINED = [os.path.join(ROOT, "deploy", "quickstart", "models", name)
           for name in ("student", "teacher")]
F32_MAX = 1e-4
# What Transformers' own rounding costs: see test_bf16 in tests/numeric/test_model.c.
BF16_MEAN, BF16_BIAS = 0.01, 0.002
SEQUENCES, LENGTH = 8, 127


def families():
    from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
    llama3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
              "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 32}
    common = dict(vocab_size=192, hidden_size=96, intermediate_size=160, num_hidden_layers=3,
                  max_position_embeddings=256, pad_token_id=0, eos_token_id=1)

    def plain(theta):
        return {"rope_type": "default", "rope_theta": theta}
    return {
        "qwen3": Qwen3Config(**common, num_attention_heads=6, num_key_value_heads=2, head_dim=32,
                             tie_word_embeddings=True, rope_parameters=plain(1e6)),
        "qwen3, untied": Qwen3Config(**common, num_attention_heads=4, num_key_value_heads=4,
                                     head_dim=16, tie_word_embeddings=False,
                                     rope_parameters=plain(5e6)),
        "qwen2.5, untied": Qwen2Config(**common, num_attention_heads=6, num_key_value_heads=1,
                                       tie_word_embeddings=False, rope_parameters=plain(1e6)),
        "qwen2.5, three shards": Qwen2Config(**common, num_attention_heads=4,
                                             num_key_value_heads=2, tie_word_embeddings=True,
                                             rope_parameters=plain(1e6)),
        "llama 3.1": LlamaConfig(**common, num_attention_heads=6, num_key_value_heads=3,
                                 tie_word_embeddings=False, rope_parameters=llama3),
        "llama 3.2, old keys": LlamaConfig(**common, num_attention_heads=6,
                                           num_key_value_heads=2, head_dim=32,
                                           tie_word_embeddings=True, rope_parameters=llama3),
        "smollm2, no head_dim": LlamaConfig(**dict(common, hidden_size=144),
                                            num_attention_heads=9, num_key_value_heads=3,
                                            tie_word_embeddings=True,
                                            rope_parameters=plain(1e5)),
        "mistral": MistralConfig(**common, num_attention_heads=6, num_key_value_heads=2,
                                 head_dim=32, sliding_window=None, tie_word_embeddings=False,
                                 rope_parameters=plain(1e6)),
    }


def save_random(name, config, folder, seed):
    import torch
    from make_model_vectors import randomise, transformers4_keys
    from pathlib import Path
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, torch.Generator().manual_seed(seed), logits=0.35)
    shard = {"max_shard_size": "150KB"} if "shards" in name else {}
    model.to(torch.bfloat16).save_pretrained(folder, **shard)
    if "old keys" in name or "no head_dim" in name:
        transformers4_keys(Path(folder) / "config.json",
                           ["head_dim"] if "no head_dim" in name else [])


def ours(bin_dir, folder, tokens, dtype):
    command = [os.path.join(bin_dir, "limbeck"), "score", "--model", folder, "--json", "--dtype",
               dtype, "--tokens", ",".join(map(str, tokens))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output)["logprobs"]


def theirs(model, tokens):
    import torch
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([tokens])).logits[0].double(), dim=-1)


def means(values):
    """Of the magnitudes, and of the values."""
    return sum(map(abs, values)) / len(values), sum(values) / len(values)


def sample(model, length, seed):
    """Sequences that the model itself finds likely, each from a random first token."""
    import torch
    torch.manual_seed(seed)
    first = torch.randint(0, model.config.vocab_size, (SEQUENCES, 1))
    return model.generate(first, attention_mask=torch.ones_like(first), do_sample=True, top_k=0,
                          top_p=1.0, temperature=1.0, min_new_tokens=length - 1,
                          max_new_tokens=length - 1).tolist()


def compare(name, folder, bin_dir, length, seed):
    """Prints a line; returns what is wrong with the model, or None."""
    import torch
    from transformers import AutoModelForCausalLM

    def load(dtype):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    single, half, double = load(torch.float32), load(torch.bfloat16), load(torch.float64)
    worst, worst_alone, differences, theirs_alone = 0.0, 0.0, [], []
    for tokens in sample(single, length, seed):
        tables = [theirs(model, tokens) for model in (single, half, double)]
        logprobs, lower = (ours(bin_dir, folder, tokens, dtype) for dtype in ("f32", "bf16"))
        for t in range(1, len(tokens)):
            want, want_half, exact = (x[t - 1, tokens[t]].item() for x in tables)
            worst = max(worst, abs(logprobs[t] - want))
            worst_alone = max(worst_alone, abs(exact - want))
            differences.append(lower[t] - want_half)
            theirs_alone.append(want - want_half)
    mean, bias = means(differences)
    mean_alone, bias_alone = means(theirs_alone)
    print("  %-22s f32: largest |difference| %.1e (Transformers' f64: %.1e); bf16: mean"
          " |difference| %.4f, mean %+.5f (Transformers' f32: %.4f); %d positions"
          % (name, worst, worst_alone, mean, bias, mean_alone, len(differences)))
    # A model with large logits loses more to Transformers' rounding than the bounds: then ours may
    # be no farther from it than its own wider arithmetic is.
    if worst > max(F32_MAX, worst_alone):
        return "f32"
    if mean > max(BF16_MEAN, 1.05 * mean_alone) or \
            abs(bias) > max(BF16_BIAS, 1.05 * abs(bias_alone)):
        return "bf16"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--model")
    parser.add_argument("--tokens", type=int, default=LENGTH)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    wrong = []
    for folder in [arguments.model] if arguments.model else TRAINED:
        name = os.path.basename(os.path.normpath(folder))
        wrong.append((name, compare(name, folder, arguments.bin, arguments.tokens,
                                    arguments.seed)))
    for i, (name, config) in enumerate({} if arguments.model else families().items()):
        with tempfile.TemporaryDirectory() as folder:
            save_random(name, config, folder, arguments.seed + i)
            wrong.append((name, compare(name, folder, arguments.bin, arguments.tokens,
                                        arguments.seed)))
    wrong = ["%s in %s" % row for row in wrong if row[1]]
    if wrong:
        sys.exit("  FAILED: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
