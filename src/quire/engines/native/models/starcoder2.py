"""StarCoder2: layer norms, an FFN without a gate, biases everywhere, and a window."""

from __future__ import annotations

from quire.engines.native.models.classic import biases, plain_activation
from quire.engines.native.models.llama import common
from quire.engines.native.models.spec import DecoderSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(up="mlp.c_fc", down="mlp.c_proj")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `starcoder2`."""
    config = config.with_defaults({"num_key_value_heads": 2, "tie_word_embeddings": True})
    activation = plain_activation(config, "gelu_pytorch_tanh")
    window = config.integer("sliding_window", 0, minimum=0)
    return DecoderSpec(
        **common(config, activation=activation, norm_eps=1e-5, eps_key="norm_epsilon"),
        **biases(config.flag("use_bias", True)),
        windows=(window,) * config.integer("num_hidden_layers"),
        norm_kind="layer",
        norm_bias=True,
        gated=False,
        names=NAMES,
    )
