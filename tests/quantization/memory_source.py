"""Tensors in memory, for readers of one quantised module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from quire.errors import WeightsError
from quire.weights.safetensors import StoredTensor

_NAMES = {
    "int32": "I32", "int64": "I64", "int8": "I8", "float16": "F16", "float32": "F32",
    "uint16": "BF16", "float64": "F64", "uint8": "U8",
}  # fmt: skip


class MemorySource:
    """Satisfies `TensorSource`; the tensors belong to the module `m`."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self.tensors = {f"m.{part}": np.asarray(value) for part, value in tensors.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def stored(self, name: str) -> StoredTensor:
        if name not in self.tensors:
            raise WeightsError(f"the weights lack {name}")
        values = self.tensors[name]
        path = Path("model.safetensors")
        return StoredTensor(name, path, _NAMES[values.dtype.name], values)
