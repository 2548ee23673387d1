"""What a file says of Gemma 3n and Gemma 4, whose layers differ: see `quire.gguf.config.gemma`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.models.spec import DecoderSpec
from quire.gguf.config.gemma import NOT_ROTATED
from quire.gguf.writer import Written


def gemma_keys(spec: DecoderSpec) -> dict[str, Written | None]:
    """The metadata that these models have besides others', or of each layer."""
    windows = np.array([bool(one) for one in spec.windows])
    attentions = [layer.attention for layer in spec.layers if layer.attention]
    keys: dict[str, Written | None] = {
        "attention.head_count_kv": _one_or_each([one.shape.kv_heads for one in attentions]),
        "attention.shared_kv_layers": sum(one.kv_source is not None for one in attentions),
        "attention.sliding_window": max(spec.windows),
        "attention.sliding_window_pattern": windows,
        "embedding_length_per_layer_input": spec.layer_inputs.size if spec.layer_inputs else 0,
        "feed_forward_length": _one_or_each([layer.ffn.size for layer in spec.layers if layer.ffn]),
        "rope.scaling.type": None,
    }
    if spec.altup:
        cutoffs = [layer.ffn.gate_cutoff for layer in spec.layers if layer.ffn]
        scales = [-math.inf if one is None else one for one in cutoffs]
        keys["activation_sparsity_scale"] = np.array(scales, np.float32)
        return keys | {
            "altup.num_inputs": spec.altup.streams,
            "altup.active_idx": spec.altup.active,
        }
    full = next((one.shape.head_dim for one in attentions if not one.window), None)
    sliding = next((one.shape.head_dim for one in attentions if one.window), full)
    full = full or sliding
    return keys | {
        "attention.key_length": full,
        "attention.value_length": full,
        "attention.key_length_swa": sliding,
        "attention.value_length_swa": sliding,
        "rope.dimension_count": full,
        "rope.dimension_count_swa": sliding,
    }


def _one_or_each(values: list[int]) -> Written:
    """One number for all layers, or one of each."""
    return values[0] if len(set(values)) == 1 else np.array(values, np.int32)


def proportional_divisors(partial: float, size: int) -> NDArray[np.float32]:
    """What Gemma 4's frequencies are divided by: those of the dimensions that do not turn by a large number."""
    turned = int(partial * size // 2)
    return np.where(np.arange(size // 2) < turned, 1.0, NOT_ROTATED).astype(np.float32)
