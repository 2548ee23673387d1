"""GPT-J: attention and FFN read one layer norm, and neighbouring dimensions are rotated."""

from __future__ import annotations

import math

from quire.engines.native.models.classic import no_windows, plain_activation
from quire.engines.native.models.gpt2 import with_usual_names
from quire.engines.native.models.llama import common
from quire.engines.native.models.spec import DecoderSpec, RopeSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="transformer.wte.weight",
    final_norm="transformer.ln_f.weight",
    layers="transformer.h.{}.",
    prefix="transformer.",
    attention_norm="ln_1",
    q="attn.q_proj",
    k="attn.k_proj",
    v="attn.v_proj",
    o="attn.out_proj",
    up="mlp.fc_in",
    down="mlp.fc_out",
)


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `gptj`."""
    config = with_usual_names(config)
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    rotary_dim, head_dim = config.integer("rotary_dim", 64), hidden // heads
    if rotary_dim % 2 or rotary_dim > head_dim:
        raise config.wrong("rotary_dim", rotary_dim, f"even, and at most {head_dim}")
    positions = config.integer("max_position_embeddings")
    # A little more than the quotient, which rounding may have left a little too small.
    rope = RopeSpec(positions=positions, partial=math.nextafter(rotary_dim / head_dim, 1.0))
    activation = plain_activation(config, "gelu_new", "activation_function")
    return DecoderSpec(
        **common(
            config, rope=rope, activation=activation, norm_eps=1e-5, eps_key="layer_norm_epsilon"
        ),
        windows=no_windows(config),
        norm_kind="layer",
        norm_bias=True,
        mlp_bias=True,
        head_bias=True,
        parallel=True,
        shared_norm=True,
        gated=False,
        interleaved_rope=True,
        names=NAMES,
    )
