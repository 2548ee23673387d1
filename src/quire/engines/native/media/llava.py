"""LLaVA's tower: hidden states of one or more layers of a vision transformer, then a projector.

Yi-VL's projector is linear, layer norm, GELU, linear, layer norm; its weights are called `linear_1` to
`linear_4`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from quire.engines.native.core.multimodal import MediaFeatures
from quire.engines.native.media.libraries import (
    imported,
    load_projected_tower,
    model_module,
    read_config,
    read_processor,
    torch,
    tower_weights,
)
from quire.errors import UnsupportedModelError
from quire.media.placement import Kind
from quire.media.values import Medium, Picture
from quire.media.yi_vl import DECLARATION, NORMS, PROJECTOR, is_yi_vl
from quire.weights.safetensors import WeightsFolder

_VISION_TYPES = ("clip_vision_model", "siglip_vision_model")


class LlavaTower:
    """Images to features, as `LlavaModel.get_image_features` computes them."""

    kinds: frozenset[Kind] = frozenset({"image"})

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        vision = config.vision_config
        if vision.model_type not in _VISION_TYPES:
            raise UnsupportedModelError(
                f"{folder}: the native engine has no tower {vision.model_type!r} (known: "
                f"{', '.join(_VISION_TYPES)}). infer_backend: vllm may run this model"
            )
        self._layers: int | list[int] = config.vision_feature_layer
        self._skip_first = config.vision_feature_select_strategy == "default"
        self._processor = read_processor("AutoImageProcessor", folder)
        dimensions = _dimensions(tower_weights(folder))
        is_yi = is_yi_vl(getattr(config, DECLARATION, None), dimensions)
        projector = _yi_projector if is_yi else _projector
        self._tower, self._projector = load_projected_tower(
            folder, "vision_tower", vision, lambda: projector(config)
        )

    def features(self, medium: Medium) -> MediaFeatures:
        """See `Tower`."""
        assert isinstance(medium, Picture)
        inputs = self._processor(
            images=medium.pixels, return_tensors="np", input_data_format="channels_last"
        )
        with torch().inference_mode():
            pixels = torch().tensor(np.asarray(inputs["pixel_values"], np.float32))
            states = self._tower(pixels, output_hidden_states=True).hidden_states
            layers = [self._layers] if isinstance(self._layers, int) else self._layers
            chosen = torch().cat([states[layer] for layer in layers], dim=-1)[0]
            features = self._projector(chosen[1:] if self._skip_first else chosen)
        return MediaFeatures(features.numpy())


def _dimensions(source: WeightsFolder) -> dict[str, int]:
    """The number of dimensions of the weights that are norms in Yi-VL's projector, if present."""
    present = [name for name in NORMS if PROJECTOR + name in source]
    return {name: source.stored(PROJECTOR + name).values.ndim for name in present}


def _projector(config: Any) -> Any:
    return model_module("llava").LlavaMultiModalProjector(config)


def _yi_projector(config: Any) -> Any:
    """Yi-VL's projector. A Sequential applies its modules in the order in which they are added."""
    nn = imported("torch.nn")
    vision, text = config.vision_config.hidden_size, config.text_config.hidden_size
    projector = nn.Sequential()
    projector.add_module("linear_1", nn.Linear(vision, text))
    projector.add_module("linear_2", nn.LayerNorm(text))
    projector.add_module("act", nn.GELU())
    projector.add_module("linear_3", nn.Linear(text, text))
    projector.add_module("linear_4", nn.LayerNorm(text))
    return projector
