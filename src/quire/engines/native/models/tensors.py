"""Tensors that a model needs: their roles, names and shapes, and where they are within larger ones."""

from __future__ import annotations

from dataclasses import dataclass

Rows = tuple[tuple[int, int], ...]
"""Ranges of rows, each (first, end)."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor that the model needs: its role in the layer, its name in the folder, its shape."""

    role: str
    name: str
    shape: tuple[int, ...]
    rows: Rows = ()
    """The rows that are taken, in order, if it is a part of the tensor of that name."""
    of_rows: int = 0
    """The number of rows of the whole tensor, if it is a part."""
    offset: float = 0.0
    """A number that is added to the stored values."""
    turned: bool = False
    """The part is transposed once its rows are taken."""
    within: TensorPart | None = None
    """The part of a larger tensor that it is in folders without a tensor of its name."""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the tensor in the folder."""
        if not self.rows:
            return self.shape
        columns = self.shape[:-1] if self.turned else self.shape[1:]
        return (self.of_rows, *columns)


@dataclass(frozen=True, slots=True)
class TensorPart:
    """Rows of a larger tensor. All its dimensions but the last are counted as rows."""

    name: str
    shape: tuple[int, ...]
    first_row: int = 0
