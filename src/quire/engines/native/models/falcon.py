"""Falcon 7B, 40B, 180B, 11B and RW: few key-value heads, attention and FFN mostly in parallel.

Falcon-RW has ALiBi. transformers rounds what it adds to bfloat16, from which texts of more than 256
tokens differ a little; here it is exact.
"""

from __future__ import annotations

import dataclasses

from quire.engines.native.models.bloom import ATTENTION_NAMES, FFN_NAMES
from quire.engines.native.models.classic import LAYER_NORM, plain_activation, with_biases
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder, read_shape
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    embeddings="transformer.word_embeddings.weight",
    final_norm="transformer.ln_f.weight",
    layers="transformer.h.{}.",
    prefix="transformer.",
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
    spec = plain_decoder(
        config,
        rotates=not has_alibi,
        activation=plain_activation(config, "gelu", "activation"),
        gated=False,
        norm=LAYER_NORM,
        eps_key="layer_norm_epsilon",
        names=_TWO_NORMS if has_two else NAMES,
    )
    spec = with_biases(spec, config.flag("bias")).with_ffn(names=FFN_NAMES)
    spec = spec.with_attention(names=ATTENTION_NAMES)
    if has_alibi:
        spec = spec.with_attention(alibi=read_shape(config).head_dim ** -0.5)
    flow = "parallel" if has_two else "parallel_one_norm"
    return spec.with_all_layers(flow=flow) if parallel else spec


def _kv_heads(config: HubConfig) -> int:
    heads = config.integer("num_attention_heads")
    if config.flag("new_decoder_architecture"):
        return config.integer("num_kv_heads", heads)
    return 1 if config.flag("multi_query", True) else heads
