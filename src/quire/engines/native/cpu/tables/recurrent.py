"""The arguments of layers with a state in place of attention: short convolutions and Mamba-2."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.program.arguments import CausalConv, InputMap, Mamba2, ShortConv
from quire.engines.native.cpu.tables.maps import layer_norm_of, linear_map, lora_entry
from quire.engines.native.cpu.tables.memory import LayerMemory
from quire.engines.native.cpu.weights.decoder import Weights
from quire.engines.native.cpu.weights.linear_map import address_of, is_bfloat16
from quire.engines.native.models.layers.mamba2 import AttentionAndMamba2Spec, Mamba2Spec
from quire.engines.native.models.layers.short_conv import ShortConvSpec
from quire.weights.safetensors import widen

_LARGEST = float(np.finfo(np.float32).max)


def short_conv(weights: Weights, layer: int, memory: LayerMemory) -> ShortConv:
    """What `short_conv` is told."""
    mixer, made = weights.spec.layers[layer].mixer, ShortConv()
    assert isinstance(mixer, ShortConvSpec)
    made.input = _input_map(weights, layer)
    made.conv = _causal_conv(weights, layer, memory)
    return made


def mamba2(weights: Weights, layer: int, memory: LayerMemory) -> Mamba2:
    """What `mamba2` is told."""
    tensors, made = weights.layers[layer], Mamba2()
    mixer = weights.spec.layers[layer].mixer
    made.is_beside_attention = isinstance(mixer, AttentionAndMamba2Spec)
    mixer = mixer.mamba if isinstance(mixer, AttentionAndMamba2Spec) else mixer
    assert isinstance(mixer, Mamba2Spec)
    made.input = _input_map(weights, layer)
    made.conv = _causal_conv(weights, layer, memory)
    made.conv.is_silu = True
    if mixer.multipliers:
        sizes = np.array(mixer.parts)
        multipliers = np.repeat(np.array(mixer.multipliers, np.float32), sizes)
        made.multipliers = memory.keep(multipliers)
    made.heads, made.head_dim = mixer.heads, mixer.head_dim
    made.groups, made.state_size = mixer.groups, mixer.state_size
    made.a = memory.keep(-np.exp(tensors["a_log"]))
    made.d, made.dt_bias = address_of(tensors["d"]), address_of(tensors["dt_bias"])
    least, largest = mixer.step_limits
    made.least_step, made.largest_step = least, min(largest, _LARGEST)
    made.states = memory.states.address(layer) + 4 * mixer.conv_floats
    made.gate_norm = address_of(tensors.get("gate_norm"))
    made.eps = mixer.norm_eps
    made.norm_groups = max(1, mixer.norm_groups)
    made.gates_last, made.out_scale = mixer.gates_last, mixer.out_scale
    return made


def _input_map(weights: Weights, layer: int) -> InputMap:
    tensors, made = weights.layers[layer], InputMap()
    made.norm = layer_norm_of(weights, layer, "attention_norm")
    made.linear = linear_map(tensors, "in")
    made.entry = lora_entry(layer, "in")
    return made


def _causal_conv(weights: Weights, layer: int, memory: LayerMemory) -> CausalConv:
    tensors, made = weights.layers[layer], CausalConv()
    stored: NDArray[Any] = tensors["conv"][:, 0]  # (channels, width)
    taps = widen(stored) if is_bfloat16(stored) else stored
    made.channels, made.width = taps.shape
    # A register's lanes are channels, so that those of one tap must lie together.
    made.taps = memory.keep(np.ascontiguousarray(taps.T))
    made.bias = address_of(tensors.get("conv_bias"))
    made.states = memory.states.address(layer)
    return made
