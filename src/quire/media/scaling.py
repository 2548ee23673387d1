"""The size that a picture is scaled to: LLaMA-Factory's rule."""

from __future__ import annotations

import math


def fitted(width: int, height: int, low: int, high: int) -> tuple[int, int]:
    """The width and height to scale to, so that the picture has `low` to `high` pixels.

    Both sides are multiplied by the square root of the ratio and cut to whole pixels, first down to
    `high`, then up to `low`. The cut can leave a picture that was scaled up a few pixels below
    `low`. A side is never 0; where a strip would then have too many pixels, its long side is cut.
    """
    if width * height > high:
        width, height = _towards(high, width, height)
        width = min(width, max(1, high // height))
        height = min(height, max(1, high // width))
    if width * height < low:
        width, height = _towards(low, width, height)
    return width, height


def _towards(pixels: int, width: int, height: int) -> tuple[int, int]:
    factor = math.sqrt(pixels / (width * height))
    return max(1, int(width * factor)), max(1, int(height * factor))
