"""The arguments of an FFN: dense, or sparse with the memory of its routing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.compiler.structs import Structs
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.arguments import Experts, LinearMap, Xielu
from quire.engines.native.cpu.program.arguments import DenseFfn
from quire.engines.native.cpu.tables.maps import (
    layer_norm_of,
    linear_map,
    lora_entry,
    norm_of,
    output_of,
    stream_scale,
)
from quire.engines.native.cpu.weights.decoder import Weights
from quire.engines.native.cpu.weights.linear_map import address_of, fill_map
from quire.engines.native.models.layers.experts import ExpertsSpec, Scores
from quire.engines.native.models.layers.ffn import XIELU, Activation
from quire.engines.native.models.layers.latent_attention import latent_heads

ACTIVATIONS: dict[Activation, int] = {
    "silu": layout.SILU,
    "gelu_tanh": layout.GELU_TANH,
    "clamped_swiglu": layout.CLAMPED_SWIGLU,
    "gelu": layout.GELU,
    "relu": layout.RELU,
    "relu2": layout.RELU2,
    "xielu": layout.XIELU,
}
_SCORES: Mapping[Scores, int] = {
    "softmax": layout.SOFTMAX,
    "sigmoid": layout.SIGMOID,
    "sigmoid_of_chosen": layout.SIGMOID_OF_CHOSEN,
}


def dense_ffn(weights: Weights, layer: int) -> DenseFfn:
    own, tensors, made = weights.spec.layers[layer], weights.layers[layer], DenseFfn()
    spec = own.ffn
    assert spec is not None
    made.norm = layer_norm_of(weights, layer, own.ffn_input_norm)
    first = "gate" if spec.gated else "up"
    made.gate, made.up = linear_map(tensors, first), linear_map(tensors, "up")
    made.activation = made.cut_activation = ACTIVATIONS[spec.activation]
    if spec.gate_cutoff is not None:
        made.activation, made.cutoff = layout.NO_ACTIVATION, spec.gate_cutoff
    made.entry = lora_entry(layer, first)
    if spec.activation == "xielu":
        made.xielu = _xielu(tensors)
    made.gate_scale, made.up_scale = spec.scales
    made.down = output_of(weights, layer, "down", layer_norm_of(weights, layer, "post_ffn_norm"))
    return made


def _xielu(tensors: Mapping[str, Any]) -> Xielu:
    """xIELU's numbers: the two alphas are stored as what softplus makes them of."""
    made, stored = Xielu(), {one: float(tensors[f"xielu_{one}"][0]) for one in XIELU}
    made.beta, made.eps = stored["beta"], stored["eps"]
    made.positive = float(np.logaddexp(0, stored["alpha_p"]))
    made.negative = stored["beta"] + float(np.logaddexp(0, stored["alpha_n"]))
    return made


def sparse_ffn(weights: Weights, layer: int, scratch: ExpertScratch | None) -> Experts:
    """What `route` and `add_experts` are told."""
    own, tensors = weights.spec.layers[layer], weights.layers[layer]
    spec = own.experts
    assert spec is not None
    assert scratch is not None
    made = make_experts(spec, tensors, scratch)
    made.width = spec.width(weights.spec.hidden_size)
    if spec.latent_size:
        made.latent_in = linear_map(tensors, "latent_in")
        made.latent_entry = lora_entry(layer, "latent_in")
    made.norm = layer_norm_of(weights, layer, "ffn_norm")
    if own.ffn:  # beside it
        made.norm, made.output_norm, made.dense_norm = (
            norm_of(own.norm, tensors, role)
            for role in ("experts_norm", "experts_output_norm", "dense_norm")
        )
    made.post_norm = layer_norm_of(weights, layer, "post_ffn_norm")
    if spec.router.has_norm:
        made.router_norm = norm_of(own.norm, tensors, "router_norm")
    made.stream_scale = stream_scale(weights, layer, "down")
    made.activation = ACTIVATIONS[spec.activation]
    made.first_entry = layer * layout.inner_entries(spec.total, latent_heads(weights.spec.mixers))
    return made


class ExpertScratch:
    """What routing writes for a batch of at most `rows` rows. The layers use it one at a time."""

    def __init__(self, spec: ExpertsSpec, rows: int) -> None:
        chosen, grouped = (rows, spec.per_token), rows * (spec.per_token + 1)
        self.arrays: dict[str, NDArray[Any]] = {
            "router_scores": np.zeros((rows, spec.count), np.float32),
            "shared_scores": np.zeros(rows, np.float32),
            "chosen": np.zeros(chosen, np.int32),
            "chosen_weights": np.zeros(chosen, np.float32),
            "starts": np.zeros(spec.count + 2, np.int64),
            "grouped_rows": np.zeros(grouped, np.int32),
            "grouped_weights": np.zeros(grouped, np.float32),
        }
        """By the fields of `Experts`."""
        if _has_choice(spec):
            self.arrays["choice"] = np.zeros((rows, spec.count), np.float32)
            self.arrays["group_scores"] = np.zeros((rows, spec.router.groups), np.float32)


def _has_choice(spec: ExpertsSpec) -> bool:
    """Whether experts are chosen by other numbers than their scores."""
    return spec.router.is_corrected or spec.router.groups > 1


def make_experts(spec: ExpertsSpec, tensors: Mapping[str, Any], scratch: ExpertScratch) -> Experts:
    """The experts of one layer. Tensors and scratch must live as long as they are in use."""
    made, router = Experts(), spec.router
    made.count, made.all, made.per_token = spec.count, spec.total, spec.per_token
    made.ffn, made.is_gated = spec.ffn_size, spec.gated
    made.router, made.scores = linear_map(tensors, "router"), _SCORES[router.scores]
    made.is_normalised, made.least_sum = router.normalised, router.least_sum
    made.scale, made.weights_inputs = router.scale, router.weights_inputs
    made.correction = address_of(tensors.get("router_correction"))
    made.expert_scales = address_of(tensors.get("expert_scales"))
    made.groups, made.chosen_groups = router.groups, router.chosen_groups
    made.is_best_only = router.group_score == "best"
    if spec.shared_gated:
        made.shared_score = linear_map(tensors, "shared_score")
    first = spec.maps[0]
    roles = [f"experts.{i}.{role}" for i in range(made.all) for role in (first, "up", "down")]
    made.maps = Structs(LinearMap, len(roles))
    for one, role in zip(made.maps, roles, strict=True):
        fill_map(one, tensors[role], tensors.get(f"{role}_bias"))
    made.input_map = _input_map(spec, made)
    for field, array in scratch.arrays.items():
        setattr(made, field, address_of(array))
    return made


def _input_map(spec: ExpertsSpec, experts: Experts) -> LinearMap | None:
    """A map whose rounded rows all experts can have; None if there is none, or each expert weights its own."""
    inputs = [one for index, one in enumerate(experts.maps) if index % 3 != 2 and one.rounder]
    forms = {(one.rounder, one.packed_depth, one.span, one.row_bytes) for one in inputs}
    return inputs[0] if len(forms) == 1 and not spec.router.weights_inputs else None


def expert_scratch_bytes(spec: ExpertsSpec, rows: int) -> int:
    """Bytes of `ExpertScratch`, without the few that do not grow with the rows."""
    choice = spec.count + spec.router.groups if _has_choice(spec) else 0
    return 4 * rows * (spec.count + choice + 1 + 4 * spec.per_token + 2)
