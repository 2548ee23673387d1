"""Nemotron-4 and Minitron: layer norms whose weights are stored as w - 1, and squared ReLU."""

from __future__ import annotations

from dataclasses import replace

from quire.engines.native.models.classic import LAYER_NORM, plain_activation
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `nemotron`."""
    bias = config.flag("attention_bias")
    rope, activation = read_rope(config, partial=0.5), plain_activation(config, "relu2")
    spec = plain_decoder(
        config, rope=rope, activation=activation, gated=False,
        norm=replace(LAYER_NORM, offset=1.0), eps_key="norm_eps",
    )  # fmt: skip
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias)
    return spec.with_ffn(bias=config.flag("mlp_bias"))
