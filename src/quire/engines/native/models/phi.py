"""Phi-1, Phi-1.5 and Phi-2: attention and FFN read one layer norm, and there are biases everywhere."""

from __future__ import annotations

from quire.engines.native.models.classic import biases, no_windows, plain_activation
from quire.engines.native.models.llama import common
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    final_norm="model.final_layernorm.weight",
    o="self_attn.dense",
    q_norm="self_attn.q_layernorm",
    k_norm="self_attn.k_layernorm",
    up="mlp.fc1",
    down="mlp.fc2",
)


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `phi`."""
    norms = config.flag("qk_layernorm")
    rope, activation = read_rope(config, partial=0.5), plain_activation(config, "gelu_new")
    return DecoderSpec(
        **common(config, rope=rope, activation=activation, norm_eps=1e-5, eps_key="layer_norm_eps"),
        **biases(True),
        windows=no_windows(config),
        norm_kind="layer",
        norm_bias=True,
        head_bias=True,
        head_norms=norms,
        head_norm_bias=norms,
        parallel=True,
        shared_norm=True,
        gated=False,
        names=NAMES,
    )
