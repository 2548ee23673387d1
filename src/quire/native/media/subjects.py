"""What the towers read of decoded media: `quire.media.values` has them, and tests make their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Kind: TypeAlias = Literal["image", "video", "audio"]


class Subject(Protocol):
    """A decoded image, video or sound; `content_hash` tells it from all others of its kind."""

    @property
    def kind(self) -> Kind: ...

    @property
    def content_hash(self) -> str: ...


class PictureLike(Subject, Protocol):
    """An image: pixels (H, W, 3), RGB."""

    @property
    def pixels(self) -> NDArray[np.uint8]: ...


class ClipLike(Subject, Protocol):
    """Frames (T, H, W, 3) of a video, when each was shown (seconds), and of how many they are."""

    @property
    def frames(self) -> NDArray[np.uint8]: ...

    @property
    def timestamps(self) -> Sequence[float]: ...

    @property
    def fps(self) -> float: ...

    @property
    def total_frames(self) -> int: ...


class SoundLike(Subject, Protocol):
    """A waveform (N,), `rate` samples a second."""

    @property
    def samples(self) -> NDArray[np.float32]: ...

    @property
    def rate(self) -> int: ...


def picture(subject: Any) -> PictureLike:
    """The subject as an image, which its kind says that it is."""
    return subject


def clip(subject: Any) -> ClipLike:
    """The subject as a video, which its kind says that it is."""
    return subject


def sound(subject: Any) -> SoundLike:
    """The subject as a sound, which its kind says that it is."""
    return subject
