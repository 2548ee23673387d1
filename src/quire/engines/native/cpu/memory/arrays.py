"""Arrays for compiled code: aligned to cache lines, and in huge pages where that pays.

A token reads all weights, and all keys and values of its context. With pages of 4 KiB, every few
dozen cache lines need another entry of the TLB, and the CPU's own prefetcher stops at the end of
each page. Linux gives pages of 2 MiB to memory that asks for them (transparent huge pages).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes of a cache line, and of the widest register
PAGE = 2 * 2**20
LEAST = 16 * 2**20
"""Bytes below which huge pages are not worth it: small arrays stay in the caches anyway."""
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def aligned_zeros(shape: Sequence[int], dtype: Any = np.float32) -> NDArray[Any]:
    """Zeros that begin at a cache line. The system provides the memory when it is first touched."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def has_huge_pages() -> bool:
    """Whether the system gives huge pages to a process that asks for them."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return False
    try:
        return "[never]" not in _SETTING.read_text(encoding="ascii")
    except OSError:
        return False


def huge_zeros(shape: Sequence[int], dtype: Any = np.float32) -> NDArray[Any]:
    """`aligned_zeros`, in huge pages if there are any and the array is large."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LEAST or not has_huge_pages():
        return aligned_zeros(shape, dtype)
    return huge_bytes(size)[:size].view(dtype).reshape(shape)


def huge_bytes(size: int) -> NDArray[np.uint8]:
    """At least `size` zero bytes in huge pages, from the beginning of a page on.

    Raises:
        MemoryError: the system has not so much, or does not give it to this process.
    """
    try:
        memory = mmap.mmap(-1, size + 2 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"unable to allocate {size / 2**20:.0f} MiB") from error
    memory.madvise(mmap.MADV_HUGEPAGE)
    mapped = np.frombuffer(memory, np.uint8)
    return mapped[-mapped.ctypes.data % PAGE :]


class HugeArena:
    """Memory for many arrays that are made one after the other and live as long as one another.

    It is taken in large regions of huge pages, if there are any, of which the system provides what is
    touched.
    """

    _REGION = 256 * 2**20

    def __init__(self) -> None:
        self._free = np.empty(0, np.uint8)
        self.is_huge = has_huge_pages()

    def zeros(self, shape: Sequence[int], dtype: Any = np.uint8) -> NDArray[Any]:
        """Zeros that begin at a cache line.

        Raises:
            MemoryError: the system has not so much.
        """
        if not self.is_huge:
            return aligned_zeros(shape, dtype)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > len(self._free):
            self._free = huge_bytes(max(size, self._REGION))
        taken, self._free = self._free[:size], self._free[whole_lines(size) :]
        return taken.view(dtype).reshape(shape)


def whole_lines(size: int) -> int:
    """`size` bytes rounded up to whole cache lines."""
    return -(-size // ALIGNMENT) * ALIGNMENT
