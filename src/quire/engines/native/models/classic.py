"""What decoders with layer norms, FFNs without a gate, or no rotary embedding have in common."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.llama import ACTIVATIONS
from quire.engines.native.models.spec import Activation, RopeSpec
from quire.weights.hub_config import HubConfig

PLAIN_ACTIVATIONS: dict[str, Activation] = {
    **ACTIVATIONS,
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


def plain_activation(config: HubConfig, default: str, key: str = "hidden_act") -> Activation:
    """The activation of an FFN without a gate.

    Raises:
        UnsupportedModelError: the native engine does not compute it.
    """
    config.require(key, tuple(PLAIN_ACTIVATIONS), default)
    return PLAIN_ACTIVATIONS[config.get(key, default)]


def biases(everywhere: bool) -> dict[str, Any]:
    """The fields of a decoder whose linear maps have biases everywhere, or nowhere."""
    return {"qkv_bias": everywhere, "o_bias": everywhere, "mlp_bias": everywhere}


def multi_head(config: HubConfig) -> HubConfig:
    """The config of a model that has as many key-value heads as heads, whatever stands in it."""
    return config.with_changes({"num_key_value_heads": config.integer("num_attention_heads")})


def without_rope(config: HubConfig) -> RopeSpec:
    """What stands for a rotary embedding in models whose layers have none."""
    return RopeSpec(positions=config.integer("max_position_embeddings"))


def all_layers(config: HubConfig) -> tuple[int, ...]:
    """The numbers of all layers."""
    return tuple(range(config.integer("num_hidden_layers")))


def no_windows(config: HubConfig) -> tuple[int, ...]:
    """The windows of a decoder whose layers all see the whole context."""
    return (0,) * config.integer("num_hidden_layers")
