"""Media of a FakeRunner's requests, and what they make of its tokens, as one would first write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from quire.engines.native.placed_media import MediaFeatures
from quire.prompt import MediaItem, Prompt
from tests.engines.native.fake_runner import HIDDEN

PLACEHOLDER = 9

Place = tuple[int, int, int]


@dataclass(frozen=True)
class PlainMedium:
    """Numbers that stand in for the tokens from `start` on, and where each is placed, if anywhere."""

    start: int
    numbers: tuple[int, ...]
    places: tuple[Place, ...] | None

    def item(self) -> MediaItem:
        values = np.zeros((len(self.numbers), HIDDEN), np.float32)
        values[:, 0] = self.numbers
        places = None if self.places is None else np.array(self.places, np.int32).T.copy()
        return MediaItem(
            "image", MediaFeatures(values, places), str(self.numbers), self.start, len(self.numbers)
        )


def seen(tokens: Sequence[int], media: Sequence[PlainMedium]) -> list[int]:
    """The tokens as a FakeRunner has them in its cache."""
    found: list[int] = []
    following = 0
    at = {medium.start: medium for medium in media}
    while len(found) < len(tokens):
        position = len(found)
        medium = at.get(position)
        numbers = [1_000_000 + n for n in medium.numbers] if medium else [tokens[position]]
        places = medium.places if medium else None
        if places is None:
            places = tuple((i, i, i) for i in range(len(numbers)))
        for number, (time, height, width) in zip(numbers, places, strict=True):
            shifts = (following + place - len(found) for place in (time, height, width))
            far = zip(shifts, (10**8, 10**10, 10**12), strict=True)
            found.append(number + sum(shift * weight for shift, weight in far))
        following += max(max(place) for place in places) + 1
    return found


def prompt_of(ids: Sequence[int], media: Sequence[PlainMedium]) -> Prompt:
    return Prompt(tuple(ids), tuple(medium.item() for medium in media))


_places = st.sampled_from(
    [
        lambda count: None,
        lambda count: tuple((0, i // 2, i % 2) for i in range(count)),
        lambda count: tuple((2 * i, 0, i) for i in range(count)),
    ]
)
media = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 1), _places), max_size=2
)
"""Gap before, length, which content, which places; often the same, so that prefixes are shared."""


def with_media(
    drawn: Sequence[tuple], text: Sequence[int], most: int = 19
) -> tuple[tuple[int, ...], tuple[PlainMedium, ...]]:
    """The token ids and media of a prompt of at most `most` tokens, the last of which is text."""
    ids: list[int] = []
    found: list[PlainMedium] = []
    for gap, length, content, places in drawn:
        ids += range(gap)
        numbers = tuple(content + i for i in range(length))
        found.append(PlainMedium(len(ids), numbers, places(length)))
        ids += [PLACEHOLDER] * length
    return tuple(ids) + tuple(text[: max(1, most - len(ids))]), tuple(found)
