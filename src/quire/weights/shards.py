"""The names of a model's shards, such as `model-00002-of-00005.safetensors`."""

from __future__ import annotations

import re

_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")


def shard_set(name: str) -> tuple[str, str] | None:
    """The set that a file belongs to, as what its names begin with and its count; None for no shard."""
    match = _SHARD.fullmatch(name)
    return None if match is None else (match[1], match[2])


def shard_names(stem: str, count: str) -> list[str]:
    """The names of all shards of a set, in order."""
    return [f"{stem}-{number:05}-of-{count}.safetensors" for number in range(1, int(count) + 1)]
