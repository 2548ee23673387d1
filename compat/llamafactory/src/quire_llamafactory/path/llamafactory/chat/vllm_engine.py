"""VllmEngine; importing this module needs no vLLM, making an engine does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quire_llamafactory.absent import missing

if TYPE_CHECKING:
    from quire.chat.vllm_engine import VllmEngine

__all__ = ["VllmEngine"]


def __getattr__(name: str) -> Any:
    if name != "VllmEngine":
        raise missing(__name__, name)
    from quire.chat.vllm_engine import VllmEngine

    return VllmEngine
