"""SmolLM3: Llama with some layers that have no rotary embedding, and windows on request."""

from __future__ import annotations

import dataclasses

from quire.engines.native.models import llama
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `smollm3`."""
    config = config.with_defaults({"num_key_value_heads": 4, "tie_word_embeddings": True})
    turned = _turned(config)
    types = ["full_attention" if turns else "sliding_attention" for turns in turned]
    window = config.integer("sliding_window", 0, minimum=0)
    if not config.flag("use_sliding_window"):
        window = 0
    return dataclasses.replace(
        llama.decoder(config),
        rope=read_rope(config, 2_000_000.0),
        windows=config.windows(window, types),
        no_rope=tuple(layer for layer, turns in enumerate(turned) if not turns),
    )


def _turned(config: HubConfig) -> list[int]:
    """For each layer 1 where it has a rotary embedding, else 0."""
    layers = config.integer("num_hidden_layers")
    interval = config.integer("no_rope_layer_interval", 4)
    turned = config.get("no_rope_layers", [int(n % interval != 0) for n in range(1, layers + 1)])
    if not isinstance(turned, list) or len(turned) < layers or not set(turned) <= {0, 1}:
        raise config.wrong("no_rope_layers", turned, f"a list of 0 and 1 for {layers} layers")
    return turned[:layers]
