"""What the seeing demo model learns: questions on pictures and clips, with their answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from tools.demo_models.pictures import (
    DIRECTIONS,
    GAP,
    MOST_SHAPES,
    Drawing,
    random_clip,
    random_drawing,
)

CELL = 28
"""Pixels of a token's side."""

MIN_PIXELS, MAX_PIXELS = 84 * 84, 112 * 112
"""What Qwen2-VL's processor scales every picture to, whatever its size: 9 to 16 tokens."""

SMALL = ((84, 84), (84, 84), (56, 84), (84, 56), (56, 112), (112, 56))
"""Heights and widths in pixels of the pictures that training begins with, seen as they are drawn.

They have 4 to 9 tokens: a step takes half as long as with pictures of the usual sizes.
"""

SHORT, LONG = 56, 256
"""The shorter side of a picture that is drawn for training, at least and at most."""

SYSTEM = "You are a helpful assistant."
SYSTEMS = (SYSTEM,) * 6 + ("", "", "Be brief.", "You are quire's demo model that sees.")

WHAT = (
    "What is in the picture?",
    "What is in the image?",
    "What do you see?",
    "What is this?",
    "Describe the picture.",
    "Describe the image.",
    "Describe this image.",
    "Name the shape and its colour.",
    "What does the picture show?",
)
SHAPE = ("Which shape is it?", "What shape is this?", "Which shape do you see?", "Name the shape.")
COLOUR = (
    "Which colour is it?",
    "What colour is the shape?",
    "What color is it?",
    "Name the colour.",
)
COUNT = (
    "How many shapes are there?",
    "How many shapes are in the picture?",
    "How many shapes are in the image?",
    "How many shapes do you see?",
    "How many shapes does the picture show?",
    "Count the shapes.",
)
WAY = (
    "Which way does the shape move?",
    "Which way does it move?",
    "In which direction does the shape move?",
    "Where does the shape go?",
    "How does the shape move?",
)
CLIP = (
    "What is in the video?",
    "What do you see?",
    "Describe the video.",
    "What happens in the video?",
    "What does the clip show?",
)
EACH = (
    "What is in each picture?",
    "What is in each image?",
    "What do the pictures show?",
    "Describe the pictures.",
    "What is in these images?",
)
HELLO = ("Hello!", "Hi", "Hello", "Who are you?", "What can you do?", "Good morning")
ABOUT = "I am quire's demo model that sees. Show me a picture or a short clip."
NOTHING = "I see no picture."


@dataclass(frozen=True, slots=True)
class Task:
    """A dialogue about media of one kind: what is shown, then questions with their answers.

    Each medium is a tuple of frames; a picture has one.
    """

    kind: str
    media: tuple[tuple[Drawing, ...], ...]
    exchanges: tuple[tuple[str, str], ...]
    system: str = SYSTEM
    media_last: bool = False
    seen: tuple[int, int] = (84, 84)
    """The height and width in pixels of what is shown, as the model gets it."""


def seen_size(height: int, width: int) -> tuple[int, int]:
    """Return the height and width that Qwen2-VL's processor scales a picture to.

    Both become multiples of `CELL`, so that a picture is stretched by up to a third on the way: the
    model is to see shapes as they are after that.
    """
    high, wide = (max(CELL, round(side / CELL) * CELL) for side in (height, width))
    if high * wide > MAX_PIXELS:
        # Divided in this order, as the processor does: a side of exactly 112 must not fall short.
        factor = math.sqrt(height * width / MAX_PIXELS)
        high, wide = (math.floor(side / factor / CELL) * CELL for side in (height, width))
        return max(CELL, high), max(CELL, wide)
    if high * wide < MIN_PIXELS:
        factor = math.sqrt(MIN_PIXELS / (height * width))
        return math.ceil(height * factor / CELL) * CELL, math.ceil(width * factor / CELL) * CELL
    return high, wide


def random_size(rng: Random, longest: int = LONG) -> tuple[int, int]:
    """Return a height and a width, up to twice as long as wide; `longest` is of the shorter side."""
    short = SHORT * (longest / SHORT) ** rng.random()
    sides = round(short), round(short * 2 ** rng.random())
    return sides if rng.random() < 0.5 else sides[::-1]


KINDS = {"single": 0.3, "count": 0.3, "clip": 0.22, "several": 0.13, "text": 0.05}

PRACTICE = {"single": 0.1, "count": 0.57, "clip": 0.08, "several": 0.22, "text": 0.03}
"""How often each kind comes later: most is what is learned last."""

FINISH = {"single": 0.13, "count": 0.42, "clip": 0.15, "several": 0.25, "text": 0.05}
"""How often each kind comes when pictures of all sizes are new."""

CROWDS = {
    "single": 0.1,
    "count": 0.12,
    "crowd": 0.5,
    "clip": 0.1,
    "several": 0.15,
    "text": 0.03,
}
"""How often each kind comes at the end: most is to count shapes that stand close together."""

Sizes = Sequence[tuple[int, int]]


def seeing_tasks(
    seed: int, kinds: dict[str, float] = KINDS, sizes: Sizes = ()
) -> Iterator[tuple[tuple[int, int], Task]]:
    """Yield tasks without end, each with the size at which it is seen.

    The caller takes those of one size together. With `sizes`, all is of these, and seen as it is
    drawn; without, of any size, and scaled.
    """
    rng = Random(seed)
    while True:
        size, seen = _drawn_and_seen(rng, sizes)
        kind = rng.choices(tuple(kinds), tuple(kinds.values()))[0]
        yield seen, replace(seeing_task(rng, size, kind), seen=seen)


def seen_films(
    seed: int, sizes: Sizes = ()
) -> Iterator[tuple[tuple[int, int], tuple[Drawing, ...]]]:
    """Yield pictures and clips without questions, each with the size at which it is seen."""
    rng = Random(seed)
    while True:
        size, seen = _drawn_and_seen(rng, sizes)
        if rng.random() < 0.15:
            film = random_clip(rng, *size, rng.randint(4, 8), rng.choice(tuple(DIRECTIONS)))
        else:
            count = rng.choice((1, 1, 1, 2, 3, 4))
            film = (random_drawing(rng, *size, count),)
        yield seen, film


def _drawn_and_seen(rng: Random, sizes: Sizes) -> Sizes:
    if sizes:
        return [rng.choice(sizes)] * 2
    size = random_size(rng)
    return [size, seen_size(*size)]


def seeing_task(rng: Random, size: tuple[int, int], kind: str | None = None) -> Task:
    """Return one task, of any kind where none is named."""
    kind = kind or rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
    media, exchanges = _MAKERS[kind](rng, size)
    system, last = rng.choice(SYSTEMS), rng.random() < 0.15
    return Task(kind, media, exchanges, system, media_last=last, seen=seen_size(*size))


Made = tuple[tuple[tuple[Drawing, ...], ...], tuple[tuple[str, str], ...]]


def _single(rng: Random, size: tuple[int, int]) -> Made:
    drawing = random_drawing(rng, *size, 1)
    (shape,) = drawing.shapes
    known = [
        (WHAT, sentence(shape.words)),
        (SHAPE, sentence(f"a {shape.name}")),
        (COLOUR, sentence(shape.colour)),
        (COUNT, counted(1)),
    ]
    return ((drawing,),), _some(rng, known, (4, 2, 2, 1))


def _count(rng: Random, size: tuple[int, int]) -> Made:
    count = rng.randint(1, MOST_SHAPES)
    drawing = random_drawing(rng, *size, count)
    what = sentence(drawing.shapes[0].words) if count == 1 else f"{count} shapes."
    return ((drawing,),), _some(rng, [(COUNT, counted(count)), (WHAT, what)], (4, 1))


def _crowd(rng: Random, size: tuple[int, int]) -> Made:
    """Return several shapes, as close as in a picture of up to five times the size.

    What parts two shapes there is a pixel or two wide when the picture has been made small.
    """
    count = rng.randint(2, MOST_SHAPES)
    drawing = random_drawing(rng, *size, count, gap=GAP * rng.uniform(0.2, 1))
    return ((drawing,),), ((rng.choice(COUNT), counted(count)),)


def _clip(rng: Random, size: tuple[int, int]) -> Made:
    direction = rng.choice(tuple(DIRECTIONS))
    frames = random_clip(rng, *size, rng.randint(4, 8), direction)
    (shape,) = frames[0].shapes
    known = [
        (WAY, f"It moves {direction}."),
        (CLIP, sentence(f"{article(shape.colour)} shape that moves {direction}")),
    ]
    return (frames,), _some(rng, known, (3, 1))


def _several(rng: Random, size: tuple[int, int]) -> Made:
    drawings = [random_drawing(rng, *size, 1) for _ in range(rng.choice((2, 2, 3, 4)))]
    answer = sentence(", ".join(drawing.shapes[0].words for drawing in drawings))
    return tuple((drawing,) for drawing in drawings), ((rng.choice(EACH), answer),)


def _text(rng: Random, size: tuple[int, int]) -> Made:
    if rng.random() < 0.5:
        return (), ((rng.choice(HELLO), ABOUT),)
    return (), ((rng.choice(WHAT + SHAPE + COLOUR + COUNT + WAY + CLIP + EACH), NOTHING),)


_MAKERS = {
    "single": _single,
    "count": _count,
    "crowd": _crowd,
    "clip": _clip,
    "several": _several,
    "text": _text,
}


def _some(
    rng: Random, known: list[tuple[tuple[str, ...], str]], weights: tuple[int, ...]
) -> tuple[tuple[str, str], ...]:
    """Return one to three of the questions, in any order."""
    count = rng.choices((1, 2, 3), (0.5, 0.3, 0.2))[0]
    chosen = rng.choices(known, weights, k=count)
    return tuple((rng.choice(questions), answer) for questions, answer in chosen)


def counted(count: int) -> str:
    """Return the answer to how many shapes there are."""
    return "There is 1 shape." if count == 1 else f"There are {count} shapes."


def article(colour: str) -> str:
    """Return the colour with its article: `an orange`."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour}"


def sentence(words: str) -> str:
    """Return the words with a capital and a full stop."""
    return words[0].upper() + words[1:] + "."
