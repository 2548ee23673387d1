"""LLaVA and Yi-VL: each picture has the same number of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.media.families.family import MediaFamily
from quire.media.families.settings import MediaSettings, flag, height_width, number
from quire.media.families.sizes import Size
from quire.media.values import Medium
from quire.template.format import MediaTokens


class Llava(MediaFamily):
    """One token a patch; the class token, where the tower has one, is dropped or kept."""

    name = "Llava"
    tokens = MediaTokens("Llava", image="<image>")

    def expansion(self, medium: Medium, number: int) -> str:
        return self.token("image") * patch_count(self.settings)


def patch_count(settings: MediaSettings) -> int:
    """Tokens of one picture of the tower's own size."""
    rows, columns = patch_grid(settings, tile_size(settings.image, settings))
    return rows * columns + extra_tokens(settings)


def patch_grid(settings: MediaSettings, size: Size) -> Size:
    """Rows and columns of patches."""
    patch = patch_side(settings)
    return size[0] // patch, size[1] // patch


def patch_side(settings: MediaSettings) -> int:
    """Pixels of a patch's side."""
    return number(settings.processor, "patch_size", number(settings.vision, "patch_size", 14))


def extra_tokens(settings: MediaSettings) -> int:
    """Tokens besides the patches': the class token is added, and taken away by "default"."""
    added = settings.processor.get("num_additional_image_tokens")
    if added is None:
        added = 0 if "siglip" in str(settings.vision.get("model_type", "clip")) else 1
    strategy = settings.processor.get("vision_feature_select_strategy")
    strategy = strategy or settings.model.get("vision_feature_select_strategy", "default")
    return int(added) - (strategy == "default")


def tile_size(processor: Mapping[str, Any], settings: MediaSettings) -> Size:
    """Height and width of what the tower sees."""
    edge = number(settings.vision, "image_size", 224)
    crop = processor.get("crop_size")
    if crop and flag(processor, "do_center_crop", True):
        return height_width(crop, (edge, edge))
    return height_width(processor.get("size"), (edge, edge))
