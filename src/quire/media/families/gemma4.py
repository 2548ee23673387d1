"""Gemma 4: pictures of any shape, clips whose frames have their times, sounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from quire.errors import MediaError
from quire.media.families.family import MediaFamily, clip_of, picture_size
from quire.media.families.settings import number as setting
from quire.media.placement import Kind
from quire.media.values import Clip, Medium, Sound
from quire.template.format import MediaTokens


class Gemma4(MediaFamily):
    """A picture keeps its shape and gets as many tokens of 3 x 3 patches as there is room for."""

    name = "Gemma4"
    tokens = MediaTokens("Gemma4", image="<|image|>", video="<|video|>", audio="<|audio|>")

    def wrap(self, kind: Kind, inner: str) -> str:
        name = "audio" if kind == "audio" else "image"
        return f"<|{name}>{inner}<{name}|>"

    def vllm_placeholder(self, medium: Medium, number: int) -> str:
        return self.token(medium.kind)

    def expansion(self, medium: Medium, number: int) -> str:
        if isinstance(medium, Sound):
            return self.wrap("audio", self.token("audio") * self._sound_tokens(medium))
        if not isinstance(medium, Clip):
            count = _soft_tokens(self.settings.image, *picture_size(medium), 280)
            return self.wrap("image", self.token("image") * count)
        clip = clip_of(medium)
        count = _soft_tokens(self.settings.video, *picture_size(medium), 70)
        frame = self.wrap("video", self.token("video") * count)
        return " ".join(f"{_clock(time)} {frame}" for time in clip.timestamps)

    def _sound_tokens(self, sound: Sound) -> int:
        """Spectrogram frames, halved twice."""
        settings = self.settings.audio
        length = setting(settings, "frame_length", round(sound.rate * 0.02))
        hop = setting(settings, "hop_length", round(sound.rate * 0.01))
        samples = min(len(sound.samples), 480_000)
        count = (samples + length // 2 - (length + 1)) // hop + 1
        for _ in range(2):
            count = (count + 1) // 2 if count > 0 else 0
        return count


def _soft_tokens(settings: Mapping[str, Any], height: int, width: int, default: int) -> int:
    """Tokens of a picture of this shape."""
    patch = setting(settings, "patch_size", 16)
    pooled = setting(settings, "pooling_kernel_size", 3)
    most = setting(settings, "max_soft_tokens", default)
    side = patch * pooled
    scale = math.sqrt(most * pooled**2 * patch**2 / (height * width))
    rows, columns = int(scale * height / side), int(scale * width / side)
    if rows == 0 and columns == 0:
        raise MediaError(f"An image of {width} x {height} pixels is too small for this model.")
    if rows == 0:
        rows, columns = 1, min(width // height, most)
    elif columns == 0:
        rows, columns = min(height // width, most), 1
    return rows * columns


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"
