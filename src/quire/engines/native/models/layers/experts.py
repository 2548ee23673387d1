"""A sparse FFN: experts that a router chooses for each token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quire.engines.native.models.tensors import TensorPart, TensorSpec


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """Names of a sparse FFN's tensors after the layer's prefix; those of expert i in `experts`.

    A folder has the maps of each expert in tensors of their own, or all experts in one tensor (the
    `fused` names, without `.weight`): gate and up (experts, 2 * ffn_size, hidden), down (experts, hidden, ffn_size).
    """

    router: str = "mlp.gate"
    experts: str = "mlp.experts.{}."
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    shared: str = "mlp.shared_expert."
    shared_score: str = "mlp.shared_expert_gate"
    fused_router: str = "mlp.gate"
    fused_gate_up: str = "mlp.experts.gate_up_proj"
    fused_down: str = "mlp.experts.down_proj"


@dataclass(frozen=True, slots=True)
class ExpertsSpec:
    """A sparse FFN: `per_token` of `count` gated FFNs, chosen by the softmax of a router.

    The sum is weighted by the probabilities of those chosen, which `normalised` makes sum to 1. A
    shared expert of `shared_size` (0 for none) runs for every token, weighted by the sigmoid of its
    own score.
    """

    count: int
    per_token: int
    ffn_size: int
    sparse: tuple[bool, ...]
    """For each layer, whether its FFN is sparse."""
    normalised: bool
    shared_size: int = 0
    names: ExpertNames = ExpertNames()

    @property
    def ffn_width(self) -> int:
        """How many gate values one token has, over all its experts."""
        return self.per_token * self.ffn_size + self.shared_size

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """The tensors of one layer: `router`, `experts.<i>.gate`, `.up` and `.down` and, with a
        shared expert, `shared_score` and, as the expert after the last, its three.
        """
        names, count = self.names, self.count
        whole = (count, hidden)
        router = TensorPart(f"{prefix}{names.fused_router}.weight", whole)
        yield TensorSpec("router", f"{prefix}{names.router}.weight", whole, within=router)
        for expert in range(count):
            yield from self._expert_tensors(prefix, hidden, expert)
        if self.shared_size:
            yield TensorSpec("shared_score", f"{prefix}{names.shared_score}.weight", (1, hidden))
            for role, name in (("gate", names.gate), ("up", names.up), ("down", names.down)):
                shape = (self.shared_size, hidden) if role != "down" else (hidden, self.shared_size)
                full = f"{prefix}{names.shared}{name}.weight"
                yield TensorSpec(f"experts.{count}.{role}", full, shape)

    def _expert_tensors(self, prefix: str, hidden: int, expert: int) -> Iterator[TensorSpec]:
        names, size = self.names, self.ffn_size
        own = f"{prefix}{names.experts.format(expert)}"
        gate_up, down = f"{prefix}{names.fused_gate_up}", f"{prefix}{names.fused_down}"
        both, back = (self.count, 2 * size, hidden), (self.count, hidden, size)
        first = 2 * size * expert
        for role, name, shape, part in (
            ("gate", names.gate, (size, hidden), TensorPart(gate_up, both, first)),
            ("up", names.up, (size, hidden), TensorPart(gate_up, both, first + size)),
            ("down", names.down, (hidden, size), TensorPart(down, back, hidden * expert)),
        ):
            yield TensorSpec(f"experts.{expert}.{role}", f"{own}{name}.weight", shape, within=part)
