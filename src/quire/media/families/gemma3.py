"""Gemma 3: each picture has the same number of tokens, in a paragraph of its own."""

from __future__ import annotations

from quire.media.families.family import MediaFamily
from quire.media.families.settings import number as setting
from quire.media.placement import Kind
from quire.media.values import Medium
from quire.template.format import MediaTokens


class Gemma3(MediaFamily):
    """The short form is the token that begins a picture."""

    name = "Gemma3"
    tokens = MediaTokens("Gemma3", image="<image_soft_token>")

    def placeholder(self, medium: Medium, number: int) -> str:
        return f"<start_of_{medium.kind}>"

    def wrap(self, kind: Kind, inner: str) -> str:
        return f"<start_of_{kind}>{inner}<end_of_{kind}>"

    def expansion(self, medium: Medium, number: int) -> str:
        kind = medium.kind
        default = 188 if kind == "audio" else 256
        count = setting(self.settings.processor, f"{kind}_seq_length", default)
        return f"\n\n{self.wrap(kind, self.token(kind) * count)}\n\n"
