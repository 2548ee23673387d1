"""Qwen3: Llama with a norm on each query and key head, and a head size that the config gives."""

from __future__ import annotations

from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.qwen2 import windows
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen3`."""
    bias = config.flag("attention_bias")
    spec = plain_decoder(config, head_dim=128).with_windows(windows(config))
    norms = HeadNormsSpec(spec.final_norm)
    return spec.with_attention(qkv_bias=bias, o_bias=bias, norms=norms)
