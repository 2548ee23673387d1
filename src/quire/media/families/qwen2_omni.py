"""Qwen2.5-Omni and Qwen3-Omni: vision and hearing; a clip's sound may stand between its frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import Any

from quire.media.families.qwen2_audio import pooled_frames, window_frames
from quire.media.families.qwen2_vl import Qwen2VL
from quire.media.families.settings import number as setting
from quire.media.families.sizes import fit_pixels
from quire.media.placement import Kind
from quire.media.values import Clip, Medium, Sound
from quire.template.format import MediaTokens


class Qwen2Omni(Qwen2VL):
    """Both versions. With `use_audio_in_video`, a clip's sound is part of it."""

    name = "Qwen2Omni"
    tokens = MediaTokens("Qwen2Omni", image="<|IMAGE|>", video="<|VIDEO|>", audio="<|AUDIO|>")

    @property
    def _is_third(self) -> bool:
        """Whether this is Qwen3-Omni, whose placeholder tokens have other names."""
        return self.token("audio") == "<|audio_pad|>"

    def factor(self, settings: Mapping[str, Any]) -> int:
        patch = setting(settings, "patch_size", 16 if self._is_third else 14)
        return patch * setting(settings, "merge_size", 2)

    def wrap(self, kind: Kind, inner: str) -> str:
        sense = "audio" if kind == "audio" else "vision"
        if self._is_third:
            return f"<|{sense}_start|>{inner}<|{sense}_end|>"
        return f"<|{sense}_bos|>{inner}<|{sense}_eos|>"

    def feature_tokens(self, kind: Kind) -> tuple[str, ...]:
        if kind == "video" and self.use_audio_in_video:
            return (self.token("video"), self.token("audio"))
        return (self.token(kind),)

    def expansion(self, medium: Medium, number: int) -> str:
        if isinstance(medium, Sound):
            return self.wrap("audio", self.token("audio") * self._sound_tokens(medium))
        if isinstance(medium, Clip) and self.use_audio_in_video and medium.sound is not None:
            inner = "".join(self._interleaved(medium, medium.sound))
            return self.wrap("video", self.wrap("audio", inner))
        return super().expansion(medium, number)

    def clip_size(
        self, frames: int, height: int, width: int, factor: int, together: int
    ) -> tuple[int, int]:
        """The processor's own limits hold, whatever the folder says."""
        return fit_pixels(height, width, factor, 128 * factor**2, 768 * factor**2)

    def vllm_options(self, media: Sequence[Medium]) -> dict[str, Any]:
        heard = any(isinstance(medium, Clip) and medium.sound is not None for medium in media)
        return {"use_audio_in_video": True} if heard and self.use_audio_in_video else {}

    def vllm_parts(self, medium: Medium) -> Iterator[Medium]:
        yield medium
        if isinstance(medium, Clip) and self.use_audio_in_video and medium.sound is not None:
            yield medium.sound

    def _sound_tokens(self, sound: Sound) -> int:
        if not self._is_third:
            return pooled_frames(window_frames(sound, self.settings.audio, 300))
        frames = len(sound.samples) // setting(self.settings.audio, "hop_length", 160)
        whole, left = divmod(frames, 100)
        left = (((left - 1) // 2 + 1 - 1) // 2 + 1 - 1) // 2 + 1
        return whole * 13 + left

    def _interleaved(self, clip: Clip, sound: Sound) -> Iterator[str]:
        """The tokens of the frames and of the sound, in the order of time."""
        steps, tokens = self.clip_grid(clip)
        together = setting(self.settings.video, "temporal_patch_size", 2)
        seconds = together * clip.duration / len(clip.frames) if clip.duration else together / 2
        rate = 13.0 if self._is_third else 25.0
        of_frames = [step * seconds * rate for step in range(steps) for _ in range(tokens)]
        of_sound = list(range(self._sound_tokens(sound)))
        if self._is_third:
            yield from self._merged(of_frames, of_sound)
            return
        chunks = zip_longest(_chunks(of_frames, rate * 2), _chunks(of_sound, rate * 2), fillvalue=0)
        for frames, sounds in chunks:
            yield self.token("video") * frames
            yield self.token("audio") * sounds

    def _merged(self, of_frames: Sequence[float], of_sound: Sequence[int]) -> Iterator[str]:
        times = [(time, False) for time in of_frames] + [(float(time), True) for time in of_sound]
        for _, is_sound in sorted(times):
            yield self.token("audio") if is_sound else self.token("video")


def _chunks(times: Sequence[float], length: float) -> list[int]:
    """The number of times in each chunk; a chunk begins at the first time past its bound."""
    starts, bound = [0], length
    for index, time in enumerate(times):
        if time >= bound:
            starts.append(index)
            bound += length
    return [end - start for start, end in pairwise([*starts, len(times)])]
