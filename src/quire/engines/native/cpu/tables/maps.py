"""Linear maps of a layer in structs: their weights, their entries in adapters, outputs to the residual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.program.arguments import Output
from quire.engines.native.cpu.weights.decoder import Weights
from quire.engines.native.cpu.weights.linear_map import address_of, make_map


def linear_map(tensors: Mapping[str, Any], role: str) -> LinearMap:
    return make_map(tensors[role], tensors.get(f"{role}_bias"))


def lora_entry(layer: int, role: str) -> int:
    """The index of the entry that adapters have for a linear map."""
    index = layer * layout.LORA_MAPS + layout.LINEARS.index(role)
    return layout.FIRST_LAYER_ENTRY + index


def stream_scale(weights: Weights, layer: int, role: str) -> float:
    """What the residual stream is multiplied by after the output of a linear map, the layer's last or not."""
    spec = weights.spec
    if not spec.layer_scales or role != ("layer_out" if spec.layer_inputs else "down"):
        return 1.0
    return float(weights.layers[layer]["layer_scale"][0])


def output_of(weights: Weights, layer: int, role: str, post_norm: str) -> Output:
    tensors, made = weights.layers[layer], Output()
    made.linear = linear_map(tensors, role)
    made.post_norm = address_of(tensors.get(post_norm))
    made.stream_scale = stream_scale(weights, layer, role)
    made.entry = lora_entry(layer, role)
    return made
