"""StarCoder2: layer norms, an FFN without a gate, biases everywhere, and a window."""

from __future__ import annotations

from quire.engines.native.models.classic import LAYER_NORM, plain_activation, with_biases
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

FFN_NAMES = FfnNames(up="mlp.c_fc", down="mlp.c_proj")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `starcoder2`."""
    config = config.with_defaults({"num_key_value_heads": 2, "tie_word_embeddings": True})
    activation = plain_activation(config, "gelu_pytorch_tanh")
    window = config.integer("sliding_window", 0, minimum=0)
    spec = plain_decoder(
        config, activation=activation, gated=False, norm=LAYER_NORM, eps_key="norm_epsilon"
    )
    spec = with_biases(spec, config.flag("use_bias", True))
    return spec.with_attention(window=window).with_ffn(names=FFN_NAMES)
