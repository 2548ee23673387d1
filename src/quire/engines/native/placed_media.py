"""The media of one request in the engine: what stands in for tokens, where, and how the rest moves.

A medium arrives as features, one vector for each placeholder token that it fills. Models with M-RoPE
also place each in time, height and width; the text after it goes on behind the furthest of its
places, so that a token's place and its number in the sequence differ from there on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.errors import MediaError
from quire.prompt import MediaItem, Prompt

MAX_ROPE_POSITION = 1 << 22
"""Places in time may run ahead of the tokens, but not for ever: tables of angles reach so far."""

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, eq=False)
class MediaFeatures:
    """A medium as the decoder takes it: `MediaItem.data` on the native engine."""

    values: NDArray[np.float32]  # (M, hidden_size), one for each placeholder token
    positions: NDArray[np.int32] | None = None
    """(3, M): with M-RoPE, each one's place in time, height and width, from the medium's start."""


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    start: int
    end: int
    values: NDArray[np.float32]
    digest: bytes


class PlacedMedia:
    """The media of a request of `prompt_length` tokens, in order."""

    __slots__ = ("_items", "_places", "_shift")

    def __init__(self, items: Sequence[MediaItem], prompt_length: int) -> None:
        self._items = [_place(item) for item in items]
        places = _places(items, prompt_length)
        self._places = places
        self._shift = 0 if places is None else int(places.max()) + 1 - prompt_length

    @property
    def has_places(self) -> bool:
        """Whether tokens have places of their own, for M-RoPE."""
        return self._places is not None

    def features(self, start: int, end: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield what tokens from `start` to `end - 1` have instead of their embeddings.

        Each is the first token's position and vectors (m, hidden_size) from it on.
        """
        for item in self._items:
            first, last = max(start, item.start), min(end, item.end)
            if first < last:
                yield first, item.values[first - item.start : last - item.start]

    def rope_positions(self, start: int, end: int) -> NDArray[np.int32]:
        """The places (3, end - start) of the tokens from `start` to `end - 1`, generated ones too."""
        assert self._places is not None
        length = self._places.shape[1]
        generated = np.arange(max(start, length), end, dtype=np.int32) + np.int32(self._shift)
        prompt = self._places[:, start:end]
        return np.concatenate([prompt, np.broadcast_to(generated, (3, len(generated)))], axis=1)

    def rope_position(self, position: int) -> int:
        """The place of a generated token."""
        return position + self._shift

    def key(self, start: int, end: int) -> bytes:
        """What keys and values of the tokens from `start` to `end - 1` depend on besides the ids."""
        return b"".join(
            item.digest + (item.start - start).to_bytes(8, "little", signed=True)
            for item in self._items
            if item.start < end and start < item.end
        )


def _features(item: MediaItem) -> MediaFeatures:
    assert isinstance(item.data, MediaFeatures)
    return item.data


def _place(item: MediaItem) -> _Placed:
    features = _features(item)
    digest = hashlib.blake2b(f"{item.kind} {item.content_hash}".encode(), digest_size=_DIGEST_BYTES)
    if features.positions is not None:
        digest.update(features.positions.tobytes())
    return _Placed(item.start, item.start + item.length, features.values, digest.digest())


def _places(items: Sequence[MediaItem], length: int) -> NDArray[np.int32] | None:
    """The places (3, length) of a prompt's tokens; None where each is at its position."""
    if all(_features(item).positions is None for item in items):
        return None
    places = np.empty((3, length), np.int32)
    end = following = 0  # the first token that has no place yet, and where it goes
    for item in items:
        count = item.start - end
        places[:, end : item.start] = np.arange(following, following + count)
        following += count
        end = item.start + item.length
        own = _features(item).positions
        if own is None:
            own = np.broadcast_to(np.arange(item.length, dtype=np.int32), (3, item.length))
        places[:, item.start : end] = own + following
        following += int(own.max()) + 1
    places[:, end:] = np.arange(following, following + length - end)
    return places


def check_media(prompt: Prompt, hidden_size: int, uses_mrope: bool) -> None:
    """Raise MediaError for media that do not fit the prompt or the model."""
    end = 0
    for item in prompt.media:
        _check_features(item, hidden_size, uses_mrope)
        if item.start < end or item.start + item.length > len(prompt):
            raise MediaError(
                f"A medium fills the tokens {item.start} to {item.start + item.length - 1} of "
                f"{len(prompt)}, of which {end} are before it or filled already."
            )
        end = item.start + item.length


def _check_features(item: MediaItem, hidden_size: int, uses_mrope: bool) -> None:
    features = item.data
    if not isinstance(features, MediaFeatures):
        raise MediaError(f"This model takes text alone: the {item.kind} came without features.")
    shape = features.values.shape
    if item.length < 1 or shape != (item.length, hidden_size):
        raise MediaError(
            f"The {item.kind} has features {shape} and its place in the prompt takes "
            f"{(item.length, hidden_size)}."
        )
    positions = features.positions
    if positions is None:
        return
    if not uses_mrope or positions.shape != (3, item.length):
        raise MediaError(f"The {item.kind} has places that this model does not take.")
    if positions.min() < 0 or positions.max() >= MAX_ROPE_POSITION // 8:
        raise MediaError(f"The {item.kind} is too long: its places in time reach too far.")
