"""Falcon 7B, 40B, 180B, 11B and RW: few key-value heads, attention and FFN mostly in parallel.

Falcon-RW has ALiBi. transformers rounds what it adds to bfloat16, from which texts of more than 256
tokens differ a little; here it is exact.
"""

from __future__ import annotations

import dataclasses

from quire.engines.native.models.classic import (
    all_layers,
    biases,
    no_windows,
    plain_activation,
    without_rope,
)
from quire.engines.native.models.llama import common
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="transformer.word_embeddings.weight",
    final_norm="transformer.ln_f.weight",
    layers="transformer.h.{}.",
    prefix="transformer.",
    qkv="self_attention.query_key_value",
    qkv_by_group=True,
    o="self_attention.dense",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
)
_TWO_NORMS = dataclasses.replace(NAMES, attention_norm="ln_attn", ffn_norm="ln_mlp")
_KEYS = {
    "hidden_size": "n_embed",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_kv_heads": "n_head_kv",
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `falcon`."""
    config = config.with_names(_KEYS).with_defaults(
        {"max_position_embeddings": 2048, "tie_word_embeddings": True}
    )
    ffn = config.integer("ffn_hidden_size", 4 * config.integer("hidden_size"))
    config = config.with_changes(
        {"intermediate_size": ffn, "num_key_value_heads": _kv_heads(config)}
    )
    is_new, parallel = config.flag("new_decoder_architecture"), config.flag("parallel_attn", True)
    if is_new:
        config.require("parallel_attn", (True,), True)
    has_two = parallel and config.integer("num_ln_in_parallel_attn", 2 if is_new else 1) == 2
    has_alibi = config.flag("alibi")
    fields = common(
        config,
        rope=without_rope(config) if has_alibi else read_rope(config),
        activation=plain_activation(config, "gelu", "activation"),
        norm_eps=1e-5,
        eps_key="layer_norm_epsilon",
    )
    return DecoderSpec(
        **fields,
        **biases(config.flag("bias")),
        windows=no_windows(config),
        no_rope=all_layers(config) if has_alibi else (),
        alibi=fields["head_dim"] ** -0.5 if has_alibi else 0.0,
        norm_kind="layer",
        norm_bias=True,
        parallel=parallel,
        shared_norm=parallel and not has_two,
        gated=False,
        names=_TWO_NORMS if has_two else NAMES,
    )


def _kv_heads(config: HubConfig) -> int:
    heads = config.integer("num_attention_heads")
    if config.flag("new_decoder_architecture"):
        return config.integer("num_kv_heads", heads)
    return 1 if config.flag("multi_query", True) else heads
