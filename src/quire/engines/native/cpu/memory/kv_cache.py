"""The KV cache's memory: what a block takes, how many blocks fit, and the arrays that hold them.

How a block's keys and values are stored is said in `kernels.attention`, which writes and reads them, and how
latents are in `kernels.latent_attention`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels.layout import (
    KV_FLOAT16,
    KV_FLOAT32,
    KV_INT8,
    RUN,
    kv_head_bytes,
    latent_block_bytes,
    padded,
)
from quire.engines.native.cpu.memory.arrays import huge_zeros
from quire.engines.native.models.layers.attention import AttentionShape
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
    """Keys and values of all layers with attention. Latents are among the keys; they have no values beside.

    Each layer's are (runs, heads, RUN, bytes of one head in a block). All layers have their part of a run:
    blocks are taken from the first on, so that only memory that is used is ever touched.
    """

    def __init__(
        self, spec: DecoderSpec, *, num_blocks: int, block_size: int, dtype: KvDtype
    ) -> None:
        self.kind = KV_KINDS[dtype]
        self._layers: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}
        shapes = {index: layer.cached_shape for index, layer in enumerate(spec.layers)}
        sizes = {
            layer: (shape.kv_heads, _head_sizes(shape, block_size, self.kind))
            for layer, shape in shapes.items()
            if shape is not None
        }
        runs = -(-num_blocks // RUN)
        totals = [sum(heads * each[which] for heads, each in sizes.values()) for which in (0, 1)]
        self.nbytes = sum(totals) * num_blocks
        # One array for all layers, since huge pages are given to large ones.
        keys, values = (huge_zeros((runs, RUN * total), np.uint8) for total in totals)
        self.run_bytes = (RUN * totals[0], RUN * totals[1])
        """From one run of a head's blocks to its next, of keys and of values."""
        for layer, (heads, (key, value)) in sizes.items():
            key_bytes, value_bytes = (heads * RUN * each for each in (key, value))
            self._layers[layer] = (
                keys[:, :key_bytes].reshape(runs, heads, RUN, key),
                values[:, :value_bytes].reshape(runs, heads, RUN, value),
            )
            keys, values = keys[:, key_bytes:], values[:, value_bytes:]

    def addresses(self, layer: int) -> tuple[int, int]:
        """Where the keys and the values of one layer that has some begin."""
        keys, values = self._layers[layer]
        return keys.ctypes.data, values.ctypes.data

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks over all layers, `(source, destination)` each, in order."""
        for source, destination in pairs:
            (run, index), (to_run, to_index) = divmod(source, RUN), divmod(destination, RUN)
            for arrays in self._layers.values():
                for cache in arrays:
                    cache[to_run, :, to_index] = cache[run, :, index]

    def free(self) -> None:
        """Let go of the memory."""
        self._layers.clear()


def _head_sizes(shape: AttentionShape, block_size: int, kind: int) -> tuple[int, int]:
    """Bytes of one head in a block of keys, and in one of values, whose rows are padded."""
    if shape.is_latent:
        rope = shape.head_dim - shape.value_dim
        return latent_block_bytes(kind, shape.value_dim, rope, block_size), 0
    return (
        kv_head_bytes(kind, shape.head_dim, block_size),
        kv_head_bytes(kind, padded(shape.value_dim), block_size),
    )


def block_bytes(spec: DecoderSpec, block_size: int, kv_dtype: KvDtype = "float32") -> int:
    """Bytes of one block of the KV cache, over all layers."""
    shapes = (layer.cached_shape for layer in spec.layers)
    return sum(
        shape.kv_heads * sum(_head_sizes(shape, block_size, KV_KINDS[kv_dtype]))
        for shape in shapes
        if shape is not None
    )


def blocks_of(tokens: int, block_size: int) -> int:
    """The number of blocks that hold so many tokens of one sequence."""
    return -(-tokens // block_size)


@dataclass(frozen=True, slots=True)
class CacheBudget:
    """The memory for keys, values and states, and where its size comes from."""

    nbytes: int
    argument: str
    """The argument that gives more of it."""
    source: str
    """The same with its value, for texts."""

    @classmethod
    def of(cls, memory: int | None, memory_util: float, reserved: int) -> CacheBudget:
        """`memory` bytes, or `memory_util` of what is free without `reserved` bytes of it."""
        if memory is not None:
            return cls(memory, "native_kv_cache_memory", "native_kv_cache_memory gives")
        nbytes = int(memory_util * max(0, available_memory() - reserved))
        source = f"native_memory_util {memory_util:g} of the free memory gives"
        return cls(nbytes, "native_memory_util", source)

    def without(self, nbytes: int) -> CacheBudget:
        """What is left if so many bytes of it are taken."""
        return replace(self, nbytes=self.nbytes - nbytes)


def count_blocks(
    spec: DecoderSpec,
    *,
    block_size: int,
    max_model_len: int,
    max_sequences: int,
    budget: CacheBudget,
    kv_dtype: KvDtype = "float32",
) -> int:
    """The number of KV blocks: as many as fit into the budget.

    More blocks than `max_sequences` of `max_model_len` need are never used, and so not counted.

    Raises:
        OutOfMemoryError: not even one sequence of `max_model_len` fits.
    """
    needed = blocks_of(max_model_len, block_size)
    one = max(1, block_bytes(spec, block_size, kv_dtype))  # a model may have no attention at all
    blocks = min(budget.nbytes // one, max_sequences * needed)
    if blocks < needed:
        raise OutOfMemoryError(
            f"The KV cache of one sequence of {max_model_len} tokens needs {needed} blocks, "
            f"{needed * one / MIB:.1f} MiB; {budget.source} {budget.nbytes / MIB:.1f} MiB. Lower vllm_maxlen to "
            f"{max(0, budget.nbytes // one * block_size)} or less, or raise {budget.argument}"
        )
    logger.info(
        "KV cache: %d blocks of %d tokens, %d tokens, up to %.1f MiB",
        blocks, block_size, blocks * block_size, blocks * one / MIB,
    )  # fmt: skip
    return blocks
