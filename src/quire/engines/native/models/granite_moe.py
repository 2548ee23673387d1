"""Granite 3 with experts, and with a shared one: Granite's multipliers, and all experts in one tensor."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models import granite
from quire.engines.native.models.layers.experts import ExpertNames, ExpertsSpec, RouterSpec
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_NAMES = ExpertNames(
    router="block_sparse_moe.router.layer",
    experts="block_sparse_moe.experts.{}.",
    shared="shared_mlp.",
    shared_gate_up="shared_mlp.input_linear",
    shared_down="shared_mlp.output_linear",
    fused_router="block_sparse_moe.router",
    fused_gate_up="block_sparse_moe.input_linear.weight",
    fused_down="block_sparse_moe.output_linear.weight",
    # As transformers has them in memory.
    also_fused=("block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"),
)

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `granitemoe`."""
    return _with_experts(config, 0)


def shared(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `granitemoeshared`."""
    return _with_experts(config, config.integer("shared_intermediate_size", 0, minimum=0))


def _with_experts(config: HubConfig, shared_size: int) -> DecoderSpec:
    config = config.with_defaults(_DEFAULTS)
    config.require("mlp_bias", (False,), False)
    return granite.decoder(config).with_experts(experts(config, shared_size))


def experts(config: HubConfig, shared_size: int) -> ExpertsSpec:
    """The sparse FFN of all layers."""
    count = config.integer("num_local_experts", 8)
    return ExpertsSpec(
        count=count,
        per_token=per_token(config, count, 2),
        ffn_size=config.integer("intermediate_size"),
        # The softmax of the chosen logits.
        router=RouterSpec(normalised=True),
        shared_size=shared_size,
        names=_NAMES,
    )
