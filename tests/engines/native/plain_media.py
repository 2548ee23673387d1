"""Media of a FakeRunner's requests, and what they make of its tokens, as one would first write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from quire.engines.native.core.multimodal import MediaFeatures
from quire.prompt import MediaItem, Prompt
from tests.engines.native.fake_runner import HIDDEN

PLACEHOLDER = 9

RopePosition = tuple[int, int, int]


@dataclass(frozen=True)
class PlainMedium:
    """Numbers that stand in for the tokens from `start` on, and their M-RoPE positions, if any."""

    start: int
    numbers: tuple[int, ...]
    positions: tuple[RopePosition, ...] | None

    def item(self) -> MediaItem:
        values = np.zeros((len(self.numbers), HIDDEN), np.float32)
        values[:, 0] = self.numbers
        positions = None if self.positions is None else np.array(self.positions, np.int32).T.copy()
        return MediaItem(
            "image",
            MediaFeatures(values, positions),
            str(self.numbers),
            self.start,
            len(self.numbers),
        )


def seen(tokens: Sequence[int], media: Sequence[PlainMedium]) -> list[int]:
    """The tokens as a FakeRunner has them in its cache."""
    result: list[int] = []
    following = 0
    at = {medium.start: medium for medium in media}
    while len(result) < len(tokens):
        position = len(result)
        medium = at.get(position)
        numbers = [1_000_000 + n for n in medium.numbers] if medium else [tokens[position]]
        positions = medium.positions if medium else None
        if positions is None:
            positions = tuple((i, i, i) for i in range(len(numbers)))
        for number, (time, height, width) in zip(numbers, positions, strict=True):
            shifts = (following + one - len(result) for one in (time, height, width))
            far = zip(shifts, (10**8, 10**10, 10**12), strict=True)
            result.append(number + sum(shift * weight for shift, weight in far))
        following += max(max(one) for one in positions) + 1
    return result


def prompt_of(ids: Sequence[int], media: Sequence[PlainMedium]) -> Prompt:
    return Prompt(tuple(ids), tuple(medium.item() for medium in media))


_positions = st.sampled_from(
    [
        lambda count: None,
        lambda count: tuple((0, i // 2, i % 2) for i in range(count)),
        lambda count: tuple((2 * i, 0, i) for i in range(count)),
    ]
)
media = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 1), _positions), max_size=2
)
"""Gap before, length, which content, which positions; often the same, so that prefixes are shared."""


def with_media(
    drawn: Sequence[tuple], text: Sequence[int], most: int = 19
) -> tuple[tuple[int, ...], tuple[PlainMedium, ...]]:
    """The token ids and media of a prompt of at most `most` tokens, the last of which is text."""
    ids: list[int] = []
    media: list[PlainMedium] = []
    for gap, length, content, positions in drawn:
        ids += range(gap)
        numbers = tuple(content + i for i in range(length))
        media.append(PlainMedium(len(ids), numbers, positions(length)))
        ids += [PLACEHOLDER] * length
    return tuple(ids) + tuple(text[: max(1, most - len(ids))]), tuple(media)
