"""Quantised checkpoints written the slow way: one number at a time, from the formats' definitions.

The subject of the tests reads what is written here; nothing of it is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Plain:
    """A weight w[c, k] = scales[c, g] * (numbers[c, k] - zeros[c, g]), g = group_of[k]."""

    bits: int
    group: int
    numbers: NDArray[np.int64]  # (columns, depth), from 0 up
    scales: NDArray[np.float16]  # (columns, groups)
    zeros: NDArray[np.int64]  # (columns, groups)
    group_of: NDArray[np.int64]  # (depth,)

    def weight(self) -> NDArray[np.float32]:
        columns, depth = self.numbers.shape
        found = np.zeros((columns, depth), np.float32)
        for k, g in enumerate(self.group_of):
            steps = (self.numbers[:, k] - self.zeros[:, g]).astype(np.float32)
            found[:, k] = self.scales[:, g].astype(np.float32) * steps
        return found


def quantise(
    weight: NDArray[np.float32],
    *,
    bits: int = 4,
    group: int = 32,
    symmetric: bool = False,
    act_order: bool = False,
    seed: int = 0,
    lowest_zero: int = 0,
) -> Plain:
    """Round to nearest over each group's range. `act_order` spreads the groups over the inputs."""
    columns, depth = weight.shape
    group = group if group > 0 else depth
    places = np.random.default_rng(seed).permutation(depth) if act_order else np.arange(depth)
    group_of = np.empty(depth, np.int64)
    group_of[places] = np.arange(depth) // group
    groups, most = -(-depth // group), 2**bits - 1
    scales, zeros = np.zeros((columns, groups), np.float16), np.zeros((columns, groups), np.int64)
    numbers = np.zeros((columns, depth), np.int64)
    for g in range(groups):
        part = weight[:, group_of == g].astype(np.float64)
        low, high = np.minimum(part.min(1), -1e-3), np.maximum(part.max(1), 1e-3)
        if symmetric:
            scales[:, g] = 2 * np.maximum(high, -low) / most
            zeros[:, g] = 2 ** (bits - 1)
        else:
            scales[:, g] = (high - low) / most
            zeros[:, g] = np.clip(np.rint(-low / scales[:, g]), lowest_zero, most)
        steps = np.rint(part / scales[:, g : g + 1].astype(np.float64)) + zeros[:, g : g + 1]
        numbers[:, group_of == g] = np.clip(steps, 0, most)
    return Plain(bits, group, numbers, scales, zeros, group_of)


def pack(rows: NDArray[Any], bits: int, order: Sequence[int] | None = None) -> NDArray[np.int32]:
    """Numbers of each row into words: field i (from the lowest bits) holds number order[i]."""
    count = 32 // bits
    order = order or range(count)
    packed: list[list[int]] = []
    for row in rows.tolist():
        row = row + [0] * (-len(row) % count)
        words = []
        for first in range(0, len(row), count):
            word = 0
            for field, number in enumerate(order):
                word |= row[first + number] << (bits * field)
            words.append(word)
        packed.append(words)
    return np.array(packed, np.uint32).view(np.int32)


def gptq(plain: Plain, *, v2: bool = False, g_idx: bool = True) -> Tensors:
    """AutoGPTQ's tensors; before v2 a zero point is stored less 1."""
    zeros = plain.zeros.T if v2 else plain.zeros.T - 1
    assert zeros.min() >= 0
    tensors: Tensors = {
        "qweight": np.ascontiguousarray(pack(plain.numbers, plain.bits).T),
        "qzeros": pack(zeros, plain.bits),
        "scales": np.ascontiguousarray(plain.scales.T),
    }
    if g_idx:
        tensors["g_idx"] = plain.group_of.astype(np.int32)
    return tensors


AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def awq(plain: Plain) -> Tensors:
    """AutoAWQ's tensors, in the order of its gemm kernel."""
    return {
        "qweight": pack(plain.numbers.T, 4, AWQ_ORDER),
        "qzeros": pack(plain.zeros.T, 4, AWQ_ORDER),
        "scales": np.ascontiguousarray(plain.scales.T),
    }


def write_quantised(
    source: Path,
    folder: Path,
    settings: Mapping[str, Any] | None,
    module: Callable[[str, NDArray[np.float32]], tuple[Tensors, NDArray[np.float32]] | None],
    *,
    file: str = "model.safetensors",
    settings_file: str | None = None,
) -> Path:
    """Copy the model in `source` to `folder` with the modules quantised, and their weights beside.

    `module` gets each matrix's module and weight; it gives the tensors that replace it and the
    weight that they stand for, or None to leave it. `settings` becomes `quantization_config`, or a
    file of its own. Returns a folder with the same weights in full precision, for the oracle.
    """
    folder.mkdir(parents=True)
    oracle = folder.with_name(f"{folder.name}-full")
    shutil.copytree(source, oracle)
    tensors: Tensors = load_file(source / "model.safetensors")
    full: Tensors = dict(tensors)
    for name in [name for name in tensors if name.endswith(".weight") and tensors[name].ndim == 2]:
        stem = name.removesuffix(".weight")
        replaced = module(stem, tensors[name])
        if replaced is not None:
            del tensors[name]
            parts, full[name] = replaced
            tensors.update({f"{stem}.{part}": value for part, value in parts.items()})
    save_file(tensors, folder / file, {"format": "pt"})
    save_file(full, oracle / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    if settings is not None and settings_file is None:
        config["quantization_config"] = dict(settings)
    if settings_file is not None:
        (folder / settings_file).write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps(config))
    return oracle


# ---- bitsandbytes


def normal_levels() -> NDArray[np.float32]:
    """NF4's levels, as the paper on QLoRA prints them: 8 below and 7 above 0."""
    below = [-1.0, -0.6961928, -0.5250730, -0.3949174, -0.2844413, -0.1847734, -0.0910500, 0.0]
    above = [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
    return np.array(below + above, np.float32)


def float_levels() -> NDArray[np.float32]:
    """FP4's levels: a sign, two bits of exponent and one of mantissa, over 12."""
    positive = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0]
    return np.array(positive + [-one for one in positive], np.float32) / np.float32(12)


def write_bitsandbytes(
    weight: NDArray[np.float32],
    *,
    kind: str = "nf4",
    block: int = 64,
    nested: bool = False,
    storage: str = "uint8",
) -> tuple[Tensors, NDArray[np.float32]]:
    """The tensors of a module by their parts, and the weight that they mean."""
    levels = normal_levels() if kind == "nf4" else float_levels()
    flat = weight.reshape(-1)
    blocks = [flat[first : first + block] for first in range(0, flat.size, block)]
    scales = np.array([np.abs(one).max() for one in blocks], np.float32)
    state = {
        "quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": list(weight.shape),
    }  # fmt: skip
    parts: Tensors = {"weight.quant_map": levels}
    if nested:
        offset = float(scales.mean())
        table = np.sort(np.linspace(-1, 1, 256, dtype=np.float32))
        most = [np.abs(scales[i : i + 256] - offset).max() for i in range(0, len(scales), 256)]
        codes = [
            np.abs(table - (scale - offset) / (most[index // 256] or 1)).argmin()
            for index, scale in enumerate(scales)
        ]
        scales = np.array(
            [table[code] * most[index // 256] + offset for index, code in enumerate(codes)],
            np.float32,
        )
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
        parts["weight.absmax"] = np.array(codes, np.uint8)
        parts["weight.nested_absmax"] = np.array(most, np.float32)
        parts["weight.nested_quant_map"] = table
    else:
        parts["weight.absmax"] = scales
    numbers = [
        int(np.abs(levels - value / (scales[index // block] or 1)).argmin())
        for index, value in enumerate(flat)
    ]
    meant = [levels[number] * scales[index // block] for index, number in enumerate(numbers)]
    padded = [*numbers, 0] if len(numbers) % 2 else numbers
    octets = np.array(
        [16 * one + other for one, other in zip(padded[::2], padded[1::2], strict=True)], np.uint8
    )
    parts["weight"] = octets.view(storage).reshape(-1, 1)
    text = json.dumps(state).encode()
    parts[f"weight.quant_state.bitsandbytes__{kind}"] = np.frombuffer(text, np.uint8)
    return parts, np.array(meant, np.float32).reshape(weight.shape)


def write_int8(weight: NDArray[np.float32]) -> tuple[Tensors, NDArray[np.float32]]:
    """The tensors of LLM.int8's module, and the weight that they mean."""
    largest = np.abs(weight).max(axis=1)
    numbers = np.rint(weight * 127 / largest[:, None]).astype(np.int8)
    parts: Tensors = {
        "weight": numbers,
        "SCB": largest.astype(np.float32),
        "weight_format": np.array(0, np.uint8),
    }
    return parts, numbers * largest[:, None].astype(np.float32) / np.float32(127)
