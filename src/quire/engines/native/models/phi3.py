"""Phi-3, Phi-3.5 and Phi-4: Llama with fused tensors, LongRoPE, and partly rotated heads (Phi-4-mini)."""

from __future__ import annotations

from quire.engines.native.models.layers.attention import AttentionNames
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

ATTENTION_NAMES = AttentionNames(qkv="self_attn.qkv_proj")
FFN_NAMES = FfnNames(gate_up="mlp.gate_up_proj")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `phi3`."""
    config = config.with_defaults({"original_max_position_embeddings": 4096})
    # The first configs call LongRoPE by these two names.
    rope = read_rope(config, partial=1.0, names={"su": "longrope", "yarn": "longrope"})
    window = config.integer("sliding_window", 0, minimum=0)
    spec = plain_decoder(config, rope=rope, norm=NormSpec(eps=1e-5))
    return spec.with_attention(window=window, names=ATTENTION_NAMES).with_ffn(names=FFN_NAMES)
