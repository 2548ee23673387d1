"""Youtu-VL, whose counts only its own processor knows."""

from __future__ import annotations

from quire.media.families.general import General
from quire.media.placement import Kind
from quire.media.values import Medium
from quire.template.format import MediaTokens


class YoutuVL(General):
    """Wrappers as Qwen2-VL's."""

    name = "YoutuVL"
    tokens = MediaTokens("YoutuVL", image="<|image_pad|>", video="<|video_pad|>")

    def wrap(self, kind: Kind, inner: str) -> str:
        return f"<|vision_start|>{inner}<|vision_end|>"

    def expansion(self, medium: Medium, number: int) -> str:
        return self.wrap(medium.kind, super().expansion(medium, number))
