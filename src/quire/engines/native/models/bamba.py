"""Bamba: Mamba-2 in most layers, attention in the others; and the keys that later hybrids took from it."""

from __future__ import annotations

import math

from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.layers.mamba2 import Mamba2Spec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(final_norm="model.final_layernorm.weight", ffn_norm="pre_ff_layernorm")
FFN_NAMES = FfnNames(
    gate="feed_forward.gate_proj",
    up="feed_forward.up_proj",
    down="feed_forward.down_proj",
)
_DEFAULTS = {
    "num_key_value_heads": 8,
    "max_position_embeddings": 262_144,
}
_LARGEST_LIMIT = 3e38
_NORM_EPS = 1e-5
_INFINITY = {"__float__": "Infinity"}  # as transformers 5 writes it


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `bamba`."""
    config = config.with_defaults(_DEFAULTS)
    layers = config.integer("num_hidden_layers")
    attention = config.get("attn_layer_indices", [])
    if not isinstance(attention, list) or not all(type(one) is int for one in attention):
        raise config.wrong("attn_layer_indices", attention, "a list of layer indices")
    mamba, bias = mamba2(config), config.flag("attention_bias")
    rope, norm = read_rope(config, partial=0.5), NormSpec(eps=_NORM_EPS)
    spec = plain_decoder(config, rope=rope, norm=norm, names=NAMES)
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias)
    spec = spec.with_ffn(bias=config.flag("mlp_bias"), names=FFN_NAMES)
    return spec.with_mixers([None if layer in attention else mamba for layer in range(layers)])


def mamba2(config: HubConfig, inner: int | None = None, norm_eps: float = _NORM_EPS) -> Mamba2Spec:
    """The Mamba-2 of a config with Bamba's keys. `inner` is its width, by default some times the model's.

    `norm_eps` is the default of the model type.
    """
    heads, groups = config.integer("mamba_n_heads", 128), config.integer("mamba_n_groups", 1)
    if heads % groups:
        raise config.wrong("mamba_n_groups", groups, f"a divisor of the {heads} heads")
    if inner is None:
        inner = config.integer("mamba_expand", 2) * config.integer("hidden_size")
    head_dim = inner // heads
    if config.get("mamba_d_head", "auto") != "auto":
        head_dim = config.integer("mamba_d_head")
    if heads * head_dim != inner:
        raise config.wrong("mamba_n_heads", heads, f"heads of {head_dim} that are {inner} together")
    bias = config.flag("mamba_proj_bias")
    return Mamba2Spec(
        heads=heads,
        head_dim=head_dim,
        groups=groups,
        state_size=config.integer("mamba_d_state", 256),
        width=config.integer("mamba_d_conv", 4),
        norm_eps=config.number("rms_norm_eps", norm_eps),
        conv_bias=config.flag("mamba_conv_bias", True),
        in_bias=bias,
        out_bias=bias,
        step_limits=step_limits(config),
    )


def step_limits(config: HubConfig, key: str = "time_step_limit") -> tuple[float, float]:
    """The least and the largest step of a state space model; the largest may be infinite."""
    limits = config.get(key, [0.0, math.inf])
    if isinstance(limits, list | tuple):
        limits = [math.inf if one == _INFINITY else one for one in limits]
    if (
        not isinstance(limits, list)
        or len(limits) != 2
        or not all(type(one) in (int, float) for one in limits)
        or not 0 <= limits[0] <= limits[1]
        or limits[0] > _LARGEST_LIMIT
    ):
        raise config.wrong(key, limits, "two numbers, the least step and the largest")
    low, high = limits
    return float(low), math.inf if high > _LARGEST_LIMIT else float(high)
