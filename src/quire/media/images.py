"""Pictures: decoded with Pillow, turned upright, made RGB, scaled.

Limits are held before anything is decoded: a picture's size comes from its header. A JPEG that will
be scaled down is decoded at a half, a quarter or an eighth of its size where that is still at least
twice what is wanted on each side.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from quire.errors import MediaError
from quire.media.policy import MediaPolicy, Watch
from quire.media.scaling import fitted
from quire.media.values import Pixels
from quire.media.watched import Watched

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_MAX_SCANS = 100
"""Each scan of a progressive JPEG goes over the whole picture; cameras and programs write about 10."""
_DRAFT_GAP = 2


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
    watched = cast(BinaryIO, Watched(file, watch))
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


def _too_many_pixels(policy: MediaPolicy) -> MediaError:
    return MediaError(f"it has more than {policy.max_pixels:,} pixels.")


def _check_scans(file: BinaryIO) -> None:
    """Refuse a JPEG of more scans than any program writes: each costs as much as a picture."""
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
    """A Pillow image as pixels: upright, RGB, scaled. `draft` may change how `image` is decoded."""
    _check_size(image, policy)
    whole, size = image.size, fitted(image.width, image.height, low, high)
    if draft and size[0] < whole[0]:
        image.draft(None, (size[0] * _DRAFT_GAP, size[1] * _DRAFT_GAP))
    drafted = image.size != whole
    image.load()
    if not drafted:  # a TIFF is turned as it is loaded
        size = fitted(image.width, image.height, low, high)
    turn = _turn(image)
    image = _rgb(image)
    if image.size != size:
        image = image.resize(size, resample=pillow().Resampling.BICUBIC)
    if turn is not None:
        image = image.transpose(turn)
    return np.array(image, dtype=np.uint8)


def _turn(image: Image.Image) -> Any:
    """How the picture must be turned to stand upright, by its EXIF; None for not at all."""
    turns = pillow().Transpose
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # whatever a damaged EXIF block raises: the pixels may well be good
        return None
    return {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }.get(cast(Any, orientation))


def _rgb(image: Image.Image) -> Image.Image:
    """RGB pixels; what is transparent shows white, as on a page."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _from_16_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        page = pillow().new("RGBA", image.size, (255, 255, 255, 255))
        page.alpha_composite(colours)
        return page.convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits; Pillow's own conversion would cut all above 255 off."""
    grey = (np.asarray(image) >> 8).astype(np.uint8)
    return pillow().fromarray(grey).convert("RGB")


def is_pillow_image(source: Any) -> bool:
    """Whether a source is an image of Pillow's."""
    try:
        return isinstance(source, pillow().Image)
    except MediaError:  # not installed: it can be none
        return False


def from_array(array: Any, low: int, high: int, policy: MediaPolicy) -> Pixels:
    """One picture of the caller's: uint8 (height, width), or (height, width, 1, 3 or 4).

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
