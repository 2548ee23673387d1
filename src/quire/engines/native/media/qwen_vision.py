"""The towers of the Qwens: pictures of any size, and clips two frames at a time, as patches on a grid.

Pictures and frames go through the model's own image processor. Its video processor would need
torchvision, to do the same to each frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.media.libraries import (
    load_weights,
    model_module,
    no_random_weights,
    read_config,
    read_processor,
    torch,
    tower_weights,
)

_CLASSES = {
    "qwen2_vl": "Qwen2VisionTransformerPretrainedModel",
    "qwen2_5_vl": "Qwen2_5_VisionTransformerPretrainedModel",
    "qwen3_vl": "Qwen3VLVisionModel",
    "qwen3_vl_moe": "Qwen3VLMoeVisionModel",
    "qwen3_5": "Qwen3_5VisionModel",
    "qwen3_5_moe": "Qwen3_5MoeVisionModel",
}

Grid = tuple[int, int, int]
"""Patches in time, height and width."""
Patches = tuple[NDArray[np.float32], Grid]
"""Patches (time * height * width, values), and their grid."""


class QwenVision:
    """The vision transformer of a folder, and the pictures and clips that it takes."""

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        self.config = config.vision_config
        model_type = type(config).model_type  # the instance may give that of its text_config
        with no_random_weights():
            tower_class = getattr(model_module(model_type), _CLASSES[model_type])
            tower = tower_class._from_config(self.config, dtype=torch().float32)
        self._tower = load_weights(tower, "visual", tower_weights(folder))
        self.merge = int(self.config.spatial_merge_size)
        self.span = int(self.config.temporal_patch_size)
        self.processor = read_processor("AutoImageProcessor", folder)

    def patches(self, pixels: NDArray[np.uint8], **options: Any) -> Patches:
        """A picture's patches; the options are the image processor's."""
        return patches_of(self.processor, pixels, **options)

    def joined(self, frames: list[Patches]) -> Patches:
        """A clip's patches, from those of its frames."""
        frames = frames + [frames[-1]] * (-len(frames) % self.span)
        _, height, width = frames[0][1]
        # The image processor repeats a picture over all moments of a patch. One moment of each frame is
        # taken, and moments of neighbouring frames are joined to patches again.
        channels = frames[0][0].shape[1] // (self.span * self.processor.patch_size**2)
        moments = np.stack([_moment(patches, channels, self.span) for patches, _ in frames])
        count = len(frames) // self.span
        cut = moments.reshape(count, self.span, *moments.shape[1:])
        patches = cut.transpose(0, 2, 3, 1, 4).reshape(count * height * width, -1)
        return patches, (count, height, width)

    def run(self, patches: NDArray[np.float32], grid: Grid) -> Any:
        """What transformers' class makes of patches."""
        with torch().inference_mode():
            return self._tower(torch().tensor(patches), grid_thw=torch().tensor([grid]))

    def positions(self, grid: Grid, interval: float = 1.0) -> NDArray[np.int32]:
        """M-RoPE's positions of the merged patches, `interval` apart in time."""
        time, height, width = grid
        return vision_positions(time, height // self.merge, width // self.merge, interval)


def patches_of(processor: Any, pixels: NDArray[np.uint8], **options: Any) -> Patches:
    """A picture's patches as an image processor makes them."""
    inputs = processor(
        images=pixels, return_tensors="np", input_data_format="channels_last", **options
    )
    time, height, width = (int(n) for n in inputs["image_grid_thw"][0])
    return np.asarray(inputs["pixel_values"], np.float32), (time, height, width)


def _moment(patches: NDArray[np.float32], channels: int, span: int) -> NDArray[np.float32]:
    """A picture's patches (n, channels, pixels) at one of the `span` moments that a patch covers."""
    return patches.reshape(len(patches), channels, span, -1)[:, :, 0]


def vision_positions(time: int, height: int, width: int, interval: float) -> NDArray[np.int32]:
    """M-RoPE's positions (3, time * height * width) of a grid, `interval` apart in time."""
    positions = np.indices((time, height, width)).reshape(3, -1)
    positions[0] = (positions[0] * interval).astype(np.int64)
    return positions.astype(np.int32)
