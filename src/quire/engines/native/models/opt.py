"""OPT: embeddings of positions that begin with the third row, layer norms, and ReLU."""

from __future__ import annotations

from quire.engines.native.models.classic import (
    all_layers,
    biases,
    multi_head,
    no_windows,
    plain_activation,
    without_rope,
)
from quire.engines.native.models.llama import common
from quire.engines.native.models.spec import DecoderSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="model.decoder.embed_tokens.weight",
    positions="model.decoder.embed_positions.weight",
    final_norm="model.decoder.final_layer_norm.weight",
    layers="model.decoder.layers.{}.",
    attention_norm="self_attn_layer_norm",
    o="self_attn.out_proj",
    ffn_norm="final_layer_norm",
    up="fc1",
    down="fc2",
)


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
    return DecoderSpec(
        **common(config, rope=without_rope(config), activation=activation),
        **biases(config.flag("enable_bias", True)),
        windows=no_windows(config),
        no_rope=all_layers(config),
        position_offset=2,
        norm_kind="layer",
        norm_weights=has_weights,
        norm_bias=has_weights,
        gated=False,
        names=NAMES,
    )
