"""Memory in pages of 2 MiB, where Linux gives them to those that ask (transparent huge pages).

A token reads all weights, and of its context all keys and values. In pages of 4 KiB every few dozen
cache lines need another entry of the TLB, and the CPU's own prefetching ends at each page's end.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.memory import ALIGNMENT, aligned_zeros
from quire.engines.native.cpu.packed import PackedMatrix, Tensor
from quire.engines.native.cpu.weights import Weights
from quire.machine.memory import available_memory

PAGE = 2 * 2**20
LEAST = 16 * 2**20
"""Bytes below which it is not worth it: what is small stays in caches."""
SHARE = 4
"""Weights are copied where they take less than the free memory by this factor."""
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def has_huge_pages() -> bool:
    """Whether the system gives huge pages to a process that asks for them."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return False
    try:
        return "[never]" not in _SETTING.read_text(encoding="ascii")
    except OSError:
        return False


def huge_zeros(shape: Sequence[int], dtype: Any = np.float32) -> NDArray[Any]:
    """`aligned_zeros` in huge pages, if there are any and it is large."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LEAST or not has_huge_pages():
        return aligned_zeros(shape, dtype)
    return _room(size)[:size].view(dtype).reshape(shape)


def _room(size: int) -> NDArray[np.uint8]:
    """So many zero bytes and a few more, from a page's beginning on."""
    memory = mmap.mmap(-1, size + 2 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    return whole[-whole.ctypes.data % PAGE :]


def in_huge_pages(weights: Weights) -> Weights:
    """The weights copied into huge pages; themselves where there are none, or memory is scarce.

    Mapped files have small pages, of whatever size the system's are.
    """
    arrays = {id(array): array for tensor in weights.all_tensors() for array in _arrays(tensor)}
    size = sum(_whole_lines(array.nbytes) for array in arrays.values())
    if size < LEAST or size * SHARE > available_memory() or not has_huge_pages():
        return weights
    room, start = _room(size), 0
    copies: dict[int, NDArray[Any]] = {}
    for key, array in arrays.items():
        copies[key] = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        start += _whole_lines(array.nbytes)
    for key, array in arrays.items():
        np.copyto(copies[key], array)

    def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {role: _moved(tensor, copies) for role, tensor in tensors.items()}

    layers = tuple(map(moved, weights.layers))
    return dataclasses.replace(weights, tensors=moved(weights.tensors), layers=layers)


def _arrays(tensor: Tensor) -> list[NDArray[Any]]:
    if not isinstance(tensor, PackedMatrix):
        return [tensor]
    return [part for part in (tensor.codes, tensor.scales, tensor.zeros) if part is not None]


def _moved(tensor: Tensor, copies: dict[int, NDArray[Any]]) -> Tensor:
    if not isinstance(tensor, PackedMatrix):
        return copies[id(tensor)]
    return dataclasses.replace(
        tensor,
        codes=copies[id(tensor.codes)],
        scales=copies[id(tensor.scales)],
        zeros=None if tensor.zeros is None else copies[id(tensor.zeros)],
    )


def _whole_lines(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
