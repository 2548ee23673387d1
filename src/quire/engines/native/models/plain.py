"""What the configs of all decoders say in the same way: Llama's form without biases, which a family changes."""

from __future__ import annotations

from dataclasses import replace

from quire.engines.native.models.layers.attention import AttentionShape, AttentionSpec
from quire.engines.native.models.layers.embeddings import EmbeddingsSpec, HeadSpec
from quire.engines.native.models.layers.ffn import Activation, FfnSpec
from quire.engines.native.models.layers.layer import LayerSpec
from quire.engines.native.models.layers.norm import RMS_NORM, NormSpec
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.names import USUAL_NAMES, WeightNames
from quire.engines.native.models.rope import check_rope, context_length, read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


def plain_decoder(
    config: HubConfig,
    *,
    head_dim: int | None = None,
    rope: RopeSpec | None = None,
    rotates: bool = True,
    activation: Activation | None = None,
    gated: bool = True,
    norm: NormSpec = RMS_NORM,
    eps_key: str = "rms_norm_eps",
    names: WeightNames = USUAL_NAMES,
) -> DecoderSpec:
    """A decoder whose layers are all alike: attention, then an FFN, and a norm before each.

    Args:
        head_dim: the default of the model type.
        rope, activation: given by types that read these in another way.
        rotates: False for a type without a rotary embedding.
        gated: False for a type whose FFN has no gate.
        norm: the kind of norm; its `eps` is the default of the model type.
        eps_key: what the type calls that.
    """
    if activation is None:
        config.require("hidden_act", tuple(ACTIVATIONS), "silu")
        activation = ACTIVATIONS[config.get("hidden_act", "silu")]
    shape = read_shape(config, head_dim)
    positions = config.integer("max_position_embeddings", 2048)
    if rotates:
        rope = rope or read_rope(config)
        check_rope(config, rope, shape.head_dim)
        positions = context_length(rope, positions)
    norm = replace(norm, eps=config.number(eps_key, norm.eps))
    layer = LayerSpec(
        AttentionSpec(shape, rope, shape.head_dim**-0.5),
        FfnSpec(config.integer("intermediate_size"), activation, gated),
        norm,
    )
    return DecoderSpec(
        config.get("model_type"),
        config.integer("vocab_size"),
        config.integer("hidden_size"),
        positions,
        (layer,) * config.integer("num_hidden_layers"),
        norm,
        EmbeddingsSpec(),
        HeadSpec(tied=config.flag("tie_word_embeddings")),
        names=names,
    )


def read_shape(config: HubConfig, head_dim: int | None = None) -> AttentionShape:
    """The sizes of attention. `head_dim` is the default of the model type."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", kv_heads, f"a divisor of the {heads} heads")
    size = config.integer("head_dim", head_dim or hidden // heads, minimum=2)
    if size % 2:
        raise config.wrong("head_dim", size, "even")
    return AttentionShape(heads, kv_heads, size, size)
