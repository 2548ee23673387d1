"""Qwen3-Next: gated delta nets in three of four layers, gated attention in the others, and experts."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.delta_net import TAPS, DeltaNetNames, DeltaNetSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.qwen2_moe import experts, sparse_layers
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults. A saved config leaves out every key whose value is the default.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "norm_topk_prob": True,
}
_NAMES = DeltaNetNames(
    qkvz="linear_attn.in_proj_qkvz", ba="linear_attn.in_proj_ba", conv="linear_attn.conv1d"
)
_DELTA, _ATTENTION = "linear_attention", "full_attention"


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen3_next`."""
    config = config.with_defaults(_DEFAULTS)
    shared = config.integer("shared_expert_intermediate_size", 512, minimum=0)
    sparse = sparse_layers(config)
    found = experts(config, sparse, count=512, chosen=10, ffn_size=512, shared_size=shared)
    spec = hybrid(config, _NAMES, rope=read_rope(config, partial=0.25))
    return spec.with_experts(found, sparse)


def hybrid(config: HubConfig, names: DeltaNetNames, *, rope: RopeSpec) -> DecoderSpec:
    """What Qwen3-Next has in common with Qwen3.5: all but the experts."""
    config.require("attn_output_gate", (True,), True)
    bias = config.flag("attention_bias")
    net = delta_net(
        config, names, key_heads=16, value_heads=32, key_size=128, value_size=128,
        norm_eps=config.number("rms_norm_eps", 1e-6),
    )  # fmt: skip
    spec = plain_decoder(config, head_dim=256, rope=rope, norm=NormSpec(offset=1.0))
    norms = HeadNormsSpec(spec.final_norm)
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias, norms=norms, gated=True)
    return spec.with_mixers([net if kind == _DELTA else None for kind in layer_types(config)])


def delta_net(
    config: HubConfig, names: DeltaNetNames, *, key_heads: int, value_heads: int, key_size: int,
    value_size: int, norm_eps: float,
) -> DeltaNetSpec:  # fmt: skip
    """The gated delta net of a config; the sizes are the defaults of the model type."""
    config.require("linear_conv_kernel_dim", (TAPS,), TAPS)
    config.require("hidden_act", ("silu", "swish"), "silu")
    keys = config.integer("linear_num_key_heads", key_heads)
    values = config.integer("linear_num_value_heads", value_heads)
    if values % keys:
        raise config.wrong("linear_num_value_heads", values, f"a multiple of the {keys} key heads")
    return DeltaNetSpec(
        key_heads=keys,
        value_heads=values,
        key_size=config.integer("linear_key_head_dim", key_size),
        value_size=config.integer("linear_value_head_dim", value_size),
        norm_eps=norm_eps,
        tiled_output=config.flag("linear_tiled_output"),
        names=names,
    )


def layer_types(config: HubConfig) -> list[str]:
    """For each layer "linear_attention" or "full_attention", which every fourth has by default."""
    layers, interval = (
        config.integer("num_hidden_layers"),
        config.integer("full_attention_interval", 4),
    )
    default = [_DELTA if (layer + 1) % interval else _ATTENTION for layer in range(layers)]
    types = config.get("layer_types", default)
    known = (_DELTA, _ATTENTION)
    if not isinstance(types, list) or len(types) != layers or not all(t in known for t in types):
        raise config.wrong("layer_types", types, f"{layers} of {', '.join(known)}")
    return types
