"""Llama 3.2 Vision: one token a picture, whose features the layers of cross attention read."""

from __future__ import annotations

from quire.media.families.family import MediaFamily
from quire.media.values import Medium
from quire.template.format import MediaTokens


class Mllama(MediaFamily):
    """Features do not replace tokens here, so one token is enough for any picture."""

    name = "Mllama"
    tokens = MediaTokens("Mllama", image="<|image|>")

    def expansion(self, medium: Medium, number: int) -> str:
        return self.token("image")
