"""Decoded media: plain values, made by the loader, read by families and engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image. `pixels`: uint8 (H, W, 3), RGB."""

    pixels: NDArray[np.uint8]
    content_hash: str
    kind: Literal["image"] = field(default="image", init=False)


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A waveform. `samples`: float32 (N,), mono, -1 to 1; `rate` in samples a second."""

    samples: NDArray[np.float32]
    rate: int
    content_hash: str
    kind: Literal["audio"] = field(default="audio", init=False)


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Frames taken from a video.

    `frames`: uint8 (T, H, W, 3); `timestamps`: seconds, one a frame; `frame_indices`: their numbers
    in the source, which has `fps` frames a second, `duration` seconds and `total_frames` frames.
    """

    frames: NDArray[np.uint8]
    timestamps: tuple[float, ...]
    frame_indices: tuple[int, ...]
    fps: float
    duration: float
    total_frames: int
    sound: Sound | None
    content_hash: str
    kind: Literal["video"] = field(default="video", init=False)


Medium: TypeAlias = Picture | Clip | Sound
