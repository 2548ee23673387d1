"""StableLM 3B, Zephyr, 2 1.6B and 2 12B: layer norms, and a part of each head rotated."""

from __future__ import annotations

from dataclasses import replace

from quire.engines.native.models.classic import LAYER_NORM
from quire.engines.native.models.layers.attention import AttentionNames, HeadNormsSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = AttentionNames(
    q_norm="self_attn.q_layernorm.norms.{}", k_norm="self_attn.k_layernorm.norms.{}"
)


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `stablelm`."""
    rope = read_rope(config, partial=0.25)
    spec = plain_decoder(config, rope=rope, norm=LAYER_NORM, eps_key="layer_norm_eps")
    norms = HeadNormsSpec(replace(spec.final_norm, bias=False), span="each_head")
    spec = spec.with_attention(
        qkv_bias=config.flag("use_qkv_bias"),
        norms=norms if config.flag("qk_layernorm") else None,
        names=NAMES,
    )
    is_parallel = config.flag("use_parallel_residual")
    return spec.with_all_layers(flow="parallel_one_norm") if is_parallel else spec
