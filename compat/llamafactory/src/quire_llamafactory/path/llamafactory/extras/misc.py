"""Freeing memory between chats."""

from __future__ import annotations

import gc
from typing import Any

from quire_llamafactory.absent import missing

__all__ = ["torch_gc"]

_ABSENT = frozenset(
    ["get_current_device", "get_device_count", "get_logits_processor", "is_env_enabled"]
)


def torch_gc() -> None:
    """Collect unreachable objects. An engine's own memory is freed by `ChatModel.close`."""
    gc.collect()


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, _ABSENT)
