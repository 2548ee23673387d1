"""AWQ: AutoAWQ's checkpoints with four bits, in the layout of its `gemm` kernels.

A module of shape (columns, depth) has `qweight` (depth, columns / 8), `qzeros` (groups, columns / 8)
and `scales` (groups, columns). An int32 word holds eight columns in the order 0 2 4 6 1 3 5 7, the
lowest bits first; zero points are stored as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quire.quantization.matrix import QuantizedMatrix
from quire.quantization.module_tensors import ModuleTensors, words_for
from quire.quantization.schemes import (
    ModuleScheme,
    Rule,
    group_size,
    names,
    refuse,
)
from quire.weights.hub_config import HubConfig

_VERSIONS = ("gemm", "exllama", "ipex")  # kernels that all read the layout of `gemm`
_COLUMN_OF_FIELD = (0, 2, 4, 6, 1, 3, 5, 7)


def rules(settings: HubConfig) -> Iterator[Rule]:
    """The rules of a `quantization_config` whose method is `awq`, or of a `quant_config.json`."""
    version = str(settings.get("version") or settings.get("format") or "gemm").lower()
    if version not in _VERSIONS:
        raise refuse(settings, "version", version, _VERSIONS)
    bits_key = "w_bit" if "w_bit" in settings else "bits"
    bits = settings.integer(bits_key)
    if bits != 4:
        raise refuse(settings, bits_key, bits, (4,))
    for name in names(settings, "modules_to_not_convert"):
        yield Rule("part", name, None)
    group = group_size(settings, "q_group_size" if "q_group_size" in settings else "group_size")
    symmetric = not settings.flag("zero_point", True)
    yield Rule("class", "Linear", ModuleScheme("awq", bits, group, symmetric=symmetric))


def read(tensors: ModuleTensors, shape: tuple[int, int], scheme: ModuleScheme) -> QuantizedMatrix:
    """The module's weight.

    Raises:
        WeightsError: a tensor is missing, or not as it must be.
    """
    columns, depth = shape
    bits, group = scheme.bits, min(scheme.group or depth, depth)
    groups, width = -(-depth // group), words_for(columns, bits)
    codes = _unpack(tensors.words("qweight", (depth, width)), columns)
    scales = tensors.floats("scales", (groups, columns))
    if scheme.symmetric and "qzeros" not in tensors:
        zeros = np.full((columns, groups), 1 << (bits - 1), np.uint8)
    else:
        zeros = _unpack(tensors.words("qzeros", (groups, width)), columns)
    return QuantizedMatrix(bits, group, codes, np.ascontiguousarray(scales.T), zeros)


def _unpack(words: NDArray[np.int32], columns: int) -> NDArray[np.uint8]:
    """Unpack words (rows, words) into columns (columns, rows)."""
    rows, width = words.shape
    # The words are transposed first, and each field is then written along the rows: transposing the
    # unpacked bytes would move eight times as many elements, one by one.
    octets = np.ascontiguousarray(words.T).view(np.uint8).reshape(width, rows, 4)
    integers = np.empty((width, 8, rows), np.uint8)
    for field, column in enumerate(_COLUMN_OF_FIELD):
        if field % 2:
            np.right_shift(octets[:, :, field // 2], 4, out=integers[:, column])
        else:
            np.bitwise_and(octets[:, :, field // 2], 15, out=integers[:, column])
    return integers.reshape(8 * width, rows)[:columns]
