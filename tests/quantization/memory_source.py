"""Tensors of a folder that is not there: for readers of one module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.errors import WeightsError

_NAMES = {
    "int32": "I32", "int64": "I64", "int8": "I8", "float16": "F16", "float32": "F32",
    "uint16": "BF16", "float64": "F64",
}  # fmt: skip


@dataclass(frozen=True)
class InMemory:
    """One tensor."""

    values: NDArray[Any]
    path: Path = Path("model.safetensors")

    @property
    def dtype(self) -> str:
        return _NAMES[self.values.dtype.name]


class MemorySource:
    """Satisfies `TensorSource`; the tensors belong to the module `m`."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self.tensors = {f"m.{part}": np.asarray(value) for part, value in tensors.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def stored(self, name: str) -> InMemory:
        if name not in self.tensors:
            raise WeightsError(f"the weights lack {name}")
        return InMemory(self.tensors[name])
