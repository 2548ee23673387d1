"""Models with latent attention and a dense FFN, Youtu and MiniCPM3, and what DeepSeek's have in common."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from quire.engines.native.models.layers.embeddings import EmbeddingsSpec
from quire.engines.native.models.layers.latent_attention import LatentAttentionSpec
from quire.engines.native.models.layers.norm import RMS_NORM, NormSpec
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_YOUTU: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "max_position_embeddings": 131_072,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "tie_word_embeddings": True,
}

_MINICPM3: dict[str, Any] = {
    "vocab_size": 73_448,
    "hidden_size": 2560,
    "intermediate_size": 6400,
    "num_hidden_layers": 62,
    "num_attention_heads": 40,
    "max_position_embeddings": 32_768,
    "kv_lora_rank": 256,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "tie_word_embeddings": True,
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 256,
}


def youtu(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `youtu`."""
    config = config.with_defaults(_YOUTU)
    return latent(config, interleaved=config.flag("rope_interleave", True))


def minicpm3(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `minicpm3`: embeddings, branches and logits are scaled."""
    config = config.with_defaults(_MINICPM3)
    hidden, layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    value_dim = hidden // config.integer("num_attention_heads")
    depth = math.sqrt(layers) if config.is_null("scale_depth") else config.number("scale_depth", 0)
    base = hidden if config.is_null("dim_model_base") else config.integer("dim_model_base")
    spec = latent(config.with_defaults({"v_head_dim": value_dim}), norm=NormSpec(eps=1e-5))
    return replace(
        spec,
        embeddings=EmbeddingsSpec(scale=config.number("scale_emb", 1.0)),
        residual_scale=depth / math.sqrt(layers),
        head=replace(spec.head, scale=base / hidden),
    )


def latent(
    config: HubConfig, *, interleaved: bool = False, norm: NormSpec = RMS_NORM
) -> DecoderSpec:
    """The spec of a config with latent attention, DeepSeek's keys and a dense FFN."""
    heads, bias = config.integer("num_attention_heads"), config.flag("attention_bias")
    rope = read_rope(config, interleaved=interleaved)
    nope_dim = config.integer("qk_nope_head_dim")
    rope_dim = config.integer("qk_rope_head_dim", minimum=2)
    mixer = LatentAttentionSpec(
        heads=heads,
        q_rank=0 if config.is_null("q_lora_rank") else config.integer("q_lora_rank"),
        kv_rank=config.integer("kv_lora_rank"),
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        value_dim=config.integer("v_head_dim"),
        rope=rope,
        scale=(nope_dim + rope_dim) ** -0.5 * _yarn_scale(rope),
        is_split=config.flag("kv_b_is_split"),
        bias=bias,
    )
    # Their own head size is that of the rotated part; and each head has a key of its own, on paper.
    plain = config.with_changes({"head_dim": rope_dim, "num_key_value_heads": heads})
    spec = plain_decoder(plain, rope=rope, norm=norm)
    return spec.with_mixers([mixer] * spec.num_layers).with_ffn(bias=config.flag("mlp_bias"))


def _yarn_scale(rope: RopeSpec) -> float:
    """What scores are multiplied by besides, for a stretched context."""
    if rope.kind == "default" or not rope.mscale_all_dim or rope.factor <= 1:
        return 1.0
    return (0.1 * rope.mscale_all_dim * math.log(rope.factor) + 1.0) ** 2
