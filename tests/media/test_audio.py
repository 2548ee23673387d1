"""Sounds: forms, channels, rates, lengths."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import MediaError
from quire.media.audio import from_waveform, is_waveform, read_sound
from quire.media.policy import MediaPolicy, Watch
from quire.media.values import Sound
from tests.media.making import sine, sound, video

POLICY = MediaPolicy()


def read(data: bytes, rate: int = 16000, policy: MediaPolicy = POLICY) -> Sound:
    return read_sound(io.BytesIO(data), rate, policy, Watch(20))


def wave(source: Any, rate: int = 16000, policy: MediaPolicy = POLICY) -> Sound:
    return from_waveform(source, rate, policy, Watch(20))


def pitch(made: Sound) -> float:
    """Hertz of the strongest frequency."""
    strength = np.abs(np.fft.rfft(made.samples * np.hanning(len(made.samples))))
    return float(np.argmax(strength)) * made.rate / len(made.samples)


def wav(samples: bytes, rate: int, bits: int = 16, channels: int = 1, stated: int = -1) -> bytes:
    """A WAV as RIFF has it; `stated` is the size of the data that the header says."""
    size = len(samples) if stated < 0 else stated
    width = channels * bits // 8
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * width, width, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", 36 + size) + body + samples


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        *(("wav", "pcm_s16le"), ("wav", "pcm_f32le"), ("flac", "flac"), ("mp3", "libmp3lame")),
        *(("ogg", "libopus"), ("mp4", "aac"), ("adts", "aac"), ("aiff", "pcm_s16be")),
        *(("webm", "libopus"), ("mpegts", "mp2")),
    ],
)
@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_every_form_becomes_one_channel_at_the_rate(form: str, codec: str, rate: int) -> None:
    tone = sine(440, 1.0, 48000)
    made = read(sound(np.stack([tone, tone]), 48000, form, codec), rate)
    assert made.rate == rate
    assert made.samples.dtype == np.float32
    assert made.duration == pytest.approx(1, abs=0.1)
    assert pitch(made) == pytest.approx(440, abs=3)
    middle = made.samples[rate // 4 : 3 * rate // 4]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)  # the mean of both, no louder


def test_at_the_same_rate_samples_stay_as_they_are() -> None:
    samples = (np.random.default_rng(1).uniform(-1, 1, 5000) * 32767).astype("<i2")
    made = read(wav(samples.tobytes(), 16000))
    assert np.array_equal(made.samples, samples.astype(np.float32) / 32768)


def test_channels_become_their_mean() -> None:
    left, right = sine(300, 0.5, 16000), sine(900, 0.5, 16000)
    made = read(sound(np.stack([left, right]), 16000, codec="pcm_f32le"))
    assert made.samples == pytest.approx((left + right) / 2, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(8000, 48000), st.integers(8000, 48000), st.floats(0.2, 1.0))
def test_resampling_keeps_length_and_tone(own: int, rate: int, seconds: float) -> None:
    made = wave((sine(700, seconds, own), own), rate)
    assert len(made.samples) == pytest.approx(seconds * rate, abs=rate * 0.002 + 3)
    exact = sine(700, seconds, rate)
    edge = rate // 20
    size = min(len(exact), len(made.samples)) - edge
    assert made.samples[edge:size] == pytest.approx(exact[edge:size], abs=0.02)


@pytest.mark.parametrize("swap", [False, True])
def test_waveforms_may_come_with_their_rate(swap: bool) -> None:
    tone = sine(440, 0.5, 8000)
    pair = (8000, tone) if swap else (tone, 8000)
    expected = wave({"array": tone, "sampling_rate": 8000})
    assert wave(pair) == expected
    assert wave(list(pair)) == expected
    assert wave(tone, 8000).samples == pytest.approx(tone)
    assert wave([0.5, -0.5]).samples.tolist() == [0.5, -0.5]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float64, np.float16])
def test_waveforms_of_every_type(dtype: type) -> None:
    tone = sine(440, 0.1, 16000)
    if np.issubdtype(dtype, np.floating):
        array = tone.astype(dtype)
    elif dtype is np.uint8:
        array = np.round(tone * 127 + 128).astype(np.uint8)
    else:
        array = (tone * np.iinfo(dtype).max).astype(dtype)
    assert wave(array).samples == pytest.approx(tone, abs=0.01)
    both = np.stack([array, array])
    assert wave(both).samples == pytest.approx(tone, abs=0.01)
    assert wave(both.T) == wave(both)


def test_a_callers_waveform_is_copied() -> None:
    tone = sine(440, 0.1, 16000)
    made = wave(tone)
    tone[:] = 9
    assert made.samples.max() < 1


@pytest.mark.parametrize(
    "source",
    [
        np.zeros(0),
        np.zeros((2, 2, 2)),
        np.array([0.0, np.nan]),
        np.array([0.0, np.inf]),
        np.zeros(9, np.int64),
        np.zeros(9, bool),
        np.zeros(9, complex),
        np.zeros((100, 100)),
        ["a", "b"],
        [[1.0], [1.0, 2.0]],
        (np.zeros(9), 10),
        (np.zeros(9), -16000),
        (np.zeros(9), 10**9),
        (np.zeros(9), float("nan")),
        (np.zeros(9), float("inf")),
        {"array": None, "sampling_rate": 16000},
        {"array": [0.1, 0.2], "sampling_rate": "fast"},
    ],
)
def test_other_waveforms_are_refused(source: Any) -> None:
    assert is_waveform(source)
    with pytest.raises(MediaError):
        wave(source)


def test_a_video_gives_its_sound_and_a_silent_one_is_refused() -> None:
    assert pitch(read(video(20, tone=880))) == pytest.approx(880, abs=5)
    with pytest.raises(MediaError, match="has no sound"):
        read(video(5))


def test_a_sound_that_is_too_long_is_refused_by_its_header() -> None:
    """Ten hours of 8 bits at 8 kHz in a file that takes no room on the disk."""
    import tempfile

    size = 10 * 3600 * 8000
    with tempfile.TemporaryFile() as file:
        file.write(wav(b"", 8000, bits=8, stated=size))
        file.truncate(44 + size)
        file.seek(0)
        with pytest.raises(MediaError, match="more than 3,600 seconds"):
            read_sound(file, 16000, POLICY, Watch(5))


@pytest.mark.parametrize(("form", "codec"), [("flac", "flac"), ("ogg", "libopus"), ("adts", "aac")])
def test_a_sound_that_hides_its_length_is_refused_where_it_grows_too_long(
    form: str, codec: str
) -> None:
    data = sound(np.zeros((1, 48000 * 20), np.float32), 48000, form, codec)
    if form == "flac":  # STREAMINFO's number of samples: 36 bits, 0 for unknown
        data = data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]
    assert read(data).duration == pytest.approx(20, abs=0.1)
    with pytest.raises(MediaError, match="more than 10 seconds"):
        read(data, policy=MediaPolicy(max_seconds=10))


def test_a_waveform_that_is_too_long_is_refused() -> None:
    with pytest.raises(MediaError, match="more than 1 seconds"):
        wave((np.zeros(20_000, np.float32), 16000), policy=MediaPolicy(max_seconds=1))


def test_a_sound_takes_no_more_memory_than_it_may() -> None:
    data = sound(sine(440, 2, 8000)[None], 8000)
    with pytest.raises(MediaError, match="MiB"):
        read(data, 48000, MediaPolicy(max_memory=48000 * 4))


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (999, 1), (16000, 17), (16000, 200)])
def test_sounds_that_no_microphone_makes_are_refused(rate: int, channels: int) -> None:
    with pytest.raises(MediaError):
        read(wav(bytes(200 * channels), rate, 8, channels))


@pytest.mark.parametrize(
    "data", [wav(b"", 16000), b"RIFF", b"ID3" + bytes(50), b"fLaC" + bytes(100), bytes(5000)]
)
def test_files_without_sound_are_refused(data: bytes) -> None:
    with pytest.raises(MediaError):
        read(data)
