#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same weights through limbeck and through llama.cpp, or a fork of it, in turn.

usage: compare_llama_cpp.py LIMBECK MODEL_DIR [--logits LLAMA_LOGITS] [--prompt LLAMA_BENCH]
                            [--decode LLAMA_BATCHED_BENCH]

--logits: the program of llama_logits.c, which computes the logits of every token as scoring does.
--prompt: llama-bench, whose prompt test computes the head for the last token only; that is hard on
limbeck by the head's share of the work. Needs the packages gguf, safetensors and torch to write the
GGUF files. Without them or the programs it says that it was skipped."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

try:
    import gguf
    import torch
    from safetensors.torch import load_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(0)

NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TYPES = {"f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
         "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
         "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0)}


def gguf_name(name):
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def write_gguf(folder, kind, path):
    config = json.load(open(os.path.join(folder, "config.json")))
    family = config["model_type"]
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(TYPES[kind][1])
    if family == "llama":
        writer.add_rope_dimension_count(config["head_dim"])
    for name, value in load_file(os.path.join(folder, "model.safetensors")).items():
        array = value.float().numpy()
        stored = TYPES[kind][0] if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run_json(line):
    return json.loads(subprocess.run(line, check=True, capture_output=True).stdout)


def ours(args, phase, dtype, more):
    return run_json([args.limbeck, "bench", "--model", args.model, "--phase", phase, "--dtype",
                     dtype, "--threads", str(args.threads), "--runs", "1", "--json"] + more)


def logits_rate(args, path):
    return float(subprocess.run([args.logits, path, "512", str(args.threads), "1"], check=True,
                                capture_output=True).stdout)


def prompt_rate(args, path):
    result = run_json([args.prompt, "-m", path, "-p", "512", "-n", "0", "-r", "1", "-t",
                       str(args.threads), "-o", "json"])
    return result[0]["avg_ts"]


def decode_rate(args, path):
    line = [args.decode, "-m", path, "-c", "8192", "-b", "2048", "-ub", "512", "-npp", "256", "-ntg",
            "64", "-npl", "32", "-pps", "-t", str(args.threads)]
    # One cache for all sequences is an option in one and the rule in the other.
    for more in (["-kvu"], []):
        text = subprocess.run(line + more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True).stdout
        rows = [row.split("|") for row in text.splitlines() if row.startswith("|   256 |")]
        if rows:
            return float(rows[-1][8])
    sys.exit(f"{args.decode} failed")


def report(what, kind, dtype, mine, theirs):
    ratio = statistics.median(a / b for a, b in zip(mine, theirs))
    print(f"{what},{kind},{dtype},{statistics.median(theirs):.1f},{statistics.median(mine):.1f},"
          f"{ratio:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("limbeck")
    parser.add_argument("model")
    parser.add_argument("--logits")
    parser.add_argument("--prompt")
    parser.add_argument("--decode")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    more = ["--batch", "32", "--prompt", "256", "--tokens", "64"]
    tests = [(program, what, phase, options, rate) for program, what, phase, options, rate in (
        (args.logits, "logits of 512", "score", [], logits_rate),
        (args.prompt, "prompt of 512", "score", [], prompt_rate),
        (args.decode, "decode 32", "decode", more, decode_rate)) if program]
    missing = [test[0] for test in tests if not os.path.exists(test[0])]
    if missing or not tests:
        print(f"skipped: there is no {missing[0]}" if missing else "skipped: no program was given")
        return
    print("what,theirs,ours,their_tokens_per_s,our_tokens_per_s,ratio")
    with tempfile.TemporaryDirectory() as folder:
        for kind, dtypes in (("f32", ["f32"]), ("bf16", ["bf16", "fast"]),
                             ("q8_0", ["fast", "int8"])):
            path = os.path.join(folder, kind + ".gguf")
            write_gguf(args.model, kind, path)
            for dtype in dtypes:
                for _, what, phase, options, rate in tests:
                    pairs = [(ours(args, phase, dtype, options)["tokens_per_s"], rate(args, path))
                             for _ in range(args.runs)]
                    report(what, kind, dtype, *zip(*pairs))


main()
