"""Clips that are no video files: frames that a caller gives, and animated pictures.

Also which frames of any clip are taken, and the room for them. An animated picture (GIF, WebP, PNG)
is sampled as a video is, so its times are read first, without decoding anything.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from quire.arguments import ModelArguments
from quire.errors import MediaError
from quire.media.images import opened, pillow, prepared
from quire.media.policy import MediaPolicy, Watch
from quire.media.values import Clip, Pixels

if TYPE_CHECKING:
    from PIL import Image

_MAGIC = {
    "gif": (b"GIF87a", b"GIF89a"),
    "webp": (b"RIFF",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "jpeg": (b"\xff\xd8\xff",),
}
_SHORTEST = 0.011
"""Seconds; a shorter delay is taken as a tenth of a second, as browsers do."""
_USUAL = 0.1


def frame_indices(total: int, duration: Fraction | float, fps: float, most: int) -> list[int]:
    """The indices of the frames that are taken from `total`: LLaMA-Factory's rule.

    Their number is `fps` times `duration` (seconds), at least one and at most `most`; they are spread
    evenly from the first frame to the last. The product is rounded as LLaMA-Factory's is: the exact one
    of 10 seconds and 0.3, which is stored a little too small, would lack its third frame.
    """
    count = min(total, most, max(1, math.floor(float(duration) * fps)))
    return np.linspace(0, total - 1, count).astype(np.int32).tolist()


def new_frames(count: int, height: int, width: int, policy: MediaPolicy) -> Pixels:
    """An array for the frames of one clip: uint8 (count, height, width, 3).

    Raises:
        MediaError: they would take more memory than a medium may.
    """
    if count * height * width * 3 > policy.max_memory:
        limit = f"{policy.max_memory / 2**20:,.0f} MiB"
        raise MediaError(
            f"{count:,} frames of {width} x {height} take more than {limit}; "
            "set a lower video_maxlen or video_max_pixels."
        )
    return np.empty((count, height, width, 3), np.uint8)


# --- frames that a caller gives ------------------------------------------------------------------


def is_frame_list(source: Any) -> bool:
    """Whether a source is frames, not a file."""
    if isinstance(source, Mapping):
        return "frames" in source
    return isinstance(source, (list, tuple)) or hasattr(source, "__array__")


class FrameList:
    """A caller's frames, of which some are taken, as of a video.

    The source's rate is `video_fps`, or, given as `{"frames": ..., "fps": ...}`, the one named there.
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
        self.indices = frame_indices(
            len(self._all), self.duration, args.video_fps, args.video_maxlen
        )

    @property
    def taken(self) -> list[Any]:
        """The sources of the frames that are taken, in order."""
        return [self._all[index] for index in self.indices]

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
            tuple(index / self.fps for index in self.indices),
            tuple(self.indices),
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


# --- animated pictures ---------------------------------------------------------------------------


def picture_form(file: BinaryIO) -> str | None:
    """The form of a picture file that may be given as a video; None for another file."""
    head = file.read(12)
    file.seek(0)
    for form, starts in _MAGIC.items():
        if head.startswith(starts) and (form != "webp" or head[8:12] == b"WEBP"):
            return form
    return None


def read_animation(
    file: BinaryIO, form: str, args: ModelArguments, policy: MediaPolicy, watch: Watch
) -> Clip:
    """Decode the frames of an animated picture that `video_fps` and `video_maxlen` ask for.

    A picture of one frame is a clip of one frame.

    Raises:
        MediaError: it is damaged, or beyond the policy's limits.
    """
    delays, first = _delays(file, form, policy, watch)
    if len(delays) <= 1:
        delays = [1 / args.video_fps]
    starts = [0.0]
    for delay in delays:
        starts.append(starts[-1] + delay)
    duration = starts[-1]
    if duration > policy.max_seconds:
        raise MediaError(f"it lasts more than {policy.max_seconds:,.0f} seconds.")
    indices = frame_indices(len(delays), duration, args.video_fps, args.video_maxlen)
    with opened(file, policy, watch) as image:
        frames = _decode(image, [first + index for index in indices], args, policy, watch)
    return Clip.of(
        frames,
        tuple(starts[index] for index in indices),
        tuple(indices),
        fps=len(delays) / duration,
        duration=duration,
        total_frames=len(delays),
    )


def _decode(
    image: Image.Image, indices: list[int], args: ModelArguments, policy: MediaPolicy, watch: Watch
) -> Pixels:
    """Go through all frames up to the last that is wanted: each builds on the one before."""
    frames: Pixels | None = None
    rows = {index: row for row, index in enumerate(indices)}
    for index in range(indices[-1] + 1):
        watch.check()
        image.seek(index)
        image.load()
        if index not in rows:
            continue
        pixels = prepared(image, args.video_min_pixels, args.video_max_pixels, policy)
        if frames is None:
            frames = new_frames(len(indices), pixels.shape[0], pixels.shape[1], policy)
        frames[rows[index]] = pixels
    assert frames is not None
    return frames


def _delays(
    file: BinaryIO, form: str, policy: MediaPolicy, watch: Watch
) -> tuple[list[float], int]:
    """Each frame's seconds, and the index that Pillow gives the first of them.

    That is 1 where a PNG begins with a picture that is not part of its animation.
    """
    walks: dict[str, Callable[[BinaryIO], Iterator[float | None]]] = {
        "gif": _gif_delays,
        "webp": _webp_delays,
        "png": _png_delays,
    }
    delays: list[float] = []
    first = 0
    for delay in walks[form](file) if form in walks else ():
        watch.check()
        if delay is None:
            first = 1
        else:
            delays.append(delay if delay >= _SHORTEST else _USUAL)
        if len(delays) > policy.max_animation_frames:
            raise MediaError(
                f"it is animated with more than {policy.max_animation_frames:,} frames."
            )
    file.seek(0)
    return delays, first if delays else 0


def _gif_delays(file: BinaryIO) -> Iterator[float]:
    """GIF89a specification, appendix B: blocks after the header and the global colours."""
    head = file.read(13)
    _skip_colours(file, head[10] if len(head) == 13 else 0)
    delay = 0.0
    while (kind := file.read(1)) and kind != b";":
        if kind == b"!":
            label = file.read(1)
            first = _sub_block(file)
            if label == b"\xf9" and len(first) >= 4:
                delay = struct.unpack_from("<H", first, 1)[0] / 100
            while first and _sub_block(file):
                pass
        elif kind == b",":
            descriptor = file.read(9)
            if len(descriptor) < 9:
                return
            yield delay
            _skip_colours(file, descriptor[8])
            file.read(1)
            while _sub_block(file):
                pass
            delay = 0.0


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << ((flags & 7) + 1), 1)


def _sub_block(file: BinaryIO) -> bytes:
    size = file.read(1)
    return file.read(size[0]) if size else b""


def _webp_delays(file: BinaryIO) -> Iterator[float]:
    """WebP container specification: an ANMF chunk a frame, its milliseconds in 24 bits."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head[4:], "little")
        end = file.tell() + size + (size & 1)
        if head[:4] == b"ANMF":
            frame = file.read(16)
            yield int.from_bytes(frame[12:15], "little") / 1000
        file.seek(end)


def _png_delays(file: BinaryIO) -> Iterator[float | None]:
    """PNG specification, third edition: an fcTL chunk a frame; None for a picture before them."""
    file.seek(8)
    animated = seen = False
    while len(head := file.read(8)) == 8:
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        end = file.tell() + size + 4
        animated = animated or kind == b"acTL"
        if kind == b"fcTL" and animated:
            numerator, denominator = struct.unpack(">HH", file.read(26)[20:24].ljust(4, b"\0"))
            seen = True
            yield numerator / (denominator or 100)
        elif kind == b"IDAT" and animated and not seen:
            seen = True
            yield None
        file.seek(end)
