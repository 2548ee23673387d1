"""FlexOlmo: OLMo 2, whose norms come after attention and FFN, with experts."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.layers.experts import ExpertsSpec, RouterSpec
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.olmo import olmo2
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 100_352,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500_000.0,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `flex_olmo`."""
    config = config.with_defaults(_DEFAULTS)
    count = config.integer("num_experts", 7)
    experts = ExpertsSpec(
        count=count,
        per_token=per_token(config, count, 5),
        ffn_size=config.integer("intermediate_size"),
        router=RouterSpec(normalised=config.flag("norm_topk_prob")),
    )
    return olmo2(config).with_experts(experts)
