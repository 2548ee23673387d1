"""The placeholders of media in a message's text."""

from __future__ import annotations

from typing import Any

from quire_llamafactory.absent import missing

__all__ = ["AUDIO_PLACEHOLDER", "IMAGE_PLACEHOLDER", "VIDEO_PLACEHOLDER"]

IMAGE_PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"
AUDIO_PLACEHOLDER = "<audio>"

_ABSENT = frozenset(["EngineName", "IGNORE_INDEX", "SUPPORTED_MODELS", "DEFAULT_TEMPLATE"])


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, _ABSENT)
