"""Adapters of all experts of a layer at once: which layer they change, and by what each expert's maps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from quire.adapters.folder import Adapter
from quire.adapters.lora_config import without_base_layer
from quire.adapters.weights import Floats, LoraPair
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import AdapterError
from quire.weights.safetensors import known_as


def layer_of_experts(spec: DecoderSpec, module: str) -> int | None:
    """The layer whose experts a module has in one parameter, or two; None if it has none."""
    name = known_as(without_base_layer(module), spec.names.prefix_map)
    for index, layer in enumerate(spec.layers):
        modules = layer.experts.names.fused_modules if layer.experts else ()
        if name.removeprefix(spec.names.layers.format(index)) in modules:
            return index
    return None


def expert_pairs(
    adapter: Adapter, module: str, pair: LoraPair, spec: DecoderSpec
) -> Iterator[tuple[str, Floats, Floats]]:
    """The role of each map that a pair of a parameter with all experts changes, and its own A and B.

    The pair is as peft's `ParamWrapper` has it: the rows of A belong to one expert after the other, and
    the columns of B to all experts in turn.

    Raises:
        AdapterError: the model has another number of experts, or experts of another shape.
    """
    experts, config = spec.experts, adapter.config
    assert experts is not None
    assert config is not None
    width, size, count = experts.width(spec.hidden_size), experts.ffn_size, experts.count
    is_down = config.parameter_of(module) == "down_proj"
    roles = experts.maps[-1:] if is_down else experts.maps[:-1]
    wanted = (width, size) if is_down else (len(roles) * size, width)
    shape, rank = (pair.b.shape[0], pair.a.shape[1]), config.rank_of(module)
    # peft takes the dimensions of a parameter for (experts, out, in), and some models have it
    # the other way round.
    is_transposed = shape != wanted
    if shape not in (wanted, wanted[::-1]) or len(pair.a) != rank * count:
        raise AdapterError(
            f"The adapter {adapter.path} changes {module} as {len(pair.a) // rank} "
            f"matrices of shape {list(shape)}, but the model has {count} experts of shape "
            f"{list(wanted)}. It may belong to another model."
        )
    for expert in range(count):
        a, b = pair.a[expert * rank : (expert + 1) * rank], pair.b[:, expert::count]
        if is_transposed:
            a, b = b.T, a.T
        for index, role in enumerate(roles):
            rows = b[index * len(b) // len(roles) : (index + 1) * len(b) // len(roles)]
            if experts.names.fused_interleaved:
                rows = np.ascontiguousarray(b[index :: len(roles)])
            if a.any() and rows.any():
                yield f"experts.{expert}.{role}", a, rows
