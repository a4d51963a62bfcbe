#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what the gguf package of ggml makes of blocks of every type that Limbeck reads.

Writes, with gguf.GGUFWriter:

  gguf_blocks.gguf                   beside this script: for every type T a tensor "T" of random
                                     and extreme blocks, and "T.want", its values in F32 as
                                     gguf.quants.dequantize gives them
  ../fuzz/corpus/fuzz_gguf/*.gguf    small files for the fuzzer to begin with

usage: make_gguf_vectors.py [--out FOLDER] [--seeds FOLDER]
"""

import argparse
import pathlib

import gguf
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K"]
# Where the f16 scales of a block stand.
SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
# zeros, the smallest and largest subnormal, the smallest normal, one, the largest; both signs
F16 = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF]
F16_NOT_FINITE = [0x7C00, 0xFC00, 0x7E00]
BF16 = [0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x0080, 0x3F80, 0xBF80, 0x7F7F, 0xFF7F, 0x7F80,
        0xFF80, 0x7FC0]
F32 = [0x00000000, 0x80000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x3F800000, 0xBF800000,
       0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000]


def random_scale(rng):
    """An f16 of a size that quantised weights have, as bits."""
    return int(np.float16(rng.standard_normal() * 0.02).view(np.uint16))


def quantised_blocks(name, rng):
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = []

    def add(fill, scales):
        block = rng.integers(0, 256, size, dtype=np.uint8)
        if fill is not None:
            block[:] = fill
        for at, bits in zip(SCALES[name], scales):
            block[at:at + 2] = np.array([bits], dtype="<u2").view(np.uint8)
        blocks.append(block)

    for _ in range(6):
        add(None, [random_scale(rng), random_scale(rng)])
    for fill in (0x00, 0xFF, 0x80, 0x7F):
        add(fill, [random_scale(rng), random_scale(rng)])
    for i, bits in enumerate(F16 + F16_NOT_FINITE):
        add(None, [bits, F16[(5 * i + 3) % len(F16)]])
    return np.stack(blocks)


def data_of(name, rng):
    if name == "F32":
        random = rng.standard_normal(20).astype(np.float32)
        return np.concatenate([np.array(F32, dtype=np.uint32).view(np.float32), random])
    if name == "F16":
        random = rng.standard_normal(18).astype(np.float16)
        return np.concatenate([np.array(F16 + F16_NOT_FINITE, dtype=np.uint16).view(np.float16),
                               random])
    if name == "BF16":
        random = (rng.standard_normal(19).astype(np.float32).view(np.uint32) >> 16)
        return np.concatenate([np.array(BF16, dtype=np.uint16), random.astype(np.uint16)]) \
            .view(np.uint8)
    return quantised_blocks(name, rng).reshape(-1)


def expanded(name, data):
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name]).reshape(-1)


def write(path, architecture, fill, endian=gguf.GGUFEndian.LITTLE):
    writer = gguf.GGUFWriter(path, architecture, endianess=endian)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def blocks(path):
    rng = np.random.default_rng(42)

    def fill(writer):
        for name in TYPES:
            data = data_of(name, rng)
            raw = gguf.GGMLQuantizationType[name] if name not in ("F32", "F16") else None
            writer.add_tensor(name, data, raw_dtype=raw)
            want = expanded(name, data)
            writer.add_tensor(name + ".want", want.astype(np.float32))
            print(f"{name:5} {data.nbytes:6d} bytes, {want.size:5d} values")
    write(path, "blocks", fill)


def sizes(writer):
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)


def tokenizer(writer):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["a", "b", "ab", "<|end|>"])
    writer.add_token_types([1, 1, 1, 3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(3)
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages }}")


def seeds(folder):
    rng = np.random.default_rng(7)
    embedding = rng.standard_normal((4, 8)).astype(np.float32)

    def llama(writer):
        sizes(writer)
        writer.add_rope_dimension_count(4)
        writer.add_tensor("token_embd.weight", embedding)
        writer.add_tensor("rope_freqs.weight", np.ones(2, dtype=np.float32))

    def qwen2(writer):
        sizes(writer)
        tokenizer(writer)
        writer.add_tensor("token_embd.weight", embedding.astype(np.float16))
        writer.add_tensor("output.weight", embedding[:, :2].copy())

    def qwen3(writer):
        sizes(writer)
        writer.add_key_length(4)
        writer.add_value_length(4)
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_custom_alignment(64)
        writer.add_tensor("token_embd.weight", embedding)
        writer.add_tensor("cube", np.ones((2, 1, 3, 2), dtype=np.float32))

    def values(writer):
        writer.add_uint8("u8", 255)
        writer.add_int8("i8", -128)
        writer.add_uint16("u16", 65535)
        writer.add_int16("i16", -32768)
        writer.add_uint32("u32", 2**32 - 1)
        writer.add_int32("i32", -2**31)
        writer.add_uint64("u64", 2**64 - 1)
        writer.add_int64("i64", -2**63)
        writer.add_float32("f32", 1.5)
        writer.add_float64("f64", 1e-5)
        writer.add_bool("bool", True)
        writer.add_array("strings", ["x", "", "yz"])
        writer.add_array("integers", [1, -1, 3])
        writer.add_array("floats", [0.5, 0.25])
        writer.add_array("bools", [True, False])

    def quantised(names):
        def fill(writer):
            for name in names:
                data = quantised_blocks(name, rng)[0]
                writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[name])
        return fill

    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "llama.gguf", "llama", llama)
    write(folder / "qwen2.gguf", "qwen2", qwen2)
    write(folder / "qwen3.gguf", "qwen3", qwen3)
    write(folder / "values.gguf", "values", values)
    write(folder / "small_blocks.gguf", "x", quantised(["Q8_0", "Q4_0", "Q4_1"]))
    for name in ("Q4_K", "Q5_K", "Q6_K"):
        write(folder / f"{name.lower()}.gguf", "x", quantised([name]))
    write(folder / "big_endian.gguf", "x", quantised(["Q8_0"]), gguf.GGUFEndian.BIG)
    for path in sorted(folder.glob("*.gguf")):
        print(f"{path.name:20} {path.stat().st_size:5d} bytes")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--out", type=pathlib.Path, default=HERE)
    arguments.add_argument("--seeds", type=pathlib.Path,
                           default=HERE.parent / "fuzz" / "corpus" / "fuzz_gguf")
    a = arguments.parse_args()
    blocks(a.out / "gguf_blocks.gguf")
    seeds(a.seeds)


if __name__ == "__main__":
    main()
