"""Pixtral, Mistral Small 3 and Ministral 3: rows of patches, each with a token at its end."""

from __future__ import annotations

import math

from quire.media.families.family import MediaFamily, picture_size
from quire.media.families.settings import first_object, height_width, number
from quire.media.families.sizes import Size, ceil_to
from quire.media.values import Medium
from quire.template.format import MediaTokens


class Pixtral(MediaFamily):
    """The token after the last row is another one, which ends the picture."""

    name = "Pixtral"
    tokens = MediaTokens("Pixtral", image="[IMG]")

    def expansion(self, medium: Medium, number: int) -> str:
        rows, columns = self._grid(medium)
        lines = [self.token("image") * columns] * rows
        return self._word("image_break_token", "[IMG_BREAK]").join(lines) + self._word(
            "image_end_token", "[IMG_END]"
        )

    @property
    def controls(self) -> frozenset[str]:
        ends = {
            self._word("image_break_token", "[IMG_BREAK]"),
            self._word("image_end_token", "[IMG_END]"),
        }
        return super().controls | ends

    def _grid(self, medium: Medium) -> Size:
        settings = self.settings
        patch = number(settings.processor, "patch_size", number(settings.vision, "patch_size", 16))
        merged = number(settings.model, "spatial_merge_size", 1)
        side = patch * number(settings.processor, "spatial_merge_size", merged)
        height, width = picture_size(medium)
        tallest, widest = self._largest()
        ratio = max(height / tallest, width / widest)
        if ratio > 1:
            height, width = math.floor(height / ratio), math.floor(width / ratio)
        return ceil_to(max(height, 1), side) // side, ceil_to(max(width, 1), side) // side

    def _largest(self) -> Size:
        size = first_object(self.settings.image.get("size"))
        edge = size.get("longest_edge") or number(self.settings.vision, "image_size", 1024)
        return height_width([size.get("height") or edge, size.get("width") or edge], (edge, edge))

    def _word(self, name: str, default: str) -> str:
        return str(self.settings.processor.get(name) or default)
