"""GPTQ: AutoGPTQ's and GPTQModel's checkpoints, with either convention for the zero points.

A module of shape (columns, depth) has, all packed into int32 with the lowest bits first:
`qweight` (depth / n, columns), with n = 32 / bits integers of consecutive inputs in a word; `qzeros`
(groups, columns / n); `scales` (groups, columns); and `g_idx` (depth,), each input's group.

The format `gptq` stores zero points less 1, `gptq_v2` as they are. The 1 was subtracted from whole
words, where a zero point of 0 borrows from its neighbour. So it is added to whole words here, as
GPTQModel does, which undoes the borrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from quire.quantization.matrix import QuantizedMatrix
from quire.quantization.module_tensors import (
    ModuleTensors,
    order_of_groups,
    unpack,
    words_for,
)
from quire.quantization.schemes import (
    Layout,
    ModuleScheme,
    Rule,
    check_pattern,
    group_size,
    refuse,
)
from quire.weights.hub_config import HubConfig

_LAYOUTS: dict[str, Layout] = {"gptq": "gptq", "gptq_v2": "gptq_v2"}
_ONES = {4: 0x11111111, 8: 0x01010101}


def rules(settings: HubConfig) -> Iterator[Rule]:
    """The rules of a `quantization_config` whose method is `gptq`, or of a `quantize_config.json`.

    `dynamic` (GPTQModel) gives the modules that match a pattern other bits or groups, or leaves them
    in full precision.
    """
    layout = _layout(settings)
    dynamic = settings.get("dynamic", {})
    if not isinstance(dynamic, Mapping):
        raise settings.wrong("dynamic", dynamic, "an object of patterns")
    for key, changes in dynamic.items():
        pattern = check_pattern(settings, "dynamic", re.sub(r"^[+-]:", "", key))
        if key.startswith("-:"):
            yield Rule("pattern", pattern, None)
        elif isinstance(changes, Mapping):
            yield Rule("pattern", pattern, _scheme(settings.with_changes(changes), layout))
        else:
            raise settings.wrong(f"dynamic {key!r}", changes, "an object")
    yield Rule("class", "Linear", _scheme(settings, layout))


def _layout(settings: HubConfig) -> Layout:
    name = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    if settings.get("is_marlin_format"):
        name = "marlin"
    if name not in _LAYOUTS:
        raise refuse(settings, "checkpoint_format", name, _LAYOUTS)
    for key, known in (("pack_dtype", "int32"), ("rotation", None), ("adapter", None)):
        value = settings.get(key, known)
        if value != known:
            raise refuse(settings, key, value, [] if known is None else [known])
    return _LAYOUTS[name]


def _scheme(settings: HubConfig, layout: Layout) -> ModuleScheme:
    bits = settings.integer("bits")
    if bits not in (4, 8):
        raise refuse(settings, "bits", bits, (4, 8))
    return ModuleScheme(
        layout,
        bits,
        group_size(settings, "group_size"),
        symmetric=settings.flag("sym", True),
        act_order=settings.flag("desc_act"),
    )


def read(tensors: ModuleTensors, shape: tuple[int, int], scheme: ModuleScheme) -> QuantizedMatrix:
    """The module's weight.

    Raises:
        WeightsError: a tensor is missing, or not as it must be.
    """
    columns, depth = shape
    bits, group = scheme.bits, min(scheme.group or depth, depth)
    groups = -(-depth // group)
    words = tensors.words("qweight", (words_for(depth, bits), columns))
    scales = tensors.floats("scales", (groups, columns))
    zeros = tensors.words("qzeros", (groups, words_for(columns, bits)))
    order = order_of_groups(tensors, "g_idx", depth, group) if "g_idx" in tensors else None
    if scheme.act_order and groups > 1 and "g_idx" not in tensors:
        tensors.integers("g_idx", (depth,))  # raises: without it no input's group is known
    codes = unpack(words.T, bits)[:, :depth]
    return QuantizedMatrix(
        bits,
        group,
        np.ascontiguousarray(codes) if order is None else np.take(codes, order, axis=1),
        np.ascontiguousarray(scales.T),
        _zeros(zeros, scheme, columns),
        order,
    )


def _zeros(words: NDArray[np.int32], scheme: ModuleScheme, columns: int) -> NDArray[np.uint8]:
    if scheme.layout == "gptq":
        words = (words.view(np.uint32) + np.uint32(_ONES[scheme.bits])).view(np.int32)
    return np.ascontiguousarray(unpack(words, scheme.bits)[:, :columns].T)
