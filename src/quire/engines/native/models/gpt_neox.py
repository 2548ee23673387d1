"""GPT-NeoX and Pythia: attention and FFN each read a layer norm of the same residual stream."""

from __future__ import annotations

from quire.engines.native.models.bloom import FFN_NAMES
from quire.engines.native.models.classic import LAYER_NORM, multi_head, plain_activation
from quire.engines.native.models.layers.attention import AttentionNames
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="gpt_neox.embed_in.weight",
    final_norm="gpt_neox.final_layer_norm.weight",
    layers="gpt_neox.layers.{}.",
    prefix="gpt_neox.",
    prefix_map=(("embed_out.", "lm_head."),),
)
ATTENTION_NAMES = AttentionNames(
    qkv="attention.query_key_value", qkv_by_group=True, o="attention.dense"
)
_KEYS = {"partial_rotary_factor": "rotary_pct", "rope_theta": "rotary_emb_base"}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `gpt_neox`."""
    config = multi_head(config.with_names(_KEYS))
    bias = config.flag("attention_bias", True)
    rope, activation = read_rope(config, partial=0.25), plain_activation(config, "gelu")
    spec = plain_decoder(
        config, rope=rope, activation=activation, gated=False,
        norm=LAYER_NORM, eps_key="layer_norm_eps", names=NAMES,
    )  # fmt: skip
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias, names=ATTENTION_NAMES)
    spec = spec.with_ffn(bias=True, names=FFN_NAMES)
    is_parallel = config.flag("use_parallel_residual", True)
    return spec.with_all_layers(flow="parallel") if is_parallel else spec
