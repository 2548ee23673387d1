"""Llama 4: a picture in up to 16 tiles with separators, then whole."""

from __future__ import annotations

import numpy as np

from quire.media.families.family import MediaFamily, picture_size
from quire.media.families.settings import flag, height_width, number
from quire.media.families.sizes import Size
from quire.media.placement import Kind
from quire.media.values import Medium
from quire.template.format import MediaTokens

_PATCH = "<|patch|>"


class Llama4(MediaFamily):
    """Features replace the tokens of patches; the picture's own token begins the whole view."""

    name = "Llama4"
    tokens = MediaTokens("Llama4", image="<|image|>")

    def feature_tokens(self, kind: Kind) -> tuple[str, ...]:
        return (_PATCH,)

    @property
    def controls(self) -> frozenset[str]:
        names = ("image_start", "image_end", "tile_x_separator", "tile_y_separator")
        return super().controls | {f"<|{name}|>" for name in names}

    def expansion(self, medium: Medium, number: int) -> str:
        rows, columns = self._tiles(medium)
        tile = _PATCH * self._tile_tokens()
        row = "<|tile_x_separator|>".join([tile] * columns) + "<|tile_y_separator|>"
        tiles = row * rows if rows * columns > 1 else ""
        return f"<|image_start|>{tiles}<|image|>{tile}<|image_end|>"

    def _tile_tokens(self) -> int:
        """Patches of a tile, shuffled four to one."""
        processor, vision = self.settings.processor, self.settings.vision
        patch = number(processor, "patch_size", number(vision, "patch_size", 14))
        ratio = processor.get("pixel_shuffle_ratio") or vision.get("pixel_shuffle_ratio") or 0.5
        height, width = self._tile_size()
        return (height // patch) * (width // patch) // round(1 / float(ratio) ** 2)

    def _tile_size(self) -> Size:
        return height_width(self.settings.image.get("size"), (336, 336))

    def _tiles(self, medium: Medium) -> Size:
        """The grid into which the picture fits with the least scaling; of several, the smallest."""
        edge = self._tile_size()[0]
        grids = _grids(number(self.settings.image, "max_patches", 16))
        height, width = picture_size(medium)
        sizes = np.array(grids, np.float32) * np.float32(edge)
        scales = np.minimum(sizes[:, 0] / np.float32(height), sizes[:, 1] / np.float32(width))
        larger = scales[scales >= 1]
        if not len(larger):
            chosen = scales.max()
        elif flag(self.settings.image, "resize_to_max_canvas", False):
            chosen = larger.max()
        else:
            chosen = larger.min()
        fitting = [grid for grid, scale in zip(grids, scales, strict=True) if scale == chosen]
        return min(fitting, key=lambda grid: grid[0] * grid[1])


def _grids(most: int) -> list[Size]:
    """All grids of up to `most` tiles, in the order in which ties are resolved."""
    shapes: dict[float, list[Size]] = {}
    for count in range(most, 0, -1):
        for rows in range(1, count + 1):
            if count % rows == 0:
                columns = count // rows
                shapes.setdefault(rows / columns, []).append((rows, columns))
    return [grid for grids in shapes.values() for grid in grids]
