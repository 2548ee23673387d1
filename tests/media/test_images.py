"""Pictures: sizes, orientation, colours, and files that must be refused."""

from __future__ import annotations

import io
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quire.errors import MediaError
from quire.media import images
from quire.media.images import FORMATS, fitted, from_array, prepared, read_picture
from quire.media.policy import MediaPolicy, Watch
from tests.media.making import encoded, gif_of_dots, gradient, png_bomb, png_chunk

POLICY = MediaPolicy()
LOW, HIGH = 32 * 32, 768 * 768


def read(data: bytes, low: int = LOW, high: int = HIGH, policy: MediaPolicy = POLICY) -> np.ndarray:
    return read_picture(io.BytesIO(data), low, high, policy, Watch(20))


def llama_factory_size(width: int, height: int, low: int, high: int) -> tuple[int, int]:
    """The rule as LLaMA-Factory's documentation and results have it, for pictures of any shape
    whose sides do not become 0."""
    if width * height > high:
        factor = math.sqrt(high / (width * height))
        width, height = int(width * factor), int(height * factor)
    if width * height < low:
        factor = math.sqrt(low / (width * height))
        width, height = int(width * factor), int(height * factor)
    return width, height


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 10**5), st.integers(1, 10**6))
def test_sizes_follow_the_rule(width: int, height: int, low: int, more: int) -> None:
    high = low + more
    made = fitted(width, height, low, high)
    assert made[0] >= 1
    assert made[1] >= 1
    assert made[0] * made[1] <= high
    if max(width, height) / min(width, height) < math.sqrt(low):
        assert made == llama_factory_size(width, height, low, high)
    if low <= width * height <= high:
        assert made == (width, height)


@given(st.integers(1, 64_000_000), st.integers(1, 10**6), st.integers(1, 10**6))
def test_strips_keep_within_the_limit(length: int, low: int, more: int) -> None:
    for size in ((1, length), (length, 1)):
        width, height = fitted(*size, low, low + more)
        assert 1 <= width * height <= low + more


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_is_read(form: str) -> None:
    pixels = gradient(96, 64)
    options: dict[str, Any] = {"quality": 95} if form in ("JPEG", "WEBP", "AVIF") else {}
    made = read(encoded(pixels, form, **options))
    assert made.shape == (64, 96, 3)
    assert made.dtype == np.uint8
    assert np.abs(made.astype(int) - pixels).mean() < 8  # a GIF has 256 colours


@pytest.mark.parametrize("form", ["PPM", "TGA", "ICO", "PCX", "JPEG2000", "EPS"])
def test_other_forms_are_refused_by_name(form: str) -> None:
    with pytest.raises(MediaError, match="no image of a known form"):
        read(encoded(gradient(64, 64), form))


UPRIGHT = gradient(48, 64)
LAID = {  # how the stored picture lies for each orientation of EXIF (TIFF 6.0, tag 274)
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", LAID)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pictures_stand_upright(form: str, orientation: int) -> None:
    image = Image.fromarray(np.ascontiguousarray(LAID[orientation]))
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"quality": 95} if form in ("JPEG", "WEBP") else {}
    made = read(encoded(image, form, exif=exif, **options))
    assert made.shape == UPRIGHT.shape
    assert np.abs(made.astype(int) - UPRIGHT).mean() < 4


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_photo_is_scaled_and_upright(orientation: int) -> None:
    """Decoded at a part of its size, it differs from the one decoded whole by next to nothing."""
    image = Image.fromarray(gradient(2400, 1800))
    exif = Image.Exif()
    exif[274] = orientation
    made = read(encoded(image, "JPEG", quality=95, exif=exif), high=300 * 300)
    want = fitted(2400, 1800, LOW, 300 * 300)
    whole = np.asarray(image.resize(want, Image.Resampling.BICUBIC))
    whole = np.rot90(whole, -1) if orientation == 6 else whole
    assert made.shape == whole.shape
    assert np.abs(made.astype(int) - whole).max() <= 4


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"", b"Exif\0\0MM\0*\xff\xff\xff\xff"])
def test_a_damaged_exif_block_harms_nothing(exif: bytes) -> None:
    assert read(encoded(gradient(64, 48), "JPEG", exif=exif)).shape == (48, 64, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "YCbCr", "PA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    form = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    grey = Image.fromarray(np.full((40, 40), 255, np.uint8))
    image = Image.fromarray(np.full((40, 40), 65535, np.uint16)) if mode == "I;16" else grey
    image = image if mode == "I;16" else image.convert(mode)
    made = read(encoded(image, form)) if mode != "PA" else prepared(image, LOW, HIGH, POLICY)
    assert made.shape == (40, 40, 3)
    assert made.min() >= 250


def test_what_is_transparent_shows_white() -> None:
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:20, :, 3] = 255
    made = read(encoded(pixels))
    assert made[:20].max() == 0
    assert made[20:].min() == 255
    palette = Image.fromarray(np.zeros((40, 40), np.uint8)).convert("P")
    assert read(encoded(palette, "PNG", transparency=0)).min() == 255
    colours = Image.fromarray(np.full((40, 40, 3), 9, np.uint8))
    assert read(encoded(colours, "PNG", transparency=(9, 9, 9))).min() == 255


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 3), (40, 50, 4)])
def test_arrays_are_pictures(shape: tuple[int, ...]) -> None:
    array = np.full(shape, 255, np.uint8)
    array.flat[0] = 77
    made = from_array(array, LOW, HIGH, POLICY)
    assert made.shape == (40, 50, 3)
    assert made[0, 0, 0] == 77
    made[:] = 0
    assert array.flat[0] == 77


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((3, 9, 9), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.broadcast_to(np.uint8(0), (10_000, 10_000)),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(MediaError):
        from_array(array, LOW, HIGH, POLICY)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_a_truncated_file_is_refused(form: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (100, 100, 3), np.uint8)
    data = encoded(noise, form)
    with pytest.raises((MediaError, OSError, EOFError, SyntaxError)):  # one error for `MediaLoader`
        read(data[: len(data) // 2])


@pytest.mark.parametrize("side", [9000, 30_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    data = png_bomb(side)
    assert len(data) < 130_000
    with pytest.raises(MediaError, match="64,000,000"):
        read(data)


def test_a_picture_at_the_limit_is_read() -> None:
    policy = MediaPolicy(max_pixels=100 * 100)
    assert read(encoded(gradient(100, 100)), policy=policy).shape == (100, 100, 3)
    with pytest.raises(MediaError, match="101 x 100 pixels; the most are 10,000"):
        read(encoded(gradient(101, 100)), policy=policy)


def test_of_an_animated_picture_the_first_frame_is_taken() -> None:
    assert read(gif_of_dots(100_000)).shape == (32, 32, 3)


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    data = encoded(gradient(64, 64), "JPEG", progressive=True)
    assert read(data).shape == (64, 64, 3)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    with pytest.raises(MediaError, match="100 scans"):
        read(data[:-2] + scan * 1000 + data[-2:])


def test_a_picture_of_no_pixels_is_refused() -> None:
    header = png_chunk(b"IHDR", bytes(8) + b"\x08\x02\0\0\0")
    with pytest.raises(MediaError):
        read(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IEND", b""))


def header_alone(width: int, height: int) -> bytes:
    """A PNG of grey pixels that ends before the first of them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


@pytest.mark.parametrize("size", [(1, 64_000_000), (64_000_000, 1), (65_536, 4), (2, 70_000)])
def test_a_side_without_end_is_refused_by_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(MediaError, match="side"):
        read(header_alone(*size))


def test_the_longest_side_is_read() -> None:
    assert read(encoded(Image.new("L", (2, POLICY.max_side)), "PNG")).shape[2] == 3
    with pytest.raises(MediaError, match="side"):
        from_array(np.zeros((2, POLICY.max_side + 1), np.uint8), LOW, HIGH, POLICY)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_in_bands_is_that_of_the_whole(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(5)
    colours = Image.fromarray(chance.integers(0, 256, (37, 23, 4), np.uint8), "RGBA")
    image = colours.convert("P") if mode in ("P", "PA") else colours.convert(mode)
    if mode == "P":
        image.info["transparency"] = 7
    elif mode == "PA":
        image = image.convert("PA")
    whole = Image.new("RGBA", image.size, (255, 255, 255, 255))
    whole.alpha_composite(image.convert("RGBA"))
    for pixels in (1, 50, 23 * 37, 10**6):
        monkeypatch.setattr(images, "_BAND", pixels)
        found = prepared(image.copy(), 1, 10**6, POLICY)
        assert np.array_equal(found, np.array(whole.convert("RGB")))
