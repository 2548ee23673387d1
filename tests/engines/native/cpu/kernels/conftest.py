"""The kernels that these tests call one by one are compiled once for a machine.

A model's step is kept as machine code, but a test that calls a kernel from Python goes through Numba, which
takes longer for these few files than all else in them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import pytest
from numba import config as numba_config
from numba.core.dispatcher import Dispatcher

from quire.engines.native.cpu.program.machine_code import cache_key, source_files

ROOM = "quire.engines.native.cpu"


@pytest.fixture(scope="session", autouse=True)
def kept_kernels(pytestconfig: pytest.Config) -> None:
    """Numba keeps what it compiles, in pytest's cache folder.

    Numba looks at a kernel's own file alone, not at those of the kernels that it calls, so the folder is
    named by all of them.
    """
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    if cache is None:  # `-p no:cacheprovider`
        return
    settings: Any = numba_config  # its names are made when it is imported
    settings.CACHE_DIR = str(cache.mkdir(f"kernels-{cache_key()}"))
    for path in source_files():
        import_module(f"{ROOM}.{path.parent.name}.{path.stem}".removesuffix(".__init__"))
    modules = [module for name, module in sys.modules.items() if name.startswith(ROOM)]
    for kernel in {one for module in modules for one in vars(module).values() if is_kernel(one)}:
        kernel.enable_caching()


def is_kernel(value: object) -> bool:
    """A kernel with a file of its own, not one of the tiles, which functions make."""
    return isinstance(value, Dispatcher) and "<locals>" not in value.py_func.__qualname__
