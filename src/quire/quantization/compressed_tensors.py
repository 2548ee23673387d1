"""compressed-tensors: LLM Compressor's checkpoints with integer weights, and with 8-bit floats.

A module of shape (columns, depth) has `weight_scale`: (columns, groups), or (columns, 1) for one
scale a column, or a single number. `weight_zero_point` has the same shape, unless the scheme is
symmetric.

- `pack-quantized`: `weight_packed` (columns, depth / n), with n = 32 / bits integers in an int32
  word, the lowest bits first, which are made unsigned by adding half their range; zero points packed
  in the same way along the columns; `weight_shape`; and with `actorder: group` also `weight_g_idx`
  (depth,), each input's group.
- `int-quantized` and `naive-quantized`: `weight` and zero points as signed bytes.
- `float-quantized`, and `naive-quantized` where the type is float: see `float8`.

What a scheme says about activations does not matter here. They stay in full precision, or this
engine's own kernels round them token by token, which is closer to the model than a fixed scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.quantization import float8
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
    names,
    refuse,
)
from quire.weights.hub_config import HubConfig

_LAYOUTS: dict[str, Layout] = {
    "pack-quantized": "packed",
    "int-quantized": "integers",
    "naive-quantized": "integers",
    "float-quantized": "float8",
}
_FLOAT_FORMATS = ("float-quantized", "naive-quantized")
_STRATEGIES = ("group", "channel", "tensor")
_CLASSES = ("Linear", "Embedding")


def rules(settings: HubConfig) -> Iterator[Rule]:
    """The rules of a `quantization_config` whose method is `compressed-tensors`.

    The order is that in which compressed-tensors matches: what is ignored, then names, then patterns,
    then classes.
    """
    _check_model(settings)
    ignored = [_target(settings, "ignore", text, None) for text in names(settings, "ignore")]
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise settings.wrong("config_groups", groups, "an object of groups")
    targets: list[Rule] = []
    for name, values in groups.items():
        group = settings.inner(f"config_groups {name}", values)
        scheme = _scheme(group, group.get("format", settings.get("format")))
        targets += [_target(group, "targets", text, scheme) for text in names(group, "targets")]
    rank = {"name": 0, "pattern": 1, "class": 2}
    yield from ignored
    yield from sorted(targets, key=lambda rule: rank[rule.match])


def _check_model(settings: HubConfig) -> None:
    """Refuse sparsity and transforms, which change the model beside quantising its weights."""
    sparsity = settings.get("sparsity_config", {})
    form = sparsity.get("format") if isinstance(sparsity, Mapping) else sparsity
    if form not in (None, "dense"):
        raise refuse(settings, "sparsity_config format", form, ("dense",))
    transforms = settings.get("transform_config", {})
    if transforms and not (isinstance(transforms, Mapping) and not transforms.get("config_groups")):
        raise refuse(settings, "transform_config", transforms, ())


def _target(settings: HubConfig, key: str, text: str, scheme: ModuleScheme | None) -> Rule:
    """The rule of one target: a name, a class, or a pattern after `re:`."""
    if text.startswith("re:"):
        return Rule("pattern", check_pattern(settings, key, text.removeprefix("re:")), scheme)
    return Rule("class" if text in _CLASSES else "name", text, scheme)


def _scheme(group: HubConfig, form: Any) -> ModuleScheme:
    if form not in _LAYOUTS:
        raise refuse(group, "format", form, _LAYOUTS)
    if "weights" not in group:
        raise group.wrong("weights", None, "an object: activations alone cannot be quantised here")
    weights = group.inner("weights", group.get("weights"))
    is_float = form in _FLOAT_FORMATS and (
        form == "float-quantized" or weights.get("type", "int") == "float"
    )
    for key in ("input_activations", "output_activations"):
        _check_activations(group, key, ("int", "float") if is_float else ("int",))
    if is_float:
        return _float_scheme(weights)
    for key, known, default in (
        ("type", ("int",), "int"),
        ("num_bits", (4, 8), 8),
        ("dynamic", (False,), False),
    ):
        if weights.get(key, default) not in known:
            raise refuse(weights, key, weights.get(key), known)
    return ModuleScheme(
        _LAYOUTS[form],
        weights.integer("num_bits", 8),
        _group(weights),
        symmetric=weights.flag("symmetric", True),
        act_order=weights.get("actorder") in (True, "group", "dynamic"),
    )


def _float_scheme(weights: HubConfig) -> ModuleScheme:
    """The scheme of 8-bit floats."""
    for key, known, default in (
        ("type", ("float",), "float"),
        ("num_bits", (8,), 8),
        ("dynamic", (False,), False),
        ("symmetric", (True,), True),
        ("strategy", ("tensor", "channel", "group", "block"), "tensor"),
    ):
        if weights.get(key, default) not in known:
            raise refuse(weights, key, weights.get(key), known)
    strategy = weights.get("strategy", "tensor")
    block = None
    if strategy == "block":
        block = float8.check_block(weights, "block_structure", weights.get("block_structure"))
    elif strategy == "group":
        block = (1, weights.integer("group_size"))
    return ModuleScheme("float8", 8, 0, block=block)


def _check_activations(group: HubConfig, key: str, kinds: tuple[str, ...]) -> None:
    """Refuse rounded outputs, which this engine does not compute; inputs may be rounded as `kinds`."""
    if key not in group:
        return
    if key == "output_activations":
        raise refuse(group, key, group.get(key), ())
    kind = group.inner(key, group.get(key)).get("type", "int")
    if kind not in kinds:
        raise refuse(group, f"{key} type", kind, kinds)


def _group(weights: HubConfig) -> int:
    size = group_size(weights, "group_size")
    strategy = weights.get("strategy", "group" if size else "channel")
    if strategy not in _STRATEGIES:
        raise refuse(weights, "strategy", strategy, _STRATEGIES)
    if strategy == "group" and not size:
        raise weights.wrong("group_size", weights.get("group_size"), "a positive integer")
    return size if strategy == "group" else 0


def read(tensors: ModuleTensors, shape: tuple[int, int], scheme: ModuleScheme) -> QuantizedMatrix:
    """The module's weight.

    Raises:
        WeightsError: a tensor is missing, or not as it must be.
    """
    columns, depth = shape
    group = min(scheme.group or depth, depth)
    groups = -(-depth // group)
    # The tensor may be there although no order was used: see `order_of_groups`.
    ordered = groups > 1 and (scheme.act_order or "weight_g_idx" in tensors)
    order = order_of_groups(tensors, "weight_g_idx", depth, group) if ordered else None
    codes = _codes(tensors, columns, depth, scheme)
    return QuantizedMatrix(
        scheme.bits,
        group,
        np.ascontiguousarray(codes) if order is None else np.take(codes, order, axis=1),
        _scales(tensors, columns, groups),
        _zeros(tensors, columns, groups, scheme),
        order,
    )


def _codes(
    tensors: ModuleTensors, columns: int, depth: int, scheme: ModuleScheme
) -> NDArray[np.uint8]:
    """The codes (columns, depth), in stored order."""
    if scheme.layout == "integers":
        return tensors.signed("weight", (columns, depth), bits=scheme.bits)
    if "weight_shape" in tensors:
        stored = tuple(tensors.integers("weight_shape", (2,)).tolist())
        if stored != (columns, depth):
            raise tensors.wrong(
                "weight_shape", f"is {stored}, config.json asks for {columns, depth}"
            )
    words = tensors.words("weight_packed", (columns, words_for(depth, scheme.bits)))
    return unpack(words, scheme.bits)[:, :depth]


def _shapes(columns: int, groups: int) -> tuple[tuple[int, ...], ...]:
    """The shapes that scales and zero points may have."""
    each: tuple[tuple[int, ...], ...] = ((columns, groups),)
    return (*each, (columns,), (1,), ()) if groups == 1 else each


def _spread(values: NDArray[Any], columns: int, groups: int) -> NDArray[Any]:
    """One number for all, or one for each column, as (columns, groups)."""
    table = values.reshape(-1, 1) if values.ndim < 2 else values
    return np.ascontiguousarray(np.broadcast_to(table, (columns, groups)))


def _scales(tensors: ModuleTensors, columns: int, groups: int) -> NDArray[np.float32]:
    return _spread(tensors.floats("weight_scale", *_shapes(columns, groups)), columns, groups)


def _zeros(
    tensors: ModuleTensors, columns: int, groups: int, scheme: ModuleScheme
) -> NDArray[np.uint8]:
    bits = scheme.bits
    if scheme.symmetric:
        return np.full((columns, groups), 1 << (bits - 1), np.uint8)
    if scheme.layout == "packed" and tensors.type_of("weight_zero_point") == "I32":
        words = tensors.words("weight_zero_point", (words_for(columns, bits), groups))
        return np.ascontiguousarray(unpack(words.T, bits)[:, :columns].T)
    values = tensors.signed("weight_zero_point", *_shapes(columns, groups), bits=bits)
    return _spread(values, columns, groups)
