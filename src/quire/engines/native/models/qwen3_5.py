"""Qwen3.5 and 3.6, dense and with experts: Qwen3-Next with a tensor for each part of its delta nets.

The tokens of pictures and videos have positions in time, height and width, as Qwen3-VL's; only layers with
attention see these. Layers that only guess further tokens (MTP) are left aside.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from quire.engines.native.models.layers.delta_net import DeltaNetNames
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.multimodal import text_of
from quire.engines.native.models.qwen2_moe import experts, sparse_layers
from quire.engines.native.models.qwen3_next import hybrid
from quire.engines.native.models.rope import read_rope, read_sections, rope_parameters
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults. A saved config leaves out every key whose value is the default.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 248_320,
    "num_attention_heads": 16,
    "max_position_embeddings": 32_768,
}
_DENSE = _DEFAULTS | {
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 32,
    "num_key_value_heads": 4,
}
_SPARSE = _DEFAULTS | {
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
}
_SECTIONS = (11, 11, 10)  # of heads of 256; of smaller ones the pairs that there are
_NAMES = DeltaNetNames(qkv="linear_attn.in_proj_qkv", conv="linear_attn.conv1d")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen3_5_text`."""
    config = config.with_defaults(_DENSE)
    return hybrid(config, _NAMES, rope=_rope(config))


def sparse_decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen3_5_moe_text`: every layer has experts."""
    config = config.with_defaults(_SPARSE)
    ffn_size = config.integer("moe_intermediate_size")
    # No layer is dense.
    config = config.with_changes({"norm_topk_prob": True}).with_defaults(
        {"intermediate_size": ffn_size}
    )
    shared = config.integer("shared_expert_intermediate_size", 512, minimum=0)
    sparse = sparse_layers(config)
    found = experts(config, sparse, count=256, chosen=8, ffn_size=ffn_size, shared_size=shared)
    return hybrid(config, _NAMES, rope=_rope(config)).with_experts(found, sparse)


def multimodal(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `qwen3_5`."""
    return text_of(config, decoder)


def sparse_multimodal(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `qwen3_5_moe`."""
    return text_of(config, sparse_decoder)


def _rope(config: HubConfig) -> RopeSpec:
    rope = read_rope(config, partial=0.25)
    values = HubConfig(rope_parameters(config), f"{config.source}: rope")
    sections = _SECTIONS
    if values.get("mrope_section") is not None:
        sections = read_sections(values, [], rope.size(config.integer("head_dim", 256)) // 2)
    if len(sections) != 3:
        raise values.wrong("mrope_section", list(sections), "three integers")
    return dataclasses.replace(rope, sections=sections, interleaved_sections=True)
