"""BLOOM and BLOOMZ: ALiBi instead of embeddings of positions, and a norm of the embeddings."""

from __future__ import annotations

import dataclasses

from quire.engines.native.models.classic import LAYER_NORM, multi_head, with_biases
from quire.engines.native.models.layers.attention import AttentionNames
from quire.engines.native.models.layers.embeddings import EmbeddingsSpec
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="transformer.word_embeddings.weight",
    embedding_norm="transformer.word_embeddings_layernorm.weight",
    final_norm="transformer.ln_f.weight",
    layers="transformer.h.{}.",
    prefix="transformer.",
)
ATTENTION_NAMES = AttentionNames(
    qkv="self_attention.query_key_value",
    qkv_by_group=True,
    o="self_attention.dense",
)
FFN_NAMES = FfnNames(up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h")
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
    spec = plain_decoder(
        config, rotates=False, activation="gelu_tanh", gated=False,
        norm=LAYER_NORM, eps_key="layer_norm_epsilon", names=NAMES,
    )  # fmt: skip
    spec = with_biases(spec).with_attention(alibi=1.0, names=ATTENTION_NAMES)
    spec = spec.with_ffn(names=FFN_NAMES)
    return dataclasses.replace(spec, embeddings=EmbeddingsSpec(norm=spec.final_norm))
