"""Arcee's AFM: Llama whose FFN has no gate, but a squared ReLU."""

from __future__ import annotations

from quire.engines.native.models.classic import no_windows, plain_activation
from quire.engines.native.models.llama import common
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `arcee`."""
    bias = config.flag("attention_bias")
    return DecoderSpec(
        **common(config, activation=plain_activation(config, "relu2"), norm_eps=1e-5),
        windows=no_windows(config),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=config.flag("mlp_bias"),
        gated=False,
    )
