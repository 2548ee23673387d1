"""Gemma 3: Gemma 2 with norms on query and key heads, no caps, and a rotary base of its own for windows.

The tokens of a picture attend to each other in both directions.
"""

from __future__ import annotations

import dataclasses

from quire.engines.native.models.gemma2 import DEFAULTS, with_windows
from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.multimodal import text_of
from quire.engines.native.models.rope import read_ropes_by_layer
from quire.engines.native.models.spec import DecoderSpec, MediaSpec
from quire.weights.hub_config import HubConfig

_DEFAULTS = DEFAULTS | {
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `gemma3_text`."""
    config = config.with_defaults(_DEFAULTS)
    config.require("attn_logit_softcapping", (None,), None)
    local_theta = config.number("rope_local_base_freq", 10_000.0)
    theta = config.number("rope_theta", 1_000_000.0)
    rope, local_rope = read_ropes_by_layer(config, theta, local_theta)
    pattern = config.integer("sliding_window_pattern", 6)
    spec = with_windows(config, pattern=pattern, rope=rope, local_rope=local_rope)
    return spec.with_attention(norms=HeadNormsSpec(spec.final_norm))


def multimodal(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `gemma3`."""
    media = MediaSpec(whole_tokens=config.integer("mm_tokens_per_image", 256))
    return dataclasses.replace(text_of(config, decoder), media=media)
