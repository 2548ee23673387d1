"""The media of one request: their features, where they stand, what sees them, and M-RoPE positions.

A medium arrives as features, one vector for each placeholder token that it fills: in one run, or in
several with text between them. Models with M-RoPE also give each vector a position in time, height and
width. The text after a run goes on behind the furthest of these, so that from there on a token's rotary
position differs from its position in the sequence.

In models with whole media, the tokens of a run attend to each other in both directions, so that a run
is computed in one step.
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
    """(3, M): with M-RoPE, positions in time, height and width, from the start of the medium's run."""
    deep_values: NDArray[np.float32] | None = None
    """(L, M, hidden_size): what is added to the residual stream after each of the first L layers."""

    @property
    def nbytes(self) -> int:
        """The memory that it takes, nearly."""
        return self.values.nbytes + (0 if self.deep_values is None else self.deep_values.nbytes)


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What media a model takes."""

    hidden_size: int
    uses_mrope: bool = False
    deep_layers: int = 0
    """The layers that features are added after."""
    whole_tokens: int = 0
    """The most tokens of a run that attend to each other in both directions; 0: none do."""


@dataclass(frozen=True, slots=True, eq=False)
class _MediaSpan:
    """One run of a medium: features for the tokens `start` to `end - 1`."""

    start: int
    end: int
    values: NDArray[np.float32]
    deep_values: NDArray[np.float32] | None
    positions: NDArray[np.int32] | None
    digest: bytes


class RequestMedia:
    """The media of a request of `prompt_length` tokens, in order.

    `are_whole`: the tokens of a run attend to each other in both directions.
    """

    __slots__ = ("_rope_positions", "_shift", "_spans", "are_whole")

    def __init__(
        self, items: Sequence[MediaItem], prompt_length: int, *, are_whole: bool = False
    ) -> None:
        self.are_whole = are_whole
        self._spans = [span for item in items for span in _spans(item)]
        positions = _prompt_rope_positions(self._spans, prompt_length)
        self._rope_positions = positions
        # What a generated token's rotary position exceeds its position by.
        self._shift = 0 if positions is None else int(positions.max()) + 1 - prompt_length

    @property
    def has_rope_positions(self) -> bool:
        """Whether rotary positions differ from positions, with M-RoPE."""
        return self._rope_positions is not None

    def features(
        self, start: int, end: int
    ) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32] | None]]:
        """Yield what tokens from `start` to `end - 1` have instead of their embeddings.

        Each item is a position, vectors (m, hidden_size) for the tokens from it on, and those (L, m,
        hidden_size) that are added after layers, if the model has such.
        """
        for span in self._spans:
            first, last = max(start, span.start), min(end, span.end)
            if first < last:
                own = slice(first - span.start, last - span.start)
                deep = None if span.deep_values is None else span.deep_values[:, own]
                yield first, span.values[own], deep

    def chunk_end(self, end: int) -> int:
        """Return where a chunk ends that would end at `end`, so that it cuts no whole medium."""
        if self.are_whole:
            for span in self._spans:
                if span.start < end < span.end:
                    return span.end
        return end

    def last_seen(self, start: int, end: int) -> NDArray[np.int32]:
        """Return the last position (end - start,) that each of these tokens attends to."""
        last = np.arange(start, end, dtype=np.int32)
        for span in self._spans if self.are_whole else ():
            last[max(0, span.start - start) : max(0, span.end - start)] = span.end - 1
        return last

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


def _spans(item: MediaItem) -> Iterator[_MediaSpan]:
    """Yield the runs of a medium with their features."""
    features = _features(item)
    deep, positions = features.deep_values, features.positions
    digest = hashlib.blake2b(f"{item.kind} {item.content_hash}".encode(), digest_size=_DIGEST_BYTES)
    if positions is not None:
        digest.update(positions.tobytes())
    done = 0
    for start, end in item.feature_runs:
        own = slice(done, done + end - start)
        done = own.stop
        yield _MediaSpan(
            start,
            end,
            features.values[own],
            None if deep is None else deep[:, own],
            None if positions is None else positions[:, own],
            digest.digest(),
        )
        digest.update(done.to_bytes(8, "little"))  # the next run has other features


def _prompt_rope_positions(spans: Sequence[_MediaSpan], length: int) -> NDArray[np.int32] | None:
    """Return rotary positions (3, length) of a prompt's tokens; None where they are its positions."""
    if all(span.positions is None for span in spans):
        return None
    positions = np.empty((3, length), np.int32)
    end = following = 0  # the first token without a rotary position yet, and the one that it gets
    for span in spans:
        count = span.start - end
        positions[:, end : span.start] = np.arange(following, following + count)
        following += count
        end, size = span.end, span.end - span.start
        own = span.positions
        if own is None:
            own = np.broadcast_to(np.arange(size, dtype=np.int32), (3, size))
        positions[:, span.start : end] = own + following
        following += int(own.max()) + 1
    positions[:, end:] = np.arange(following, following + length - end)
    return positions


def check_media(prompt: Prompt, limits: MediaLimits) -> None:
    """Check that media fit the prompt and the model.

    Raises:
        MediaError: they do not.
    """
    end = 0
    for item in prompt.media:
        _check_features(item, limits)
        if item.start < end or item.start + item.length > len(prompt):
            raise MediaError(
                f"A medium fills the tokens {item.start} to {item.start + item.length - 1} of "
                f"{len(prompt)}, of which {end} are before it or filled already."
            )
        _check_runs(item, limits.whole_tokens)
        end = item.start + item.length


def _check_runs(item: MediaItem, whole_tokens: int) -> None:
    """Check that a medium's runs lie in its range, one after the other, and are not too long."""
    end = item.start
    for first, last in item.feature_runs:
        if not end <= first < last <= item.start + item.length:
            raise MediaError(
                f"The {item.kind} has features for the tokens {first} to {last - 1}, which are out of "
                "order, or not its own."
            )
        if 0 < whole_tokens < last - first:
            raise MediaError(
                f"The {item.kind} has {last - first} tokens in one piece; this model sees at most "
                f"{whole_tokens} at once."
            )
        end = last


def _check_features(item: MediaItem, limits: MediaLimits) -> None:
    features = item.data
    if not isinstance(features, MediaFeatures):
        raise MediaError(f"This model takes text alone: the {item.kind} came without features.")
    count = sum(end - start for start, end in item.feature_runs)
    shape, wanted = features.values.shape, (count, limits.hidden_size)
    if item.length < 1 or shape != wanted:
        raise MediaError(
            f"The {item.kind} has features {shape}, and its placeholder tokens take {wanted}."
        )
    deep = features.deep_values
    if (0 if deep is None else len(deep)) != limits.deep_layers or (
        deep is not None and deep.shape[1:] != wanted
    ):
        raise MediaError(f"The {item.kind} has features for other layers than this model's.")
    positions = features.positions
    if positions is None:
        return
    if not limits.uses_mrope or positions.shape != (3, count):
        raise MediaError(f"The {item.kind} has M-RoPE positions that this model does not take.")
    if positions.min() < 0 or positions.max() >= MAX_ROPE_POSITION // 8:
        raise MediaError(f"The {item.kind} is too long: its M-RoPE positions reach too far.")
