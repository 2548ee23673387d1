"""PaliGemma: all pictures stand before the whole prompt, before its BOS."""

from __future__ import annotations

from collections.abc import Sequence

from quire.media.families.family import Form, MediaFamily
from quire.media.families.llava import patch_grid, tile_size
from quire.media.families.settings import number as setting
from quire.media.values import Medium
from quire.prompt import Element, Span, TextElement
from quire.template.format import MediaTokens


class PaliGemma(MediaFamily):
    """A picture leaves no trace in its message; vLLM puts it in front of the prompt itself."""

    name = "PaliGemma"
    tokens = MediaTokens("PaliGemma", image="<image>")

    def placeholder(self, medium: Medium, number: int) -> str:
        return ""

    def expansion(self, medium: Medium, number: int) -> str:
        return ""

    def finish(
        self, elements: Sequence[Element], media: Sequence[Medium], *, form: Form
    ) -> list[Element]:
        if form != "expanded" or not media:
            return list(elements)
        front = Span(self.token("image") * (self._picture_tokens() * len(media)))
        return [TextElement((front,)), *elements]

    def _count(self, medium: Medium, number: int, form: Form) -> int:
        return self._picture_tokens() if form == "expanded" else 0

    def _picture_tokens(self) -> int:
        rows, columns = patch_grid(self.settings, tile_size(self.settings.image, self.settings))
        model = setting(self.settings.vision, "num_image_tokens", rows * columns)
        return setting(self.settings.image, "image_seq_length", model)
