"""The arguments of a gated delta net."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels.arguments import DeltaNet
from quire.engines.native.cpu.program.arguments import CausalConv, GatedDeltaNet
from quire.engines.native.cpu.tables.maps import layer_norm_of, linear_map, lora_entry
from quire.engines.native.cpu.tables.memory import LayerMemory
from quire.engines.native.cpu.weights.decoder import Weights
from quire.engines.native.cpu.weights.linear_map import address_of, is_bfloat16
from quire.engines.native.models.layers.delta_net import DeltaNetSpec, KimiDeltaSpec
from quire.weights.safetensors import widen


def delta_net(weights: Weights, layer: int, memory: LayerMemory) -> GatedDeltaNet:
    """What `project_delta`, `delta_gates` and the rule are told."""
    tensors, made = weights.layers[layer], GatedDeltaNet()
    mixer = weights.spec.layers[layer].mixer
    assert isinstance(mixer, DeltaNetSpec)
    made.norm = layer_norm_of(weights, layer, "attention_norm")
    made.q, made.k, made.v = (linear_map(tensors, role) for role in ("q", "k", "v"))
    made.z, made.rate, made.decay = (linear_map(tensors, role) for role in ("z", "rate", "decay"))
    made.entry = lora_entry(layer, "q")
    is_kimis = isinstance(mixer, KimiDeltaSpec)
    if is_kimis:
        made.z_b, made.decay_b = linear_map(tensors, "z_b"), linear_map(tensors, "decay_b")
        made.z_b_entry, made.decay_b_entry = lora_entry(layer, "z_b"), lora_entry(layer, "decay_b")
    states = memory.states.address(layer)
    convs: list[CausalConv] = []
    for part in ("q", "k", "v"):
        convs.append(_causal_conv(tensors[f"{part}_conv"], states, memory))
        states += 4 * (convs[-1].width - 1) * convs[-1].channels
    made.q_conv, made.k_conv, made.v_conv = convs
    net = made.net = DeltaNet()
    net.key_heads, net.value_heads = mixer.key_heads, mixer.value_heads
    net.key_size, net.value_size = mixer.key_size, mixer.value_size
    net.log_decay, net.step_bias = map(address_of, (tensors["log_decay"], tensors["step_bias"]))
    net.is_tiled, net.has_sigmoids = mixer.tiled_output, is_kimis
    net.rate_scale, net.norm_eps = mixer.rate_scale, mixer.norm_eps
    net.norm, net.states = address_of(tensors["mixer_norm"]), states
    return made


def _causal_conv(weight: NDArray[Any], states: int, memory: LayerMemory) -> CausalConv:
    """A convolution of (channels, 1, width), whose states begin at an address in slot 0."""
    made, taps = CausalConv(), weight[:, 0]
    taps = widen(taps) if is_bfloat16(taps) else taps
    made.channels, made.width = taps.shape
    # A register's lanes are channels, so that those of one tap must lie together.
    made.taps = memory.keep(np.ascontiguousarray(taps.T))
    made.is_silu, made.states = True, states
    return made
