"""What decoders with layer norms, FFNs without a gate, or no rotary embedding have in common."""

from __future__ import annotations

from quire.engines.native.models.layers.ffn import Activation
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.plain import ACTIVATIONS
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

PLAIN_ACTIVATIONS: dict[str, Activation] = {
    **ACTIVATIONS,
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
LAYER_NORM = NormSpec("layer", eps=1e-5, bias=True)


def plain_activation(config: HubConfig, default: str, key: str = "hidden_act") -> Activation:
    """The activation of an FFN without a gate.

    Raises:
        UnsupportedModelError: the native engine does not compute it.
    """
    config.require(key, tuple(PLAIN_ACTIVATIONS), default)
    return PLAIN_ACTIVATIONS[config.get(key, default)]


def with_biases(spec: DecoderSpec, everywhere: bool = True) -> DecoderSpec:
    """The decoder with biases of all linear maps of its layers, or of none."""
    spec = spec.with_attention(qkv_bias=everywhere, o_bias=everywhere)
    return spec.with_ffn(bias=everywhere)


def multi_head(config: HubConfig) -> HubConfig:
    """The config of a model that has as many key-value heads as heads, whatever stands in it."""
    return config.with_changes({"num_key_value_heads": config.integer("num_attention_heads")})
