"""Lets torchvision be imported where torch is built for CPUs alone, and torchvision is not.

vLLM's code of media models imports torchvision. Its wheel for CUDA has operators that do not load on
such a torch, and its Python code wants them to exist: they are defined here, empty, just before
torchvision is imported. `make` puts this module, and a .pth file that imports it, into the environment
of the tests; vLLM's processes so have it too. It is of the tests, and no part of quire.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

OPERATORS = ("nms", "qnms")


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing: it is asked first, and defines the operators when torchvision is looked for."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname != "torchvision":
            return
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname)
        if spec is not None and not _loads_its_own(spec):
            _define()


def _loads_its_own(spec: ModuleSpec) -> bool:
    """Whether torchvision's compiled operators fit this torch."""
    import torch

    library = Path(spec.origin or "").parent / "_C.so"
    try:
        torch.ops.load_library(str(library))
    except OSError:
        return False
    return True


def _define() -> None:
    import torch

    for name in OPERATORS:
        torch.library.define(
            f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )


sys.meta_path.insert(0, _BeforeTorchvision())
