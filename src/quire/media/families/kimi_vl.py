"""Kimi-VL: pictures of any size up to 4096 patches, two by two to a token."""

from __future__ import annotations

import math

from quire.errors import MediaError
from quire.media.families.family import MediaFamily, picture_size
from quire.media.families.settings import flag, height_width, number
from quire.media.families.sizes import ceil_to
from quire.media.placement import Kind
from quire.media.values import Medium
from quire.template.format import MediaTokens


class KimiVL(MediaFamily):
    """Its image processor pads to whole tokens and scales nothing that is small enough."""

    name = "KimiVL"
    tokens = MediaTokens("KimiVL", image="<|media_pad|>")

    def wrap(self, kind: Kind, inner: str) -> str:
        return f"<|media_start|>image<|media_content|>{inner}<|media_end|>"

    def expansion(self, medium: Medium, number: int) -> str:
        return self.wrap("image", self.token("image") * self._count_of(medium))

    def _count_of(self, medium: Medium) -> int:
        settings = self.settings.image
        patch = number(settings, "patch_size", 14)
        limit = number(settings, "in_token_limit", 4096)
        down, right = height_width(settings.get("merge_kernel_size"), (2, 2))
        height, width = picture_size(medium)
        patches = (height // patch) * (width // patch)
        if patches > limit:
            scale = math.sqrt(limit / patches)
            height, width = int(height * scale), int(width * scale)
        if flag(settings, "pad_input", True):
            high, wide = ceil_to(height, down * patch), ceil_to(width, right * patch)
        else:
            high, wide = height - height % patch, width - width % patch
        if high // patch >= 512 or wide // patch >= 512:
            raise MediaError(
                f"An image of {width} x {height} pixels is too long a strip for this model."
            )
        return (high // patch) * (wide // patch) // (down * right)
