"""Ministral 3: Mistral whose queries grow with their position, and whose context YaRN stretches."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.layers.rope import QueryScale
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import rope_parameters
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults. A saved text_config leaves out every key whose value is the default.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 131_072,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262_144,
}
_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16_384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `ministral3`."""
    config = config.with_defaults(_DEFAULTS)
    if "rope_scaling" not in config and "rope_parameters" not in config:
        config = config.with_changes({"rope_parameters": _ROPE})
    window = config.integer("sliding_window", 0, minimum=0)
    spec = plain_decoder(config, norm=NormSpec(eps=1e-5))
    return spec.with_attention(window=window, query_scale=_query_scale(config))


def _query_scale(config: HubConfig) -> QueryScale | None:
    """The scale of queries, which the config has among the rotary parameters."""
    values = HubConfig(rope_parameters(config), f"{config.source}: rope")
    if values.get("llama_4_scaling_beta", 0) == 0:
        return None
    return QueryScale(
        beta=values.number("llama_4_scaling_beta", 0.0),
        length=values.integer("original_max_position_embeddings"),
    )
