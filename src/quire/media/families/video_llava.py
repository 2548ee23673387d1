"""Video-LLaVA: pictures and frames of one size; frames keep their class tokens."""

from __future__ import annotations

from quire.media.families.family import MediaFamily, clip_of
from quire.media.families.llava import extra_tokens, patch_grid, tile_size
from quire.media.values import Clip, Medium
from quire.template.format import MediaTokens


class VideoLlava(MediaFamily):
    """A clip's frames one after the other."""

    name = "VideoLlava"
    tokens = MediaTokens("VideoLlava", image="<image>", video="<video>")

    def expansion(self, medium: Medium, number: int) -> str:
        settings = self.settings
        if not isinstance(medium, Clip):
            rows, columns = patch_grid(settings, tile_size(settings.image, settings))
            return self.token("image") * (rows * columns + extra_tokens(settings))
        rows, columns = patch_grid(settings, tile_size(settings.video, settings))
        added = settings.processor.get("num_additional_image_tokens")
        added = 1 if added is None else int(added)
        return self.token("video") * ((rows * columns + added) * len(clip_of(medium).frames))
