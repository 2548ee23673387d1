"""What vLLM can run on here. Nothing in this file imports vLLM but `find_devices`."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.machine.cpus import instruction_sets
from quire.machine.memory import available_memory

_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Device files of NVIDIA's driver, of the same under WSL, and of AMD's."""


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices that vLLM would use.

    `kind` is "cuda", "cpu", or vLLM's word for another device. `count` is 1 for a CPU.
    `features` and `free_memory` (bytes) are those of the CPU, and matter where it is the device.
    """

    kind: str
    count: int = 1
    features: frozenset[str] = frozenset()
    free_memory: int = 0
    architecture: str = "x86_64"

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"

    @property
    def fast_bfloat16(self) -> bool:
        """Whether this CPU multiplies bfloat16 by itself; without, float32 is faster."""
        return bool(self.features & {"avx512_bf16", "amx_bf16", "bf16"})

    @property
    def has_avx512(self) -> bool:
        return "avx512f" in self.features


def vllm_is_installed() -> bool:
    """Whether vLLM can be imported; it is not imported."""
    return importlib.util.find_spec("vllm") is not None


def gpu_is_present() -> bool:
    """Whether a GPU's driver is here and its devices are not hidden from this process."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if os.environ.get(name, "0").strip() in ("", "-1"):
            return False
    return any(Path(name).exists() for name in _GPU_FILES)


def find_devices() -> Devices:
    """Ask vLLM for its platform, and the platform for its devices. Starts no device's runtime."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return Devices("cpu", 1, instruction_sets(), available_memory(), platform.machine())
    kind = "cuda" if current_platform.is_cuda() else str(current_platform.device_type)
    count: Any = current_platform.device_count  # typed as optional: not every platform counts
    return Devices(kind, max(1, int(count())))
