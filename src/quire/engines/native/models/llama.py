"""Llama 2, Llama 3.x and the many models that use their config, such as Yi."""

from __future__ import annotations

from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `llama`."""
    bias = config.flag("attention_bias")
    spec = plain_decoder(config).with_attention(qkv_bias=bias, o_bias=bias)
    return spec.with_ffn(bias=config.flag("mlp_bias"))
