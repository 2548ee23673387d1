"""HuggingfaceEngine: quire's NativeEngine under the name of the engine that it stands in for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from quire_llamafactory.absent import missing

if TYPE_CHECKING:
    from quire.chat.native_engine import NativeEngine as HuggingfaceEngine

__all__ = ["HuggingfaceEngine"]


def __getattr__(name: str) -> Any:
    if name != "HuggingfaceEngine":
        raise missing(__name__, name)
    from quire.chat.native_engine import NativeEngine

    logging.getLogger("quire").info("HuggingfaceEngine is quire's own NativeEngine.")
    return NativeEngine
