"""Youtu-VL: pictures in whole tokens of 32 pixels; of clips only its own processor knows."""

from __future__ import annotations

from quire.media.families.family import picture_size
from quire.media.families.general import General
from quire.media.families.settings import number as setting
from quire.media.families.sizes import Size, ceil_to
from quire.media.placement import Kind
from quire.media.values import Clip, Medium
from quire.template.format import MediaTokens

_MOST_PATCHES = 36_864
"""What its processor allows, whatever the folder says."""


class YoutuVL(General):
    """Wrappers as Qwen2-VL's."""

    name = "YoutuVL"
    tokens = MediaTokens("YoutuVL", image="<|image_pad|>", video="<|video_pad|>")

    def wrap(self, kind: Kind, inner: str) -> str:
        return f"<|vision_start|>{inner}<|vision_end|>"

    def feature_tokens(self, kind: Kind) -> tuple[str, ...]:
        return (self.token(kind),)

    def expansion(self, medium: Medium, number: int) -> str:
        if isinstance(medium, Clip):
            return self.wrap("video", super().expansion(medium, number))
        rows, columns = self.patch_grid(*picture_size(medium))
        merged = setting(self.settings.vision, "spatial_merge_size", 2) ** 2
        return self.wrap("image", self.token("image") * (rows * columns // merged))

    def patch_grid(self, height: int, width: int) -> Size:
        """Rows and columns of patches, scaled down in steps of 2 % until there are few enough."""
        patch = setting(self.settings.vision, "patch_size", 16)
        side = patch * setting(self.settings.vision, "spatial_merge_size", 2)
        scale = 1.0
        while True:
            high = max(side, ceil_to(height * scale, side)) // patch
            wide = max(side, ceil_to(width * scale, side)) // patch
            if high * wide <= _MOST_PATCHES or scale <= 0:
                return high, wide
            scale -= 0.02
