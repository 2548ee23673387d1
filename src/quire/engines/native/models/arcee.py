"""Arcee's AFM: Llama whose FFN has no gate, but a squared ReLU."""

from __future__ import annotations

from quire.engines.native.models.classic import plain_activation
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `arcee`."""
    bias = config.flag("attention_bias")
    activation = plain_activation(config, "relu2")
    spec = plain_decoder(config, activation=activation, gated=False, norm=NormSpec(eps=1e-5))
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias)
    return spec.with_ffn(bias=config.flag("mlp_bias"))
