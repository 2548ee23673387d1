"""GPT-2: embeddings of positions, layer norms, and matrices that are stored the other way round."""

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
    embeddings="transformer.wte.weight",
    positions="transformer.wpe.weight",
    final_norm="transformer.ln_f.weight",
    layers="transformer.h.{}.",
    prefix="transformer.",
    attention_norm="ln_1",
    qkv="attn.c_attn",
    o="attn.c_proj",
    ffn_norm="ln_2",
    up="mlp.c_fc",
    down="mlp.c_proj",
    transposed=True,
)
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
    return DecoderSpec(
        **common(
            config,
            rope=without_rope(config),
            activation=activation,
            norm_eps=1e-5,
            eps_key="layer_norm_epsilon",
        ),
        **biases(True),
        windows=no_windows(config),
        no_rope=all_layers(config),
        norm_kind="layer",
        norm_bias=True,
        attention_multiplier=None if is_scaled else 1.0,
        gated=False,
        names=NAMES,
    )
