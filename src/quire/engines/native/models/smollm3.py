"""SmolLM3: Llama in which some layers have no rotary embedding, and optional windows."""

from __future__ import annotations

from quire.engines.native.models import llama
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `smollm3`."""
    config = config.with_defaults({"num_key_value_heads": 4, "tie_word_embeddings": True})
    rotates = _rotates(config)
    types = ["full_attention" if rotated else "sliding_attention" for rotated in rotates]
    window = config.integer("sliding_window", 0, minimum=0)
    if not config.flag("use_sliding_window"):
        window = 0
    spec = llama.decoder(config).with_attention(rope=read_rope(config, 2_000_000.0))
    spec = spec.with_windows(config.windows(window, types))
    return spec.without_rope([not rotated for rotated in rotates])


def _rotates(config: HubConfig) -> list[int]:
    """For each layer, 1 if it has a rotary embedding, else 0. `no_rope_layers` holds just that."""
    layers = config.integer("num_hidden_layers")
    interval = config.integer("no_rope_layer_interval", 4)
    rotates = config.get("no_rope_layers", [int(n % interval != 0) for n in range(1, layers + 1)])
    if not isinstance(rotates, list) or len(rotates) < layers or not set(rotates) <= {0, 1}:
        raise config.wrong("no_rope_layers", rotates, f"a list of 0 and 1 for {layers} layers")
    return rotates[:layers]
