"""Apertus: norms of query and key heads, and an FFN without a gate whose activation is xIELU."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.classic import plain_activation
from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
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
    spec = plain_decoder(
        config, rope=read_rope(config, _THETA), activation=activation, gated=False,
        norm=NormSpec(eps=1e-5), names=NAMES,
    )  # fmt: skip
    norms = HeadNormsSpec(spec.final_norm)
    return spec.with_attention(qkv_bias=bias, o_bias=bias, norms=norms)
