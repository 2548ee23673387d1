"""ERNIE 4.5 VL: pictures and clips are numbered."""

from __future__ import annotations

from quire.media.families.qwen2_vl import Qwen2VL
from quire.media.families.sizes import Size
from quire.media.placement import Kind
from quire.media.values import Clip, Medium
from quire.template.format import MediaTokens


class ErnieVL(Qwen2VL):
    """As Qwen2-VL, with other tokens, limits, and numbers in front."""

    name = "ErnieVL"
    tokens = MediaTokens("ErnieVL", image="<|IMAGE_PLACEHOLDER|>", video="<|VIDEO_PLACEHOLDER|>")
    image_pixels: Size = (56 * 56, 28 * 28 * 6177)
    video_pixels: Size = (299 * 28 * 28, 1196 * 28 * 28)

    def wrap(self, kind: Kind, inner: str) -> str:
        name = kind.upper()
        return f"<|{name}_START|>{inner}<|{name}_END|>"

    def expansion(self, medium: Medium, number: int) -> str:
        return self._numbered(medium, number, super().expansion(medium, number))

    def placeholder(self, medium: Medium, number: int) -> str:
        return self._numbered(medium, number, super().placeholder(medium, number))

    def vllm_placeholder(self, medium: Medium, number: int) -> str:
        inner = self.wrap(medium.kind, f"<|{medium.kind}@placeholder|>")
        return self._numbered(medium, number, inner)

    @property
    def controls(self) -> frozenset[str]:
        return super().controls | {"<|image@placeholder|>", "<|video@placeholder|>"}

    def _numbered(self, medium: Medium, number: int, text: str) -> str:
        title = "Video" if isinstance(medium, Clip) else "Picture"
        return f"{title} {number + 1}:{text}"
