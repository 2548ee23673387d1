"""Qwen2-Audio's tower: a log-mel spectrogram of 30 seconds, an encoder, a projector."""

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
from quire.errors import MediaError
from quire.media.placement import Kind
from quire.media.values import Medium, Sound


class Qwen2AudioTower:
    """Sounds to features. Of a sound that is longer than the encoder takes, the beginning."""

    kinds: frozenset[Kind] = frozenset({"audio"})

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        projector = model_module("qwen2_audio").Qwen2AudioMultiModalProjector
        self._tower, self._projector = load_projected_tower(
            folder, "audio_tower", config.audio_config, lambda: projector(config)
        )
        self._extractor = read_processor("AutoFeatureExtractor", folder)

    def features(self, medium: Medium) -> MediaFeatures:
        """See `Tower`."""
        assert isinstance(medium, Sound)
        if medium.rate != self._extractor.sampling_rate:
            raise MediaError(
                f"The audio has {medium.rate} samples a second and this model hears "
                f"{self._extractor.sampling_rate}: set audio_sampling_rate to that."
            )
        inputs = self._extractor(
            medium.samples,
            sampling_rate=medium.rate,
            return_attention_mask=True,
            padding="max_length",
            return_tensors="np",
        )
        frames = int(np.asarray(inputs["attention_mask"]).sum())
        positions = (frames - 1) // 2 + 1  # after the encoder's convolution with stride 2
        with torch().inference_mode():
            mel = torch().tensor(np.asarray(inputs["input_features"], np.float32))
            length = (mel.shape[-1] - 2) // 2 + 1
            mask = torch().zeros(1, 1, length, length)
            mask[..., positions:] = -torch().inf
            features = self._projector(self._tower(mel, attention_mask=mask).last_hidden_state)
        count = (positions - 2) // 2 + 1  # after its pooling
        if count < 1:
            raise MediaError("The audio is too short for this model.")
        return MediaFeatures(features[0, :count].numpy())
