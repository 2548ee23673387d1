"""The arguments of what layers get of each token besides the residual stream."""

from __future__ import annotations

import numpy as np

from quire.engines.native.cpu.program.arguments import LayerGate, LayerInputs
from quire.engines.native.cpu.program.machine_code import kernel_address
from quire.engines.native.cpu.tables.ffn import ACTIVATIONS
from quire.engines.native.cpu.tables.maps import linear_map, lora_entry, norm_of, output_of
from quire.engines.native.cpu.weights.decoder import Weights, layer_embedding_scale
from quire.engines.native.cpu.weights.linear_map import address_of, is_bfloat16, make_map


def layer_inputs(weights: Weights) -> LayerInputs:
    """What `layer_inputs` is told. The first layer has the tensors."""
    spec, tensors, made = weights.spec, weights.layers[0], LayerInputs()
    inputs, table = spec.layer_inputs, weights.tensors["layer_embeddings"]
    assert inputs is not None
    made.linear, made.entry = linear_map(tensors, "layer_inputs"), lora_entry(0, "layer_inputs")
    made.norm = norm_of(spec.layers[0].norm, tensors, "layer_inputs_norm")
    if isinstance(table, np.ndarray):
        made.table, made.is_bfloat16 = address_of(table), is_bfloat16(table)
    else:
        made.packed, made.reader = make_map(table), kernel_address(table.reader)
    made.vocabulary, made.layers, made.layer_size = inputs.vocab_size, spec.num_layers, inputs.size
    made.scale = spec.hidden_size**-0.5
    made.table_scale, made.sum_scale = float(layer_embedding_scale(weights)), inputs.sum_scale
    return made


def layer_gate(weights: Weights, layer: int) -> LayerGate:
    """What `layer_gate` and `layer_out` are told."""
    spec, tensors, made = weights.spec, weights.layers[layer], LayerGate()
    assert spec.layer_inputs is not None
    size = spec.layer_inputs.size
    made.gate, made.entry = linear_map(tensors, "layer_gate"), lora_entry(layer, "layer_gate")
    made.activation = ACTIVATIONS[spec.layer_inputs.activation]
    made.first, made.width = layer * size, spec.num_layers * size
    made.streams = spec.altup.streams if spec.altup else 1
    norm = norm_of(spec.layers[layer].norm, tensors, "post_layer_norm")
    made.out = output_of(weights, layer, "layer_out", norm)
    return made
