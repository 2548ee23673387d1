"""The dense FFN, with a gate or without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from quire.engines.native.models.tensors import Rows, TensorSpec

Activation = Literal["silu", "gelu_tanh", "clamped_swiglu", "gelu", "relu", "relu2", "xielu"]
GATES: tuple[Activation, ...] = ("silu", "gelu_tanh", "clamped_swiglu")
"""The activations of FFNs with a gate."""
XIELU = ("alpha_p", "alpha_n", "beta", "eps")
"""The numbers of a layer's xIELU, by their names in the folder."""


@dataclass(frozen=True, slots=True)
class FfnNames:
    """Names of an FFN's tensors after the layer's prefix."""

    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    gate_up: str = ""
    """The tensor in which gate and up are fused; empty if they are separate."""
    activation: str = "mlp.act_fn"
    """The numbers of an activation that has some."""
    transposed: bool = False
    """The matrices are stored as (in, out), as GPT-2 has them."""


@dataclass(frozen=True, slots=True)
class FfnSpec:
    """`down(act(gate(x)) * up(x))`, or without a gate `down(act(up(x)))`."""

    size: int
    """The width: the rows of `up`."""
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False
    """The linear maps have biases."""
    scales: tuple[float, float] = (1.0, 1.0)
    """What the gate is multiplied by before its activation, and what `up` is multiplied by."""
    gate_cutoff: float | None = None
    """How many standard deviations above their mean the gate values must be to count: less that cutoff,
    before the activation. None for all."""
    names: FfnNames = FfnNames()

    def __post_init__(self) -> None:
        assert not self.gated or self.activation in GATES

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """`gate` if there is one, `up` and `down`, each with its bias; the numbers of xIELU."""
        names = self.names
        for role, shape in (
            ("gate", (self.size, hidden)),
            ("up", (self.size, hidden)),
            ("down", (hidden, self.size)),
        )[0 if self.gated else 1 :]:
            name, part, whole = self._fused(role) or (getattr(names, role), (), 0)
            yield TensorSpec(
                role, f"{prefix}{name}.weight", shape, part, whole, transposed=names.transposed
            )
            if self.bias:
                yield TensorSpec(f"{role}_bias", f"{prefix}{name}.bias", shape[:1], part, whole)
        if self.activation == "xielu":
            for one in XIELU:
                stored = () if one in ("beta", "eps") else None
                name = f"{prefix}{names.activation}.{one}"
                yield TensorSpec(f"xielu_{one}", name, (1,), stored=stored)

    def _fused(self, role: str) -> tuple[str, Rows, int] | None:
        """The larger tensor that a map is part of: its name, the rows of the part, all its rows."""
        if not self.names.gate_up or role == "down":
            return None
        first = 0 if role == "gate" else self.size
        return self.names.gate_up, ((first, first + self.size),), 2 * self.size
