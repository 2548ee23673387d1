"""Which optional packages are installed."""

from __future__ import annotations

import importlib.util
from typing import Any

from quire_llamafactory.absent import missing

__all__ = ["is_vllm_available"]

_ABSENT = frozenset(["is_sglang_available", "is_transformers_version_greater_than"])


def is_vllm_available() -> bool:
    """Whether vLLM is installed; it is not imported."""
    return importlib.util.find_spec("vllm") is not None


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, _ABSENT)
