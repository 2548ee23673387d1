"""Aligned arrays, and how many blocks of the KV cache there are."""

from __future__ import annotations

import numpy as np

from quire.engines.native.cpu import memory

MIB = 2**20


def test_aligned_zeros() -> None:
    for shape in ((1,), (3, 5), (0, 4)):
        array = memory.aligned_zeros(shape, np.float32)
        assert array.shape == shape
        assert not array.size or array.ctypes.data % 64 == 0
        assert not array.any()
