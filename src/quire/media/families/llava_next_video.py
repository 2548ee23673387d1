"""LLaVA-NeXT-Video: pictures as LLaVA-NeXT; a frame's patches are pooled four to one."""

from __future__ import annotations

from quire.media.families.family import clip_of
from quire.media.families.llava import patch_grid, tile_size
from quire.media.families.llava_next import LlavaNext
from quire.media.values import Clip, Medium
from quire.template.format import MediaTokens


class LlavaNextVideo(LlavaNext):
    """Clips have no ends of rows."""

    name = "LlavaNextVideo"
    tokens = MediaTokens("LlavaNextVideo", image="<image>", video="<video>")

    def expansion(self, medium: Medium, number: int) -> str:
        if not isinstance(medium, Clip):
            return super().expansion(medium, number)
        size = tile_size(self.settings.video, self.settings)
        rows, columns = patch_grid(self.settings, size)
        return self.token("video") * (rows * columns // 4 * len(clip_of(medium).frames))
