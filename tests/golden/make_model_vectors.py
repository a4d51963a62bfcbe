#!/usr/bin/env python3
"""Records what Transformers and PEFT compute for tiny random models.

For every model of MODELS this writes, beside this script:

  <name>/config.json, model.safetensors   a Hugging Face folder, random weights
  <name>/vectors.json                     logprobs to compare against
  <name>/hidden.safetensors               hidden states of one sequence, for finding a fault
  <name>/adapter/                         a LoRA adapter in PEFT's format, A and B random
  <name>/lora_grads.safetensors           d loss / d (A, B), under the adapter's tensor names

and, from the quickstart's tokenizer.json, tokenizer_vectors.json.

vectors.json:
  sequences[i].tokens            token ids
  sequences[i].logprobs          log p(tokens[t] | tokens[<t]); the first is null
  sequences[i].top5              at a few positions p: the five likeliest tokens that
                                 follow tokens[0..p], with their logprobs
  sequences[i].argmax            the likeliest token after each token
  dtype                          of the stored weights
  bf16[i].tokens, .logprobs      as above, with weights and arithmetic in bf16 (models with bf16=True)
  sequences[i].adapter_logprobs  as logprobs, with the adapter in force
  sequences[i].weights           w[t], one for each entry of logprobs (the first is null)
  gradient.loss                  L = - sum over sequences and t >= 1 of w[t] adapter_logprobs[t]
  gradient.sequences             the loss of each sequence

Arithmetic is f32 with eager attention; the log-softmax is taken in f64 of the f32
logits. Models stored as BF16 are expanded to f32 before anything but `bf16` is computed.
Small random models are a hard case for bf16: with logits that deviate by 1, rounding
every activation moves a logprob by 0.02, whichever way the rest is computed; those with
bf16=True have smaller logits. Some of the configurations are written with the keys of Transformers 4
(rope_theta, rope_scaling, torch_dtype at the top), some with those of Transformers 5
(rope_parameters, dtype).

usage: make_model_vectors.py [--out FOLDER] [--tokenizer tokenizer.json] [--only models|tokenizer]
                             [--model NAME ...]
"""

import argparse
import json
import math
import pathlib
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config,
                          Qwen3Config)

HERE = pathlib.Path(__file__).resolve().parent
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LENGTHS = [1, 2, 3, 5, 8, 17, 31, 40]
RANK, ALPHA = 4, 8

MODELS = {
    # q/k norm, grouped-query attention, head_dim != hidden / heads, tied embeddings.
    "qwen3-tiny": dict(
        seed=11, dtype=torch.float32, keys=5,
        config=lambda: Qwen3Config(
            vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            max_position_embeddings=128, rms_norm_eps=1e-6, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            bos_token_id=None, eos_token_id=1, pad_token_id=0)),
    # No q/k norm, an output layer of its own, sizes that are no multiple of eight.
    "llama-tiny": dict(
        seed=12, dtype=torch.bfloat16, keys=5,
        config=lambda: LlamaConfig(
            vocab_size=101, hidden_size=48, intermediate_size=76, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128,
            rms_norm_eps=1e-5, tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            bos_token_id=None, eos_token_id=1, pad_token_id=0)),
    # Llama 3's rotary scaling; the original length is short so that every branch counts.
    "llama3-tiny": dict(
        seed=13, dtype=torch.float32, keys=4,
        config=lambda: LlamaConfig(
            vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=1, head_dim=8,
            max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
            rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0,
                             "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 32},
            bos_token_id=None, eos_token_id=1, pad_token_id=0)),
    # Bias on q, k and v.
    "qwen2-tiny": dict(
        seed=14, dtype=torch.bfloat16, keys=4,
        config=lambda: Qwen2Config(
            vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=128, rms_norm_eps=1e-6, tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            bos_token_id=None, eos_token_id=1, pad_token_id=0)),
    # Tied as the small Qwen2.5 are, in three files.
    "qwen2-shards-tiny": dict(
        seed=15, dtype=torch.float32, keys=5, shard="24KB",
        config=lambda: Qwen2Config(
            vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=1,
            max_position_embeddings=128, rms_norm_eps=1e-6, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            bos_token_id=None, eos_token_id=1, pad_token_id=0)),
    # SmolLM2-135M's nine heads over three, theta and missing head_dim.
    "smollm2-tiny": dict(
        seed=16, dtype=torch.bfloat16, keys=4, logits=0.35, bf16=True, drop=["head_dim"],
        config=lambda: LlamaConfig(
            vocab_size=96, hidden_size=36, intermediate_size=96, num_hidden_layers=3,
            num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=128,
            rms_norm_eps=1e-5, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
            bos_token_id=1, eos_token_id=2, pad_token_id=2)),
    # Mistral without a window; head_dim is not hidden / heads.
    "mistral-tiny": dict(
        seed=17, dtype=torch.bfloat16, keys=5, logits=0.5, bf16=True,
        config=lambda: MistralConfig(
            vocab_size=96, hidden_size=40, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, sliding_window=None,
            max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            bos_token_id=1, eos_token_id=2, pad_token_id=0)),
}


def randomise(model, generator, logits=2.0):
    """Weights that make every part matter: logits with a deviation near `logits`, sharp attention."""
    def normal(shape, std):
        return torch.randn(shape, generator=generator) * std
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if name.endswith("embed_tokens.weight") or name.endswith("lm_head.weight"):
                p.copy_(normal(p.shape, logits / math.sqrt(p.shape[1])))
            elif name.endswith("q_norm.weight") or name.endswith("k_norm.weight"):
                p.copy_(1.4 + normal(p.shape, 0.3))
            elif name.endswith("norm.weight"):
                p.copy_(1.0 + normal(p.shape, 0.2))
            elif name.endswith("bias"):
                p.copy_(normal(p.shape, 0.5))
            else:
                gain = 1.5 if "q_proj" in name or "k_proj" in name else 1.0
                p.copy_(normal(p.shape, gain / math.sqrt(p.shape[1])))


def transformers4_keys(path, drop=()):
    """Rewrites config.json as Transformers 4 wrote it."""
    c = json.loads(path.read_text())
    for key in drop:
        c.pop(key, None)
    rope = c.pop("rope_parameters")
    c["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type", "default") != "default":
        c["rope_scaling"] = rope
    c["torch_dtype"] = c.pop("dtype")
    c.pop("layer_types", None)
    path.write_text(json.dumps(dict(sorted(c.items())), indent=2) + "\n")


def logprobs_of(model, tokens):
    """(logits in f32, log p of every token after the first, in f64)"""
    ids = torch.tensor([tokens])
    logits = model(input_ids=ids).logits[0]
    assert logits.dtype == model.dtype
    lp = torch.log_softmax(logits.double(), dim=-1)
    return lp, lp[:-1].gather(1, ids[0, 1:, None])[:, 0]


def record_bf16(folder, generator):
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="eager").eval()
    rows = []
    with torch.no_grad():
        for _ in range(16):
            tokens = torch.randint(0, model.config.vocab_size, (64,), generator=generator).tolist()
            rows.append({"tokens": tokens,
                         "logprobs": [None] + [round(x, 6) for x in
                                               logprobs_of(model, tokens)[1].tolist()]})
    return rows


def record(name, spec, out):
    generator = torch.Generator().manual_seed(spec["seed"])
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    config = spec["config"]()
    config.attention_dropout = 0.0
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(made, generator, spec.get("logits", 2.0))
    made.to(spec["dtype"]).save_pretrained(folder, max_shard_size=spec.get("shard", "5GB"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    if spec["keys"] == 4:
        transformers4_keys(folder / "config.json", spec.get("drop", ()))

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    for key, value in made.state_dict().items():
        assert torch.equal(model.state_dict()[key], value.float()), key

    sequences = []
    with torch.no_grad():
        for length in LENGTHS:
            tokens = torch.randint(0, config.vocab_size, (length,), generator=generator).tolist()
            table, lp = logprobs_of(model, tokens)
            top = []
            for p in sorted({0, length // 2, length - 1}):
                value, index = table[p].topk(5)
                top.append({"position": p, "tokens": index.tolist(), "logprobs": value.tolist()})
            w = torch.randn(length, generator=generator)
            w[torch.rand(length, generator=generator) < 0.3] = 0.0
            sequences.append({"tokens": tokens, "logprobs": [None] + lp.tolist(), "top5": top,
                              "argmax": table.argmax(dim=-1).tolist(),
                              "adapter_logprobs": None, "weights": [None] + w[1:].tolist()})
        states = model(input_ids=torch.tensor([sequences[4]["tokens"]]),
                       output_hidden_states=True).hidden_states
        # embedding output, the residual stream after each layer but the last, and
        # last what the output layer reads: after all layers and the final norm.
        hidden = {"embedding": states[0][0].contiguous(),
                  "final_norm": states[-1][0].contiguous()}
        for i, s in enumerate(states[1:-1]):
            hidden[f"after_layer.{i}"] = s[0].contiguous()
        save_file(hidden, folder / "hidden.safetensors", metadata={"sequence": "4"})

    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=PROJECTIONS, lora_dropout=0.0,
                      bias="none", task_type="CAUSAL_LM")
    peft = get_peft_model(model, lora)
    with torch.no_grad():
        for key, p in sorted(peft.named_parameters()):
            if "lora_" in key:
                p.copy_(torch.randn(p.shape, generator=generator) * (0.6 / math.sqrt(p.shape[1])))
    adapter = folder / "adapter"
    peft.save_pretrained(adapter)
    (adapter / "README.md").unlink(missing_ok=True)
    c = json.loads((adapter / "adapter_config.json").read_text())
    c["base_model_name_or_path"] = name
    c["target_modules"] = PROJECTIONS
    (adapter / "adapter_config.json").write_text(json.dumps(c, indent=2) + "\n")

    # Read the adapter back, so that what is recorded is what the files hold.
    base = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager")
    peft = PeftModel.from_pretrained(base, adapter, is_trainable=True).eval()
    losses = []
    for s in sequences:
        if len(s["tokens"]) == 1:
            s["adapter_logprobs"] = [None]
            losses.append(0.0)
            continue
        _, lp = logprobs_of(peft, s["tokens"])
        s["adapter_logprobs"] = [None] + lp.tolist()
        loss = -(torch.tensor(s["weights"][1:], dtype=torch.float64) * lp).sum()
        loss.backward()
        losses.append(loss.item())
    stored = load_file(adapter / "adapter_model.safetensors")
    grads = {key.replace(".default", ""): p.grad for key, p in peft.named_parameters()
             if p.requires_grad}
    assert sorted(grads) == sorted(stored), sorted(set(grads) ^ set(stored))
    for key, g in grads.items():
        assert g.shape == stored[key].shape and g.abs().max() > 0, key
    save_file({k: v.contiguous() for k, v in grads.items()}, folder / "lora_grads.safetensors")

    vectors = {"model": name, "dtype": str(spec["dtype"]).removeprefix("torch."),
               "bf16": record_bf16(folder, generator) if spec.get("bf16") else [],
               "lora": {"r": RANK, "alpha": ALPHA},
               "sequences": sequences,
               "gradient": {"loss": sum(losses), "sequences": losses}}
    (folder / "vectors.json").write_text(json.dumps(vectors) + "\n")

    for f in folder.rglob("*.safetensors"):
        f.chmod(0o644)

    table, _ = logprobs_of(model, sequences[-1]["tokens"])
    spread = max(abs(a - b) for s in sequences
                 for a, b in zip(s["logprobs"][1:], s["adapter_logprobs"][1:]))
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{name:12} {size:7d} bytes, logits deviate {table.std(dim=1).mean():.2f}, "
          f"adapter moves a logprob by at most {spread:.2f}, "
          f"gradient norm {math.sqrt(sum(float((g * g).sum()) for g in grads.values())):.2f}")


STRINGS = [
    "", "0", "7", "12", "347+586=", "7+6=13;4+8+1=13;3+5+1=9;933", "0123456789", "1 2  3   4",
    "a", "Hello, world!", "hello world", " hello", "  hello", "hello ", "hello  ", " ", "  ", "   \t",
    "\n", "\n\n", " \n", "\n ", "a\nb", "a\r\nb", "a \n b", "line one\n\n  line two\n", "\tindent",
    "I'm, you're, he'll, we've, it's, can't, I'd", "I'M YOU'RE HE'LL", "'s", "don\u2019t",
    "snake_case camelCase SCREAMING_CASE", "x=y+z;", "if (a<b) { return c[0]; }", "...", "!!! ???",
    "http://example.org/a?b=c&d=%20", "user@example.org", "3.14159", "1,234,567.89", "-5", "a1b2c3",
    "e\u0301cole", "\u00e9cole", "A\u030angstro\u0308m", "nai\u0308ve caf\u00e9", "\u1e9b\u0323", "\u2126 \u212b",
    "\uac00\u1100\u1161\u11a8",
    "\u4f60\u597d\uff0c\u4e16\u754c", "\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8", "\ud55c\uad6d\uc5b4",
    "\u041f\u0440\u0438\u0432\u0435\u0442", "\u0645\u0631\u062d\u0628\u0627", "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0660\u0661\u0662 \u00bd \u00b2 \u2163", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1eb\U0001f1f7 ok",
    "nbsp\u00a0here", "\u3000wide space", "zero\u200bwidth", "\u2028line separator", "\x00\x01\x7f", "\u0085next",
    "<|endoftext|>", "<|im_end|>", "a<|im_end|>b", " <|im_end|> ", "<|im_end|><|endoftext|>",
    "<|im_end", "<|im_start|>user", "<|endoftext|>\n\n12+34=", "<|im_end|>e\u0301",
]


def record_tokenizer(path, out):
    """ids with the text of special tokens parsed as those tokens, and as ordinary text."""
    from tokenizers import Tokenizer
    parsing = Tokenizer.from_file(str(path))
    plain = Tokenizer.from_file(str(path))
    plain.encode_special_tokens = True     # the text of a special token is only text
    rows = []
    for text in STRINGS:
        a = parsing.encode(text, add_special_tokens=False).ids
        b = plain.encode(text, add_special_tokens=False).ids
        rows.append({"text": text, "ids": a, "ids_plain": b,
                     "decoded": parsing.decode(a, skip_special_tokens=False),
                     "decoded_skip_special": parsing.decode(a, skip_special_tokens=True)})
    # Sequences of ids that are no whole characters decode with U+FFFD.
    decode = []
    for ids in (parsing.encode("\U0001f600", add_special_tokens=False).ids[:2],
                parsing.encode("\u4f60\u597d", add_special_tokens=False).ids[1:],
                parsing.encode("a\u00e9", add_special_tokens=False).ids[:2]):
        decode.append({"ids": ids, "decoded": parsing.decode(ids, skip_special_tokens=False)})
    body = {"vocabulary": parsing.get_vocab_size(with_added_tokens=True),
            "encode": rows, "decode": decode}
    (out / "tokenizer_vectors.json").write_text(json.dumps(body, indent=1) + "\n")
    print(f"tokenizer_vectors.json: {len(rows)} strings")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--out", type=pathlib.Path, default=HERE)
    arguments.add_argument("--tokenizer", type=pathlib.Path, default=HERE.parent.parent
                           / "deploy" / "quickstart" / "models" / "student" / "tokenizer.json")
    arguments.add_argument("--only", choices=["models", "tokenizer"])
    arguments.add_argument("--model", nargs="*", choices=list(MODELS), default=list(MODELS))
    a = arguments.parse_args()
    torch.set_num_threads(1)      # one order of summation
    if a.only != "tokenizer":
        for name in a.model:
            record(name, MODELS[name], a.out)
    if a.only != "models":
        record_tokenizer(a.tokenizer, a.out)


if __name__ == "__main__":
    main()
