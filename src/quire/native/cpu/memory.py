"""How much memory is free, how many KV blocks fit into it, and aligned arrays."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.errors import OutOfMemoryError
from quire.native.cpu.layout import padded
from quire.native.models.spec import DecoderSpec

logger = logging.getLogger("quire")

ALIGNMENT = 64  # a cache line, and the widest register
MIB = 2**20


def aligned_zeros(shape: Sequence[int], dtype: Any = np.float32) -> NDArray[Any]:
    """Zeros that begin at a cache line. Memory is taken when it is first touched."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def block_bytes(spec: DecoderSpec, block_size: int) -> int:
    """Bytes of one block of the KV cache over all layers."""
    row = spec.head_dim + padded(spec.head_dim)  # keys are not padded, values are
    return 4 * spec.num_layers * spec.num_kv_heads * block_size * row


def available_memory() -> int:
    """Bytes that this process may still take: the machine's, or what its control groups leave."""
    found = [_machine_memory(), *group_memory()]
    return min(found)


def _machine_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return _physical_memory()


def _physical_memory() -> int:
    """Half of all memory, where nothing says how much of it is free."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def group_memory(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """What each control group of this process leaves of its limit, versions 2 and 1."""
    left: list[int] = []
    try:
        entries = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return left
    for entry in entries:
        if len(entry) != 3:
            continue
        _, controllers, name = entry
        if controllers == "":
            left += _walk(root, name, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            left += _walk(root / "memory", name, "memory.limit_in_bytes",
                          "memory.usage_in_bytes", "total_inactive_file")  # fmt: skip
    return left


def _walk(root: Path, name: str, limit: str, usage: str, cached: str) -> list[int]:
    """The room in the group `name` and in each that holds it."""
    left: list[int] = []
    group = root / name.lstrip("/")
    for folder in (group, *group.parents):
        try:
            most, used = (folder / limit).read_text().strip(), (folder / usage).read_text()
            if most != "max":
                left.append(max(0, int(most) - int(used) + _file_cache(folder, cached)))
        except (OSError, ValueError):
            pass
        if folder == root:
            break
    return left


def _file_cache(folder: Path, field: str) -> int:
    """Bytes of file cache, which the kernel gives back when they are wanted."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == field)
    except (OSError, StopIteration, ValueError, IndexError):
        return 0


def count_blocks(
    spec: DecoderSpec,
    *,
    block_size: int,
    max_model_len: int,
    max_sequences: int,
    memory: int | None,
    memory_util: float,
    reserved: int,
) -> int:
    """The number of KV blocks: what `memory` holds, or `memory_util` of what is free.

    `reserved` are bytes of free memory that the weights and scratch will take. More than
    `max_sequences` of `max_model_len` is never of use and not taken. Raises OutOfMemoryError when
    not even one sequence of `max_model_len` would fit.
    """
    one, each = block_bytes(spec, block_size), -(-max_model_len // block_size)
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
