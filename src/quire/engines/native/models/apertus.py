"""Apertus: norms of query and key heads, and an FFN without a gate whose activation is xIELU."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.classic import no_windows, plain_activation
from quire.engines.native.models.llama import common
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(attention_norm="attention_layernorm", ffn_norm="feedforward_layernorm")
_THETA = 12_000_000.0
_ROPE: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": _THETA,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
"""Of configs that have none."""


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `apertus`."""
    if not ("rope_parameters" in config or "rope_scaling" in config):
        config = config.with_changes({"rope_parameters": _ROPE})
    bias = config.flag("attention_bias")
    is_xielu = config.get("hidden_act", "xielu") == "xielu"
    activation = "xielu" if is_xielu else plain_activation(config, "xielu")
    return DecoderSpec(
        **common(config, rope=read_rope(config, _THETA), activation=activation, norm_eps=1e-5),
        windows=no_windows(config),
        qkv_bias=bias,
        o_bias=bias,
        head_norms=True,
        gated=False,
        names=NAMES,
    )
