"""Llama 2, Llama 3.x and the many models that use their config, such as Yi."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.rope import check_rope, context_length, read_rope
from quire.engines.native.models.spec import Activation, DecoderSpec, RopeSpec
from quire.weights.hub_config import HubConfig

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


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


def common(
    config: HubConfig,
    *,
    head_dim: int | None = None,
    rope: RopeSpec | None = None,
    activation: Activation | None = None,
    norm_eps: float = 1e-6,
    eps_key: str = "rms_norm_eps",
) -> dict[str, Any]:
    """The fields that all decoders read in the same way.

    `head_dim` and `norm_eps` are the defaults of the model type; `rope` and `activation` are given by
    types that read these in another way, and `eps_key` by those that have another name for it.
    """
    if activation is None:
        config.require("hidden_act", tuple(ACTIVATIONS), "silu")
        activation = ACTIVATIONS[config.get("hidden_act", "silu")]
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", kv_heads, f"a divisor of the {heads} heads")
    head_dim = config.integer("head_dim", head_dim or hidden // heads, minimum=2)
    if head_dim % 2:
        raise config.wrong("head_dim", head_dim, "even")
    rope = rope or read_rope(config)
    check_rope(config, rope, head_dim)
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
        "norm_eps": config.number(eps_key, norm_eps),
        "activation": activation,
        "tied_embeddings": config.flag("tie_word_embeddings"),
    }
