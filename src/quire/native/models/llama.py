"""Llama 2, Llama 3.x and the many that follow their config, Yi among them."""

from __future__ import annotations

from typing import Any

from quire.native.models.config import HubConfig
from quire.native.models.rope import context_length, read_rope
from quire.native.models.spec import DecoderSpec


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `llama`."""
    bias = config.flag("attention_bias")
    return DecoderSpec(
        **common(config),
        windows=(0,) * config.integer("num_hidden_layers"),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=config.flag("mlp_bias"),
    )


def common(config: HubConfig, *, head_dim: int | None = None) -> dict[str, Any]:
    """The fields that Llama, Mistral and Qwen read alike; `head_dim` is the type's default."""
    config.require("hidden_act", ("silu", "swish"), "silu")
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", kv_heads, f"a divisor of the {heads} heads")
    head_dim = config.integer("head_dim", head_dim or hidden // heads, minimum=2)
    if head_dim % 2:
        raise config.wrong("head_dim", head_dim, "even")
    rope = read_rope(config)
    positions = config.integer("max_position_embeddings", 2048)
    return {
        "model_type": config.get("model_type"),
        "vocab_size": config.integer("vocab_size"),
        "hidden_size": hidden,
        "ffn_size": config.integer("intermediate_size"),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "max_positions": context_length(rope, positions),
        "rope": rope,
        "norm_eps": config.number("rms_norm_eps", 1e-6),
        "tied_embeddings": config.flag("tie_word_embeddings"),
    }
