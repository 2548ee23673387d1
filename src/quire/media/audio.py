"""Sounds: decoded with PyAV, made one channel (the mean of all), resampled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from quire.errors import MediaError
from quire.media.containers import av, check_seconds, opened, sound_stream
from quire.media.policy import MediaPolicy, Watch
from quire.media.values import Samples, Sound

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

_RATES = range(1_000, 1_000_000)
_MAX_CHANNELS = 16
_PIECE = 4096
"""Samples of a waveform that are resampled at a time."""
_INTEGER_TYPES = (np.uint8, np.int16, np.int32)


def read_sound(file: BinaryIO, rate: int, policy: MediaPolicy, watch: Watch) -> Sound:
    """Decode the first stream of sound of a file, be it a video's.

    Args:
        rate: hertz of the result.

    Raises:
        MediaError: there is none, it is damaged, or beyond the policy's limits.
    """
    with opened(file, policy, watch) as container:
        stream = sound_stream(container)
        if stream is None:
            raise MediaError("it has no sound.")
        return decode_stream(container, stream, rate, policy, watch)


def decode_stream(
    container: InputContainer, stream: AudioStream, rate: int, policy: MediaPolicy, watch: Watch
) -> Sound:
    """Decode one stream of sound from where the container stands."""
    seconds = (container.duration or 0) / av().time_base
    mixer = Mixer(rate, policy, seconds)
    for packet in container.demux(stream):
        watch.check()
        for frame in packet.decode():
            mixer.add(frame)
    return mixer.finish()


def from_waveform(source: Any, rate: int, policy: MediaPolicy, watch: Watch) -> Sound:
    """A waveform that a caller gives: samples alone at `rate`, or samples and their own rate.

    The pair may be `(samples, rate)`, `(rate, samples)` or `{"array", "sampling_rate"}`. Samples
    are floats, or integers of 8 (unsigned), 16 or 32 bits; channels may be either axis.

    Raises:
        MediaError: the source is no such waveform, or one beyond the policy's limits.
    """
    samples, own_rate = _pair(source, rate)
    wave = _mono(samples)
    check_seconds(len(wave) / own_rate, policy)
    if own_rate == rate:
        return Sound.of(wave, rate)
    return _resampled(wave, own_rate, rate, policy, watch)


def is_waveform(source: Any) -> bool:
    """Whether a source is a waveform, not a file."""
    if isinstance(source, dict):
        return "array" in source and "sampling_rate" in source
    return isinstance(source, (list, tuple)) or hasattr(source, "__array__")


def _pair(source: Any, rate: int) -> tuple[Any, int]:
    if isinstance(source, dict):
        source = (source["array"], source["sampling_rate"])
    if isinstance(source, (tuple, list)) and len(source) == 2:
        first, second = source
        if _is_rate(first) and not _is_rate(second):
            first, second = second, first
        if _is_rate(second) and not _is_rate(first):
            if not _RATES.start <= second < _RATES.stop:
                raise _bad_rate(second)
            return first, round(second)
    return source, rate


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating))


def _bad_rate(rate: object) -> MediaError:
    return MediaError(f"a rate of {rate} samples a second is not one of a sound.")


def _mono(samples: Any) -> Samples:
    """The samples as one channel, copied: the caller may go on to change their array."""
    try:
        wave = np.asarray(samples)
    except (ValueError, TypeError):
        raise MediaError("the samples are no array of numbers.") from None
    if wave.ndim not in (1, 2) or wave.size == 0:
        raise MediaError(f"a waveform has the shape (samples,), not {wave.shape}.")
    if wave.ndim == 2:
        channels = int(np.argmin(wave.shape))
        if wave.shape[channels] > _MAX_CHANNELS:
            raise MediaError(f"it has more than {_MAX_CHANNELS} channels.")
        return np.asarray(_floats(wave).mean(axis=channels), np.float32)
    return _floats(wave)


def _floats(wave: np.ndarray[Any, Any]) -> Samples:
    if np.issubdtype(wave.dtype, np.floating):
        if not np.isfinite(wave).all():
            raise MediaError("a waveform's samples must be finite.")
        return wave.astype(np.float32)
    if wave.dtype not in _INTEGER_TYPES:
        raise MediaError(f"samples must be floats, or uint8, int16 or int32, not {wave.dtype}.")
    if wave.dtype == np.uint8:
        return ((wave.astype(np.float32) - 128) / 128).astype(np.float32)
    return (wave / -float(np.iinfo(wave.dtype).min)).astype(np.float32)


def _resampled(wave: Samples, own: int, rate: int, policy: MediaPolicy, watch: Watch) -> Sound:
    mixer = Mixer(rate, policy, len(wave) / own)
    for start in range(0, len(wave), _PIECE):
        watch.check()
        piece = np.ascontiguousarray(wave[start : start + _PIECE])[None]
        frame = av().AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
        frame.sample_rate = own
        mixer.add(frame)
    return mixer.finish()


class Mixer:
    """Makes decoded frames of sound one channel at one rate."""

    def __init__(self, rate: int, policy: MediaPolicy, expected_seconds: float) -> None:
        self._rate = rate
        self._policy = policy
        self._seconds = 0.0
        self._resampler: Any = None
        size = math.ceil(min(expected_seconds, policy.max_seconds) * rate) + rate
        self._samples = np.empty(size, np.float32)
        self._count = 0

    def add(self, frame: AudioFrame) -> None:
        """Take one frame.

        Raises:
            MediaError: the sound is too long, or has a rate or channels that no sound has.
        """
        if frame.sample_rate not in _RATES:
            raise _bad_rate(frame.sample_rate)
        if len(frame.layout.channels) > _MAX_CHANNELS:
            raise MediaError(f"it has more than {_MAX_CHANNELS} channels.")
        self._seconds += frame.samples / frame.sample_rate
        check_seconds(self._seconds, self._policy)
        frame.pts = None  # the resampler would fill gaps between times with silence
        if self._resampler is None:
            self._resampler = av().AudioResampler(format="fltp", rate=self._rate)
        for made in self._resampler.resample(frame):
            self._keep(made.to_ndarray())

    def finish(self) -> Sound:
        """The sound, with what the resampler still holds.

        Raises:
            MediaError: no sample came.
        """
        if self._resampler is not None:
            for made in self._resampler.resample(None):
                self._keep(made.to_ndarray())
        if not self._count:
            raise MediaError("its sound is empty.")
        return Sound.of(self._samples[: self._count], self._rate)

    def _keep(self, channels: np.ndarray[Any, Any]) -> None:
        """Take the mean of planar channels, float32 (C, N)."""
        end = self._count + channels.shape[1]
        if end * 4 > self._policy.max_memory:
            raise MediaError(f"it takes more than {self._policy.max_memory / 2**20:,.0f} MiB.")
        if end > len(self._samples):
            grown = np.empty(end + end // 2, np.float32)
            grown[: self._count] = self._samples[: self._count]
            self._samples = grown
        np.mean(channels, axis=0, out=self._samples[self._count : end])
        self._count = end
