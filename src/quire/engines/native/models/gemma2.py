"""Gemma 2: Gemma with norms after attention and FFN, soft caps, and a window on every other layer."""

from __future__ import annotations

import dataclasses
from typing import Any

from quire.engines.native.models.gemma import gemma
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    post_attention_norm="post_attention_layernorm",
    ffn_norm="pre_feedforward_layernorm",
    post_ffn_norm="post_feedforward_layernorm",
)

DEFAULTS: dict[str, Any] = {
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "query_pre_attn_scalar": 256,
    "tie_word_embeddings": True,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `gemma2`."""
    config = config.with_defaults(DEFAULTS)
    spec = with_windows(config, pattern=2)
    return spec.with_attention(cap=cap(config, "attn_logit_softcapping"))


def cap(config: HubConfig, key: str) -> float:
    """A soft cap; 0 for null, which means no cap."""
    return config.number(key, 0.0) if key in config else 0.0


def every(pattern: int, layers: int) -> list[str]:
    """Layer types for a config without them: every `pattern`-th layer is full, the others have a window."""
    return [
        "sliding_attention" if layer % pattern else "full_attention"
        for layer in range(1, layers + 1)
    ]


def with_windows(
    config: HubConfig,
    *,
    pattern: int,
    rope: RopeSpec | None = None,
    local_rope: RopeSpec | None = None,
) -> DecoderSpec:
    """What Gemma 2 and 3 have in common. The last of each `pattern` layers has full attention."""
    config.require("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    types = every(pattern, config.integer("num_hidden_layers"))
    window = 0 if config.is_null("sliding_window") else config.integer("sliding_window")
    spec = gemma(config, rope, NAMES).with_all_layers(post_norms=True)
    spec = spec.with_attention(scale=config.number("query_pre_attn_scalar", 256) ** -0.5)
    own = {"rope": local_rope} if local_rope else {}
    spec = spec.with_windows(config.windows(window, types), **own)
    head = dataclasses.replace(spec.head, cap=cap(config, "final_logit_softcapping"))
    return dataclasses.replace(spec, head=head)
