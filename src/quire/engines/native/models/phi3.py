"""Phi-3, Phi-3.5 and Phi-4: Llama with fused tensors, LongRoPE, and partly rotated heads (Phi-4-mini)."""

from __future__ import annotations

from quire.engines.native.models.llama import common
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `phi3`."""
    config = config.with_defaults({"original_max_position_embeddings": 4096})
    # The first configs call LongRoPE by these two names.
    rope = read_rope(config, partial=1.0, names={"su": "longrope", "yarn": "longrope"})
    window = config.integer("sliding_window", 0, minimum=0)
    return DecoderSpec(
        **common(config, rope=rope, norm_eps=1e-5),
        windows=(window,) * config.integer("num_hidden_layers"),
        names=NAMES,
    )
