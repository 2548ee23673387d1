"""OPT: embeddings of positions that begin with the third row, layer norms, and ReLU."""

from __future__ import annotations

import dataclasses

from quire.engines.native.models.classic import multi_head, plain_activation, with_biases
from quire.engines.native.models.layers.attention import AttentionNames
from quire.engines.native.models.layers.embeddings import EmbeddingsSpec
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="model.decoder.embed_tokens.weight",
    positions="model.decoder.embed_positions.weight",
    final_norm="model.decoder.final_layer_norm.weight",
    layers="model.decoder.layers.{}.",
    attention_norm="self_attn_layer_norm",
    ffn_norm="final_layer_norm",
)
ATTENTION_NAMES = AttentionNames(o="self_attn.out_proj")
FFN_NAMES = FfnNames(up="fc1", down="fc2")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `opt`: all but OPT-350m, whose norms come last."""
    config = multi_head(config.with_names({"intermediate_size": "ffn_dim"}))
    config = config.with_defaults({"tie_word_embeddings": True})
    config = config.with_changes({"rms_norm_eps": 1e-5})  # torch's own, which no config has
    hidden = config.integer("hidden_size")
    config.require("do_layer_norm_before", (True,), True)
    config.require("_remove_final_layer_norm", (False,), False)
    config.require("word_embed_proj_dim", (hidden,), hidden)
    has_weights = config.flag("layer_norm_elementwise_affine", True)
    activation = plain_activation(config, "relu", "activation_function")
    norm = NormSpec("layer", weights=has_weights, bias=has_weights)
    spec = plain_decoder(
        config, rotates=False, activation=activation, gated=False, norm=norm, names=NAMES
    )
    spec = with_biases(spec, config.flag("enable_bias", True))
    spec = spec.with_attention(names=ATTENTION_NAMES).with_ffn(names=FFN_NAMES)
    return dataclasses.replace(spec, embeddings=EmbeddingsSpec(first_position=2))
