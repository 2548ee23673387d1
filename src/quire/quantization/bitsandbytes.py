"""bitsandbytes: what QLoRA trains on, four bits as NF4 or FP4, or LLM.int8's eight bits.

A checkpoint describes itself, so its settings in config.json are hardly needed.

A module of shape (columns, depth) with four bits has

- `weight`: two codes in a byte, the first in the upper half, row after row without a gap; the bytes
  are stored as a tensor of whatever type `bnb_4bit_quant_storage` said;
- `weight.quant_map` (16,): the value of each code;
- `weight.absmax`: the scale of each block of `blocksize` weights in a row;
- `weight.quant_state.bitsandbytes__nf4` or `__fp4`: JSON with `blocksize` and `shape`.

With double quantisation, `weight.absmax` holds bytes: `weight.nested_quant_map` (256,) has their values,
which `weight.nested_absmax` scales by blocks of `nested_blocksize`, and `nested_offset` is added.

With eight bits it has `weight` as signed bytes and `SCB` (columns,), the largest magnitude of each row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.json_files import parse_json_object
from quire.quantization.matrix import QuantizedMatrix
from quire.quantization.module_tensors import ModuleTensors
from quire.quantization.schemes import ModuleScheme, Rule
from quire.weights.hub_config import HubConfig

_STATES = ("weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4")
_USUAL_BLOCK = 64
_ROW_MAJOR = 0  # of `weight_format`; others were in the order of a GPU's tiles


def rules(settings: HubConfig) -> Iterator[Rule]:
    """The rules of a `quantization_config` whose method is `bitsandbytes`.

    Modules that it leaves out are not named: the folder shows which they are.
    """
    four = settings.flag("load_in_4bit")
    scheme = ModuleScheme("bitsandbytes", 4 if four else 8, _USUAL_BLOCK if four else 0)
    yield Rule("class", "Linear", scheme)
    yield Rule("class", "Embedding", scheme)


def is_stored(tensors: ModuleTensors) -> bool:
    """Whether a module is stored in one of these forms."""
    return _state_part(tensors) is not None or "SCB" in tensors


def _state_part(tensors: ModuleTensors) -> str | None:
    return next((part for part in _STATES if part in tensors), None)


def read(tensors: ModuleTensors, shape: tuple[int, int], scheme: ModuleScheme) -> QuantizedMatrix:
    """The module's weight.

    Raises:
        WeightsError: a tensor is missing, or not as it must be.
    """
    state = _state_part(tensors)
    return _read_bytes(tensors, shape) if state is None else _read_blocks(tensors, shape, state)


def _read_bytes(tensors: ModuleTensors, shape: tuple[int, int]) -> QuantizedMatrix:
    columns, depth = shape
    if "weight_format" in tensors and tensors.octets("weight_format").tolist() != [_ROW_MAJOR]:
        raise tensors.wrong("weight_format", "is not row: load and save the model once more")
    codes = tensors.signed("weight", shape, bits=8)
    scales = tensors.floats("SCB", (columns,), (columns, 1)).reshape(columns, 1) / np.float32(127)
    return QuantizedMatrix(8, depth, codes, scales, np.full((columns, 1), 128, np.uint8))


def _read_blocks(tensors: ModuleTensors, shape: tuple[int, int], part: str) -> QuantizedMatrix:
    columns, depth = shape
    state = _read_state(tensors, part, shape)
    size = columns * depth
    octets = tensors.octets("weight")
    if len(octets) != -(-size // 2):
        raise tensors.wrong(
            "weight", f"has {len(octets)} bytes, and {size} weights need half of that"
        )
    codes = np.empty((len(octets), 2), np.uint8)
    np.right_shift(octets, 4, out=codes[:, 0])
    np.bitwise_and(octets, 15, out=codes[:, 1])
    block = _integer(tensors, part, state, "blocksize")
    absmax = _absmax(tensors, part, state, -(-size // block))
    # Blocks go on from row to row. Groups that divide both a row and a block lie in one block each.
    group = math.gcd(block, depth)
    first = np.arange(0, size, group)
    return QuantizedMatrix(
        4,
        group,
        codes.reshape(-1)[:size].reshape(shape),
        absmax[first // block].reshape(columns, -1),
        np.zeros((columns, depth // group), np.uint8),
        levels=tensors.floats("weight.quant_map", (16,)),
    )


def _read_state(tensors: ModuleTensors, part: str, shape: tuple[int, int]) -> dict[str, Any]:
    try:
        state = parse_json_object(tensors.octets(part).tobytes())
    except ValueError as error:
        raise tensors.wrong(part, f"cannot be read: {error}") from None
    if state.get("shape") != list(shape):
        raise tensors.wrong(part, f"has shape {state.get('shape')}; config.json asks for {shape}")
    return state


def _integer(tensors: ModuleTensors, part: str, state: dict[str, Any], key: str) -> int:
    value = state.get(key)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise tensors.wrong(part, f"has {key} {value!r}, which is no size of a block")
    return value


def _absmax(
    tensors: ModuleTensors, part: str, state: dict[str, Any], count: int
) -> NDArray[np.float32]:
    """The scale of each block."""
    if "weight.nested_absmax" not in tensors:
        return tensors.floats("weight.absmax", (count,))
    codes = tensors.octets("weight.absmax")
    if len(codes) != count:
        raise tensors.wrong("weight.absmax", f"has {len(codes)} scales for {count} blocks")
    block, offset = _integer(tensors, part, state, "nested_blocksize"), state.get("nested_offset")
    if isinstance(offset, bool) or not isinstance(offset, int | float) or not math.isfinite(offset):
        raise tensors.wrong(part, f"has nested_offset {offset!r}, which is no number")
    levels = tensors.floats("weight.nested_quant_map", (256,))
    scales = tensors.floats("weight.nested_absmax", (-(-count // block),))
    spread = np.repeat(scales, block)[:count] if block < count else scales[:1]
    return levels[codes] * spread + np.float32(offset)
