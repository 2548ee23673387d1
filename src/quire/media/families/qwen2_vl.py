"""Qwen2-VL, Qwen2.5-VL, and those that write media as it does (MiMo-VL, Keye-VL, dots.ocr)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.media.families.family import MediaFamily, clip_of, picture_size
from quire.media.families.settings import first_object, flag, number, positive_integer
from quire.media.families.sizes import Size, fit_pixels
from quire.media.placement import Kind
from quire.media.values import Clip, Medium
from quire.template.format import MediaTokens

_WRAPPERS = {"<|imgpad|>": ("<|img|>", "<|endofimg|>"), "<|vidpad|>": ("<|img|>", "<|endofimg|>")}


class Qwen2VL(MediaFamily):
    """A patch is 14 pixels wide; 2 x 2 patches, and 2 frames, become one token."""

    name = "Qwen2VL"
    tokens = MediaTokens("Qwen2VL", image="<|image_pad|>", video="<|video_pad|>")
    patch = 14
    image_pixels: Size = (56 * 56, 28 * 28 * 1280)
    video_pixels: Size = (128 * 28 * 28, 28 * 28 * 768)

    def wrap(self, kind: Kind, inner: str) -> str:
        before, after = _WRAPPERS.get(self.token(kind), ("<|vision_start|>", "<|vision_end|>"))
        return f"{before}{inner}{after}"

    def expansion(self, medium: Medium, number: int) -> str:
        if isinstance(medium, Clip):
            steps, tokens = self.clip_grid(medium)
            return self.wrap("video", self.token("video") * (steps * tokens))
        return self.wrap("image", self.token("image") * self.image_count(medium))

    def image_count(self, medium: Medium) -> int:
        """Tokens of a picture."""
        height, width = self.image_grid(medium)
        return height * width

    def image_grid(self, medium: Medium) -> Size:
        """Rows and columns of a picture's tokens."""
        settings = self.settings.image
        factor = self.factor(settings)
        least, most = pixel_limits(settings, self.image_pixels)
        height, width = fit_pixels(*picture_size(medium), factor, least, most)
        return height // factor, width // factor

    def clip_grid(self, medium: Medium) -> tuple[int, int]:
        """Time steps of a clip, and tokens of one step."""
        settings, frames = self.settings.video, len(clip_of(medium).frames)
        together = number(settings, "temporal_patch_size", 2)
        factor = self.factor(settings)
        height, width = self.clip_size(frames, *picture_size(medium), factor, together)
        return -(-frames // together), (height // factor) * (width // factor)

    def clip_size(
        self, frames: int, height: int, width: int, factor: int, together: int
    ) -> tuple[int, int]:
        """What a clip's frames are scaled to, in pixels."""
        settings = self.settings.video
        least, most = pixel_limits(settings, self.video_pixels)
        if flag(settings, "cap_pixels_per_frame", False):
            whole = int(number(settings, "max_video_tokens", 128000) * factor * factor * 0.9)
            most = max(min(most, whole * together // frames), int(least * 1.05))
        return fit_pixels(height, width, factor, least, most)

    def factor(self, settings: Mapping[str, Any]) -> int:
        """Pixels of a token's side."""
        return number(settings, "patch_size", self.patch) * number(settings, "merge_size", 2)


def pixel_limits(settings: Mapping[str, Any], default: Size) -> Size:
    """The least and the most pixels, under any of the names that folders give them."""
    size = first_object(settings.get("size"))
    least = settings.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels")
    most = settings.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels")
    return (
        positive_integer("min_pixels", least or default[0]),
        positive_integer("max_pixels", most or default[1]),
    )
