"""LFM2-VL: a picture whole; a large one in tiles, each with its row and column, and then whole."""

from __future__ import annotations

import math

from quire.media.families.family import MediaFamily, picture_size
from quire.media.families.settings import flag, number
from quire.media.families.sizes import Size, closest_grid, fit_strip
from quire.media.values import Medium
from quire.template.format import MediaTokens


class LFMVL(MediaFamily):
    """Four patches to a token."""

    name = "LFMVL"
    tokens = MediaTokens("LFMVL", image="<image>")

    @property
    def controls(self) -> frozenset[str]:
        words = {"<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"}
        most = self._setting("max_tiles", 10)
        sides = range(1, most + 1)
        words |= {f"<|img_row_{row}_col_{column}|>" for row in sides for column in sides}
        return super().controls | words

    def expansion(self, medium: Medium, number: int) -> str:
        token = self.token("image")
        whole = token * self._whole_tokens(medium)
        rows, columns = self._tiles(medium)
        if rows * columns > 1:
            tile = token * self._tile_tokens()
            cells = ((row + 1, column + 1) for row in range(rows) for column in range(columns))
            tiles = "".join(f"<|img_row_{row}_col_{column}|>{tile}" for row, column in cells)
            thumbnail = flag(self.settings.image, "use_thumbnail", True)
            whole = tiles + (f"<|img_thumbnail|>{whole}" if thumbnail else "")
        return f"<|image_start|>{whole}<|image_end|>"

    def _setting(self, name: str, default: int) -> int:
        return number(self.settings.image, name, default)

    def _factor(self) -> int:
        return self._setting("encoder_patch_size", 16) * self._setting("downsample_factor", 2)

    def _whole_tokens(self, medium: Medium) -> int:
        """Tokens of the whole picture, scaled to fit the limits."""
        factor = self._factor()
        least = self._setting("min_image_tokens", 64) * factor**2
        most = self._setting("max_image_tokens", 256) * factor**2
        height, width = fit_strip(*picture_size(medium), factor, least, most)
        return self._joined(height) * self._joined(width)

    def _joined(self, pixels: int) -> int:
        """Tokens along a side."""
        patches = pixels // self._setting("encoder_patch_size", 16)
        return math.ceil(patches / self._setting("downsample_factor", 2))

    def _tile_tokens(self) -> int:
        return self._joined(self._setting("tile_size", 512)) ** 2

    def _tiles(self, medium: Medium) -> Size:
        """The grid of tiles; (1, 1) for a picture that is small enough."""
        height, width = picture_size(medium)
        least, most = self._setting("min_tiles", 2), self._setting("max_tiles", 10)
        if not flag(self.settings.image, "do_image_splitting", True) or least == most == 1:
            return 1, 1
        patch, factor = self._setting("encoder_patch_size", 16), self._factor()
        high = max(patch, round(height / factor) * factor)
        wide = max(patch, round(width / factor) * factor)
        tolerance = float(self.settings.image.get("max_pixels_tolerance") or 2.0)
        if high * wide <= self._setting("max_image_tokens", 256) * factor**2 * tolerance:
            return 1, 1
        edge = self._setting("tile_size", 512)
        return closest_grid(height, width, (edge, edge), least, most)
