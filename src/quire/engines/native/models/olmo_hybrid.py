"""OLMo Hybrid: OLMo 3's attention without windows in one of four layers, gated delta nets in the others."""

from __future__ import annotations

import dataclasses
from typing import Any

from quire.engines.native.models import olmo
from quire.engines.native.models.layers.delta_net import DeltaNetNames
from quire.engines.native.models.layers.layer import LayerSpec
from quire.engines.native.models.qwen3_next import delta_net, layer_types
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults. A saved config leaves out every key whose value is the default.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 100_352,
    "hidden_size": 3840,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 30,
    "max_position_embeddings": 65_536,
    "rms_norm_eps": 1e-6,
}
_NAMES = dataclasses.replace(
    olmo.NAMES, attention_norm="attention_layer_norm", ffn_norm="feedforward_layer_norm"
)
_DELTA_NAMES = DeltaNetNames(
    q="linear_attn.q_proj",
    k="linear_attn.k_proj",
    v="linear_attn.v_proj",
    z="linear_attn.g_proj",
    rate="linear_attn.b_proj",
    decay="linear_attn.a_proj",
    o="linear_attn.o_proj",
    q_conv="linear_attn.q_conv1d",
    k_conv="linear_attn.k_conv1d",
    v_conv="linear_attn.v_conv1d",
    norm="linear_attn.o_norm",
)


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `olmo_hybrid`."""
    config = config.with_defaults(_DEFAULTS)
    heads, types = config.integer("num_attention_heads"), layer_types(config)
    key_heads = config.integer("linear_num_key_heads", heads)
    key_size = config.integer(
        "linear_key_head_dim", int(0.75 * config.integer("hidden_size") / key_heads)
    )
    net = delta_net(
        config, _DELTA_NAMES, key_heads=key_heads, value_heads=heads, key_size=key_size,
        value_size=2 * key_size, norm_eps=1e-5,
    )  # fmt: skip
    if config.flag("linear_allow_neg_eigval", True):
        net = dataclasses.replace(net, rate_scale=2.0)

    def of_kind(index: int, layer: LayerSpec) -> LayerSpec:
        if types[index] != "linear_attention":
            return layer
        return dataclasses.replace(layer, mixer=net, pre_norms=True, post_norms=False)

    spec = dataclasses.replace(olmo.olmo2(config), names=_NAMES)
    return (spec if _rotates(config) else spec.without_rope()).with_layers(of_kind)


def _rotates(config: HubConfig) -> bool:
    """Whether attention has a rotary embedding: the published models have none, and null here."""
    parameters = config.get("rope_parameters")
    return isinstance(parameters, dict) and parameters.get("rope_theta") is not None
