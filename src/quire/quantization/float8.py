"""Weights as 8-bit floats (E4M3): DeepSeek's in blocks, and those with a scale for each column or for all.

A module of shape (columns, depth) has `weight` as E4M3, and `weight_scale_inv` or `weight_scale`, which
multiply it in spite of the first name: (columns / block, depth / block) for blocks, of which the last ones
may be smaller; (columns, 1) for one scale a column; or a single number. Other methods than `fp8` write the
same: `fbgemm_fp8`, and compressed-tensors as `float-quantized` or `naive-quantized`.

A code is a sign, four bits of exponent and three of fraction, up to 448, and NaN if all seven bits are set.
What the settings say about activations does not matter here: they stay in full precision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.quantization.module_tensors import ModuleTensors
from quire.quantization.schemes import ModuleScheme, Rule, refuse
from quire.weights.hub_config import HubConfig

STORED_TYPE = "F8_E4M3"
"""Safetensors' name of the type."""
SCALES = ("weight_scale_inv", "weight_scale")
"""What the scales of a module may be called."""
_NAN = 0x7F  # without the sign
_CHUNK = 1 << 18  # codes of one pass, so that its temporaries stay in the cache


def _values() -> NDArray[np.float32]:
    """The number of each code."""
    codes = np.arange(256, dtype=np.uint16)
    halves = ((codes & 0x7F) << 7) | ((codes & 0x80) << 8)  # a float16 of 2 ** -8 times the number
    return halves.view(np.float16).astype(np.float32) * np.float32(256)


VALUES = _values()


@dataclass(frozen=True, slots=True)
class Float8Matrix:
    """A weight (columns, depth): `w[c, k] = VALUES[codes[c, k]] * scales[c // repeat, k // group]`."""

    codes: NDArray[np.uint8]
    """(columns, depth), as they are stored."""
    scales: NDArray[np.float32]
    """(columns / repeat, groups)."""
    repeat: int
    """How many columns in a row share their scales; the last ones may be fewer."""
    group: int
    """How many inputs in a row share a scale; the last group may be shorter."""

    def __post_init__(self) -> None:
        columns, depth = self.codes.shape
        assert self.scales.shape == (-(-columns // self.repeat), -(-depth // self.group))

    @property
    def shape(self) -> tuple[int, int]:
        """(columns, depth): outputs and inputs of the linear map."""
        columns, depth = self.codes.shape
        return columns, depth

    def take(self, columns: slice | NDArray[np.intp]) -> Float8Matrix:
        """Some of the columns, each with scales of its own; the codes of a slice are not copied."""
        which = np.arange(len(self.codes))[columns] // self.repeat
        return dataclasses.replace(
            self, codes=self.codes[columns], scales=self.scales[which], repeat=1
        )

    def has_nan(self) -> bool:
        """Whether a code is NaN, for which neither `VALUES` nor the kernels have a number."""
        columns, depth = self.codes.shape
        step = max(1, _CHUNK // max(1, depth))
        parts = (self.codes[first : first + step] for first in range(0, columns, step))
        return any(int((part & _NAN).max(initial=0)) == _NAN for part in parts)

    def dequantized(self) -> NDArray[np.float32]:
        """The weight (columns, depth) in float32."""
        columns, depth = self.codes.shape
        result = np.empty((columns, depth), np.float32)
        step = max(1, _CHUNK // max(1, depth))
        for first in range(0, columns, step):
            rows = slice(first, min(first + step, columns))
            scales = self.scales[np.arange(rows.start, rows.stop) // self.repeat]
            wide = np.repeat(scales, self.group, axis=1)[:, :depth]
            np.multiply(np.take(VALUES, self.codes[rows]), wide, out=result[rows])
        return result


def rules(settings: HubConfig) -> Iterator[Rule]:
    """The rules of a `quantization_config` whose method is `fp8` or `fbgemm_fp8`.

    Modules that it leaves out are not named: the folder shows which they are.
    """
    form = settings.get("fmt", "e4m3")
    if form != "e4m3":
        raise refuse(settings, "fmt", form, ("e4m3",))
    scheme = ModuleScheme("float8", 8, 0, block=_block(settings))
    yield Rule("class", "Linear", scheme)
    yield Rule("class", "Embedding", scheme)


def _block(settings: HubConfig) -> tuple[int, int] | None:
    size = settings.get("weight_block_size")
    return None if size is None else check_block(settings, "weight_block_size", size)


def check_block(settings: HubConfig, key: str, size: Any) -> tuple[int, int]:
    """The columns and inputs of a block.

    Raises:
        ModelError: they are not two positive integers.
    """
    if isinstance(size, list) and len(size) == 2:
        columns, inputs = size
        if all(type(one) is int and 0 < one < 1 << 31 for one in (columns, inputs)):
            return columns, inputs
    raise settings.wrong(key, size, "two positive integers")


def is_stored(tensors: ModuleTensors) -> bool:
    """Whether a module is stored in this form."""
    return "weight" in tensors and tensors.type_of("weight") == STORED_TYPE


def read(tensors: ModuleTensors, shape: tuple[int, int], scheme: ModuleScheme) -> Float8Matrix:
    """The module's weight, whose codes are not looked at: see `Float8Matrix.has_nan`.

    Raises:
        WeightsError: a tensor is missing, or not as it must be.
    """
    columns, depth = shape
    codes = tensors.raw("weight", STORED_TYPE, shape)
    part = next((one for one in SCALES if one in tensors), SCALES[0])
    if scheme.block is not None:
        repeat, group = scheme.block
        scales = tensors.floats(part, (-(-columns // repeat), -(-depth // group)))
        return Float8Matrix(codes, scales, repeat, group)
    scales = tensors.floats(part, (columns, 1), (columns,), (1, 1), (1,), ())
    repeat = 1 if scales.size == columns else columns
    return Float8Matrix(codes, scales.reshape(-1, 1), repeat, depth)
