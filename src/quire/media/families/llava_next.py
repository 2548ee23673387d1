"""LLaVA-NeXT and Granite Vision: a picture whole, and in tiles, whose rows end with a token."""

from __future__ import annotations

from quire.errors import ConfigError
from quire.media.families.family import MediaFamily, picture_size
from quire.media.families.llava import extra_tokens, patch_grid, tile_size
from quire.media.families.settings import height_width
from quire.media.families.sizes import Size, best_resolution
from quire.media.values import Medium
from quire.template.format import MediaTokens

_RESOLUTIONS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


class LlavaNext(MediaFamily):
    """The tiles' patches that hold padding alone are left out."""

    name = "LlavaNext"
    tokens = MediaTokens("LlavaNext", image="<image>")

    def expansion(self, medium: Medium, number: int) -> str:
        return self.token("image") * self._count_of(medium)

    def _count_of(self, medium: Medium) -> int:
        height, width = picture_size(medium)
        tile = tile_size(self.settings.image, self.settings)
        rows, columns = patch_grid(self.settings, tile)
        chosen = best_resolution(height, width, self._resolutions())
        grid = rows * (chosen[0] // tile[0]), columns * (chosen[1] // tile[1])
        if not all(grid):
            raise ConfigError(
                f"A tile of the model's processor, {tile}, is smaller than a patch or larger than "
                f"the resolution {chosen}."
            )
        high, wide = _unpadded(height, width, *grid)
        return high * wide + high + rows * columns + extra_tokens(self.settings)

    def _resolutions(self) -> list[Size]:
        listed = self.settings.image.get("image_grid_pinpoints")
        listed = listed or self.settings.model.get("image_grid_pinpoints") or _RESOLUTIONS
        if not isinstance(listed, (list, tuple)):
            raise ConfigError("image_grid_pinpoints of the model's processor must be a list.")
        return [height_width(one, _RESOLUTIONS[0]) for one in listed]


def _unpadded(height: int, width: int, rows: int, columns: int) -> Size:
    """Rows and columns of patches that show the picture, centred in a grid of that many."""
    if width / height > columns / rows:
        inner = int(round(height * (columns / width), 7))
        return rows - (rows - inner) // 2 * 2, columns
    inner = int(round(width * (rows / height), 7))
    return rows, columns - (columns - inner) // 2 * 2
