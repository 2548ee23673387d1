"""How a model is spread over the devices of one machine."""

from __future__ import annotations

from dataclasses import dataclass

from quire.engines.vllm.devices import Devices
from quire.engines.vllm.model_facts import ModelFacts


@dataclass(frozen=True, slots=True)
class Placement:
    """The tensor-parallel size, and what to say of it; `note` is empty where all is used."""

    tensor_parallel_size: int
    note: str = ""


def choose_placement(devices: Devices, model: ModelFacts) -> Placement:
    """The largest number of devices that divides the model, and an offer for those left over."""
    sizes = [size for size in range(1, devices.count + 1) if _divides(size, model)]
    size = max(sizes, default=1)
    left = devices.count - size
    if not left:
        return Placement(size)
    replicas = devices.count // size
    note = (
        f"Of {devices.count} devices {size} are used: a larger number does not divide the model's "
        f"{model.num_heads} attention heads ({model.num_kv_heads} for keys and values). "
    )
    if replicas > 1:
        idle = devices.count - replicas * size
        rest = f"; {idle} would still be idle" if idle else ""
        note += (
            f"To use more, run {replicas} copies side by side: vllm_config "
            f'{{"data_parallel_size": {replicas}}}{rest}.'
        )
    else:
        width = max(size for size in sizes if devices.count % size == 0)
        note += (
            f"To use the other {left} too, split the layers: vllm_config "
            f'{{"tensor_parallel_size": {width}, '
            f'"pipeline_parallel_size": {devices.count // width}}}.'
        )
    return Placement(size, note)


def _divides(size: int, model: ModelFacts) -> bool:
    """Whether vLLM can cut this model into `size` parts.

    Heads are shared out evenly; heads of keys and values too, or each is copied evenly; and the
    feed-forward rows.
    """
    heads, kv_heads = model.num_heads, model.num_kv_heads
    return (
        heads % size == 0
        and (kv_heads % size == 0 or size % max(kv_heads, 1) == 0)
        and model.intermediate_size % size == 0
    )
