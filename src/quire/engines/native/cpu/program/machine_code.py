"""The compiled step: made once for a machine, kept in the cache folder, loaded in milliseconds.

A start with kept code imports neither the kernels nor their compiler: an object file needs nothing but
LLVM's linker.
"""

from __future__ import annotations

import ctypes
import logging
import platform
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import llvmlite.binding as llvm

from quire.engines.native.cpu.compiler.objects import load_object
from quire.engines.native.cpu.kernels.layout import LANES, cpu_features
from quire.machine.cache import keep, key_of, read_kept

StepFunction = Callable[[int, int], None]
"""`step(thread, table address)`: see `step.step`. Runs without the interpreter's lock."""

logger = logging.getLogger("quire")

_ENTRY = "quire_step"
_FOLDERS = (
    "compiler",
    "kernels",
    "program",
)  # all that the machine code is made from, and this module

_lock = threading.Lock()
_loaded: list[StepFunction] = []


def load_step(on_compile: Callable[[str], None] | None = None) -> StepFunction:
    """The compiled step, the same for every model in the process.

    `on_compile` gets one line of text if it has to be compiled first; without it the line is
    logged.
    """
    with _lock:
        if not _loaded:
            _loaded.append(load_code(object_code(on_compile or logger.warning)))
        return _loaded[0]


def source_files() -> list[Path]:
    """The modules that the machine code follows from, in a fixed order."""
    cpu = Path(__file__).parent.parent
    paths = [path for folder in _FOLDERS for path in sorted((cpu / folder).glob("*.py"))]
    return [path for path in paths if path != Path(__file__)]


def cache_key() -> str:
    """A name for everything that the machine code follows from."""
    return key_of(
        [path.read_bytes() for path in source_files()],
        version("llvmlite"),
        platform.python_version(),
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
        (LANES, sorted(cpu_features())),
    )


def object_code(on_compile: Callable[[str], None]) -> bytes:
    """The object file, from the cache folder or compiled."""
    name = f"step-{cache_key()}.bin"
    kept = read_kept(name)
    if kept is not None:
        return bytes(kept)
    code = compile_with_progress(on_compile)
    keep(name, lambda path: path.write_bytes(code), "compiled kernels")
    return code


def compile_with_progress(on_compile: Callable[[str], None]) -> bytes:
    """The code of the step; `on_compile` gets one line before."""
    on_compile("Compiling kernels for this machine, once; it takes some seconds ...")
    start = time.perf_counter()
    # Here and not above: a start with kept code needs no kernels.
    from quire.engines.native.cpu.compiler.objects import compile_object
    from quire.engines.native.cpu.compiler.translator import Translation
    from quire.engines.native.cpu.program.step import step

    translation = Translation()
    translation.add_entry(step, _ENTRY)
    code = compile_object(translation)
    logger.info("Compiled the kernels in %.1f s", time.perf_counter() - start)
    return code


def load_code(code: bytes) -> StepFunction:
    """The function in an object file."""
    return load_object(code, _ENTRY, ctypes.c_int64, ctypes.c_int64)
