"""InternLM2: Llama under other names, with queries, keys and values fused, key-value head by head."""

from __future__ import annotations

from quire.engines.native.models.llama import common
from quire.engines.native.models.spec import DecoderSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="model.tok_embeddings.weight",
    head="output.weight",
    attention_norm="attention_norm",
    qkv="attention.wqkv",
    qkv_by_group=True,
    o="attention.wo",
    ffn_norm="ffn_norm",
    gate="feed_forward.w1",
    up="feed_forward.w3",
    down="feed_forward.w2",
)


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `internlm2`."""
    bias = config.flag("bias", True)
    return DecoderSpec(
        **common(config),
        windows=(0,) * config.integer("num_hidden_layers"),
        qkv_bias=bias,
        o_bias=bias,
        names=NAMES,
    )
