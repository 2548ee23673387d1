"""Animated pictures (GIF, WebP, PNG) as videos: their times are read without decoding anything."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from quire.arguments import ModelArguments
from quire.errors import MediaError
from quire.media.images import opened, prepared
from quire.media.policy import MediaPolicy, Watch
from quire.media.sampling import frame_indices, new_frames
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
"""Seconds; what says less is shown for a tenth of a second, as browsers do."""
_USUAL = 0.1


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
    places = frame_indices(len(delays), duration, args.video_fps, args.video_maxlen)
    with opened(file, policy, watch) as image:
        frames = _decode(image, [first + place for place in places], args, policy, watch)
    return Clip.of(
        frames,
        tuple(starts[place] for place in places),
        tuple(places),
        fps=len(delays) / duration,
        duration=duration,
        total_frames=len(delays),
    )


def _decode(
    image: Image.Image, places: list[int], args: ModelArguments, policy: MediaPolicy, watch: Watch
) -> Pixels:
    """Go through all frames up to the last that is wanted: each builds on the one before."""
    frames: Pixels | None = None
    wanted = {place: row for row, place in enumerate(places)}
    for place in range(places[-1] + 1):
        watch.check()
        image.seek(place)
        image.load()
        if place not in wanted:
            continue
        pixels = prepared(image, args.video_min_pixels, args.video_max_pixels, policy)
        if frames is None:
            frames = new_frames(len(places), pixels.shape[0], pixels.shape[1], policy)
        frames[wanted[place]] = pixels
    assert frames is not None
    return frames


def _delays(
    file: BinaryIO, form: str, policy: MediaPolicy, watch: Watch
) -> tuple[list[float], int]:
    """Each frame's seconds, and the place of the first one in Pillow's counting.

    A PNG may begin with a picture that is not of its animation.
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
