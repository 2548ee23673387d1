"""Arithmetic of sizes: what an image is scaled to, and how many patches it then has.

All are (height, width) in pixels, and as the models' own processors in transformers have them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from quire.errors import MediaError

Size = tuple[int, int]


def check_aspect(height: int, width: int, limit: int = 200) -> None:
    """Check that no side is more than `limit` times the other.

    Raises:
        MediaError: one is.
    """
    if max(height, width) > limit * min(height, width):
        raise MediaError(
            f"An image or a video of {width} x {height} pixels is too long a strip for this model: "
            f"one side may be at most {limit} times the other."
        )


def fit_pixels(height: int, width: int, factor: int, least: int, most: int) -> Size:
    """Round both sides to multiples of `factor`, with `least` to `most` pixels, aspect kept.

    Qwen2-VL's rule.

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    check_aspect(height, width)
    rounded = round(height / factor) * factor, round(width / factor) * factor
    return _bounded(height, width, rounded, factor, least, most)


def fit_strip(height: int, width: int, factor: int, least: int, most: int) -> Size:
    """As `fit_pixels`, for an image of any shape: each side keeps at least `factor` pixels."""
    high = max(factor, round(height / factor) * factor)
    wide = max(factor, round(width / factor) * factor)
    return _bounded(height, width, (high, wide), factor, least, most)


def fit_clip(
    frames: int, height: int, width: int, factor: int, least: int, most: int, together: int
) -> Size:
    """As `fit_pixels`, for a clip: the limits count all frames, and `together` frames are one step.

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    check_aspect(height, width)
    rounded = round(height / factor) * factor, round(width / factor) * factor
    counted = round(frames / together) * together
    return _bounded(height, width, rounded, factor, least, most, frames, counted)


def _bounded(
    height: int,
    width: int,
    rounded: Size,
    factor: int,
    least: int,
    most: int,
    frames: int = 1,
    counted: int = 1,
) -> Size:
    """The rounded size where it keeps the limits, else the size scaled to the limit that it exceeds."""
    pixels = counted * rounded[0] * rounded[1]
    if pixels > most:
        shrink = math.sqrt(frames * height * width / most)
        high = max(factor, math.floor(height / shrink / factor) * factor)
        return high, max(factor, math.floor(width / shrink / factor) * factor)
    if pixels < least:
        grow = math.sqrt(least / (frames * height * width))
        high = math.ceil(height * grow / factor) * factor
        return high, math.ceil(width * grow / factor) * factor
    return rounded


def best_resolution(height: int, width: int, choices: Iterable[Size]) -> Size:
    """The choice that keeps most of the image's pixels, then the one that wastes least."""

    def rank(choice: Size) -> tuple[int, int]:
        scale = min(choice[1] / width, choice[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - choice[0] * choice[1]

    return max(choices, key=rank)


def closest_grid(height: int, width: int, tile: Size, least: int, most: int) -> Size:
    """Rows and columns of tiles, `least` to `most` in all, whose shape is closest to the image's.

    Of two that are as close, the later one (more tiles) is taken where the image has more than half
    of its pixels. InternVL's and LFM2-VL's rule.
    """
    counts = range(1, most + 1)
    grids = [(r, c) for c in counts for r in counts if least <= r * c <= most]
    grids.sort(key=lambda grid: grid[0] * grid[1])
    best, error = (1, 1), math.inf
    for rows, columns in grids:
        off = abs(width / height - columns / rows)
        if off < error:
            best, error = (rows, columns), off
        elif off == error and height * width > 0.5 * tile[0] * tile[1] * rows * columns:
            best = (rows, columns)
    return best


def ceil_to(value: float, factor: int) -> int:
    """The next multiple of `factor` that is no smaller."""
    return math.ceil(value / factor) * factor


def sliced_grid(height: int, width: int, most: int, edge: int) -> Size | None:
    """Rows and columns of MiniCPM-V's slices; None for a picture that needs none.

    There are about as many slices as squares of `edge` pixels in the picture, up to `most`, in the
    grid whose shape is closest; of two that are as close, the one with more rows.
    """
    wanted = min(math.ceil(width * height / (edge * edge)), most)
    if wanted <= 1:
        return None
    shape = math.log(width / height)
    best, error = (1, 1), math.inf
    for count in (wanted - 1, wanted, wanted + 1):
        if count == 1 or count > most:
            continue
        for rows in (rows for rows in range(1, count + 1) if count % rows == 0):
            off = abs(shape - math.log(count // rows / rows))
            if off < error or (off == error and rows > best[0]):
                best, error = (rows, count // rows), off
    return best
