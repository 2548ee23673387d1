"""The machines that a server is planned for, and how a model is spread over them.

They are described by options and never looked at: the plan may be made on a laptop.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quire.engines.vllm.devices import Devices, choose_placement
from quire.engines.vllm.model_facts import ModelFacts
from quire.errors import ConfigError
from quire.machine.cpus import instruction_sets
from quire.machine.memory import available_memory

MultiNode = Literal["vllm", "ray"]
"""What joins several nodes: vLLM's own launcher, or a Ray cluster."""

TENSOR, PIPELINE, DATA = SIZES = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
)
"""vLLM's names of the parallel sizes."""

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Target:
    """The machines of a server.

    `gpus` is the number on each node; 0 is a CPU server. `memory` is a CPU server's free memory in
    bytes; None takes this machine's. `address` is the first node's.

    Raises, when made:
        ConfigError: numbers below their least, or several nodes without GPUs.
    """

    gpus: int = 1
    nodes: int = 1
    multi_node: MultiNode = "vllm"
    address: str = "ADDRESS"
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.gpus < 0 or self.nodes < 1:
            raise ConfigError("A server needs at least one node, and 0 GPUs or more.")
        if self.nodes > 1 and not self.gpus:
            raise ConfigError("Several nodes are planned with GPUs only: give --gpus-per-node.")
        if self.memory is not None and self.gpus:
            raise ConfigError("--memory is that of a CPU server: it goes with --gpus 0.")

    @property
    def total_gpus(self) -> int:
        return self.gpus * self.nodes

    def devices(self) -> Devices:
        """The devices of one node, in the plan's words."""
        if self.gpus:
            return Devices("cuda", self.gpus)
        memory = available_memory() if self.memory is None else self.memory
        return Devices("cpu", 1, instruction_sets(), memory, platform.machine())

    def described(self) -> str:
        """The devices in a sentence, with what was assumed of them."""
        if not self.gpus:
            devices = self.devices()
            whose = "this machine's" if self.memory is None else "as given"
            return (
                f"Planned for a CPU server with {devices.free_memory / _GIB:,.1f} GiB of free memory "
                f"({whose}) and this machine's CPU instructions; run it on the server for its own."
            )
        gpus = f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"
        nodes = f"{self.nodes} nodes with {gpus} each" if self.nodes > 1 else f"{gpus} on one node"
        return f"Planned for {nodes} (of NVIDIA, all of one kind)."


# --- the parallel sizes ------------------------------------------------------------------------------


def spread_over_nodes(
    target: Target, model: ModelFacts, own: Mapping[str, Any]
) -> tuple[dict[str, int], list[str]]:
    """Choose the parallel sizes, and say why; none for one node, or where the user chose them.

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
    """The largest tensor-parallel size that divides both the model and the GPUs of a node."""
    return max(
        size
        for size in range(1, gpus + 1)
        if gpus % size == 0
        and choose_placement(Devices("cuda", size), model).tensor_parallel_size == size
    )


def world_size(engine_args: Mapping[str, Any]) -> int:
    """How many GPUs the engine takes in all.

    Raises:
        ConfigError: a parallel size that is no integer above 0.
    """
    total = 1
    for key in SIZES:
        size = engine_args.get(key) or 1
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ConfigError(f"vllm_config: {key} must be an integer above 0, not {size!r}.")
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
