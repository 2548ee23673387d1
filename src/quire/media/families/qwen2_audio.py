"""Qwen2-Audio: one token for four frames of the spectrogram, 25 a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.errors import MediaError
from quire.media.families.family import MediaFamily
from quire.media.families.settings import number as setting
from quire.media.placement import Kind
from quire.media.values import Medium, Sound
from quire.template.format import MediaTokens


class Qwen2Audio(MediaFamily):
    """The model hears the first 30 seconds of a sound: the window of its feature extractor."""

    name = "Qwen2Audio"
    tokens = MediaTokens("Qwen2Audio", audio="<|AUDIO|>")

    def wrap(self, kind: Kind, inner: str) -> str:
        return f"<|audio_bos|>{inner}<|audio_eos|>"

    def expansion(self, medium: Medium, number: int) -> str:
        count = pooled_frames(window_frames(medium, self.settings.audio))
        return self.wrap("audio", self.token("audio") * count)


def window_frames(medium: Medium, settings: Mapping[str, Any], seconds: int = 30) -> int:
    """The number of spectrogram frames of a sound, cut at the end of Whisper's window.

    Raises:
        MediaError: the sound's rate is not the model's.
    """
    assert isinstance(medium, Sound)
    rate = setting(settings, "sampling_rate", 16000)
    if medium.rate != rate:
        raise MediaError(
            f"A sound of {medium.rate} samples a second for a model that hears {rate}: "
            f"set audio_sampling_rate to {rate}."
        )
    hop = setting(settings, "hop_length", 160)
    window = setting(settings, "n_samples", setting(settings, "chunk_length", seconds) * rate)
    return -(-min(len(medium.samples), window) // hop)


def pooled_frames(frames: int) -> int:
    """The number of frames after the second convolution's stride, and the pooling of two.

    Raises:
        MediaError: nothing is left.
    """
    count = ((frames - 1) // 2 + 1 - 2) // 2 + 1
    if count < 1:
        raise MediaError("A sound that is too short for this model: less than 0.03 seconds.")
    return count
