"""The values of an adapter that was read and checked, as float32: what an engine of our own adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.adapters.folder import Adapter
from quire.adapters.lora_config import read_config
from quire.adapters.pairs import WEIGHTS_FILE, Pair, read_changes
from quire.errors import AdapterError
from quire.weights.safetensors import TensorEntry, read_bits

Floats: TypeAlias = NDArray[np.float32]
Matrix: TypeAlias = NDArray[Any]
"""Float32, or bfloat16 as uint16."""


@dataclass(frozen=True, slots=True)
class LoraPair:
    """What one module gains: `x @ a.T @ b.T + bias`, or `a.T[tokens] @ b.T` of embeddings."""

    a: Floats
    """(rank, in), or (rank, tokens) of embeddings."""
    b: Floats
    """(out, rank), times the scaling."""
    bias: Floats | None
    """(out,), times the scaling."""

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing."""
        product = bool(self.a.any()) and bool(self.b.any())
        return not product and (self.bias is None or not self.bias.any())


@dataclass(frozen=True, slots=True)
class AdapterTensors:
    """An adapter's values by module; `pairs.Changes` says what each part is."""

    pairs: Mapping[str, LoraPair]
    embeddings: Mapping[str, LoraPair]
    matrices: Mapping[str, Matrix]
    biases: Mapping[str, Floats]


def read_tensors(adapter: Adapter) -> AdapterTensors:
    """Read all values of an adapter.

    Raises:
        AdapterError: the files are not what they were when it was checked.
    """
    config = read_config(adapter.path, extended=adapter.extended)
    changes = read_changes(adapter.path, extended=adapter.extended)

    def pairs(found: Mapping[str, Pair]) -> dict[str, LoraPair]:
        return {m: _pair(adapter.path, p, config.scaling_of(m)) for m, p in found.items()}

    return AdapterTensors(
        pairs(changes.pairs),
        pairs(changes.embeddings),
        {module: _matrix(adapter.path, entry) for module, entry in changes.matrices.items()},
        {module: _floats(adapter.path, entry) for module, entry in changes.biases.items()},
    )


def _pair(path: Path, pair: Pair, scaling: float) -> LoraPair:
    factor = np.float32(scaling)
    bias = None if pair.bias is None else _floats(path, pair.bias) * factor
    return LoraPair(_floats(path, pair.a), _floats(path, pair.b) * factor, bias)


def _floats(path: Path, entry: TensorEntry) -> Floats:
    values = _matrix(path, entry)
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _matrix(path: Path, entry: TensorEntry) -> Matrix:
    """The values as float32; bfloat16 stays what it is."""
    try:
        bits = read_bits(path / WEIGHTS_FILE, entry).reshape(entry.shape)
    except ValueError as error:
        raise AdapterError(
            f"The adapter's weights {path / WEIGHTS_FILE}: {error}. Copy the adapter again."
        ) from None
    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
    if entry.dtype == "BF16":
        return bits.astype(np.uint16, copy=False)
    with np.errstate(over="ignore"):
        values = bits.view(kinds[entry.dtype]).astype(np.float32, copy=False)
    if entry.dtype == "F64" and not np.isfinite(values).all():
        raise AdapterError(
            f"The adapter's weights {path / WEIGHTS_FILE} hold numbers too large for float32. Give "
            "an earlier checkpoint."
        )
    return values
