"""Tensors that a model needs: their roles, names and shapes, and where they are within larger ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

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
    factor: float = 1.0
    """A number that the stored values are multiplied by."""
    turned: bool = False
    """The part is transposed once its rows are taken."""
    columns: Rows = ()
    """Ranges of a folder's columns in the order that a GGUF file has them in; none if that is the same."""
    within: tuple[TensorPart, ...] = ()
    """Where else it may be, in folders without a tensor of its name: parts of larger tensors."""
    transposed: bool = False
    """The folder has the matrix the other way round."""
    stored: tuple[int, ...] | None = None
    """The shape in the folder, if that has the same numbers in another shape."""
    pieces: int = 0
    """It is made of so many tensors, one after the other, whose names have a number for `{}`."""

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor, as the model needs it."""
        if not self.rows:
            return self.shape
        columns = self.shape[:-1] if self.turned else self.shape[1:]
        return (self.of_rows, *columns)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the tensor in the folder."""
        if self.pieces:
            return (self.shape[0] // self.pieces, *self.shape[1:])
        if self.stored is not None:
            return self.stored
        return self.whole_shape[::-1] if self.transposed else self.whole_shape

    @property
    def is_float32(self) -> bool:
        """Whether the tensor is computed with as float32, whatever the matrices are."""
        return len(self.shape) < 2 or self.role == "positions"


@dataclass(frozen=True, slots=True)
class TensorPart:
    """Rows of a larger tensor. All its dimensions but the last are counted as rows; all, of a vector."""

    name: str
    shape: tuple[int, ...]
    first_row: int = 0
    step: int = 1
    """How far apart the rows are."""
    transposed: bool = False
    """The folder has the last two dimensions of `shape` in the other order."""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the tensor in the folder."""
        if not self.transposed:
            return self.shape
        *stack, rows, columns = self.shape
        return (*stack, columns, rows)

    def take(self, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The part of `shape` of the tensor's values as they are stored; a view."""
        rows, *columns = shape
        last = self.first_row + self.step * (rows - 1)
        if not columns:
            return values.reshape(-1)[self.first_row : last + 1 : self.step]
        stack = values.reshape(-1, *values.shape[-2:])
        stack = stack.swapaxes(1, 2) if self.transposed else stack
        index, first = divmod(self.first_row, stack.shape[1])
        return stack[index, first : first + last - self.first_row + 1 : self.step]


ShapeOf = Callable[[str], tuple[int, ...] | None]
"""The shape of a folder's tensor; None if it has none of the name."""


def find_part(spec: TensorSpec, shape_of: ShapeOf) -> TensorPart | None:
    """Where the folder has a tensor that it has not under its own name, or in another shape."""
    own = shape_of(spec.name)
    parts = [part for part in spec.within if shape_of(part.name) is not None]
    if own is not None:
        parts = [part for part in parts if part.name == spec.name]
    if not parts or own == spec.stored_shape:
        return None
    fitting = (one for one in parts if shape_of(one.name) == one.stored_shape)
    return next(fitting, None if own is not None else parts[0])


def bias_of(weight: str) -> str:
    """The name of the bias that belongs to a weight."""
    return f"{weight.removesuffix('.weight')}.bias"
