"""Videos: the frames that `video_fps` and `video_maxlen` ask for, with the times they are shown at.

A first pass reads the packets without decoding: how many frames there are, when each is shown, and
which are keyframes. The second decodes what is needed for the frames that are taken, seeking to the
last keyframe before each. Headers are not believed: many count frames wrongly, or not at all.
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
from quire.media.frames import frame_indices, new_frames
from quire.media.images import fitted
from quire.media.policy import MediaPolicy, Watch
from quire.media.values import Clip, Pixels, Sound

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_USUAL_RATE = Fraction(25)


@dataclass(slots=True)
class _Times:
    """When the frames and the keyframes of a stream are shown, in its ticks, in order."""

    tick: Fraction
    """Seconds of one tick."""
    shown: list[int] = field(default_factory=list[int])
    keyframes: list[int] = field(default_factory=list[int])
    last_length: int = 0
    """Ticks for which the last frame is shown; 0 where the file does not say."""

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last."""
        span = self.shown[-1] - self.shown[0]
        gap = self.last_length or (Fraction(span, len(self.shown) - 1) if span else 0)
        return (span + gap) * self.tick or 1 / _USUAL_RATE

    def seconds(self, index: int) -> float:
        """Seconds from the first frame to the one at this index."""
        return float((self.shown[index] - self.shown[0]) * self.tick)


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
            indices = decoder.take(wanted, container, stream, seeking=True)
        except _Overshot:
            indices = None
    if indices is None:  # some files have keyframes that cannot be decoded alone
        file.seek(0)
        with opened(file, policy, watch) as container:
            stream = video_stream(container, policy)
            indices = decoder.take(wanted, container, stream, seeking=False)
    frames = decoder.frames(len(indices))
    return Clip.of(
        frames,
        tuple(times.seconds(index) for index in indices),
        tuple(indices),
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
    """Read the packets; one without a time gets it from its index and the frame rate."""
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
            times.keyframes.append(shown)
        if last is None or shown >= last:
            last, times.last_length = shown, packet.duration or 0
        if len(times.shown) > policy.max_frames:
            raise MediaError(f"it has more than {policy.max_frames:,} frames.")
        check_seconds(abs(float((shown - times.shown[0]) * tick)), policy)
    if not times.shown:
        raise MediaError("its video stream is empty.")
    times.shown.sort()
    times.keyframes.sort()
    return times


class _Overshot(Exception):
    """Seeking led past the frame that it was for."""


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
        seeking: bool,
    ) -> list[int]:
        """Decode the frames at these indices; without seeking, from where the container stands.

        Returns:
            The indices that the frames really have: a damaged video may lack some.
        """
        indices: list[int] = []
        for frame, shown in self._walk(wanted, container, stream, seeking):
            index = min(bisect_left(self._times.shown, shown), len(self._times.shown) - 1)
            if indices and index <= indices[-1]:
                continue
            self._keep(frame, len(indices), len(wanted))
            indices.append(index)
        return indices

    def _walk(
        self,
        wanted: Sequence[int],
        container: InputContainer,
        stream: VideoStream,
        seeking: bool,
    ) -> Iterator[tuple[VideoFrame, int]]:
        """For each wanted index the first frame that is shown then or later."""
        frames = self._decoded(container, stream)
        current: tuple[VideoFrame, int] | None = None
        for index in wanted:
            time = self._times.shown[index]
            if seeking and (start := self._seek_to(time, current)) is not None:
                container.seek(start, stream=stream, backward=True)
                frames, current = self._decoded(container, stream), None
            while current is None or current[1] < time:
                current = next(frames, None)
                if seeking and (current is None or current[1] > time):
                    raise _Overshot
                if current is None:
                    return
            yield current

    def _seek_to(self, time: int, current: tuple[VideoFrame, int] | None) -> int | None:
        """The keyframe to decode from for the frame at `time`; None to go on decoding."""
        index = bisect_right(self._times.keyframes, time)
        start = self._times.keyframes[index - 1] if index else self._times.shown[0]
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
        """Scale a frame, rotate it upright, and write it to its row; all get the first one's size."""
        check_pixels(frame.width, frame.height, self._policy)
        quarters = round(frame.rotation / 90) % 4
        if self._frames is None:
            low, high = self._args.video_min_pixels, self._args.video_max_pixels
            size = fitted(frame.width, frame.height, low, high)
            width, height = size if quarters % 2 == 0 else size[::-1]
            self._frames = new_frames(count, height, width, self._policy)
        height, width = self._frames.shape[1:3]
        if quarters % 2:
            height, width = width, height
        scaled: Any = frame.reformat(width, height, "rgb24", interpolation="BICUBIC")
        self._frames[row] = np.rot90(scaled.to_ndarray(), quarters)
