"""Whether vLLM and a GPU are there, found without vLLM: what a start has to know to choose an engine.

It imports next to nothing, since a start on the native engine asks it too.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Device files of NVIDIA's driver, of the same driver under WSL, and of AMD's."""


def vllm_is_installed() -> bool:
    """Whether vLLM is installed. It is not imported, which would take 10 s."""
    return importlib.util.find_spec("vllm") is not None


def gpu_is_present() -> bool:
    """Whether a GPU's driver is loaded and no variable hides its devices from this process."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if os.environ.get(name, "0").strip() in ("", "-1"):
            return False
    return any(Path(name).exists() for name in _GPU_FILES)
