"""The tensors of one quantised module, each checked against what it must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quire.errors import WeightsError
from quire.weights.bfloat16 import widen

_FLOATS = ("F32", "F16", "BF16", "F64")


class Stored(Protocol):
    """A tensor in a file; `values` of a BF16 tensor is uint16."""

    @property
    def path(self) -> Path: ...
    @property
    def dtype(self) -> str: ...
    @property
    def values(self) -> NDArray[Any]: ...


class TensorSource(Protocol):
    """The tensors of a folder, by name."""

    def __contains__(self, name: str) -> bool: ...

    def stored(self, name: str) -> Stored:
        """Raises WeightsError where there is none, or its file is damaged."""
        ...


class ModuleTensors:
    """The tensors `<module>.<part>`. Each method raises WeightsError that names the tensor."""

    def __init__(self, source: TensorSource, module: str) -> None:
        self._source, self._module = source, module

    def __contains__(self, part: str) -> bool:
        return self.name(part) in self._source

    def name(self, part: str) -> str:
        return f"{self._module}.{part}"

    def wrong(self, part: str, text: str) -> WeightsError:
        """The error for a tensor whose numbers cannot be."""
        return WeightsError(
            f"{self._source.stored(self.name(part)).path}: {self.name(part)} {text}"
        )

    def _read(self, part: str, types: tuple[str, ...], *shapes: tuple[int, ...]) -> Stored:
        found = self._source.stored(self.name(part))
        if found.dtype not in types:
            raise self.wrong(part, f"is stored as {found.dtype}, not as {' or '.join(types)}")
        if found.values.shape not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise self.wrong(
                part,
                f"has shape {found.values.shape}; config.json and its quantization ask for {wanted}",
            )
        return found

    def words(self, part: str, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """Packed numbers."""
        return self._read(part, ("I32",), shape).values

    def type_of(self, part: str) -> str:
        """The type that the file says, as `I32`."""
        return self._source.stored(self.name(part)).dtype

    def signed(self, part: str, *shapes: tuple[int, ...], bits: int) -> NDArray[np.uint8]:
        """Numbers of one signed byte each, moved up so that the lowest of `bits` is 0."""
        values = self._read(part, ("I8",), *shapes).values
        half = 1 << (bits - 1)
        if bits < 8 and values.size and (values.min() < -half or values.max() >= half):
            raise self.wrong(part, f"holds numbers outside of {bits} bits")
        return (values.view(np.uint8) + np.uint8(half)) & np.uint8(2 * half - 1)

    def floats(self, part: str, *shapes: tuple[int, ...]) -> NDArray[np.float32]:
        """Finite numbers in float32, of one of the shapes."""
        found = self._read(part, _FLOATS, *shapes)
        wide = widen(found.values) if found.dtype == "BF16" else found.values
        values = wide.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise self.wrong(part, "holds infinities or NaN")
        return values

    def integers(self, part: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Whole numbers of any usual type."""
        return self._read(part, ("I32", "I64", "I16"), shape).values.astype(np.int64)


def order_of_groups(
    tensors: ModuleTensors, part: str, depth: int, group: int
) -> NDArray[np.int32] | None:
    """The inputs sorted by their group, from the tensor that gives each input's group.

    None where they are in order already, and where the tensor was never filled: writers leave it
    at 0 throughout (GPTQ) or at -1 (compressed-tensors) where no order was used.
    """
    groups = tensors.integers(part, (depth,))
    if (groups == 0).all() or (groups == -1).all():
        return None
    order = np.argsort(groups, kind="stable").astype(np.int32)
    if not np.array_equal(groups[order], np.arange(depth) // group):
        raise tensors.wrong(part, f"does not give each group {group} of the {depth} inputs")
    in_order = np.array_equal(order, np.arange(depth))
    return None if in_order else order
