"""Videos: the frames that `video_fps` and `video_maxlen` ask for, with the times they are shown at.

A first pass goes over the packets without decoding: how many frames there are, when each is shown,
and which of them can be decoded alone. The second decodes what is needed for the frames that are
taken, leaping to the last such packet before each.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from quire.arguments import ModelArguments
from quire.errors import MediaError
from quire.media.audio import decode_stream
from quire.media.containers import check_pixels, check_seconds, opened, sound_stream, video_stream
from quire.media.policy import MediaPolicy, Watch
from quire.media.sampling import frame_indices, new_frames
from quire.media.scaling import fitted
from quire.media.values import Clip, Pixels, Sound

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_USUAL_RATE = Fraction(25)


@dataclass(slots=True)
class _Times:
    """When frames are shown, in the stream's ticks, in order; and which can be decoded alone."""

    tick: Fraction
    shown: list[int] = field(default_factory=list[int])
    alone: list[int] = field(default_factory=list[int])
    last_length: int = 0

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last."""
        span = self.shown[-1] - self.shown[0]
        gap = self.last_length or (Fraction(span, len(self.shown) - 1) if span else 0)
        return (span + gap) * self.tick or 1 / _USUAL_RATE

    def seconds(self, place: int) -> float:
        return float((self.shown[place] - self.shown[0]) * self.tick)


def read_video(file: BinaryIO, args: ModelArguments, policy: MediaPolicy, watch: Watch) -> Clip:
    """Decode a video file, and its sound where `use_audio_in_video` asks for it.

    Raises:
        MediaError: it is no video, has no video stream, is damaged, or beyond the policy's limits.
    """
    with opened(file, policy, watch) as container:
        stream = video_stream(container, policy)
        times = _read_times(container, stream, policy, watch)
        total, duration = len(times.shown), times.duration
        wanted = frame_indices(total, duration, args.video_fps, args.video_maxlen)
        decoder = _Decoder(times, args, policy, watch)
        try:
            places = decoder.take(wanted, container, stream, leaping=True)
        except _Overshot:
            places = None
    if places is None:
        file.seek(0)
        with opened(file, policy, watch) as container:
            stream = video_stream(container, policy)
            places = decoder.take(wanted, container, stream, leaping=False)
    frames = decoder.frames(len(places))
    return Clip.of(
        frames,
        tuple(times.seconds(place) for place in places),
        tuple(places),
        fps=float(total / duration),
        duration=float(duration),
        total_frames=total,
        sound=_sound(file, args, policy, watch) if args.use_audio_in_video else None,
    )


def _sound(file: BinaryIO, args: ModelArguments, policy: MediaPolicy, watch: Watch) -> Sound | None:
    file.seek(0)
    with opened(file, policy, watch) as container:
        stream = sound_stream(container)
        if stream is None:
            return None
        return decode_stream(container, stream, args.audio_sampling_rate, policy, watch)


def _read_times(
    container: InputContainer, stream: VideoStream, policy: MediaPolicy, watch: Watch
) -> _Times:
    """Go over the packets; those without a time get one from their place and the frame rate."""
    tick = stream.time_base or Fraction(1, 1000)
    times = _Times(tick)
    step = max(1, round(1 / (tick * (stream.average_rate or _USUAL_RATE))))
    last = None
    for packet in container.demux(stream):
        watch.check()
        if not packet.size or packet.is_discard:
            continue
        shown = packet.pts if packet.pts is not None else packet.dts
        if shown is None:
            shown = 0 if not times.shown else times.shown[-1] + step
        times.shown.append(shown)
        if packet.is_keyframe:
            times.alone.append(shown)
        if last is None or shown >= last:
            last, times.last_length = shown, packet.duration or 0
        if len(times.shown) > policy.max_frames:
            raise MediaError(f"it has more than {policy.max_frames:,} frames.")
        check_seconds(abs(float((shown - times.shown[0]) * tick)), policy)
    if not times.shown:
        raise MediaError("its video stream is empty.")
    times.shown.sort()
    times.alone.sort()
    return times


class _Overshot(Exception):
    """A leap came out behind the frame that it was for."""


class _Decoder:
    """Decodes the wanted frames of one stream into one array."""

    def __init__(
        self, times: _Times, args: ModelArguments, policy: MediaPolicy, watch: Watch
    ) -> None:
        self._times = times
        self._args = args
        self._policy = policy
        self._watch = watch
        self._frames: Pixels | None = None

    def frames(self, count: int) -> Pixels:
        """The first `count` frames taken.

        Raises:
            MediaError: there are none.
        """
        if not count or self._frames is None:
            raise MediaError("none of its frames can be decoded.")
        return self._frames[:count]

    def take(
        self,
        wanted: Sequence[int],
        container: InputContainer,
        stream: VideoStream,
        *,
        leaping: bool,
    ) -> list[int]:
        """Decode the frames at these places; without leaping, from where the container stands.

        Returns:
            The places that the frames really have: a damaged video may lack some.
        """
        places: list[int] = []
        for frame, shown in self._walk(wanted, container, stream, leaping):
            place = min(bisect_left(self._times.shown, shown), len(self._times.shown) - 1)
            if places and place <= places[-1]:
                continue
            self._keep(frame, len(places), len(wanted))
            places.append(place)
        return places

    def _walk(
        self,
        wanted: Sequence[int],
        container: InputContainer,
        stream: VideoStream,
        leaping: bool,
    ) -> Iterator[tuple[VideoFrame, int]]:
        """For each wanted place the first frame that is shown then or later."""
        frames = self._decoded(container, stream)
        current: tuple[VideoFrame, int] | None = None
        for place in wanted:
            time = self._times.shown[place]
            if leaping and (start := self._leap(time, current)) is not None:
                container.seek(start, stream=stream, backward=True)
                frames, current = self._decoded(container, stream), None
            while current is None or current[1] < time:
                current = next(frames, None)
                if leaping and (current is None or current[1] > time):
                    raise _Overshot
                if current is None:
                    return
            yield current

    def _leap(self, time: int, current: tuple[VideoFrame, int] | None) -> int | None:
        """Where to go on from for the frame at `time`; None for where the decoder stands."""
        place = bisect_right(self._times.alone, time)
        start = self._times.alone[place - 1] if place else self._times.shown[0]
        return start if current is None or start > current[1] else None

    def _decoded(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[tuple[VideoFrame, int]]:
        """The frames from where the container stands, with the ticks at which they are shown."""
        count = 0
        for packet in container.demux(stream):
            for frame in packet.decode():
                self._watch.check()
                shown = frame.pts
                if shown is None:  # a stream without times: frames are counted
                    shown = self._times.shown[min(count, len(self._times.shown) - 1)]
                count += 1
                yield frame, shown

    def _keep(self, frame: VideoFrame, row: int, count: int) -> None:
        """Scale a frame, turn it upright, and put it in its row; all get the first one's size."""
        check_pixels(frame.width, frame.height, self._policy)
        turns = round(frame.rotation / 90) % 4
        if self._frames is None:
            low, high = self._args.video_min_pixels, self._args.video_max_pixels
            size = fitted(frame.width, frame.height, low, high)
            width, height = size if turns % 2 == 0 else size[::-1]
            self._frames = new_frames(count, height, width, self._policy)
        height, width = self._frames.shape[1:3]
        if turns % 2:
            height, width = width, height
        scaled: Any = frame.reformat(width, height, "rgb24", interpolation="BICUBIC")
        self._frames[row] = np.rot90(scaled.to_ndarray(), turns)
