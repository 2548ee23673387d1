"""The compiled step: made once for a machine, kept in the cache folder, loaded in milliseconds.

Numba has a cache of its own, but to load from it Numba must be imported and its types set up at every
start. An object file needs nothing but LLVM's linker.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm

from quire.engines.native.cpu.kernels.layout import LANES, cpu_features
from quire.machine.cache import keep, key_of, read_kept

StepFunction = Callable[[int, int], None]
"""`step(thread, table address)`: see `step.step`. Runs without the interpreter's lock."""

logger = logging.getLogger("quire")

_ENTRY = "quire_step"
_FOLDERS = ("kernels", "program")  # all that the machine code is made from, and this module
_NUMBA_SETTINGS = ("BOUNDSCHECK", "CPU_NAME", "CPU_FEATURES", "DEBUGINFO", "ENABLE_AVX")
"""Of the environment's settings for Numba (`NUMBA_...`), those that change the code it makes."""

_lock = threading.Lock()
_loaded: list[tuple[StepFunction, object]] = []  # the function, and what keeps its code alive


def load_step(on_compile: Callable[[str], None] | None = None) -> StepFunction:
    """The compiled step, the same for every model in the process.

    `on_compile` gets one line of text if it has to be compiled first; without it the line is
    logged.
    """
    with _lock:
        if not _loaded:
            _loaded.append(load_code(object_code(on_compile or logger.warning)))
        return _loaded[0][0]


def source_files() -> list[Path]:
    """The modules that the machine code follows from, in a fixed order."""
    cpu = Path(__file__).parent.parent
    paths = [path for folder in _FOLDERS for path in sorted((cpu / folder).glob("*.py"))]
    return [path for path in paths if path != Path(__file__)]


def cache_key() -> str:
    """A name for everything that the machine code follows from."""
    versions = [importlib.metadata.version(package) for package in ("numba", "llvmlite")]
    return key_of(
        [path.read_bytes() for path in source_files()],
        versions,
        [os.environ.get(f"NUMBA_{name}") for name in _NUMBA_SETTINGS],
        platform.python_version(),
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
        (LANES, sorted(cpu_features())),
    )


def object_code(on_compile: Callable[[str], None]) -> bytes:
    """The object file, from the cache folder or compiled.

    Code that refers to addresses of this process is not kept. No known version of Numba makes such
    code; one that did would still run, if slower to start.
    """
    name = f"step-{cache_key()}.bin"
    kept = read_kept(name)
    if kept is not None:
        return bytes(kept)
    code, foreign_symbols = compile_with_progress(on_compile)
    if foreign_symbols:
        logger.warning(
            "The compiled kernels cannot be kept: they call %s", ", ".join(foreign_symbols)
        )
    else:
        keep(name, lambda path: path.write_bytes(code), "compiled kernels")
    return code


def compile_with_progress(on_compile: Callable[[str], None]) -> tuple[bytes, list[str]]:
    """The code of `compile_step` and its foreign symbols; `on_compile` gets one line before."""
    on_compile("Compiling kernels for this machine, once; it takes about half a minute ...")
    start = time.perf_counter()
    # Here and not above: it imports Numba, which takes longer than a whole start with kept code.
    from quire.engines.native.cpu.program.compiler import compile_step

    compiled = compile_step()
    logger.info("Compiled the kernels in %.1f s", time.perf_counter() - start)
    return compiled


def load_code(code: bytes) -> tuple[StepFunction, object]:
    """The function in an object file, and what keeps its code alive."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    # CFUNCTYPE, unlike PYFUNCTYPE, releases the interpreter's lock during the call.
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)
    return kind(engine.get_function_address(_ENTRY)), engine
