"""InternVL and Intern-S1: a picture in up to 12 tiles and a thumbnail; a clip frame by frame."""

from __future__ import annotations

from quire.media.families.family import MediaFamily, clip_of, picture_size
from quire.media.families.settings import flag, height_width, number
from quire.media.families.sizes import closest_grid
from quire.media.placement import Kind
from quire.media.values import Clip, Medium
from quire.template.format import MediaTokens

_CONTEXT = "<IMG_CONTEXT>"


class InternVL(MediaFamily):
    """The short form has one token a tile, as the reference's."""

    name = "InternVL"
    tokens = MediaTokens("InternVL", image="<image>", video="<video>")

    @property
    def _is_original(self) -> bool:
        """Whether the folder has the model's first form, with all settings in the config."""
        return self.settings.model_type == "internvl_chat"

    def feature_tokens(self, kind: Kind) -> tuple[str, ...]:
        return (_CONTEXT,)

    @property
    def controls(self) -> frozenset[str]:
        return frozenset({_CONTEXT, "<img>", "</img>"})

    def placeholder(self, medium: Medium, number: int) -> str:
        return self._written(medium, 1)

    def vllm_placeholder(self, medium: Medium, number: int) -> str:
        if isinstance(medium, Clip):
            return "<video>"
        return "<image>" if self._is_original else _CONTEXT

    def expansion(self, medium: Medium, number: int) -> str:
        return self._written(medium, self._tile_tokens())

    def _patterns(self, medium: Medium, number: int) -> tuple[str, ...]:
        return tuple({self.vllm_placeholder(medium, number), self.token(medium.kind)})

    def _written(self, medium: Medium, tokens: int) -> str:
        if isinstance(medium, Clip):
            frame = f"<img>{_CONTEXT * tokens}</img>"
            count = len(clip_of(medium).frames)
            return "\n".join(f"Frame{index + 1}: {frame}" for index in range(count))
        return f"<img>{_CONTEXT * (tokens * self._tiles(medium))}</img>"

    def _tile_tokens(self) -> int:
        """Tokens of a tile: a square of patches, shuffled four to one."""
        model = self.settings.model
        if not self._is_original:
            default = number(model, "image_seq_length", 256)
            return number(self.settings.processor, "image_seq_length", default)
        patch = number(self.settings.vision, "patch_size", 14)
        rows = self._edge() // patch
        return int(rows * rows * float(model.get("downsample_ratio", 0.5)) ** 2)

    def _edge(self) -> int:
        """Pixels of a tile's side, in the first form."""
        default = number(self.settings.vision, "image_size", 448)
        return number(self.settings.model, "force_image_size", default)

    def _tiles(self, medium: Medium) -> int:
        model, image = self.settings.model, self.settings.image
        if self._is_original:
            least, most = (
                number(model, "min_dynamic_patch", 1),
                number(model, "max_dynamic_patch", 12),
            )
            tile, thumbnail = (self._edge(), self._edge()), flag(model, "use_thumbnail", False)
            most = most if flag(model, "dynamic_image_size", True) else 1
        else:
            least, most = number(image, "min_patches", 1), number(image, "max_patches", 12)
            tile, thumbnail = height_width(image.get("size"), (384, 384)), True
        if most == 1:
            return 1
        rows, columns = closest_grid(*picture_size(medium), tile, least, most)
        count = rows * columns
        return count + 1 if thumbnail and count > 1 else count
