"""Phi-1, Phi-1.5 and Phi-2: attention and FFN read one layer norm, and there are biases everywhere."""

from __future__ import annotations

from dataclasses import replace

from quire.engines.native.models.classic import LAYER_NORM, plain_activation, with_biases
from quire.engines.native.models.layers.attention import AttentionNames, HeadNormsSpec
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(final_norm="model.final_layernorm.weight")
ATTENTION_NAMES = AttentionNames(
    o="self_attn.dense",
    q_norm="self_attn.q_layernorm",
    k_norm="self_attn.k_layernorm",
)
FFN_NAMES = FfnNames(up="mlp.fc1", down="mlp.fc2")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `phi`."""
    rope, activation = read_rope(config, partial=0.5), plain_activation(config, "gelu_new")
    spec = plain_decoder(
        config, rope=rope, activation=activation, gated=False,
        norm=LAYER_NORM, eps_key="layer_norm_eps", names=NAMES,
    )  # fmt: skip
    norms = HeadNormsSpec(spec.final_norm) if config.flag("qk_layernorm") else None
    spec = with_biases(spec).with_attention(norms=norms, names=ATTENTION_NAMES)
    spec = spec.with_all_layers(flow="parallel_one_norm").with_ffn(names=FFN_NAMES)
    return replace(spec, head=replace(spec.head, bias=True))
