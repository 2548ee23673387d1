"""Gemma 3n: as Gemma 3, and sounds, each with the same number of tokens."""

from __future__ import annotations

from quire.media.families.gemma3 import Gemma3
from quire.media.values import Medium
from quire.template.format import MediaTokens


class Gemma3n(Gemma3):
    """vLLM looks for the placeholder tokens themselves."""

    name = "Gemma3n"
    tokens = MediaTokens("Gemma3n", image="<image_soft_token>", audio="<audio_soft_token>")

    def vllm_placeholder(self, medium: Medium, number: int) -> str:
        return self.token(medium.kind)
