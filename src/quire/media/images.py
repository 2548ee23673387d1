"""Pictures: decoded with Pillow, rotated upright, made RGB, scaled.

Limits are held before anything is decoded: a picture's size comes from its header. A JPEG that will
be scaled down is decoded at a half, a quarter or an eighth of its size where that is still at least
twice what is wanted on each side.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from quire.errors import MediaError
from quire.media.policy import MediaPolicy, Watch, WatchedFile
from quire.media.values import Pixels

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_MAX_SCANS = 100
"""Each scan of a progressive JPEG goes over the whole picture; cameras and programs write about 10.

So a file of a few kilobytes with thousands of scans would decode for minutes.
"""
_DRAFT_GAP = 2
_BAND = 2**20
"""Pixels of a band of rows."""


def read_picture(file: BinaryIO, low: int, high: int, policy: MediaPolicy, watch: Watch) -> Pixels:
    """Decode an image file; of an animated one the first frame.

    Args:
        low: the least pixels to scale to.
        high: the most.

    Returns:
        uint8 (height, width, 3).

    Raises:
        MediaError: it is no image, damaged, or beyond the policy's limits.
    """
    with opened(file, policy, watch) as image:
        return prepared(image, low, high, policy, draft=True)


@contextmanager
def opened(file: BinaryIO, policy: MediaPolicy, watch: Watch) -> Generator[Image.Image]:
    """Open an image file: its header is read and its size checked."""
    library = pillow()
    _check_scans(file)
    watched = cast(BinaryIO, WatchedFile(file, watch))
    try:
        image = library.open(watched, formats=FORMATS)
    except library.DecompressionBombError:
        raise _too_many_pixels(policy) from None
    except (library.DecompressionBombWarning, library.UnidentifiedImageError):
        raise MediaError(f"it is no image of a known form ({', '.join(FORMATS)}).") from None
    with image:
        _check_size(image, policy)
        yield image


def _check_size(image: Image.Image, policy: MediaPolicy) -> None:
    if image.width < 1 or image.height < 1:
        raise MediaError("it has no pixels.")
    if image.width * image.height > policy.max_pixels:
        raise MediaError(
            f"it has {image.width:,} x {image.height:,} pixels; the most are {policy.max_pixels:,}."
        )
    if max(image.size) > policy.max_side:
        raise MediaError(
            f"it has {image.width:,} x {image.height:,} pixels; a side has {policy.max_side:,} at most."
        )


def _too_many_pixels(policy: MediaPolicy) -> MediaError:
    return MediaError(f"it has more than {policy.max_pixels:,} pixels.")


def _check_scans(file: BinaryIO) -> None:
    """Refuse a JPEG of more scans than any program writes."""
    start = file.read(3)
    scans = 0
    if start == b"\xff\xd8\xff":
        tail = b""
        while piece := file.read(2**17):
            scans += (tail + piece).count(b"\xff\xda")
            tail = piece[-1:]
    file.seek(0)
    if scans > _MAX_SCANS:
        raise MediaError(f"the JPEG has more than {_MAX_SCANS} scans.")


def prepared(
    image: Image.Image, low: int, high: int, policy: MediaPolicy, *, draft: bool = False
) -> Pixels:
    """A Pillow image as pixels: upright, RGB, scaled.

    `draft` lets a JPEG be decoded at a fraction of its size, which changes `image` itself.
    """
    _check_size(image, policy)
    whole, size = image.size, fitted(image.width, image.height, low, high)
    if draft and size[0] < whole[0]:
        image.draft(None, (size[0] * _DRAFT_GAP, size[1] * _DRAFT_GAP))
    drafted = image.size != whole
    image.load()
    if not drafted:  # Pillow rotates a TIFF as it loads it, so its sides may now be exchanged
        size = fitted(image.width, image.height, low, high)
    upright = _transposition(image)
    image = _rgb(image)
    if image.size != size:
        image = image.resize(size, resample=pillow().Resampling.BICUBIC)
    if upright is not None:  # last, since there are fewest pixels then
        image = image.transpose(upright)
    return np.array(image, dtype=np.uint8)


def _transposition(image: Image.Image) -> Any:
    """Pillow's transposition that makes the picture upright, by its EXIF; None for none."""
    ways = pillow().Transpose
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # whatever a damaged EXIF block raises: the pixels may well be good
        return None
    return {
        2: ways.FLIP_LEFT_RIGHT,
        3: ways.ROTATE_180,
        4: ways.FLIP_TOP_BOTTOM,
        5: ways.TRANSPOSE,
        6: ways.ROTATE_270,
        7: ways.TRANSVERSE,
        8: ways.ROTATE_90,
    }.get(cast(Any, orientation))


def _rgb(image: Image.Image) -> Image.Image:
    """RGB pixels; transparent ones become white, as on a page."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _from_16_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """A picture with transparency on a white page, a band of rows at a time.

    Whole, it would be there four times over, and Pillow composes with the interpreter's lock kept.
    """
    page = pillow().new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        colours = image.crop(box).convert("RGBA")
        band = pillow().new("RGBA", colours.size, (255, 255, 255, 255))
        band.alpha_composite(colours)
        page.paste(band.convert("RGB"), box)
    return page


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits; Pillow's own conversion would clip everything above 255."""
    grey = (np.asarray(image) >> 8).astype(np.uint8)
    return pillow().fromarray(grey).convert("RGB")


def fitted(width: int, height: int, low: int, high: int) -> tuple[int, int]:
    """The width and height to scale to, so that the picture has `low` to `high` pixels.

    LLaMA-Factory's rule: both sides are multiplied by the square root of the ratio and rounded down,
    first down to `high`, then up to `low`. Rounding can leave a picture that was scaled up a few
    pixels below `low`. A side is never 0; where a strip would then have too many pixels, its long
    side is cut.
    """
    if width * height > high:
        width, height = _towards(high, width, height)
        width = min(width, max(1, high // height))
        height = min(height, max(1, high // width))
    if width * height < low:
        width, height = _towards(low, width, height)
    return width, height


def _towards(pixels: int, width: int, height: int) -> tuple[int, int]:
    factor = math.sqrt(pixels / (width * height))
    return max(1, int(width * factor)), max(1, int(height * factor))


def is_pillow_image(source: Any) -> bool:
    """Whether a source is a Pillow image."""
    try:
        return isinstance(source, pillow().Image)
    except MediaError:  # not installed: it can be none
        return False


def from_array(array: Any, low: int, high: int, policy: MediaPolicy) -> Pixels:
    """One picture that a caller gives: uint8 (height, width), or (height, width, 1, 3 or 4).

    Raises:
        MediaError: an array of another shape or type.
    """
    pixels = np.asarray(array)
    if pixels.dtype != np.uint8:
        raise MediaError(f"an array of pixels must be uint8 (0 to 255), not {pixels.dtype}.")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.size == 0 or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    ):
        raise MediaError(
            "an array of pixels must have the shape (height, width, 3), or 4 or 1 for the last, "
            f"not {pixels.shape}."
        )
    if pixels.shape[0] * pixels.shape[1] > policy.max_pixels:
        raise _too_many_pixels(policy)
    if max(pixels.shape[:2]) > policy.max_side:
        raise MediaError(f"a side has more than {policy.max_side:,} pixels.")
    image = pillow().fromarray(np.ascontiguousarray(pixels))
    return prepared(image, low, high, policy)


def pillow() -> Any:
    """Pillow's module `Image`.

    Raises:
        MediaError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MediaError(
            "images need the package pillow: pip install 'quire-llm[media]'."
        ) from None
    return Image
