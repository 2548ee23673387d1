"""How many KV blocks fit into the free memory, and aligned arrays."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.layout import KV_FLOAT16, KV_FLOAT32, KV_INT8, kv_head_bytes, padded
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import OutOfMemoryError
from quire.machine.memory import available_memory

logger = logging.getLogger("quire")

ALIGNMENT = 64  # a cache line, and the widest register
MIB = 2**20

KvDtype = Literal["float32", "float16", "int8"]
KV_KINDS: dict[KvDtype, int] = {
    "float32": KV_FLOAT32,
    "float16": KV_FLOAT16,
    "int8": KV_INT8,
}


def aligned_zeros(shape: Sequence[int], dtype: Any = np.float32) -> NDArray[Any]:
    """Zeros that begin at a cache line. Memory is taken when it is first touched."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def block_bytes(spec: DecoderSpec, block_size: int, kv_dtype: KvDtype = "float32") -> int:
    """Bytes of one block of the KV cache over all layers."""
    kind = KV_KINDS[kv_dtype]
    widths = spec.head_dim, padded(spec.head_dim)  # keys are not padded, values are
    each = sum(kv_head_bytes(kind, width, block_size) for width in widths)
    return spec.num_layers * spec.num_kv_heads * each


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
    """The number of KV blocks: what `memory` holds, or `memory_util` of what is free.

    `reserved` are bytes of free memory that the weights and scratch will take. More than
    `max_sequences` of `max_model_len` is never of use and not taken. Raises OutOfMemoryError when
    not even one sequence of `max_model_len` would fit.
    """
    one, each = block_bytes(spec, block_size, kv_dtype), -(-max_model_len // block_size)
    free = available_memory()
    budget = memory if memory is not None else int(memory_util * max(0, free - reserved))
    blocks = min(budget // one, max_sequences * each)
    if blocks < each:
        source = (
            "native_kv_cache_memory gives"
            if memory is not None
            else f"native_memory_util {memory_util:g} of the free memory gives"
        )
        raise OutOfMemoryError(
            f"The KV cache of one sequence of {max_model_len} tokens needs {each} blocks, "
            f"{each * one / MIB:.1f} MiB; {source} {budget / MIB:.1f} MiB. Lower vllm_maxlen to "
            f"{max(0, budget // one * block_size)} or less, or raise "
            f"{'native_kv_cache_memory' if memory is not None else 'native_memory_util'}"
        )
    logger.info(
        "KV cache: %d blocks of %d tokens, %d tokens, up to %.1f MiB",
        blocks, block_size, blocks * block_size, blocks * one / MIB,
    )  # fmt: skip
    return blocks
