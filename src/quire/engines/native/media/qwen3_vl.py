"""The tower of Qwen3-VL and Qwen3.5: as Qwen2-VL's, but that a clip's times are text.

The time of each step of a clip stands before it, so that positions begin anew with each step. Qwen3-VL's
tower also has further features for the first layers of the decoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.multimodal import MediaFeatures
from quire.engines.native.media.libraries import imported, torch
from quire.engines.native.media.qwen_vision import Patches, QwenVision
from quire.media.families.qwen3_vl import Qwen3VL
from quire.media.families.settings import MediaSettings
from quire.media.placement import Kind
from quire.media.values import Clip, Medium, Picture


class Qwen3VLTower:
    """Images and videos to features, those of layers, and positions. Qwen3.5's too."""

    kinds: frozenset[Kind] = frozenset({"image", "video"})

    def __init__(self, folder: Path) -> None:
        self._vision = QwenVision(folder)
        self._family = Qwen3VL(MediaSettings.from_folder(folder))
        video = self._family.settings.video
        self._colours = {key: video[key] for key in ("image_mean", "image_std") if key in video}

    def features(self, medium: Medium) -> MediaFeatures:
        """See `Tower`."""
        if isinstance(medium, Clip):
            patches, grid = self.clip_patches(medium)
        else:
            assert isinstance(medium, Picture)
            patches, grid = self._vision.patches(medium.pixels)
        merged, deep = _outputs(self._vision.run(patches, grid))
        steps, height, width = grid
        positions = np.tile(self._vision.positions((1, height, width)), steps)
        deep = np.stack([one.numpy() for one in deep]) if deep else None
        return MediaFeatures(merged.numpy(), positions, deep)

    def clip_patches(self, clip: Clip) -> Patches:
        """The patches of a clip, whose frames get the size that the family counts tokens by."""
        count, height, width = clip.frames.shape[:3]
        factor = self._family.factor(self._family.settings.video)
        size = self._family.clip_size(count, height, width, factor, self._vision.span)
        frames = [_resized(frame, *size) for frame in clip.frames]
        options = {"do_resize": False, **self._colours}
        return self._vision.joined([self._vision.patches(frame, **options) for frame in frames])


def _outputs(output: Any) -> tuple[Any, list[Any]]:
    """The features and those of layers, if there are any; transformers before 5 gave them as a tuple."""
    if isinstance(output, tuple):
        return output[0], list(output[1])
    return output.pooler_output, list(getattr(output, "deepstack_features", ()))


def _resized(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A frame of another size, by the same means as transformers' processors: torchvision if it is there."""
    if frame.shape[:2] == (height, width):
        return frame
    if imported("transformers.utils").is_torchvision_available():
        functional = imported("torchvision.transforms.v2.functional")
        scaled = functional.resize(
            torch().tensor(frame).permute(2, 0, 1),
            [height, width],
            interpolation=functional.InterpolationMode.BICUBIC,
            antialias=True,
        )
        return np.ascontiguousarray(scaled.permute(1, 2, 0).numpy())
    image = imported("PIL.Image").fromarray(frame)
    return np.asarray(image.resize((width, height), imported("PIL.Image").Resampling.BICUBIC))
