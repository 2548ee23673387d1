"""Gemma 3's tower: a SigLIP, whose patches a projector pools to the same number of tokens each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quire.engines.native.core.multimodal import MediaFeatures
from quire.engines.native.media.libraries import (
    load_projected_tower,
    model_module,
    read_config,
    read_processor,
    torch,
)
from quire.media.placement import Kind
from quire.media.values import Medium, Picture


class Gemma3Tower:
    """Images to features, as `Gemma3Model.get_image_features` computes them; without further crops."""

    kinds: frozenset[Kind] = frozenset({"image"})

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        self._processor = read_processor("AutoImageProcessor", folder)
        projector = model_module("gemma3").Gemma3MultiModalProjector
        self._tower, self._projector = load_projected_tower(
            folder, "vision_tower", config.vision_config, lambda: projector(config)
        )

    def features(self, medium: Medium) -> MediaFeatures:
        """See `Tower`."""
        assert isinstance(medium, Picture)
        inputs = self._processor(
            images=medium.pixels,
            do_pan_and_scan=False,
            return_tensors="np",
            input_data_format="channels_last",
        )
        with torch().inference_mode():
            pixels = torch().tensor(np.asarray(inputs["pixel_values"], np.float32))
            features = self._projector(self._tower(pixels).last_hidden_state)[0]
        return MediaFeatures(features.numpy())
