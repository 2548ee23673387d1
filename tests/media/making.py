"""Makes media files for the tests: small ones, odd ones, and bombs."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from quire.arguments import DataArguments, ModelArguments
from quire.media.loading import MediaLoader
from quire.media.policy import MediaPolicy


def arguments(**settings: Any) -> ModelArguments:
    return ModelArguments(model_name_or_path="unused", **settings)


def loader(policy: MediaPolicy | None = None, **settings: Any) -> MediaLoader:
    """A loader with these model arguments."""
    return MediaLoader(arguments(**settings), DataArguments(), policy)


def gradient(width: int, height: int) -> np.ndarray:
    """A picture whose red grows to the right, and whose green grows downwards."""
    red = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    green = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return np.stack([red, green, np.full((height, width), 60)], -1).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def animation(form: str, levels: list[int], milliseconds: list[int], size: int = 32) -> bytes:
    """An animated picture: grey frames of the given levels."""
    frames = [Image.new("RGB", (size, size), (level, level, level)) for level in levels]
    file = io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    frames[0].save(
        file,
        form,
        save_all=True,
        append_images=frames[1:],
        duration=milliseconds,
        loop=0,
        **options,
    )
    return file.getvalue()


def gif_of_dots(count: int) -> bytes:
    """A GIF of so many frames of one pixel, about 20 bytes each."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"!\xf9\4\0\5\0\0\0," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2D\1\0"
    return head + frame * count + b";"


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(side: int) -> bytes:
    """A black PNG of `side` squared pixels, one bit each."""
    squeezer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    data = b"".join(squeezer.compress(row * 1000) for _ in range(side // 1000)) + squeezer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    return start + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def level(index: int) -> int:
    """The grey of a test video's frame."""
    return 40 + index * 7 % 200


def video(
    count: int,
    *,
    rate: Fraction | int = 10,
    form: str = "mp4",
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    times: list[int] | None = None,
    tone: float | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """A video of grey frames, each of its own `level`.

    `times` gives each frame's time in milliseconds; `tone` adds a sound of that pitch in hertz.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        sound: Any = container.add_stream("aac", rate=16000) if tone else None
        for index in range(count):
            pixels = np.full((size[1], size[0], 3), level(index), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone:
            put_sound(container, sound, sine(tone, count / float(rate), 16000)[None], 16000)
    return file.getvalue()


def sine(hertz: float, seconds: float, rate: int, size: float = 0.5) -> np.ndarray:
    return (size * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def put_sound(container: Any, stream: Any, channels: np.ndarray, rate: int) -> None:
    layout = {1: "mono", 2: "stereo"}[len(channels)]
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(channels, np.float32), format="fltp", layout=layout
    )
    frame.sample_rate = rate
    converter = av.AudioResampler(stream.codec_context.format, layout, rate, 1024)
    for piece in [*converter.resample(frame), *converter.resample(None)]:
        piece.pts = None
        container.mux(stream.encode(piece))
    container.mux(stream.encode(None))


def sound(channels: np.ndarray, rate: int, form: str = "wav", codec: str = "pcm_s16le") -> bytes:
    """Sound of one or two channels, float32 (C, N), as a file."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        layout = "mono" if len(channels) == 1 else "stereo"
        stream = container.add_stream(codec, rate=rate, layout=layout)
        put_sound(container, stream, channels, rate)
    return file.getvalue()
