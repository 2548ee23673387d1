"""Linear maps of a layer in structs: their weights, their entries in adapters, outputs to the residual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.arguments import LinearMap, Norm
from quire.engines.native.cpu.program.arguments import Output
from quire.engines.native.cpu.program.machine_code import kernel_address
from quire.engines.native.cpu.weights.decoder import Weights
from quire.engines.native.cpu.weights.linear_map import address_of, make_map
from quire.engines.native.models.layers.norm import NormSpec


def linear_map(tensors: Mapping[str, Any], role: str) -> LinearMap:
    return make_map(tensors[role], tensors.get(f"{role}_bias"))


def layer_norm_of(weights: Weights, layer: int, role: str) -> Norm | None:
    """A norm of the residual stream; None if the layer lacks it."""
    own = weights.spec.layers[layer]
    return norm_of(own.norm, weights.layers[layer], role) if role in own.norm_roles else None


def norm_of(spec: NormSpec, tensors: Mapping[str, Any], role: str, stride: int = 0) -> Norm:
    """A norm. `stride` is in bytes, from one head's weights to the next one's."""
    made = Norm()
    made.eps, made.stride = spec.eps, stride
    if spec.kind == "layer":
        made.kernel = kernel_address("layer_norm")
    made.weight = address_of(tensors.get(role))
    made.bias = address_of(tensors.get(f"{role}_bias"))
    return made


def lora_entry(layer: int, role: str) -> int:
    """The index of the entry that adapters have for a linear map."""
    index = layer * layout.LORA_MAPS + layout.LINEARS.index(role)
    return layout.FIRST_LAYER_ENTRY + index


def stream_scale(weights: Weights, layer: int, role: str) -> float:
    """What the residual stream is multiplied by after the output of a linear map, the layer's last or not."""
    spec = weights.spec
    if not spec.layers[layer].is_scaled or role != ("layer_out" if spec.layer_inputs else "down"):
        return 1.0
    return float(weights.layers[layer]["layer_scale"][0])


def output_of(weights: Weights, layer: int, role: str, post_norm: Norm | None) -> Output:
    """The output map of a role. `post_norm` is that of what it gives, if there is one."""
    tensors, made = weights.layers[layer], Output()
    made.linear, made.post_norm = linear_map(tensors, role), post_norm
    made.stream_scale = stream_scale(weights, layer, role)
    made.entry = lora_entry(layer, role)
    return made
