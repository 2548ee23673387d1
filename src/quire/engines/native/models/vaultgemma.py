"""VaultGemma: Gemma 2 without the norms after attention and FFN."""

from __future__ import annotations

import dataclasses

from quire.engines.native.models import gemma2
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(ffn_norm="pre_feedforward_layernorm")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `vaultgemma`."""
    spec = gemma2.decoder(config).with_all_layers(post_norms=False)
    return dataclasses.replace(spec, names=NAMES)
