"""The machines that a server is planned for: they are described, never looked at."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Literal

from quire.engines.vllm.devices import Devices
from quire.errors import ConfigError
from quire.machine.cpus import instruction_sets
from quire.machine.memory import available_memory

MultiNode = Literal["vllm", "ray"]
"""What joins several nodes: vLLM's own launcher, or a Ray cluster."""

GIB = 2**30


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
                f"Planned for a CPU server with {devices.free_memory / GIB:,.1f} GiB of free memory "
                f"({whose}) and this machine's CPU instructions; run it on the server for its own."
            )
        gpus = f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"
        nodes = f"{self.nodes} nodes with {gpus} each" if self.nodes > 1 else f"{gpus} on one node"
        return f"Planned for {nodes} (of NVIDIA, all of one kind)."
