"""GPT-2: embeddings of positions, layer norms, and matrices that are stored the other way round."""

from __future__ import annotations

import dataclasses

from quire.engines.native.models.classic import (
    LAYER_NORM,
    multi_head,
    plain_activation,
    with_biases,
)
from quire.engines.native.models.layers.attention import AttentionNames
from quire.engines.native.models.layers.embeddings import EmbeddingsSpec
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="transformer.wte.weight",
    positions="transformer.wpe.weight",
    final_norm="transformer.ln_f.weight",
    layers="transformer.h.{}.",
    prefix="transformer.",
    attention_norm="ln_1",
    ffn_norm="ln_2",
)
ATTENTION_NAMES = AttentionNames(
    qkv="attn.c_attn",
    o="attn.c_proj",
    transposed=True,
)
FFN_NAMES = FfnNames(up="mlp.c_fc", down="mlp.c_proj", transposed=True)
_KEYS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}


def with_usual_names(config: HubConfig) -> HubConfig:
    """The config of a GPT under the names that other models have for its keys."""
    config = multi_head(config.with_names(_KEYS))
    ffn = config.integer("n_inner", 4 * config.integer("hidden_size"))
    return config.with_changes({"intermediate_size": ffn})


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `gpt2`."""
    config = with_usual_names(config).with_defaults({"tie_word_embeddings": True})
    config.require("add_cross_attention", (False,), False)
    config.require("scale_attn_by_inverse_layer_idx", (False,), False)
    is_scaled = config.flag("scale_attn_weights", True)
    activation = plain_activation(config, "gelu_new", "activation_function")
    spec = plain_decoder(
        config, rotates=False, activation=activation, gated=False,
        norm=LAYER_NORM, eps_key="layer_norm_epsilon", names=NAMES,
    )  # fmt: skip
    spec = with_biases(spec).with_attention(names=ATTENTION_NAMES).with_ffn(names=FFN_NAMES)
    spec = spec if is_scaled else spec.with_attention(scale=1.0)
    return dataclasses.replace(spec, embeddings=EmbeddingsSpec(first_position=0))
