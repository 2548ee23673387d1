"""MiniCPM-V 4.6: slices as MiniCPM-V's, but each with as many tokens as its size asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from quire.media.families.family import MediaFamily, clip_of, picture_size
from quire.media.families.minicpm_v import refuse_mixture
from quire.media.families.settings import flag
from quire.media.families.settings import number as setting
from quire.media.families.sizes import Size, sliced_grid
from quire.media.placement import Kind
from quire.media.values import Clip, Medium
from quire.template.format import MediaTokens


class MiniCPMV4_6(MediaFamily):
    """Features replace the tokenizer's image and video tokens."""

    name = "MiniCPMV4_6"
    tokens = MediaTokens("MiniCPMV4_6", image="<image>", video="<video>")

    def check(self, media: Sequence[Medium]) -> None:
        refuse_mixture(media)

    def feature_tokens(self, kind: Kind) -> tuple[str, ...]:
        named = self.settings.tokenizer
        named = {**named, **(named.get("extra_special_tokens") or {})} if named else named
        token = named.get(f"{kind}_token")
        return (token if isinstance(token, str) else f"<|{kind}_pad|>",)

    @property
    def controls(self) -> frozenset[str]:
        names = ("image", "slice", "image_id")
        return super().controls | {f"<{end}{name}>" for name in names for end in ("", "/")}

    def placeholder(self, medium: Medium, number: int) -> str:
        """A clip is written as a picture."""
        return "(<image>./</image>)"

    def vllm_placeholder(self, medium: Medium, number: int) -> str:
        return self.feature_tokens(medium.kind)[0]

    def expansion(self, medium: Medium, number: int) -> str:
        is_clip = isinstance(medium, Clip)
        settings = self.settings.video if is_clip else self.settings.image
        written = self._sliced(settings, self.feature_tokens(medium.kind)[0], picture_size(medium))
        if isinstance(medium, Clip):
            written = written * len(clip_of(medium).frames)
        if flag(self.settings.image, "use_image_id", True):
            return f"<image_id>{number}</image_id>{written}"
        return written

    def _patterns(self, medium: Medium, number: int) -> tuple[str, ...]:
        return (self.vllm_placeholder(medium, number),)

    def _sliced(self, settings: Mapping[str, Any], token: str, size: Size) -> str:
        """The whole picture, then its slices, row by row."""
        edge, patch = (
            setting(settings, "scale_resolution", 448),
            setting(settings, "patch_size", 14),
        )
        joined = 4 if settings.get("downsample_mode") == "4x" else 16
        most = setting(settings, "max_slice_nums", 9)
        grid = sliced_grid(*size, most, edge) if flag(settings, "slice_mode", True) else None
        high, wide = _scaled(*size, edge, patch, upscale=grid is None)
        whole = f"<image>{token * (high * wide // patch**2 // joined)}</image>"
        if grid is None:
            return whole
        rows, columns = grid
        high, wide = _scaled(
            _divisible(size[0], rows) / rows, _divisible(size[1], columns) / columns, edge, patch,
            upscale=True,
        )  # fmt: skip
        piece = f"<slice>{token * (high * wide // patch**2 // joined)}</slice>"
        return whole + "\n".join([piece * columns] * rows)


def _scaled(height: float, width: float, edge: int, patch: int, *, upscale: bool) -> Size:
    """About `edge` squared pixels, aspect kept, in multiples of four patches."""
    if height * width > edge * edge or upscale:
        shape = width / height
        height = int(edge / math.sqrt(shape))
        width = int(height * shape)
    return _divisible(height, patch * 4), _divisible(width, patch * 4)


def _divisible(length: float, divisor: int) -> int:
    return max(round(length / divisor) * divisor, divisor)
