"""AWQ: AutoAWQ's checkpoints in the order of its `gemm` kernels, four bits.

A module of shape (columns, depth) has `qweight` (depth, columns / 8), `qzeros` (groups, columns / 8)
and `scales` (groups, columns). An int32 word holds eight columns in the order 0 2 4 6 1 3 5 7, the
lowest bits first; zero points are stored as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quire.quantization.packing import words_for
from quire.quantization.quantized import QuantizedMatrix
from quire.quantization.schemes import ModuleScheme, Rule
from quire.quantization.settings import group_size, names, refuse
from quire.quantization.stored import ModuleTensors
from quire.weights.hub_config import HubConfig

_VERSIONS = ("gemm", "exllama", "ipex")  # names of kernels that all read the order of `gemm`
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
    """The module's weight. Raises WeightsError for a tensor that is missing or not as it must be."""
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
    """(rows, words) to (columns, rows)."""
    rows, width = words.shape
    # Turned around as words, and each field then written along the rows: no byte moves alone.
    octets = np.ascontiguousarray(words.T).view(np.uint8).reshape(width, rows, 4)
    numbers = np.empty((width, 8, rows), np.uint8)
    for field, column in enumerate(_COLUMN_OF_FIELD):
        if field % 2:
            np.right_shift(octets[:, :, field // 2], 4, out=numbers[:, column])
        else:
            np.bitwise_and(octets[:, :, field // 2], 15, out=numbers[:, column])
    return numbers.reshape(8 * width, rows)[:columns]
