"""GLM-4V, GLM-4.5V, GLM-4.6V and GLM-OCR: a clip is written as pictures, each with its time after it."""

from __future__ import annotations

from quire.media.families.family import clip_of, picture_size
from quire.media.families.qwen2_vl import Qwen2VL, pixel_limits
from quire.media.families.settings import number
from quire.media.families.sizes import Size, fit_clip
from quire.media.placement import Kind
from quire.media.values import Clip, Medium
from quire.template.format import MediaTokens


class GLM4V(Qwen2VL):
    """Pictures are scaled as clips of one time step."""

    name = "GLM4V"
    tokens = MediaTokens("GLM4V", image="<|image|>", video="<|video|>")
    image_pixels: Size = (112 * 112, 28 * 28 * 15000)
    video_pixels: Size = (112 * 112, 28 * 28 * 2 * 30000)

    def wrap(self, kind: Kind, inner: str) -> str:
        return f"<|begin_of_{kind}|>{inner}<|end_of_{kind}|>"

    def feature_tokens(self, kind: Kind) -> tuple[str, ...]:
        """In the long form a clip's features replace the tokens of pictures."""
        return (self.token("image"), self.token(kind)) if kind == "video" else (self.token(kind),)

    def expansion(self, medium: Medium, number: int) -> str:
        if not isinstance(medium, Clip):
            return super().expansion(medium, number)
        steps, tokens = self.clip_grid(medium)
        step = self.wrap("image", self.token("image") * tokens)
        return self.wrap(
            "video", "".join(step + self._time(time) for time in self._times(medium, steps))
        )

    def image_grid(self, medium: Medium) -> Size:
        settings = self.settings.image
        factor = self.factor(settings)
        together = number(settings, "temporal_patch_size", 2)
        least, most = pixel_limits(settings, self.image_pixels)
        size = fit_clip(together, *picture_size(medium), factor, least, most, together)
        return size[0] // factor, size[1] // factor

    def clip_size(
        self, frames: int, height: int, width: int, factor: int, together: int
    ) -> tuple[int, int]:
        least, most = pixel_limits(self.settings.video, self.video_pixels)
        return fit_clip(max(frames, together), height, width, factor, least, most, together)

    def _times(self, medium: Medium, steps: int) -> list[float]:
        """The time of every second frame, as many as there are steps."""
        times = list(clip_of(medium).timestamps[::2])[:steps]
        return times + [times[-1]] * (steps - len(times))

    def _time(self, seconds: float) -> str:
        newer = self.settings.processor_class.startswith("Glm46V")
        newer = newer or self.settings.model_type.startswith(("glm46v", "glm_ocr"))
        return f"{seconds:.1f} seconds" if newer else str(int(seconds))
