"""GGUF files for tests, written with llama.cpp's own `gguf` package: small ones of any content, sound or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

Array = NDArray[Any]


_TYPES: dict[type, GGUFValueType] = {
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    str: GGUFValueType.STRING,
    bytes: GGUFValueType.STRING,
    np.uint8: GGUFValueType.UINT8,
    np.int8: GGUFValueType.INT8,
    np.uint16: GGUFValueType.UINT16,
    np.int16: GGUFValueType.INT16,
    np.uint32: GGUFValueType.UINT32,
    np.int32: GGUFValueType.INT32,
    np.uint64: GGUFValueType.UINT64,
    np.int64: GGUFValueType.INT64,
    np.float32: GGUFValueType.FLOAT32,
    np.float64: GGUFValueType.FLOAT64,
    np.bool_: GGUFValueType.BOOL,
}


def write_file(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Array | tuple[Array, str]],
    **options: Any,
) -> Path:
    """Write a file of whole keys and tensors.

    Args:
        metadata: integers become u32 and numbers float32; NumPy's scalars have their own types, and
            lists those of their first element.
        tensors: float32, float16 and integers as they are; or uint8 (..., bytes of a row) and the name
            of the type, such as "Q4_0" or "BF16".
        options: `GGUFWriter`'s, such as `split_max_tensors`.
    """
    writer = GGUFWriter(path, str(metadata.get("general.architecture", "none")), **options)
    writer.kv_data[0].clear()
    for key, value in metadata.items():
        if isinstance(value, list | np.ndarray):
            items: list[Any] = list(value)
            kind = _TYPES[type(items[0])]
            writer.add_key_value(key, items, GGUFValueType.ARRAY, sub_type=kind)
        else:
            writer.add_key_value(key, value, _TYPES[type(value)])
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            writer.add_tensor(name, tensor[0], raw_dtype=GGMLQuantizationType[tensor[1]])
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# ---- small files

TINY: dict[str, Any] = {
    "context_length": 128,
    "embedding_length": 64,
    "block_count": 2,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10_000.0,
}
"""The metadata of `write_tiny`, without the architecture before each key."""

_FUSED = ("phi3", "chatglm", "glm4")


def tiny_tensors(architecture: str = "llama", seed: int = 0) -> dict[str, Array]:
    """Random weights of the sizes of `TINY`, and of 70 tokens."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (70, 64), "output_norm": (64,)}
    for layer in range(2):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in _shapes(architecture).items()}
    shapes["output"] = (70, 64)
    return {
        f"{name}.weight": (0.1 * random.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def _shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """The tensors of one layer."""
    shapes: dict[str, tuple[int, ...]] = {"attn_output": (64, 64), "ffn_down": (64, 96)}
    if architecture == "phi3":
        shapes["attn_qkv"] = (128, 64)
    else:
        shapes |= {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64)}
    if architecture in _FUSED:
        shapes["ffn_up"] = (192, 64)
    else:
        shapes |= {"ffn_gate": (96, 64), "ffn_up": (96, 64)}
    if architecture != "olmo2":
        shapes |= {"attn_norm": (64,), "ffn_norm": (64,)}
    if architecture in ("gemma2", "gemma3", "glm4", "olmo2"):
        shapes |= {"post_attention_norm": (64,), "post_ffw_norm": (64,)}
    if architecture in ("qwen3", "qwen3moe", "gemma3"):
        shapes |= {"attn_q_norm": (16,), "attn_k_norm": (16,)}
    if architecture in ("olmo2", "olmoe"):
        shapes |= {"attn_q_norm": (64,), "attn_k_norm": (32,)}
    return shapes


def write_tiny(
    path: Path,
    architecture: str = "llama",
    tensors: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write a model of 2 layers of width 64, with 4 heads (2 of keys), of 70 tokens and no tokenizer.

    Args:
        tensors: replace tensors of the same names, and are added to the others; None takes one away.
        metadata: the same for keys. Those that begin with a dot have the architecture before it.
        options: `GGUFWriter`'s.
    """
    keys = {"general.architecture": architecture, "general.type": "model"}
    whole: dict[str, Any] = {
        **keys,
        **{f"{architecture}.{key}": value for key, value in TINY.items()},
        **{
            (architecture + key if key.startswith(".") else key): value
            for key, value in (metadata or {}).items()
        },
    }
    weights: dict[str, Any] = {**tiny_tensors(architecture), **(tensors or {})}
    return write_file(path, _present(whole), _present(weights), **options)


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def quantized(values: Array, kind: str) -> Any:
    """A matrix in another type, as `write_file` takes it."""
    if kind == "F32":
        return values.astype(np.float32)
    return gguf.quants.quantize(values, GGMLQuantizationType[kind]), kind


EXPERTS = {".expert_count": 4, ".expert_used_count": 2}
"""Metadata of experts, for `write_tiny`."""
