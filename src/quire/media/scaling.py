"""The size that a picture is scaled to: LLaMA-Factory's rule."""

from __future__ import annotations

import math


def fitted(width: int, height: int, low: int, high: int) -> tuple[int, int]:
    """The width and height to scale to, so that the picture has `low` to `high` pixels.

    Both sides are multiplied by the square root of the ratio and cut to whole pixels, first down to
    `high`, then up to `low`. The cut can leave a picture that was scaled up a few pixels below
    `low`. A side is never 0; where a strip would then have too many pixels, its long side is cut.
    """
    for limit, wrong in ((high, width * height > high), (low, width * height < low)):
        if wrong:
            factor = math.sqrt(limit / (width * height))
            width, height = max(1, int(width * factor)), max(1, int(height * factor))
            if width * height > high:
                width, height = min(width, high), min(height, high)
    return width, height
