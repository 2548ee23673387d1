"""Several residual streams of which each layer computes with one: AltUp (arXiv:2301.13310), and LAuReL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quire.engines.native.models.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class AltUpSpec:
    """`streams` residual streams. A layer predicts all of them, computes with the `active` one, and corrects
    all by what the active one has become. Inputs of layers are added to all streams but the first.

    Beside attention there is LAuReL (arXiv:2411.07501): the norm of the active stream, and a map of it of low
    rank.
    """

    streams: int
    active: int
    scales_output: bool
    """The active stream is multiplied by a vector before the gate of the layer's inputs reads it."""
    laurel_rank: int

    def global_tensors(self, starts: str, ends: str, hidden: int) -> Iterator[TensorSpec]:
        """`altup_start.<i>` and `altup_end.<i>`, of all streams but the first, by their names."""
        for role, name in (("altup_start", starts), ("altup_end", ends)):
            for index in range(self.streams - 1):
                full = f"{name.format(index)}.weight"
                yield TensorSpec(f"{role}.{index}", full, (hidden, hidden))

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """The tensors of one layer."""
        count, own, laurel = self.streams, f"{prefix}altup.", f"{prefix}laurel."
        norm = f"{own}router_norm.weight"
        yield TensorSpec("altup_router_norm", norm, (hidden,), factor=1 / hidden)
        for role, name, shape in (
            ("altup_router", "modality_router", (count, hidden)),
            ("altup_prediction", "prediction_coefs", (count * count, count)),
            ("altup_correction", "correction_coefs", (count, count)),
        ):
            yield TensorSpec(role, f"{own}{name}.weight", shape)
        if self.scales_output:
            yield TensorSpec("altup_output_scale", f"{own}correct_output_scale", (hidden,))
        rank = self.laurel_rank
        yield TensorSpec("laurel_left", f"{laurel}linear_left.weight", (rank, hidden))
        yield TensorSpec("laurel_right", f"{laurel}linear_right.weight", (hidden, rank))
        yield TensorSpec("laurel_norm", f"{laurel}post_laurel_norm.weight", (hidden,))
