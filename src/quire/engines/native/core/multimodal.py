"""The media of one request: their features, where they stand, and M-RoPE positions.

A medium arrives as features, one vector for each placeholder token that it fills. Models with M-RoPE
also give each vector a position in time, height and width. The text after a medium goes on behind the
furthest of these, so that from there on a token's rotary position differs from its position in the
sequence.
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
"""Rotary positions in time may run ahead of the tokens, but tables of angles end here."""

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, eq=False)
class MediaFeatures:
    """A medium as the decoder takes it: `MediaItem.data` on the native engine."""

    values: NDArray[np.float32]  # (M, hidden_size), one for each placeholder token
    positions: NDArray[np.int32] | None = None
    """(3, M): with M-RoPE, positions in time, height and width, from the medium's start."""


@dataclass(frozen=True, slots=True, eq=False)
class _MediaSpan:
    """Features for the tokens `start` to `end - 1`."""

    start: int
    end: int
    values: NDArray[np.float32]
    digest: bytes


class RequestMedia:
    """The media of a request of `prompt_length` tokens, in order."""

    __slots__ = ("_rope_positions", "_shift", "_spans")

    def __init__(self, items: Sequence[MediaItem], prompt_length: int) -> None:
        self._spans = [_span(item) for item in items]
        positions = _prompt_rope_positions(items, prompt_length)
        self._rope_positions = positions
        # What a generated token's rotary position exceeds its position by.
        self._shift = 0 if positions is None else int(positions.max()) + 1 - prompt_length

    @property
    def has_rope_positions(self) -> bool:
        """Whether rotary positions differ from positions, with M-RoPE."""
        return self._rope_positions is not None

    def features(self, start: int, end: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield what tokens from `start` to `end - 1` have instead of their embeddings.

        Each item is a position, and vectors (m, hidden_size) for the tokens from it on.
        """
        for span in self._spans:
            first, last = max(start, span.start), min(end, span.end)
            if first < last:
                yield first, span.values[first - span.start : last - span.start]

    def rope_positions(self, start: int, end: int) -> NDArray[np.int32]:
        """Return rotary positions (3, end - start) of the tokens from `start` to `end - 1`.

        The tokens may be generated ones.
        """
        assert self._rope_positions is not None
        length = self._rope_positions.shape[1]
        generated = np.arange(max(start, length), end, dtype=np.int32) + np.int32(self._shift)
        prompt = self._rope_positions[:, start:end]
        return np.concatenate([prompt, np.broadcast_to(generated, (3, len(generated)))], axis=1)

    def generated_rope_position(self, position: int) -> int:
        """Return the rotary position of a generated token, the same in all three directions."""
        return position + self._shift

    def key(self, start: int, end: int) -> bytes:
        """Return what the keys and values of these tokens depend on besides their ids."""
        return b"".join(
            span.digest + (span.start - start).to_bytes(8, "little", signed=True)
            for span in self._spans
            if span.start < end and start < span.end
        )


def _features(item: MediaItem) -> MediaFeatures:
    assert isinstance(item.data, MediaFeatures)
    return item.data


def _span(item: MediaItem) -> _MediaSpan:
    features = _features(item)
    digest = hashlib.blake2b(f"{item.kind} {item.content_hash}".encode(), digest_size=_DIGEST_BYTES)
    if features.positions is not None:
        digest.update(features.positions.tobytes())
    return _MediaSpan(item.start, item.start + item.length, features.values, digest.digest())


def _prompt_rope_positions(items: Sequence[MediaItem], length: int) -> NDArray[np.int32] | None:
    """Return rotary positions (3, length) of a prompt's tokens; None where they are its positions."""
    if all(_features(item).positions is None for item in items):
        return None
    positions = np.empty((3, length), np.int32)
    end = following = 0  # the first token without a rotary position yet, and the one that it gets
    for item in items:
        count = item.start - end
        positions[:, end : item.start] = np.arange(following, following + count)
        following += count
        end = item.start + item.length
        own = _features(item).positions
        if own is None:
            own = np.broadcast_to(np.arange(item.length, dtype=np.int32), (3, item.length))
        positions[:, item.start : end] = own + following
        following += int(own.max()) + 1
    positions[:, end:] = np.arange(following, following + length - end)
    return positions


def check_media(prompt: Prompt, hidden_size: int, uses_mrope: bool) -> None:
    """Check that media fit the prompt and the model.

    Raises:
        MediaError: they do not.
    """
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
            f"The {item.kind} has features {shape}, and its placeholder tokens take "
            f"{(item.length, hidden_size)}."
        )
    positions = features.positions
    if positions is None:
        return
    if not uses_mrope or positions.shape != (3, item.length):
        raise MediaError(f"The {item.kind} has M-RoPE positions that this model does not take.")
    if positions.min() < 0 or positions.max() >= MAX_ROPE_POSITION // 8:
        raise MediaError(f"The {item.kind} is too long: its M-RoPE positions reach too far.")
