"""Videos that a caller gives as frames: an array of them, or a list of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from quire.arguments import ModelArguments
from quire.errors import MediaError
from quire.media.images import pillow
from quire.media.policy import MediaPolicy, Watch
from quire.media.sampling import frame_indices, new_frames
from quire.media.values import Clip, Pixels


def is_frame_list(source: Any) -> bool:
    """Whether a source is frames and no file."""
    if isinstance(source, Mapping):
        return "frames" in source
    return isinstance(source, (list, tuple)) or hasattr(source, "__array__")


class FrameList:
    """The frames of a caller's, of which some are taken as of a video.

    The frames are `video_fps` apart, or, given as `{"frames": ..., "fps": ...}`, as is said there.
    """

    def __init__(self, source: Any, args: ModelArguments, policy: MediaPolicy) -> None:
        self.fps = args.video_fps
        if isinstance(source, Mapping):
            self.fps = _checked_fps(source.get("fps", args.video_fps))
            source = source["frames"]
        self._all: Sequence[Any] = _frames(source)
        self._args = args
        self._policy = policy
        if len(self._all) > policy.max_frames:
            raise MediaError(f"it has more than {policy.max_frames:,} frames.")
        self.duration = len(self._all) / self.fps
        self.places = frame_indices(
            len(self._all), self.duration, args.video_fps, args.video_maxlen
        )

    @property
    def taken(self) -> list[Any]:
        """The sources of the frames that are taken, in order."""
        return [self._all[place] for place in self.places]

    def read(self, sources: Sequence[Any], read: Callable[[Any], Pixels], watch: Watch) -> Clip:
        """The clip of the frames taken; `read` makes the pixels of one."""
        frames: Pixels | None = None
        for row, source in enumerate(sources):
            watch.check()
            pixels = read(source)
            if frames is None:
                frames = new_frames(len(sources), pixels.shape[0], pixels.shape[1], self._policy)
            frames[row] = _of_size(pixels, frames.shape[1], frames.shape[2])
        assert frames is not None
        return Clip.of(
            frames,
            tuple(place / self.fps for place in self.places),
            tuple(self.places),
            fps=self.fps,
            duration=self.duration,
            total_frames=len(self._all),
        )


def _frames(source: Any) -> Sequence[Any]:
    if not isinstance(source, (list, tuple)):
        source = np.asarray(source)
        if source.ndim != 4:
            raise MediaError(
                f"an array of frames has the shape (frames, height, width, 3), not {source.shape}."
            )
    if not len(source):
        raise MediaError("it has no frames.")
    return source


def _checked_fps(fps: Any) -> float:
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < 10_000:
        raise MediaError(f"fps must be a number above 0, not {fps!r}.")
    return float(fps)


def _of_size(pixels: Pixels, height: int, width: int) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    image = pillow().fromarray(pixels).resize((width, height))
    return np.array(image, dtype=np.uint8)
