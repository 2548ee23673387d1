"""Qwen3-VL and Qwen3.5: each time step of a clip has its time in front."""

from __future__ import annotations

from quire.media.families.family import clip_of
from quire.media.families.general import expands_video_token_alone
from quire.media.families.qwen2_vl import Qwen2VL, pixel_limits
from quire.media.families.settings import flag, number
from quire.media.families.sizes import Size, fit_clip
from quire.media.values import Clip, Medium
from quire.template.format import MediaTokens


class Qwen3VL(Qwen2VL):
    """The limits of a clip's pixels hold for all of its frames together."""

    name = "Qwen3VL"
    tokens = MediaTokens("Qwen3VL", image="<|image_pad|>", video="<|video_pad|>")
    patch = 16
    video_pixels: Size = (128 * 32 * 32, 32 * 32 * 768)

    def expansion(self, medium: Medium, number: int) -> str:
        if not isinstance(medium, Clip):
            return super().expansion(medium, number)
        steps, tokens = self.clip_grid(medium)
        step = self.wrap("video", self.token("video") * tokens)
        return "".join(f"<{time:.1f} seconds>{step}" for time in self.step_times(medium, steps))

    def vllm_placeholder(self, medium: Medium, number: int) -> str:
        """The clip's token alone where that alone is replaced: else wrappers would stand twice."""
        if isinstance(medium, Clip) and expands_video_token_alone():
            return self.token("video")
        return self.placeholder(medium, number)

    def step_times(self, medium: Medium, steps: int) -> list[float]:
        """The middle of each time step in seconds: between its first frame and its last."""
        together = number(self.settings.video, "temporal_patch_size", 2)
        times = list(clip_of(medium).timestamps)
        times += [times[-1]] * (steps * together - len(times))
        starts = range(0, steps * together, together)
        return [(times[start] + times[start + together - 1]) / 2 for start in starts]

    def clip_size(
        self, frames: int, height: int, width: int, factor: int, together: int
    ) -> tuple[int, int]:
        settings, frames = self.settings.video, max(frames, together)
        least, most = pixel_limits(settings, self.video_pixels)
        if flag(settings, "cap_pixels_per_frame", False):
            cap = number(settings, "max_video_tokens", 768) * factor * factor
            most = frames * max(min(cap, most // frames), int(least * 1.05))
        return fit_clip(frames, height, width, factor, least, most, together)
