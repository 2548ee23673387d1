"""Nemotron-4 and Minitron: layer norms whose weights are stored as w - 1, and squared ReLU."""

from __future__ import annotations

from quire.engines.native.models.classic import no_windows, plain_activation
from quire.engines.native.models.llama import common
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `nemotron`."""
    bias = config.flag("attention_bias")
    rope, activation = read_rope(config, partial=0.5), plain_activation(config, "relu2")
    return DecoderSpec(
        **common(config, rope=rope, activation=activation, norm_eps=1e-5, eps_key="norm_eps"),
        windows=no_windows(config),
        norm_kind="layer",
        norm_bias=True,
        norm_offset=1.0,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=config.flag("mlp_bias"),
        gated=False,
    )
