"""Muon: momentum whose step for each matrix is made orthogonal (Jordan and others, 2024).

torch has one too, but it works in bfloat16, which many CPUs only emulate, far slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MOMENTUM = 0.95
# The quintic of Jordan's Newton-Schulz iteration: it brings all singular values near 1.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon:
    """Trains matrices; used as an optimizer of torch is: `param_groups`, `step`, `zero_grad`."""

    def __init__(self, matrices: list[torch.Tensor], rate: float, decay: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": matrices, "lr": rate}]
        self._decay = decay
        self._momenta = [matrix.detach().clone().zero_() for matrix in matrices]

    def step(self) -> None:
        """Move every matrix by its gradient's momentum, made orthogonal.

        The factor 0.2 sqrt(longer side) gives the step the size of one of AdamW's, so that both
        share a learning rate (Liu and others, "Muon is scalable for LLM training", 2025).
        """
        group = self.param_groups[0]
        for matrix, momentum in zip(group["params"], self._momenta, strict=True):
            momentum.lerp_(matrix.grad, 1 - MOMENTUM)
            step = orthogonal(matrix.grad.lerp(momentum, MOMENTUM))
            matrix.data.mul_(1 - group["lr"] * self._decay)
            matrix.data.add_(step, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for matrix in self.param_groups[0]["params"]:
            matrix.grad = None


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix with all singular values near 1, its directions kept."""
    tall = matrix.shape[0] > matrix.shape[1]
    value = matrix.T if tall else matrix
    value = value / (value.norm() + 1e-7)
    first, third, fifth = QUINTIC
    for _ in range(ITERATIONS):
        square = value @ value.T
        value = first * value + (third * square + fifth * square @ square) @ value
    return value.T if tall else value
