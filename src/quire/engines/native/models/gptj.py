"""GPT-J: attention and FFN read one layer norm, and neighbouring dimensions are rotated."""

from __future__ import annotations

import math
from dataclasses import replace

from quire.engines.native.models.classic import LAYER_NORM, plain_activation
from quire.engines.native.models.gpt2 import with_usual_names
from quire.engines.native.models.layers.attention import AttentionNames
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="transformer.wte.weight",
    final_norm="transformer.ln_f.weight",
    layers="transformer.h.{}.",
    prefix="transformer.",
    attention_norm="ln_1",
)
ATTENTION_NAMES = AttentionNames(
    q="attn.q_proj",
    k="attn.k_proj",
    v="attn.v_proj",
    o="attn.out_proj",
)
FFN_NAMES = FfnNames(up="mlp.fc_in", down="mlp.fc_out")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `gptj`."""
    config = with_usual_names(config)
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    rotary_dim, head_dim = config.integer("rotary_dim", 64), hidden // heads
    if rotary_dim % 2 or rotary_dim > head_dim:
        raise config.wrong("rotary_dim", rotary_dim, f"even, and at most {head_dim}")
    positions = config.integer("max_position_embeddings")
    # A little more than the quotient, which rounding may have left a little too small.
    partial = math.nextafter(rotary_dim / head_dim, 1.0)
    rope = RopeSpec(positions=positions, partial=partial, interleaved=True)
    activation = plain_activation(config, "gelu_new", "activation_function")
    spec = plain_decoder(
        config, rope=rope, activation=activation, gated=False,
        norm=LAYER_NORM, eps_key="layer_norm_epsilon", names=NAMES,
    )  # fmt: skip
    spec = spec.with_all_layers(flow="parallel_one_norm").with_attention(names=ATTENTION_NAMES)
    spec = spec.with_ffn(bias=True, names=FFN_NAMES)
    return replace(spec, head=replace(spec.head, bias=True))
