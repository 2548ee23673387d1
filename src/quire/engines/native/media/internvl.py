"""InternVL's tower: tiles of a picture and a thumbnail, or frames of a clip, each seen by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.multimodal import MediaFeatures
from quire.engines.native.media.libraries import (
    load_projected_tower,
    model_module,
    read_config,
    read_processor,
    torch,
)
from quire.media.families.settings import MediaSettings
from quire.media.placement import Kind
from quire.media.values import Clip, Medium, Picture


class InternVLTower:
    """Images and videos to features, as `InternVLModel.get_image_features` computes them."""

    kinds: frozenset[Kind] = frozenset({"image", "video"})

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        self._layer = int(config.vision_feature_layer)
        self._skip_first = config.vision_feature_select_strategy == "default"
        self._side = round(1 / config.downsample_ratio)
        self._processor = read_processor("AutoImageProcessor", folder)
        video = MediaSettings.from_folder(folder).video
        of_frames = ("size", "image_mean", "image_std")
        self._frame_options = {key: video[key] for key in of_frames if key in video}
        projector = model_module("internvl").InternVLMultiModalProjector
        self._tower, self._projector = load_projected_tower(
            folder, "vision_tower", config.vision_config, lambda: projector(config)
        )

    def features(self, medium: Medium) -> MediaFeatures:
        """See `Tower`."""
        if isinstance(medium, Clip):
            tiles = [self._tiles(frame, False, **self._frame_options) for frame in medium.frames]
        else:
            assert isinstance(medium, Picture)
            # The processor of pictures and texts cuts them.
            tiles = [self._tiles(medium.pixels, True)]
        # One after the other: a clip has many frames, and a tile is work enough for all cores.
        return MediaFeatures(np.concatenate([self._see(one) for some in tiles for one in some]))

    def _tiles(self, pixels: NDArray[np.uint8], cuts: bool, **options: Any) -> NDArray[np.float32]:
        """A picture as the tower takes it (tiles, 3, height, width), cut or whole."""
        inputs = self._processor(
            images=pixels,
            crop_to_patches=cuts,
            return_tensors="np",
            input_data_format="channels_last",
            **options,
        )
        return np.asarray(inputs["pixel_values"], np.float32)

    def _see(self, tile: NDArray[np.float32]) -> NDArray[np.float32]:
        """The features (tokens, hidden_size) of one tile."""
        with torch().inference_mode():
            output = self._tower(torch().tensor(tile[None]), output_hidden_states=True)
            last = self._layer == -1
            states = output.last_hidden_state if last else output.hidden_states[self._layer]
            states = states[0, 1:] if self._skip_first else states[0]
            return self._projector(_joined(states, self._side)).numpy()


def _joined(states: Any, side: int) -> Any:
    """Squares of `side` x `side` patches as one vector each; the patches are a square themselves."""
    count, size = states.shape
    rows = round(count**0.5) // side
    squares = states.reshape(rows, side, rows, side, size).permute(0, 2, 1, 3, 4)
    return squares.reshape(rows * rows, side * side * size)
