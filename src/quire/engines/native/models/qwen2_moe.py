"""Qwen2-MoE (Qwen1.5-MoE too): Qwen2 with experts, one of them shared by all tokens."""

from __future__ import annotations

from collections.abc import Sequence

from quire.engines.native.models.layers.experts import ExpertsSpec, RouterSpec
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.qwen2 import windows
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen2_moe`."""
    shared = config.integer("shared_expert_intermediate_size", 5632, minimum=0)
    sparse = sparse_layers(config)
    spec = plain_decoder(config).with_windows(_windows(config))
    spec = spec.with_attention(qkv_bias=config.flag("qkv_bias", True))
    found = experts(config, sparse, count=60, chosen=4, ffn_size=1408, shared_size=shared)
    return spec.with_experts(found, sparse)


def _windows(config: HubConfig) -> tuple[int, ...]:
    """Each layer's window: without `layer_types`, every other layer below `max_window_layers` has one."""
    if "layer_types" in config or not config.flag("use_sliding_window"):
        return windows(config)
    window = config.integer("sliding_window", 4096)
    last = config.integer("max_window_layers", 28, minimum=0)
    layers = range(config.integer("num_hidden_layers"))
    return tuple(window if layer % 2 == 0 and layer < last else 0 for layer in layers)


def experts(
    config: HubConfig,
    sparse: Sequence[bool],
    *,
    count: int,
    chosen: int,
    ffn_size: int,
    shared_size: int = 0,
) -> ExpertsSpec | None:
    """The sparse FFN of Qwen2-MoE and Qwen3-MoE; the sizes are the defaults of the model type.

    It is None if `num_experts` is 0, or if no layer is sparse.
    """
    # transformers 5 writes the number of Qwen3-MoE's experts under Mixtral's key.
    key = "num_local_experts" if "num_local_experts" in config else "num_experts"
    count = config.integer(key, count, minimum=0)
    if not count or not any(sparse):
        return None
    return ExpertsSpec(
        count=count,
        per_token=per_token(config, count, chosen),
        ffn_size=config.integer("moe_intermediate_size", ffn_size),
        router=RouterSpec(normalised=config.flag("norm_topk_prob")),
        shared_size=shared_size,
        shared_gated=shared_size > 0,
    )


def sparse_layers(config: HubConfig) -> tuple[bool, ...]:
    """Per layer, whether it is sparse: every `decoder_sparse_step`-th, except `mlp_only_layers`."""
    layers, step = config.integer("num_hidden_layers"), config.integer("decoder_sparse_step", 1)
    dense = config.get("mlp_only_layers", [])
    if not isinstance(dense, list) or not all(type(layer) is int for layer in dense):
        raise config.wrong("mlp_only_layers", dense, "a list of layer indices")
    return tuple(layer not in dense and (layer + 1) % step == 0 for layer in range(layers))
