"""The tower of Qwen2-VL and Qwen2.5-VL: pictures of any size, and videos two frames at a time.

A merged patch has a position in time, height and width (M-RoPE). Pictures and frames go through the
model's own image processor. Its video processor would need torchvision, to do the same to each frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.multimodal import MediaFeatures
from quire.engines.native.media.libraries import (
    load_weights,
    model_module,
    no_random_weights,
    read_config,
    read_processor,
    torch,
    tower_weights,
)
from quire.media.placement import Kind
from quire.media.values import Clip, Medium, Picture
from quire.weights.folder import read_json

_CLASSES = {
    "qwen2_vl": "Qwen2VisionTransformerPretrainedModel",
    "qwen2_5_vl": "Qwen2_5_VisionTransformerPretrainedModel",
}
_VIDEO_FILES = (
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", ""),
    ("processor_config.json", "image_processor"),
    ("preprocessor_config.json", ""),
)
"""Files that may limit the size of a frame, and the key of the limits; the first that exists counts."""
_VIDEO_PIXELS = 128 * 28 * 28, 768 * 28 * 28  # the limits if there is none of the files

Grid = tuple[int, int, int]


class Qwen2VLTower:
    """Images and videos to features and positions."""

    kinds: frozenset[Kind] = frozenset({"image", "video"})

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        vision = config.vision_config
        model_type = type(config).model_type  # the instance may give that of its text_config
        with no_random_weights():
            tower_class = getattr(model_module(model_type), _CLASSES[model_type])
            tower = tower_class._from_config(vision, dtype=torch().float32)
        self._tower = load_weights(tower, "visual", tower_weights(folder))
        self._merge = int(vision.spatial_merge_size)
        self._span = int(vision.temporal_patch_size)
        self._second = float(getattr(vision, "tokens_per_second", 0)) or None
        self._images = read_processor("AutoImageProcessor", folder)
        least, most = video_pixels(folder)
        self._frames = read_processor(
            "AutoImageProcessor", folder, min_pixels=least, max_pixels=most
        )

    def features(self, medium: Medium) -> MediaFeatures:
        """See `Tower`."""
        if isinstance(medium, Clip):
            return self._video(medium)
        assert isinstance(medium, Picture)
        patches, grid = _patches(self._images, medium.pixels)
        return self._see(patches, grid, 1.0)

    def _video(self, video: Clip) -> MediaFeatures:
        frames = [_patches(self._frames, frame) for frame in video.frames]
        frames += [frames[-1]] * (-len(frames) % self._span)
        _, height, width = frames[0][1]
        # The image processor repeats a picture over all moments of a patch. One moment of each frame is
        # taken, and moments of neighbouring frames are joined to patches again.
        channels = frames[0][0].shape[1] // (self._span * self._frames.patch_size**2)
        moments = np.stack([_moment(patches, channels, self._span) for patches, _ in frames])
        count = len(frames) // self._span
        cut = moments.reshape(count, self._span, *moments.shape[1:])
        patches = cut.transpose(0, 2, 3, 1, 4).reshape(count * height * width, -1)
        interval = 1.0 if self._second is None else self._second * self._span / sampled_fps(video)
        return self._see(patches, (count, height, width), interval)

    def _see(self, patches: NDArray[np.float32], grid: Grid, interval: float) -> MediaFeatures:
        with torch().inference_mode():
            output = self._tower(torch().tensor(patches), grid_thw=torch().tensor([grid]))
        merged = getattr(output, "pooler_output", output)  # a bare tensor before transformers 5
        time, height, width = grid
        positions = vision_positions(time, height // self._merge, width // self._merge, interval)
        return MediaFeatures(merged.numpy(), positions)


def _patches(processor: Any, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Grid]:
    """The patches (time * height * width, values) of one picture, and their grid."""
    inputs = processor(images=pixels, return_tensors="np", input_data_format="channels_last")
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


def sampled_fps(video: Clip) -> float:
    """Sampled frames a second, as transformers computes them."""
    count = len(video.frames)
    if video.fps > 0 and video.total_frames > 0:
        return count / video.total_frames * video.fps
    shown = video.timestamps[-1] - video.timestamps[0] if len(video.timestamps) else 0.0
    return (count - 1) / shown if count > 1 and shown > 0 else 1.0


def video_pixels(folder: Path) -> tuple[int, int]:
    """The fewest and the most pixels of a frame, by the folder's video processor."""
    for name, key in _VIDEO_FILES:
        values = read_json(folder, name)
        values = values.get(key, {}) if key else values
        if values:
            size: dict[str, Any] = values.get("size") or {}
            least = values.get("min_pixels") or size.get("shortest_edge") or _VIDEO_PIXELS[0]
            most = values.get("max_pixels") or size.get("longest_edge") or _VIDEO_PIXELS[1]
            return int(least), int(most)
    return _VIDEO_PIXELS
