"""Attention windows, and the rotary embeddings of layers with a window and of those without."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from quire.gguf.architectures.declaration import Architecture
from quire.gguf.config import rope as ropes
from quire.gguf.config.experts import expert_count
from quire.gguf.config.header import Header

logger = logging.getLogger("quire")

_CHUNK = 8192  # tokens of Llama 4's chunks, and of the step by which its queries grow
_EXPERTS_OF_MAVERICK = 128


def read_windows(
    header: Header, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Attention windows: the keys, and the model_type that a window decides."""
    window = header.integer("attention.sliding_window", architecture.window, minimum=0)
    if architecture.windows == "chunks":
        return _chunks(header, architecture)
    if architecture.windows == "none":
        if architecture.name == "dots1":  # whose config means one by saying nothing
            return {"sliding_window": None}
        if 0 < window < config["max_position_embeddings"]:
            logger.warning(
                "%s: %s is %d. It is not used, as llama.cpp does not either for %s.",
                header.source, header.key("attention.sliding_window"), window, architecture.name,
            )  # fmt: skip
        return {}
    if architecture.windows == "pattern":
        types = _layer_types(header, architecture.pattern) if window else _full(header)
        if architecture.name == "olmo2":
            if not window:
                return {}
            return {"model_type": "olmo3", "sliding_window": window, "layer_types": types}
        return {"sliding_window": window or None, "layer_types": types}
    return _window_of_all_layers(header, architecture, window)


def _chunks(header: Header, architecture: Architecture) -> dict[str, Any]:
    """Llama 4's chunks, for which files have no key, and what queries and keys go through.

    The largest of these models alone has no norms of them. A window of 0 marks models without chunks
    and experts, which llama.cpp does not load.
    """
    if header.integer("attention.sliding_window", _CHUNK, minimum=0) == 0:
        raise header.unsupported(
            "it is a Llama 4 without chunks (MobileLLM), which is not run from a GGUF file: take the "
            "folder that it was made of"
        )
    types = _layer_types(header, architecture.pattern)
    return {
        "attention_chunk_size": _CHUNK,
        "floor_scale": _CHUNK,
        "layer_types": [one.replace("sliding", "chunked") for one in types],
        "use_qk_norm": expert_count(header) != _EXPERTS_OF_MAVERICK,
    }


def _window_of_all_layers(
    header: Header, architecture: Architecture, window: int
) -> dict[str, Any]:
    """The window of Mistral, Mixtral and Phi-3, which llama.cpp does not use and transformers does."""
    pattern = "attention.sliding_window_pattern"
    has_experts = header.integer("expert_count", 0, minimum=0) > 0
    if window and pattern in header:
        if architecture.name == "phi3" or has_experts:
            raise header.unsupported(f"{header.key(pattern)} is not known for this model")
        types = _layer_types(header, 0)
        return {"model_type": "ministral", "sliding_window": window, "layer_types": types}
    if architecture.name == "phi3" or has_experts:
        return {"sliding_window": window or None}
    if not window and architecture.name == "llama":
        return {}
    return {"model_type": "mistral", "sliding_window": window or None}


def _full(header: Header) -> list[str]:
    return ["full_attention"] * header.layers


def _layer_types(header: Header, period: int) -> list[str]:
    """By a list with a value for each layer, or a number: the last of so many layers is full."""
    key, layers = "attention.sliding_window_pattern", header.layers
    listed = header.integers(key)
    if listed is not None and len(listed) not in (layers, header.layers_with_extra):
        raise header.wrong(header.key(key), f"a list of {len(listed)}", f"a list of {layers}")
    if listed is None:
        period = header.integer(key, period, minimum=0)
        listed = [int(not period or (layer + 1) % period) for layer in range(layers)]
    return ["sliding_attention" if one else "full_attention" for one in listed[:layers]]


def read_ropes(
    header: Header, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Any]:
    head_dim, context = config["head_dim"], config["max_position_embeddings"]
    rope = ropes.read_rope(header, head_dim, context, names_theta=architecture.names_theta)
    if rope["rope_type"] == "yarn" and not architecture.truncates_yarn:
        rope["truncate"] = False
    size = ropes.rotated(header, head_dim)
    if architecture.partial_rotary:
        rope["partial_rotary_factor"] = ropes.share(size, head_dim)
    elif size != head_dim:
        raise header.unsupported(
            f"{header.key('rope.dimension_count')} is {size}, and the native engine rotates all "
            f"{head_dim} dimensions of a head for {architecture.name}"
        )
    local = _local_rope(header, architecture, config, rope["rope_theta"])
    by_layer = {"full_attention": rope, "sliding_attention": local}
    result: dict[str, Any] = {"rope_parameters": rope if local is None else by_layer}
    if rope["rope_type"] == "longrope":  # Phi-3's config has it at the top, too
        key = "original_max_position_embeddings"
        result[key] = rope[key]
    return result


def _local_rope(
    header: Header, architecture: Architecture, config: Mapping[str, Any], theta: float
) -> dict[str, Any] | None:
    """The rotary embedding of layers with a window; None if it is that of all layers."""
    local = header.number("rope.freq_base_swa", architecture.local_theta or theta)
    size = ropes.rotated(header, config["head_dim"])
    if header.integer("rope.dimension_count_swa", size, minimum=0) != size:
        raise header.unsupported(
            f"{header.key('rope.dimension_count_swa')} is not {size}, as in the other layers"
        )
    if architecture.scales_full_layers_only and "layer_types" in config:
        return {"rope_type": "default", "rope_theta": local}
    if local != theta and "layer_types" in config:
        raise header.unsupported(
            f"{header.key('rope.freq_base_swa')} is {local:g}, and the native engine has one rotary "
            f"base for {architecture.name}, here {theta:g}"
        )
    return None


def read_query_scale(
    header: Header, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Any]:
    """The factor of queries that grows with their position, which makes a Mistral a Ministral 3."""
    beta = header.number("attention.temperature_scale", 0.0) if architecture.grows_queries else 0.0
    if not beta:
        return {}
    rope = config["rope_parameters"]
    if rope["rope_type"] != "yarn" or config["model_type"] != "mistral":
        raise header.unsupported(
            f"{header.key('attention.temperature_scale')} is {beta:g}, which is computed for YaRN and "
            "one window for all layers"
        )
    return {
        "model_type": "ministral3",
        "rope_parameters": {**rope, "llama_4_scaling_beta": beta},
    }
