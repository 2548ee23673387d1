"""Videos, animated pictures and lists of frames: the right frames, with their true times."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.error import FFmpegError
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quire.errors import MediaError
from quire.media.frames import frame_indices, picture_form, read_animation
from quire.media.images import fitted
from quire.media.policy import MediaPolicy, Watch
from quire.media.values import Clip
from quire.media.video import read_video
from tests.media.making import animation, arguments, gif_of_dots, level, sine, sound, video

POLICY = MediaPolicy()
CONTAINERS = [
    ("mp4", "libx264"),
    ("matroska", "libx264"),
    ("webm", "libvpx"),
    ("mpegts", "libx264"),
    ("avi", "mpeg4"),
    ("flv", "libx264"),
]


def read(data: bytes, policy: MediaPolicy = POLICY, **options: Any) -> Clip:
    return read_video(io.BytesIO(data), arguments(**options), policy, Watch(20))


def read_animated(data: bytes, policy: MediaPolicy = POLICY, **options: Any) -> Clip:
    file = io.BytesIO(data)
    return read_animation(file, picture_form(file) or "", arguments(**options), policy, Watch(20))


def levels(clip: Clip) -> np.ndarray:
    return clip.frames.mean(axis=(1, 2, 3))


def decoded_whole(data: bytes) -> list[tuple[float, np.ndarray]]:
    """The oracle: every frame decoded in order, with its time."""
    with av.open(io.BytesIO(data), "r") as container:
        frames = list(container.decode(video=0))
        times = [(f.pts or 0) * (f.time_base or Fraction(1)) for f in frames]
        pixels = [f.to_ndarray(format="rgb24") for f in frames]
        return [(float(at - times[0]), one) for at, one in zip(times, pixels, strict=True)]


@given(st.integers(1, 5000), st.floats(0.01, 5000), st.floats(0.1, 60), st.integers(1, 300))
def test_the_rule_of_frames(total: int, duration: float, fps: float, most: int) -> None:
    indices = frame_indices(total, duration, fps, most)
    assert indices[0] == 0
    assert indices == sorted(set(indices))
    assert len(indices) <= min(total, most)
    assert len(indices) == min(total, most, max(1, int(duration * fps)))
    assert indices[-1] == (total - 1 if len(indices) > 1 else 0)


@pytest.mark.parametrize(("seconds", "fps", "count"), [(10, 0.3, 3), (15, 1 / 3, 5), (3, 0.7, 2)])
def test_a_rate_that_is_stored_a_little_too_small_loses_no_frame(
    seconds: int, fps: float, count: int
) -> None:
    assert len(frame_indices(100, Fraction(seconds), fps, 50)) == count


@pytest.mark.parametrize(("form", "codec"), CONTAINERS)
def test_frames_and_times_are_those_of_the_video(form: str, codec: str) -> None:
    clip = read(video(60, form=form, codec=codec), video_fps=2.0)
    assert clip.frame_indices == tuple(np.linspace(0, 59, 12).astype(int))
    assert clip.timestamps == pytest.approx([index / 10 for index in clip.frame_indices], abs=2e-3)
    assert levels(clip) == pytest.approx([level(index) for index in clip.frame_indices], abs=6)
    assert clip.total_frames == 60
    assert clip.duration == pytest.approx(6, abs=0.05)
    assert clip.fps == pytest.approx(10, rel=0.01)
    assert clip.frames.shape == (12, 48, 64, 3)
    assert clip.sound is None


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(20, 400), min_size=2, max_size=40),
    st.integers(1, 12),
    st.integers(0, 3),
    st.floats(0.5, 20),
    st.integers(1, 50),
)
def test_frames_that_come_unevenly_keep_their_times(
    gaps: list[int], group: int, between: int, fps: float, most: int
) -> None:
    """Against all frames decoded in order, for any distance of key frames and order of packets."""
    times = np.cumsum([0, *gaps]).tolist()
    options = {"g": str(group), "bf": str(between), "preset": "ultrafast"}
    data = video(len(times), form="matroska", times=times, options=options)
    clip, whole = read(data, video_fps=fps, video_maxlen=most), decoded_whole(data)
    assert clip.total_frames == len(times) == len(whole)
    assert clip.timestamps == pytest.approx([times[i] / 1000 for i in clip.frame_indices], abs=2e-3)
    for row, index in enumerate(clip.frame_indices):
        assert whole[index][0] == pytest.approx(clip.timestamps[row])
        assert np.abs(clip.frames[row].astype(int) - whole[index][1]).max() <= 2


def test_no_more_frames_than_asked_for() -> None:
    clip = read(video(50), video_fps=10.0, video_maxlen=7)
    assert clip.frame_indices == tuple(np.linspace(0, 49, 7).astype(int))
    assert read(video(5), video_fps=0.01).frame_indices == (0,)
    assert read(video(1)).total_frames == 1


def test_frames_are_scaled_by_the_rule() -> None:
    clip = read(video(3, size=(320, 240)), video_max_pixels=100 * 100)
    width, height = fitted(320, 240, 256, 100 * 100)
    assert clip.frames.shape[1:] == (height, width, 3)
    small = read(video(3, size=(16, 16)), video_min_pixels=40 * 40)
    assert small.frames.shape[1:] == (40, 40, 3)


def test_the_sound_comes_with_the_video_where_asked_for() -> None:
    data = video(20, tone=440)
    silent, heard = read(data), read(data, use_audio_in_video=True, audio_sampling_rate=8000)
    assert silent.sound is None
    assert heard.sound is not None
    assert heard.sound.rate == 8000
    assert heard.sound.duration == pytest.approx(2, abs=0.2)
    assert np.array_equal(silent.frames, heard.frames)
    assert silent.content_hash != heard.content_hash
    assert read(video(20), use_audio_in_video=True).sound is None


def test_a_video_without_a_video_stream_is_refused() -> None:
    with pytest.raises(MediaError, match="no video stream"):
        read(sound(sine(440, 1, 16000)[None], 16000))
    cover = io.BytesIO()
    with av.open(cover, "w", format="mp3") as container:
        tone = container.add_stream("libmp3lame", rate=16000, layout="mono")
        picture: Any = container.add_stream("mjpeg", rate=1)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuvj420p"
        picture.disposition = Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        packets = [*picture.encode(frame), *picture.encode(None)]
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16p", "mono")
        silence.sample_rate = 16000
        container.mux(packets)
        container.mux(tone.encode(silence))
        container.mux(tone.encode(None))
    with pytest.raises(MediaError, match="no video stream"):
        read(cover.getvalue())


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"max_seconds": 5}, "more than 5 seconds"),
        ({"max_frames": 20}, "more than 20 frames"),
        ({"max_frame_pixels": 1000}, "64 x 48 pixels; the most are 1,000"),
        ({"max_memory": 20_000}, "lower video_maxlen"),
        ({"decode_seconds": -1}, "takes more than"),
    ],
)
@pytest.mark.parametrize("form", ["mp4", "mpegts"])
def test_limits_are_kept(form: str, limits: dict, text: str) -> None:
    policy = MediaPolicy(**limits)
    watch = Watch(policy.decode_seconds)
    with pytest.raises(MediaError, match=text):
        watch.start()
        file = io.BytesIO(video(60, form=form))
        read_video(file, arguments(), policy, watch)


def test_a_header_that_lies_about_the_length_is_not_believed() -> None:
    """A Matroska of 6 seconds whose header says one: the packets are counted."""
    data = video(60, form="matroska")
    at = data.index(b"\x44\x89\x88") + 3  # the element Duration, a float of 8 bytes
    lying = data[:at] + np.array([1000.0], ">f8").tobytes() + data[at + 8 :]
    assert read(lying).duration == pytest.approx(6)
    with pytest.raises(MediaError, match="more than 5 seconds"):
        read(lying, MediaPolicy(max_seconds=5))


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '/etc/passwd'\n",
        "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'></MPD>",
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 96\r\n",
    ],
)
def test_playlists_are_no_videos(text: str) -> None:
    with pytest.raises(MediaError, match="no video or sound of a known form"):
        read(text.encode())


@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_cut_video_gives_its_frames_or_an_error(form: str, part: float) -> None:
    data = video(60, form=form, size=(128, 96))
    try:
        clip = read(data[: int(len(data) * part)])
    except (MediaError, FFmpegError):  # one error for `MediaLoader`
        return
    assert 1 <= len(clip.frames) == len(clip.timestamps) == len(clip.frame_indices)
    assert levels(clip) == pytest.approx([level(index) for index in clip.frame_indices], abs=6)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_animated_pictures_are_videos(form: str) -> None:
    shades, shown = [0, 60, 120, 180, 240], [100, 300, 500, 200, 400]
    clip = read_animated(animation(form, shades, shown), video_fps=3.0)
    assert clip.total_frames == 5
    assert clip.duration == pytest.approx(1.5)
    assert clip.fps == pytest.approx(5 / 1.5)
    assert clip.frame_indices == (0, 1, 2, 4)
    assert clip.timestamps == pytest.approx((0, 0.1, 0.4, 1.1))
    assert levels(clip) == pytest.approx([shades[index] for index in clip.frame_indices], abs=3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 50), st.integers(0, 255)), min_size=2, max_size=20))
def test_the_times_of_a_gif_are_pillows(frames: list[tuple[int, int]]) -> None:
    """Against Pillow, which decodes every frame; equal neighbours are one frame to its encoder."""
    data = animation("GIF", [shade for _, shade in frames], [10 * length for length, _ in frames])
    image: Any = Image.open(io.BytesIO(data))
    lengths = []
    for index in range(image.n_frames):
        image.seek(index)
        lengths.append(image.info["duration"] / 1000)
    clip = read_animated(data, video_fps=1000.0, video_maxlen=1000)
    assert clip.total_frames == len(lengths)
    if len(lengths) > 1:
        assert clip.timestamps == pytest.approx(np.cumsum([0, *lengths[:-1]]))


def test_a_png_that_begins_with_another_picture() -> None:
    first = Image.new("RGB", (32, 32), (255, 0, 0))
    rest = [Image.new("RGB", (32, 32), (shade,) * 3) for shade in (10, 200)]
    file = io.BytesIO()
    first.save(file, "PNG", save_all=True, append_images=rest, default_image=True, duration=500)
    clip = read_animated(file.getvalue(), video_fps=2.0)
    assert clip.total_frames == 2
    assert levels(clip) == pytest.approx([10, 200])


def test_a_still_picture_is_a_clip_of_one_frame() -> None:
    for form in ("GIF", "WEBP", "PNG", "JPEG"):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), (80, 80, 80)).save(file, form)
        clip = read_animated(file.getvalue())
        assert (clip.total_frames, clip.timestamps, clip.fps) == (1, (0.0,), 2.0)
        assert levels(clip) == pytest.approx([80], abs=2)


def test_an_animation_of_too_many_frames_is_refused() -> None:
    with pytest.raises(MediaError, match="more than 10,000 frames"):
        read_animated(gif_of_dots(100_000))
    assert read_animated(gif_of_dots(300), video_maxlen=4).total_frames == 300


@given(st.binary(max_size=300), st.sampled_from(["gif", "webp", "png"]))
def test_the_times_of_garbage_end(data: bytes, form: str) -> None:
    """The walks over blocks come to an end and raise nothing but our own."""
    from quire.media.frames import _delays

    head = {"gif": b"GIF89a", "webp": b"RIFF\0\0\0\0WEBP", "png": b"\x89PNG\r\n\x1a\n"}[form]
    delays, first = _delays(io.BytesIO(head + data), form, POLICY, Watch(5))
    assert all(delay > 0 for delay in delays)
    assert first in (0, 1)


def test_a_phones_video_stands_upright() -> None:
    """The display matrix of an MP4 (ISO 14496-12, tkhd) turns the frames a quarter."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        picture = np.zeros((32, 64, 3), np.uint8)
        picture[:, :32] = 220  # stored: white on the left
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    data = file.getvalue()
    plain = np.array([65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30], ">i4").tobytes()
    turned = np.array([0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    at = data.index(plain, data.index(b"tkhd"))
    clip = read(data[:at] + turned + data[at + len(turned) :])
    assert clip.frames.shape[1:] == (64, 32, 3)
    assert clip.frames[0, :30].mean() > 200  # turned clockwise: what was left is above
    assert clip.frames[0, 34:].mean() < 30
