"""GPT-NeoX and Pythia: attention and FFN each read a layer norm of the same residual stream."""

from __future__ import annotations

from quire.engines.native.models.classic import multi_head, no_windows, plain_activation
from quire.engines.native.models.llama import common
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="gpt_neox.embed_in.weight",
    final_norm="gpt_neox.final_layer_norm.weight",
    layers="gpt_neox.layers.{}.",
    prefix="gpt_neox.",
    qkv="attention.query_key_value",
    qkv_by_group=True,
    o="attention.dense",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    prefix_map=(("embed_out.", "lm_head."),),
)
_KEYS = {"partial_rotary_factor": "rotary_pct", "rope_theta": "rotary_emb_base"}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `gpt_neox`."""
    config = multi_head(config.with_names(_KEYS))
    bias = config.flag("attention_bias", True)
    rope, activation = read_rope(config, partial=0.25), plain_activation(config, "gelu")
    return DecoderSpec(
        **common(config, rope=rope, activation=activation, norm_eps=1e-5, eps_key="layer_norm_eps"),
        windows=no_windows(config),
        norm_kind="layer",
        norm_bias=True,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=True,
        parallel=config.flag("use_parallel_residual", True),
        gated=False,
        names=NAMES,
    )
