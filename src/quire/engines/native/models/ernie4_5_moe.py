"""ERNIE 4.5 with experts: rotated pairs are neighbours, and a bias corrects the choice by softmax."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.layers.experts import ExpertNames, ExpertsSpec, RouterSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_NAMES = ExpertNames(
    correction="mlp.moe_statics.e_score_correction_bias",
    fused_correction="mlp.gate.moe_statics.e_score_correction_bias",
    shared="mlp.shared_experts.",
)

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 103_424,
    "hidden_size": 2560,
    "intermediate_size": 12_288,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
    "moe_num_experts": 64,
    "moe_k": 6,
    "moe_intermediate_size": 1536,
    "moe_num_shared_experts": 2,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `ernie4_5_moe`."""
    config = config.with_defaults(_DEFAULTS)
    config.require("use_bias", (False,), False)  # the head would have one, too
    rope, sparse = read_rope(config, 500_000.0, interleaved=True), _sparse_layers(config)
    spec = plain_decoder(config, rope=rope, norm=NormSpec(eps=1e-5))
    return spec.with_experts(_experts(config) if any(sparse) else None, sparse)


def _experts(config: HubConfig) -> ExpertsSpec:
    count, size = config.integer("moe_num_experts"), config.integer("moe_intermediate_size")
    return ExpertsSpec(
        count=count,
        per_token=per_token(config, count, key="moe_k"),
        ffn_size=size,
        router=RouterSpec(
            normalised=True, least_sum=config.number("moe_norm_min", 1e-12), is_corrected=True
        ),
        shared_size=size * config.integer("moe_num_shared_experts", minimum=0),
        names=_NAMES,
    )


def _sparse_layers(config: HubConfig) -> tuple[bool, ...]:
    """Per layer, whether it is sparse: every `moe_layer_interval`-th of a range, which has an end."""
    layers, step = config.integer("num_hidden_layers"), config.integer("moe_layer_interval", 1)
    first = config.integer("moe_layer_start_index", 1, minimum=0)
    last = config.integer("moe_layer_end_index", -1, minimum=-1)
    last = layers - 1 if last == -1 else last
    return tuple(first <= layer <= last and (layer + 1) % step == 0 for layer in range(layers))
