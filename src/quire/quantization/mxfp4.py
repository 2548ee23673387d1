"""MXFP4: four-bit floats in groups of 32 with a power of two as their scale, as gpt-oss's folders have them.

Where a folder of floats has a stack of matrices `NAME` (experts, rows, depth), such a folder has

- `NAME_blocks` (experts, rows, depth / 32, 16): two codes in a byte, the first in the lower half;
- `NAME_scales` (experts, rows, depth / 32): the exponents, plus 127.

GGUF's type MXFP4 has the same numbers. Its block is the exponent, then 16 bytes, of which byte i holds
the codes of weights i and i + 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.errors import WeightsError
from quire.quantization.module_tensors import TensorSource
from quire.quantization.schemes import Rule
from quire.weights.hub_config import HubConfig

BLOCKS = "_blocks"
"""How the name of a tensor with codes ends."""
_SCALES = "_scales"
_GROUP, _CODE_BYTES = 32, 16
_BLOCK_BYTES = 1 + _CODE_BYTES
_LOWER = np.uint64(0x0F0F0F0F0F0F0F0F)
_LEAST_BROKEN = 253
"""An exponent by which the largest code, 6, is more than float32 holds. 255 is NaN."""


def rules(settings: HubConfig) -> Iterator[Rule]:
    """The rules of a `quantization_config` whose method is `mxfp4`: none.

    The format is that of stacks of experts, which the folder shows, and not of modules.
    """
    return iter(())


def is_stored(source: TensorSource, name: str) -> bool:
    """Whether a folder has the stack `name` in this format."""
    return name + BLOCKS in source


def names_of(name: str) -> tuple[str, str]:
    """The names of the two tensors of the stack `name`."""
    return name + BLOCKS, name + _SCALES


def stored_stack(
    source: TensorSource, name: str, shape: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The codes (experts, rows, depth / 2) and the exponents (experts, rows, depth / 32) of a stack.

    Args:
        shape: of the stack, (experts, rows, depth).

    Raises:
        WeightsError: one of the two tensors is missing, or not as it must be.
    """
    experts, rows, depth = shape
    groups = depth // _GROUP
    blocks, scales = names_of(name)
    codes = _octets(source, blocks, (experts, rows, groups, _CODE_BYTES))
    exponents = _octets(source, scales, (experts, rows, groups))
    return codes.reshape(experts, rows, groups * _CODE_BYTES), exponents


def _octets(source: TensorSource, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    tensor = source.stored(name)
    if tensor.dtype != "U8" or tensor.values.shape != shape:
        raise WeightsError(
            f"{tensor.path}: {name} is {tensor.dtype} {tensor.values.shape}; config.json and its "
            f"quantization ask for U8 {shape}"
        )
    return tensor.values


class GgufRows:
    """Rows of GGUF's blocks, which are made of a stack's when they are asked for."""

    def __init__(self, codes: NDArray[np.uint8], exponents: NDArray[np.uint8], name: str) -> None:
        """Take codes (rows, depth / 2) and exponents (rows, depth / 32) of the stack `name`."""
        self._codes, self._exponents, self._name = codes, exponents, name

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        """Some of the rows (rows, bytes of a row).

        Raises:
            WeightsError: an exponent is none.
        """
        return _gguf_rows(self._codes[rows], self._exponents[rows], self._name)


def _gguf_rows(
    codes: NDArray[np.uint8], exponents: NDArray[np.uint8], name: str
) -> NDArray[np.uint8]:
    if exponents.size and exponents.max() >= _LEAST_BROKEN:
        raise WeightsError(
            f"{name} has a scale that is NaN or infinite: every answer would be nonsense. The file is "
            "damaged: download it again"
        )
    rows, groups = exponents.shape
    words = np.ascontiguousarray(codes).view(np.uint64).reshape(rows, groups, 2)
    first, second = words[:, :, 0], words[:, :, 1]
    four = np.uint64(4)
    blocks = np.empty((rows, groups, _BLOCK_BYTES), np.uint8)
    blocks[:, :, 0] = exponents
    # Weights 2 j and 2 j + 1 of either half are in byte j: the lower halves of both go to byte 2 j, and
    # the upper ones to the next. A word does so for eight bytes.
    even = (first & _LOWER) | ((second & _LOWER) << four)
    blocks[:, :, 1::2] = even.view(np.uint8).reshape(rows, groups, 8)
    odd = ((first >> four) & _LOWER) | (second & ~_LOWER)
    blocks[:, :, 2::2] = odd.view(np.uint8).reshape(rows, groups, 8)
    return blocks.reshape(rows, groups * _BLOCK_BYTES)
