"""The tower of Qwen2-VL and Qwen2.5-VL. A merged patch has a position in time, height and width (M-RoPE)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quire.engines.native.core.multimodal import MediaFeatures
from quire.engines.native.media.libraries import read_processor
from quire.engines.native.media.qwen_vision import Patches, QwenVision, patches_of
from quire.media.placement import Kind
from quire.media.values import Clip, Medium, Picture
from quire.weights.folder import read_json

_VIDEO_FILES = (
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", ""),
    ("processor_config.json", "image_processor"),
    ("preprocessor_config.json", ""),
)
"""Files that may limit the size of a frame, and the key of the limits; the first that exists counts."""
_VIDEO_PIXELS = 128 * 28 * 28, 768 * 28 * 28  # the limits if there is none of the files


class Qwen2VLTower:
    """Images and videos to features and positions."""

    kinds: frozenset[Kind] = frozenset({"image", "video"})

    def __init__(self, folder: Path) -> None:
        self._vision = QwenVision(folder)
        self._second = float(getattr(self._vision.config, "tokens_per_second", 0)) or None
        least, most = video_pixels(folder)
        self._frames = read_processor(
            "AutoImageProcessor", folder, min_pixels=least, max_pixels=most
        )

    def features(self, medium: Medium) -> MediaFeatures:
        """See `Tower`."""
        if not isinstance(medium, Clip):
            assert isinstance(medium, Picture)
            return self._see(self._vision.patches(medium.pixels), 1.0)
        frames = [patches_of(self._frames, frame) for frame in medium.frames]
        interval = 1.0
        if self._second is not None:
            interval = self._second * self._vision.span / sampled_fps(medium)
        return self._see(self._vision.joined(frames), interval)

    def _see(self, patches: Patches, interval: float) -> MediaFeatures:
        output = self._vision.run(*patches)
        merged = getattr(output, "pooler_output", output)  # a bare tensor before transformers 5
        return MediaFeatures(merged.numpy(), self._vision.positions(patches[1], interval))


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
