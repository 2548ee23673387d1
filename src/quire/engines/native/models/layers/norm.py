"""Norms: RMS norms and layer norms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from quire.engines.native.models.tensors import TensorSpec, bias_of

NormKind = Literal["rms", "layer"]


@dataclass(frozen=True, slots=True)
class NormSpec:
    """A norm. What it is over, and where it stands, is the business of the part that has it."""

    kind: NormKind = "rms"
    eps: float = 1e-6
    weights: bool = True
    bias: bool = False
    offset: float = 0.0
    """Added to the stored weights: 1 for Gemma."""

    def tensors(self, role: str, name: str, size: int) -> Iterator[TensorSpec]:
        """Weight and bias, whichever it has. `name` is the weight's."""
        if self.weights:
            yield TensorSpec(role, name, (size,), offset=self.offset)
        if self.bias:
            yield TensorSpec(f"{role}_bias", bias_of(name), (size,))


RMS_NORM = NormSpec()
