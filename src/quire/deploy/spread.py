"""How a model is spread over the GPUs of several nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.deploy.target import Target
from quire.engines.vllm.devices import Devices, choose_placement
from quire.engines.vllm.model_facts import ModelFacts
from quire.errors import ConfigError

TENSOR, PIPELINE, DATA = SIZES = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
)


def spread_over_nodes(
    target: Target, model: ModelFacts, own: Mapping[str, Any]
) -> tuple[dict[str, int], list[str]]:
    """Choose the parallel sizes, and say why; none where the user has, or for one node.

    Tensor parallelism exchanges much at every layer, so it stays inside a node; stages of layers
    (pipeline parallelism) exchange little, so they cross from node to node.

    Raises:
        ConfigError: the model has fewer layers than there would be stages.
    """
    if target.nodes == 1 or any(key in own for key in SIZES):
        return {}, []
    width = _width(target.gpus, model)
    stages = target.total_gpus // width
    if model.num_layers and stages > model.num_layers:
        raise ConfigError(
            f"The model's {model.num_layers} layers cannot be cut into {stages} stages, which "
            f"{target.nodes} nodes with {target.gpus} GPUs need. Take fewer nodes, or give "
            "vllm_config a data_parallel_size."
        )
    why = "" if width == target.gpus else f", since its heads do not divide by {target.gpus}"
    note = f"Each layer is cut into {width} parts inside a node{why}; {stages} stages of layers."
    return {TENSOR: width, PIPELINE: stages}, [note]


def _width(gpus: int, model: ModelFacts) -> int:
    """The largest number of parts that divides both the model and the GPUs of a node."""
    return max(
        size
        for size in range(1, gpus + 1)
        if gpus % size == 0
        and choose_placement(Devices("cuda", size), model).tensor_parallel_size == size
    )


def world_size(engine_args: Mapping[str, Any]) -> int:
    """How many GPUs the engine takes in all.

    Raises:
        ConfigError: a parallel size that is no whole number above 0.
    """
    total = 1
    for key in SIZES:
        size = engine_args.get(key) or 1
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ConfigError(f"vllm_config: {key} must be a whole number above 0, not {size!r}.")
        total *= size
    return total


def check_world(target: Target, engine_args: Mapping[str, Any]) -> list[str]:
    """Compare what the engine takes with what is there; GPUs left over are named.

    Raises:
        ConfigError: there are too few GPUs, or the nodes would have unequal shares.
    """
    if not target.gpus:
        return []
    world = world_size(engine_args)
    if world > target.total_gpus:
        raise ConfigError(
            f"The parallel sizes take {world} GPUs, and the target has {target.total_gpus}. Give "
            "--gpus, or --nodes and --gpus-per-node, or smaller sizes in vllm_config."
        )
    if target.nodes > 1 and target.multi_node == "vllm" and world % target.nodes:
        raise ConfigError(
            f"vLLM's own launcher needs equal shares on all nodes, and {world} GPUs do not divide "
            f"by {target.nodes}. Change the parallel sizes in vllm_config, or use --multi-node ray."
        )
    idle = target.total_gpus - world
    return [f"{idle} of the {target.total_gpus} GPUs stay idle."] if idle else []
