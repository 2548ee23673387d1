"""InternLM2: Llama under other names, with queries, keys and values fused, key-value head by head."""

from __future__ import annotations

from quire.engines.native.models.layers.attention import AttentionNames
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="model.tok_embeddings.weight",
    head="output.weight",
    attention_norm="attention_norm",
    ffn_norm="ffn_norm",
)
ATTENTION_NAMES = AttentionNames(
    qkv="attention.wqkv",
    qkv_by_group=True,
    o="attention.wo",
)
FFN_NAMES = FfnNames(gate="feed_forward.w1", up="feed_forward.w3", down="feed_forward.w2")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `internlm2`."""
    bias = config.flag("bias", True)
    spec = plain_decoder(config, names=NAMES).with_ffn(names=FFN_NAMES)
    return spec.with_attention(qkv_bias=bias, o_bias=bias, names=ATTENTION_NAMES)
