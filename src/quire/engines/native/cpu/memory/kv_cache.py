"""The KV cache's memory: what a block takes, how many blocks fit, and the arrays that hold them.

How a block's keys and values are stored is said in `kernels.attention`, which writes and reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels.layout import (
    KV_FLOAT16,
    KV_FLOAT32,
    KV_INT8,
    kv_head_bytes,
    padded,
)
from quire.engines.native.cpu.memory.arrays import huge_zeros
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import OutOfMemoryError
from quire.machine.memory import available_memory

logger = logging.getLogger("quire")

MIB = 2**20

KvDtype = Literal["float32", "float16", "int8"]
KV_KINDS: dict[KvDtype, int] = {
    "float32": KV_FLOAT32,
    "float16": KV_FLOAT16,
    "int8": KV_INT8,
}


class KvCache:
    """Keys and values of all layers: each (layers, heads, blocks, bytes of one head in a block)."""

    def __init__(
        self, spec: DecoderSpec, *, num_blocks: int, block_size: int, dtype: KvDtype
    ) -> None:
        self.kind = KV_KINDS[dtype]
        self.keys, self.values = (
            huge_zeros((spec.num_layers, spec.num_kv_heads, num_blocks, size), np.uint8)
            for size in _head_sizes(spec, block_size, self.kind)
        )
        self.nbytes = self.keys.nbytes + self.values.nbytes

    def layer_arrays(self, layer: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The keys and the values of one layer."""
        return self.keys[layer], self.values[layer]

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks over all layers, `(source, destination)` each, in order."""
        for source, destination in pairs:
            for cache in (self.keys, self.values):
                cache[:, :, destination] = cache[:, :, source]

    def free(self) -> None:
        """Let go of the memory."""
        self.keys = self.values = np.zeros((0, 0), np.uint8)


def _head_sizes(spec: DecoderSpec, block_size: int, kind: int) -> tuple[int, int]:
    """Bytes of one head in a block of keys, and in one of values, whose rows are padded."""
    return (
        kv_head_bytes(kind, spec.head_dim, block_size),
        kv_head_bytes(kind, padded(spec.head_dim), block_size),
    )


def block_bytes(spec: DecoderSpec, block_size: int, kv_dtype: KvDtype = "float32") -> int:
    """Bytes of one block of the KV cache, over all layers."""
    per_head = sum(_head_sizes(spec, block_size, KV_KINDS[kv_dtype]))
    return spec.num_layers * spec.num_kv_heads * per_head


def count_blocks(
    spec: DecoderSpec,
    *,
    block_size: int,
    max_model_len: int,
    max_sequences: int,
    memory: int | None,
    memory_util: float,
    reserved: int,
    kv_dtype: KvDtype = "float32",
) -> int:
    """The number of KV blocks: as many as fit into `memory`, or into `memory_util` of what is free.

    `reserved` are bytes of free memory that weights and scratch will take. More blocks than
    `max_sequences` of `max_model_len` need are never used, and so not counted.

    Raises:
        OutOfMemoryError: not even one sequence of `max_model_len` fits.
    """
    one, needed = block_bytes(spec, block_size, kv_dtype), -(-max_model_len // block_size)
    free = available_memory()
    budget = memory if memory is not None else int(memory_util * max(0, free - reserved))
    blocks = min(budget // one, max_sequences * needed)
    if blocks < needed:
        source = (
            "native_kv_cache_memory gives"
            if memory is not None
            else f"native_memory_util {memory_util:g} of the free memory gives"
        )
        raise OutOfMemoryError(
            f"The KV cache of one sequence of {max_model_len} tokens needs {needed} blocks, "
            f"{needed * one / MIB:.1f} MiB; {source} {budget / MIB:.1f} MiB. Lower vllm_maxlen to "
            f"{max(0, budget // one * block_size)} or less, or raise "
            f"{'native_kv_cache_memory' if memory is not None else 'native_memory_util'}"
        )
    logger.info(
        "KV cache: %d blocks of %d tokens, %d tokens, up to %.1f MiB",
        blocks, block_size, blocks * block_size, blocks * one / MIB,
    )  # fmt: skip
    return blocks
