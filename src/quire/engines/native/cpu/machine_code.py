"""The compiled step: made once for a machine, kept in the cache folder, loaded in milliseconds.

Numba's own cache would need Numba to be imported and its types to be set up at every start; an
object file needs LLVM's linker alone. The folder is `QUIRE_CACHE_DIR`, else `quire` under
`XDG_CACHE_HOME` or `~/.cache`. It holds code that this process runs, so it is made for its owner
alone; the checksum in a file guards against damage, not against its owner.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import logging
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm

from quire.engines.native.cpu.layout import LANES

StepFunction = Callable[[int, int], None]
"""`step(thread, table address)`: see `step.step`. Runs without the interpreter's lock."""

logger = logging.getLogger("quire")

_ENTRY = "quire_step"
_SOURCES = (
    "layout", "jit", "builders", "simd", "sync", "tiles", "quantized_tiles", "quantized", "curves",
    "kv_cache", "check", "attention", "kernels", "lora", "lora_step", "experts", "phases", "rows", "residual",
    "attention_step", "ffn_step", "expert_step", "ends", "step", "compiler",
)  # fmt: skip
_MAGIC = b"quire step 1\n"

_lock = threading.Lock()
_loaded: list[tuple[StepFunction, object]] = []  # the function, and what keeps its code alive


class BoundToProcessError(Exception):
    """A version of Numba made code that calls into Numba or Python, so it cannot be kept.

    `code` is an object file that this process, which has Numba, can run.
    """

    def __init__(self, reason: str, code: bytes) -> None:
        super().__init__(reason)
        self.code = code


def load_step(on_compile: Callable[[str], None] | None = None) -> StepFunction:
    """The compiled step, the same for every model in the process.

    `on_compile` gets one line of text when it has to be compiled first; without it the line is
    logged.
    """
    with _lock:
        if not _loaded:
            _loaded.append(find_step(on_compile or logger.warning))
        return _loaded[0][0]


def find_step(say: Callable[[str], None]) -> tuple[StepFunction, object]:
    """The step, from kept code where that can be, and what keeps it alive."""
    try:
        return _load(object_code(say))
    except BoundToProcessError as error:
        logger.warning("The compiled kernels cannot be kept: %s", error)
        return _load(error.code)


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    chosen = os.environ.get("QUIRE_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "quire"


def cache_key() -> str:
    """A name for everything that the machine code follows from."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((here / f"{name}.py").read_bytes())
    features = llvm.get_host_cpu_features().flatten()
    versions = [importlib.metadata.version(package) for package in ("numba", "llvmlite")]
    facts = (*versions, platform.python_version(), llvm.get_host_cpu_name(), features, LANES)
    digest.update(repr((llvm.get_process_triple(), *facts)).encode())
    return digest.hexdigest()[:24]


def object_code(say: Callable[[str], None]) -> bytes:
    """The object file, from the cache folder or compiled."""
    path = cache_folder() / f"step-{cache_key()}.bin"
    code = _read(path)
    if code is None:
        code = compile_with_progress(say)
        _write(path, code)
    return code


def _read(path: Path) -> bytes | None:
    """The code in `path`; None where there is none, or where it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    head = len(_MAGIC) + 32
    code = content[head:]
    if content[:head] != _MAGIC + hashlib.sha256(code).digest():
        return None
    return code


def _write(path: Path, code: bytes) -> None:
    """Keep the code. Whole or not at all: several first starts may do this at once."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".step-", delete=False) as file:
            file.write(_MAGIC + hashlib.sha256(code).digest() + code)
        os.replace(file.name, path)
    except OSError as error:
        logger.warning(
            "The compiled kernels cannot be kept in %s (%s), so every start compiles them again. "
            "Set QUIRE_CACHE_DIR to a folder that can be written.",
            path.parent,
            error.strerror or error,
        )


def compile_with_progress(say: Callable[[str], None]) -> bytes:
    """Compile; `say` gets one line before."""
    say("Compiling kernels for this machine, once; it takes about half a minute ...")
    start = time.perf_counter()
    from quire.engines.native.cpu.compiler import compile_step  # imports Numba

    code = compile_step()
    logger.info("Compiled the kernels in %.1f s", time.perf_counter() - start)
    return code


def _load(code: bytes) -> tuple[StepFunction, object]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    # CFUNCTYPE, unlike PYFUNCTYPE, gives the interpreter's lock away during the call.
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)
    return kind(engine.get_function_address(_ENTRY)), engine
