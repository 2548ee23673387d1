"""BLOOM and BLOOMZ: ALiBi instead of embeddings of positions, and a norm of the embeddings."""

from __future__ import annotations

from quire.engines.native.models.classic import (
    all_layers,
    biases,
    multi_head,
    no_windows,
    without_rope,
)
from quire.engines.native.models.llama import common
from quire.engines.native.models.spec import DecoderSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="transformer.word_embeddings.weight",
    embedding_norm="transformer.word_embeddings_layernorm.weight",
    final_norm="transformer.ln_f.weight",
    layers="transformer.h.{}.",
    prefix="transformer.",
    qkv="self_attention.query_key_value",
    qkv_by_group=True,
    o="self_attention.dense",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
)
_KEYS = {
    "hidden_size": "n_embed",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "seq_length",
}
TRAINED_POSITIONS = 2048
"""What configs say that name no length. ALiBi itself has no limit."""


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `bloom`."""
    config = multi_head(config.with_names(_KEYS)).with_defaults(
        {"max_position_embeddings": TRAINED_POSITIONS, "tie_word_embeddings": True}
    )
    config = config.with_changes({"intermediate_size": 4 * config.integer("hidden_size")})
    config.require("apply_residual_connection_post_layernorm", (False,), False)
    return DecoderSpec(
        **common(
            config,
            rope=without_rope(config),
            activation="gelu_tanh",
            norm_eps=1e-5,
            eps_key="layer_norm_epsilon",
        ),
        **biases(True),
        windows=no_windows(config),
        no_rope=all_layers(config),
        alibi=1.0,
        norm_kind="layer",
        norm_bias=True,
        gated=False,
        names=NAMES,
    )
