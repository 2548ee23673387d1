"""The arguments of AltUp and LAuReL."""

from __future__ import annotations

from quire.engines.native.cpu.compiler.structs import Structs
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.program.arguments import AltUp, AltUpEnds, Laurel
from quire.engines.native.cpu.tables.maps import (
    linear_map,
    lora_entry,
    norm_of,
    output_of,
)
from quire.engines.native.cpu.weights.decoder import Weights
from quire.engines.native.cpu.weights.linear_map import address_of, fill_map
from quire.engines.native.models.layers.altup import AltUpSpec


def altup_start(weights: Weights) -> AltUpEnds:
    return _ends(weights, "altup_start")


def altup_end(weights: Weights) -> AltUpEnds:
    return _ends(weights, "altup_end")


def _ends(weights: Weights, role: str) -> AltUpEnds:
    """The maps of all streams but the first."""
    made = AltUpEnds()
    made.streams = _spec(weights).streams
    made.maps = Structs(LinearMap, made.streams - 1)
    for index, one in enumerate(made.maps):
        fill_map(one, weights.tensors[f"{role}.{index}"])
    return made


def altup(weights: Weights, layer: int) -> AltUp:
    """What `altup_predict` and `altup_correct` are told."""
    spec, tensors, made = _spec(weights), weights.layers[layer], AltUp()
    norm = weights.spec.layers[layer].norm
    made.streams, made.active = spec.streams, spec.active
    made.router_norm = norm_of(norm, tensors, "altup_router_norm")
    made.router = linear_map(tensors, "altup_router")
    made.prediction = linear_map(tensors, "altup_prediction")
    made.correction = linear_map(tensors, "altup_correction")
    made.output_scale = address_of(tensors.get("altup_output_scale"))
    return made


def laurel(weights: Weights, layer: int) -> Laurel:
    tensors, made = weights.layers[layer], Laurel()
    made.active = _spec(weights).active
    norm = weights.spec.layers[layer].norm
    made.norm = norm_of(norm, tensors, "attention_norm")
    made.left, made.entry = linear_map(tensors, "laurel_left"), lora_entry(layer, "laurel_left")
    laurel_norm = norm_of(norm, tensors, "laurel_norm")
    made.right = output_of(weights, layer, "laurel_right", laurel_norm)
    return made


def _spec(weights: Weights) -> AltUpSpec:
    assert weights.spec.altup is not None
    return weights.spec.altup
