"""Granite 4: Granite 3 with Mamba-2 in place of most attention, and experts in some models."""

from __future__ import annotations

from quire.engines.native.models.bamba import mamba2
from quire.engines.native.models.granite import with_multipliers
from quire.engines.native.models.granite_moe import experts
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_FFN_NAMES = FfnNames(gate_up="shared_mlp.input_linear", down="shared_mlp.output_linear")
_MAMBA = ("mamba", "linear_attention")
_ATTENTION = ("attention", "full_attention")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `granitemoehybrid`."""
    layers, bias = config.integer("num_hidden_layers"), config.flag("attention_bias")
    shared = config.integer("shared_intermediate_size", 1024)
    is_sparse = config.integer("num_local_experts", 8, minimum=0) > 0
    mamba = mamba2(config, norm_eps=1e-6)
    dense = config if is_sparse else config.with_changes({"intermediate_size": shared})
    rotates = config.get("position_embedding_type") == "rope"
    spec = plain_decoder(dense, rotates=rotates)
    spec = with_multipliers(spec.with_attention(qkv_bias=bias, o_bias=bias), config)
    types = layer_types(config, layers)
    spec = spec.with_mixers([mamba if kind in _MAMBA else None for kind in types])
    spec = spec.with_ffn(names=_FFN_NAMES)
    return spec.with_experts(experts(config, shared) if is_sparse else None)


def layer_types(config: HubConfig, layers: int) -> list[str]:
    """What each layer mixes its tokens by; older configs have other names than those of today."""
    types = config.get("layer_types", config.get("layers_block_type", ["mamba"] * layers))
    known = (*_MAMBA, *_ATTENTION)
    if not isinstance(types, list) or len(types) != layers or not all(t in known for t in types):
        raise config.wrong("layer_types", types, f"{layers} of {', '.join(known)}")
    return types
