"""Mixtral: Mistral with a sparse FFN in every layer, in which the weights of the chosen experts sum to 1."""

from __future__ import annotations

from quire.engines.native.models.layers.experts import ExpertNames, ExpertsSpec, RouterSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_NAMES = ExpertNames(
    router="block_sparse_moe.gate",
    experts="block_sparse_moe.experts.{}.",
    gate="w1",
    up="w3",
    down="w2",
)


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `mixtral`."""
    window = config.integer("sliding_window", 0, minimum=0)
    spec = plain_decoder(config, rope=read_rope(config, 1e6), norm=NormSpec(eps=1e-5))
    return spec.with_attention(window=window).with_experts(_experts(config))


def _experts(config: HubConfig) -> ExpertsSpec:
    count = config.integer("num_local_experts", 8)
    return ExpertsSpec(
        count=count,
        per_token=per_token(config, count, 2),
        ffn_size=config.integer("intermediate_size"),
        router=RouterSpec(normalised=True),
        names=_NAMES,
    )


def per_token(
    config: HubConfig, count: int, default: int | None = None, key: str = "num_experts_per_tok"
) -> int:
    """How many experts a token has, which must not exceed the number of experts."""
    chosen = config.integer(key, default)
    if chosen > count:
        raise config.wrong(key, chosen, f"at most the {count} experts")
    return chosen
