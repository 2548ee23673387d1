"""Draws the pictures and short clips that the seeing demo model learns from, with NumPy alone.

The same arguments draw the same pixels. A shape's outline is a signed distance in pixels, so that
its edge is smooth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle")
COLOURS: dict[str, Colour] = {
    "red": (214, 32, 36),
    "orange": (245, 138, 20),
    "yellow": (250, 218, 40),
    "green": (36, 160, 62),
    "blue": (32, 84, 214),
    "purple": (134, 44, 164),
}
BACKGROUNDS: tuple[Colour, ...] = ((252, 252, 252), (240, 240, 240))
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MOST_SHAPES = 4
GAP = 3
"""The least distance between two shapes in pixels, beside a part of their size."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape; the centre and the radius are in pixels, `x` to the right and `y` down."""

    name: str
    colour: str
    x: float
    y: float
    radius: float
    paint: Colour

    @property
    def words(self) -> str:
        """The shape with its colour and article: `a red circle`."""
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.colour} {self.name}"


@dataclass(frozen=True, slots=True)
class Drawing:
    """What stands in a picture: the shapes before a plain background with a little noise."""

    height: int
    width: int
    shapes: tuple[Shape, ...]
    background: Colour
    noise: float = 0.0
    seed: int = 0


def draw(drawing: Drawing) -> Pixels:
    """Return the picture, uint8 [height, width, 3]."""
    picture = np.empty((drawing.height, drawing.width, 3), np.float32)
    picture[:] = drawing.background
    for shape in drawing.shapes:
        _paint(picture, shape)
    if drawing.noise:
        rng = np.random.default_rng(drawing.seed)
        picture += drawing.noise * rng.standard_normal(picture.shape, np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _paint(picture: NDArray[np.float32], shape: Shape) -> None:
    """Paint the shape over the picture; only the box around it is touched."""
    height, width = picture.shape[:2]
    reach = shape.radius * 1.1 + 1
    top, bottom = max(0, int(shape.y - reach)), min(height, int(shape.y + reach) + 2)
    left, right = max(0, int(shape.x - reach)), min(width, int(shape.x + reach) + 2)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - shape.y
    x = np.arange(left, right, dtype=np.float32)[None, :] + 0.5 - shape.x
    cover = np.clip(0.5 - _distance(shape.name, x, y, shape.radius), 0, 1)[..., None]
    box = picture[top:bottom, left:right]
    box += cover * (np.asarray(shape.paint, np.float32) - box)


def _distance(
    name: str, x: NDArray[np.float32], y: NDArray[np.float32], radius: float
) -> NDArray[np.float32]:
    """Return how far each place is outside of the outline, in pixels; inside is negative."""
    across = np.abs(x)
    if name == "circle":
        return np.hypot(x, y) - radius
    if name == "square":
        return np.maximum(across, np.abs(y)) - 0.85 * radius
    return np.maximum(y, 0.866 * across - 0.5 * y) - 0.5 * radius


def random_drawing(rng: Random, height: int, width: int, count: int, gap: float = GAP) -> Drawing:
    """Return a picture of `count` shapes that do not touch; `gap` is in pixels, as `GAP`."""
    short = min(height, width)
    low, high = (0.24, 0.42) if count == 1 else (0.12, 0.17)
    shapes: list[Shape] = []
    while len(shapes) < count:
        shape = _random_shape(rng, height, width, short * rng.uniform(low, high))
        if all(_apart(shape, other, gap) for other in shapes):
            shapes.append(shape)
        elif rng.random() < 0.02:
            shapes.clear()  # no room is left beside these: begin again
    return Drawing(
        height,
        width,
        tuple(shapes),
        _jittered(rng, rng.choice(BACKGROUNDS), 4),
        noise=rng.choice((0.0, rng.uniform(0, 4))),
        seed=rng.getrandbits(32),
    )


def random_clip(
    rng: Random, height: int, width: int, frames: int, direction: str
) -> tuple[Drawing, ...]:
    """Return the frames of a clip in which one shape moves in a direction."""
    first = random_drawing(rng, height, width, 1)
    side, rise = DIRECTIONS[direction]
    shape = replace(first.shapes[0], radius=min(height, width) * rng.uniform(0.15, 0.24))
    ends = []
    for size, step, place in ((width, side, shape.x), (height, rise, shape.y)):
        low, high = shape.radius, size - shape.radius
        start = stop = min(max(place, low), high)
        if step:
            travel = rng.uniform(0.4, 1) * (high - low)
            start = rng.uniform(low, high - travel)
            start, stop = (start, start + travel) if step > 0 else (start + travel, start)
        ends.append((start, stop))
    return tuple(
        replace(
            first,
            shapes=(replace(shape, x=_between(ends[0], part), y=_between(ends[1], part)),),
            seed=first.seed + number,
        )
        for number, part in enumerate(np.linspace(0, 1, frames).tolist())
    )


def draw_clip(frames: Sequence[Drawing], size: tuple[int, int] | None = None) -> Pixels:
    """Return the frames, uint8 [frames, height, width, 3], scaled to a size where one is given."""
    return np.stack([_scaled(draw(frame), size) for frame in frames])


def _scaled(picture: Pixels, size: tuple[int, int] | None) -> Pixels:
    """Scale as processors do, bicubic; the sides may be stretched differently."""
    if size is None or size == picture.shape[:2]:
        return picture
    from PIL import Image

    height, width = size
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _random_shape(rng: Random, height: int, width: int, radius: float) -> Shape:
    name, colour = rng.choice(SHAPES), rng.choice(tuple(COLOURS))
    x = rng.uniform(radius, width - radius)
    y = rng.uniform(radius, height - radius)
    return Shape(name, colour, x, y, radius, _jittered(rng, COLOURS[colour], 12))


def _apart(one: Shape, other: Shape, gap: float) -> bool:
    far = np.hypot(one.x - other.x, one.y - other.y)
    return bool(far > 1.05 * (one.radius + other.radius) + gap)


def _jittered(rng: Random, colour: Colour, most: int) -> Colour:
    red, green, blue = (min(255, max(0, part + rng.randint(-most, most))) for part in colour)
    return red, green, blue


def _between(ends: tuple[float, float], part: float) -> float:
    return ends[0] + part * (ends[1] - ends[0])
