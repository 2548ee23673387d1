"""A sparse FFN: experts that a router chooses for each token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from quire.engines.native.models.layers.ffn import Activation
from quire.engines.native.models.tensors import TensorPart, TensorSpec

Scores = Literal["softmax", "sigmoid", "sigmoid_of_chosen"]
GroupScore = Literal["two_best", "best"]


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """Names of a sparse FFN's tensors after the layer's prefix; those of expert i in `experts`.

    A folder has the maps of each expert in tensors of their own, or all experts in one tensor (the
    `fused` names, without `.weight`): gate and up (experts, 2 * ffn_size, hidden), or up alone where there is no
    gate, and down (experts, hidden, ffn_size).
    Biases of fused tensors are called as these are, with `_bias` after it.
    """

    router: str = "mlp.gate"
    correction: str = "mlp.gate.e_score_correction_bias"
    """The bias of the choice: the whole name."""
    experts: str = "mlp.experts.{}."
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    shared: str = "mlp.shared_expert."
    shared_score: str = "mlp.shared_expert_gate"
    shared_gate_up: str = ""
    """The tensor of the shared expert in which gate and up are fused; empty if they are separate."""
    shared_gate: str = ""
    shared_up: str = ""
    """The shared expert's gate and up after `shared`, if they have other names than those of experts."""
    shared_down: str = ""
    """The same of its down, as a whole name."""
    fused_router: str = "mlp.gate"
    fused_correction: str = ""
    """Where the bias of the choice is in folders whose experts are fused, if it is elsewhere."""
    fused_gate_up: str = "mlp.experts.gate_up_proj"
    fused_down: str = "mlp.experts.down_proj"
    also_fused: tuple[str, str] | None = None
    """Other names of these two that folders have."""
    always_fused: bool = False
    """transformers knows no folders with the experts apart; files of GGUF have them so."""
    fused_transposed: bool = False
    """The last two dimensions of the fused tensors are in the other order: gate and up are columns."""
    fused_either_way: bool = False
    """Folders have them in either order; where both fit, gate and up are rows."""
    fused_interleaved: bool = False
    """In the fused tensor, the rows of gate and up alternate."""
    latent_in: str = ""
    latent_out: str = ""
    """The maps around experts with a `latent_size`."""
    router_norm: str = ""
    """The weights of a norm of the router's own: the whole name."""
    expert_scales: str = ""
    """The factors of `RouterSpec.scales_experts`: the whole name."""
    input_norm: str = ""
    """The norms of a sparse FFN beside a dense one: before it, after it, and after the dense one."""
    output_norm: str = ""
    dense_norm: str = ""

    @property
    def fused_modules(self) -> tuple[str, ...]:
        """The modules that have the fused tensors as parameters."""
        names = (self.fused_gate_up, self.fused_down, *(self.also_fused or ()))
        return tuple({name.rpartition(".")[0]: None for name in names})


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """How the experts of a token are chosen, and what their outputs are weighted by.

    The router's logits become scores. The experts with the highest scores are chosen, and their scores
    are the weights of the sum. The softmax of the chosen logits alone, which some models have, is what
    `softmax` gives with `normalised`.
    """

    scores: Scores = "softmax"
    """`sigmoid_of_chosen` chooses by the logits: far from 0, sigmoids of float32 are all the same."""
    normalised: bool = False
    """The weights are divided by their sum."""
    least_sum: float = 1e-20
    """What that sum is at least, so that weights that are all 0 stay so."""
    scale: float = 1.0
    """The weights are multiplied by it, last."""
    is_corrected: bool = False
    """A bias is added to the scores for the choice, and not in the weights."""
    groups: int = 1
    """The experts are so many groups of neighbours, and those of some groups are chosen from."""
    chosen_groups: int = 1
    group_score: GroupScore = "two_best"
    """A group is as good as the sum of its two best experts, or as the best one."""
    weights_inputs: bool = False
    """The weights multiply what an expert gets, instead of what it gives."""
    has_norm: bool = False
    """The router reads the residual stream by a norm of its own."""
    scales_experts: bool = False
    """Each expert has a factor of its own, which its weights are multiplied by."""


@dataclass(frozen=True, slots=True)
class ExpertsSpec:
    """A sparse FFN: `per_token` of `count` FFNs, with gates or without, chosen by a router.

    A shared expert of `shared_size` (0 for none) runs for every token. Several of one size are one
    that is wider.
    """

    count: int
    per_token: int
    ffn_size: int
    activation: Activation = "silu"
    gated: bool = True
    router: RouterSpec = RouterSpec()
    shared_size: int = 0
    shared_gated: bool = False
    """The shared expert is weighted by the sigmoid of a score of its own."""
    latent_size: int = 0
    """The chosen experts read a smaller vector that a map makes of the input, and another map is applied to
    their sum; 0 if they read the input itself. The router and the shared expert always do."""
    biases: bool = False
    """The linear maps of the router and of the experts have biases."""
    names: ExpertNames = ExpertNames()

    @property
    def ffn_width(self) -> int:
        """How many gate values one token has, over all its experts."""
        return self.per_token * self.ffn_size + self.shared_size

    @property
    def maps(self) -> tuple[str, ...]:
        """The linear maps of an expert, by role."""
        return ("gate", "up", "down") if self.gated else ("up", "down")

    def width(self, hidden: int) -> int:
        """The size of what a chosen expert reads and gives, in a model of this hidden size."""
        return self.latent_size or hidden

    @property
    def total(self) -> int:
        """How many experts there are, with the shared one."""
        return self.count + bool(self.shared_size)

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """The tensors of one layer: `router`, and as there are `router_correction`, `router_norm`,
        `expert_scales`, `latent_in` and `latent_out`; `experts.<i>.gate` if there are gates, `.up` and `.down` and, with a shared expert,
        `shared_score` if it is weighted and, as the expert after the last, its own.
        """
        names, count = self.names, self.count
        whole = (count, hidden)
        router = TensorPart(f"{prefix}{names.fused_router}.weight", whole)
        yield TensorSpec("router", f"{prefix}{names.router}.weight", whole, within=(router,))
        if self.router.is_corrected:
            yield self._correction(prefix)
        if self.biases:
            yield TensorSpec("router_bias", f"{prefix}{names.router}.bias", (count,))
        if self.router.has_norm:
            name = f"{prefix}{names.router_norm}"
            yield TensorSpec("router_norm", name, (hidden,), factor=hidden**-0.5)
        if self.router.scales_experts:
            yield TensorSpec("expert_scales", f"{prefix}{names.expert_scales}", (count,))
        if self.latent_size:
            shape = (self.latent_size, hidden)
            yield TensorSpec("latent_in", f"{prefix}{names.latent_in}.weight", shape)
            yield TensorSpec("latent_out", f"{prefix}{names.latent_out}.weight", shape[::-1])
        for expert in range(count):
            yield from self._expert_tensors(prefix, self.width(hidden), expert)
        if self.shared_size:
            yield from self._shared_tensors(prefix, hidden)

    def norm_tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """The norms of a sparse FFN beside a dense one: before it, after it, and after the dense one."""
        for role, name in (
            ("experts_norm", self.names.input_norm),
            ("experts_output_norm", self.names.output_norm),
            ("dense_norm", self.names.dense_norm),
        ):
            yield TensorSpec(role, f"{prefix}{name}.weight", (hidden,))

    def _correction(self, prefix: str) -> TensorSpec:
        names, size = self.names, (self.count,)
        own, other = f"{prefix}{names.correction}", f"{prefix}{names.fused_correction}"
        parts = [TensorPart(own, (1, self.count))]  # as ERNIE has it
        if names.fused_correction:
            parts += [TensorPart(other, size), TensorPart(other, (1, self.count))]
        return TensorSpec("router_correction", own, size, within=tuple(parts))

    def _shared_tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        names, size = self.names, self.shared_size
        if self.shared_gated:
            yield TensorSpec("shared_score", f"{prefix}{names.shared_score}.weight", (1, hidden))
        for index, role in enumerate(self.maps[:-1]):
            own = {"gate": names.shared_gate or names.gate, "up": names.shared_up or names.up}
            name = own[role]
            role, full = f"experts.{self.count}.{role}", f"{prefix}{names.shared}{name}.weight"
            if names.shared_gate_up:
                full, rows = (
                    f"{prefix}{names.shared_gate_up}.weight",
                    (index * size, (index + 1) * size),
                )
                yield TensorSpec(role, full, (size, hidden), (rows,), 2 * size)
            else:
                yield TensorSpec(role, full, (size, hidden))
        down = names.shared_down or f"{names.shared}{names.down}"
        yield TensorSpec(f"experts.{self.count}.down", f"{prefix}{down}.weight", (hidden, size))

    def _expert_tensors(self, prefix: str, hidden: int, expert: int) -> Iterator[TensorSpec]:
        names, size = self.names, self.ffn_size
        own = f"{prefix}{names.experts.format(expert)}"
        first_maps = len(self.maps) - 1  # gate and up lie in one fused tensor
        both = first_maps * size
        first, step = both * expert, first_maps if names.fused_interleaved else 1
        up = first + (1 if names.fused_interleaved else size) * (first_maps - 1)
        for role, name, shape, index, rows, first_row, apart in (
            ("gate", names.gate, (size, hidden), 0, both, first, step),
            ("up", names.up, (size, hidden), 0, both, up, step),
            ("down", names.down, (hidden, size), 1, hidden, hidden * expert, 1),
        )[-len(self.maps) :]:
            stack, full = (self.count, rows), f"experts.{expert}.{role}"
            fused = ((names.fused_gate_up, names.fused_down), names.also_fused)
            places = [f"{prefix}{pair[index]}" for pair in fused if pair is not None]
            orders = (False, True) if names.fused_either_way else (names.fused_transposed,)
            parts = tuple(
                TensorPart(place, (*stack, shape[1]), first_row, apart, order)
                for place in places
                for order in orders
            )
            yield TensorSpec(full, f"{own}{name}.weight", shape, within=parts)
            if self.biases:
                parts = tuple(
                    TensorPart(f"{place}_bias", stack, first_row, apart) for place in places
                )
                yield TensorSpec(f"{full}_bias", f"{own}{name}.bias", shape[:1], within=parts)
