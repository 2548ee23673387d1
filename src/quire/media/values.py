"""Decoded media: plain values that every engine takes. No media library is needed to hold them.

A `content_hash` is that of the decoded content after scaling: the same picture has the same hash
whether it came as a PNG or as an array, and a different one at a different size.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
Samples: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: `pixels` is uint8 (height, width, 3), RGB. Nobody writes to it."""

    kind: ClassVar[Literal["image"]] = "image"
    pixels: Pixels = field(repr=False, compare=False)
    content_hash: str

    @classmethod
    def of(cls, pixels: Pixels) -> Picture:
        """The picture of these pixels, with its hash."""
        return cls(pixels, content_hash("image", pixels))

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]


@dataclass(frozen=True, slots=True)
class Sound:
    """One channel of sound: `samples` is float32 (N,), about -1 to 1; `rate` is in hertz."""

    kind: ClassVar[Literal["audio"]] = "audio"
    samples: Samples = field(repr=False, compare=False)
    rate: int
    content_hash: str

    @classmethod
    def of(cls, samples: Samples, rate: int) -> Sound:
        """The sound of these samples, with its hash."""
        return cls(samples, rate, content_hash("audio", samples, rate))

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames that were taken from a video, with their times and indices in it.

    `frames` is uint8 (T, height, width, 3), RGB; `timestamps` (seconds from the video's first
    frame) and `frame_indices` (among all frames of the video) have one entry a frame. `fps`,
    `duration` (seconds) and `total_frames` are those of the video, not of what was taken.
    """

    kind: ClassVar[Literal["video"]] = "video"
    frames: Pixels = field(repr=False, compare=False)
    timestamps: tuple[float, ...]
    frame_indices: tuple[int, ...]
    fps: float
    duration: float
    total_frames: int
    sound: Sound | None
    content_hash: str

    @classmethod
    def of(
        cls,
        frames: Pixels,
        timestamps: tuple[float, ...],
        frame_indices: tuple[int, ...],
        *,
        fps: float,
        duration: float,
        total_frames: int,
        sound: Sound | None = None,
    ) -> Clip:
        """The clip of these frames, with its hash: of the pixels, the times, and the sound."""
        sound_hash = None if sound is None else sound.content_hash
        facts = (timestamps, frame_indices, fps, duration, total_frames, sound_hash)
        digest = content_hash("video", frames, *facts)
        return cls(frames, timestamps, frame_indices, fps, duration, total_frames, sound, digest)


Medium: TypeAlias = Picture | Clip | Sound


def content_hash(kind: str, array: NDArray[Any], *facts: object) -> str:
    """SHA-256, as hex text, of an array's content, shape and type, and of what else matters."""
    digest = hashlib.sha256(repr((kind, array.dtype.str, array.shape, facts)).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
