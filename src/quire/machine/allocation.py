"""How the C library gives out memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE = 4 * 2**20


@functools.cache
def map_large_blocks() -> None:
    """Have glibc take blocks of 4 MiB and more fresh from the system, always; nothing elsewhere.

    By itself it keeps such blocks for reuse once the first was freed, and has to clear one before
    it gives it out as zeros. Pillow asks for a picture's memory so, with Python's lock held: 30 ms
    for 12 megapixels, in which no other thread runs. Fresh memory is zero already.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
