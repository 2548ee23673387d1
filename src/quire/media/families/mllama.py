"""Llama 3.2 Vision: one token a picture, which the layers of cross attention look at."""

from __future__ import annotations

from quire.media.families.family import MediaFamily
from quire.media.values import Medium
from quire.template.format import MediaTokens


class Mllama(MediaFamily):
    """The text has no room for features; they are not among the tokens."""

    name = "Mllama"
    tokens = MediaTokens("Mllama", image="<|image|>")

    def expansion(self, medium: Medium, number: int) -> str:
        return self.token("image")
