"""InternLM3: Llama with a switch for the biases of queries, keys and values, and one for all others."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# The defaults of the model's own code.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 128_512,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 32_768,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `internlm3`."""
    config = config.with_defaults(_DEFAULTS)
    bias = config.flag("bias")
    spec = plain_decoder(config).with_ffn(bias=bias)
    return spec.with_attention(qkv_bias=config.flag("qkv_bias"), o_bias=bias)
