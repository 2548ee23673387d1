"""Qwen3: Llama with a norm on each query and key head, and a head size that the config gives."""

from __future__ import annotations

from quire.engines.native.models.llama import common
from quire.engines.native.models.qwen2 import windows
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen3`."""
    bias = config.flag("attention_bias")
    return DecoderSpec(
        **common(config, head_dim=128),
        windows=windows(config),
        qkv_bias=bias,
        o_bias=bias,
        head_norms=True,
    )
