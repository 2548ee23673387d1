"""Compiled kernels: each made once for a machine, kept in the cache folder, loaded in milliseconds.

A start with kept code imports neither the kernels nor their compiler, and on Linux with x86-64 not even LLVM:
see `compiler.linker`.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import platform
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from quire.engines.native.cpu.compiler.linker import load_object
from quire.engines.native.cpu.compiler.targets import OBJECTS, KernelTarget, current
from quire.engines.native.cpu.program.decoder import KERNELS
from quire.engines.native.cpu.program.second_compiler import second_compiler
from quire.machine.cache import keep, key_of, read_kept

if TYPE_CHECKING:
    from quire.engines.native.cpu.compiler.language import Kernel

StepFunction = Callable[[int, int], None]
"""`step(thread, address of Step)`: see `step.run_step`. Runs without the interpreter's lock."""

logger = logging.getLogger("quire")

_PACKAGE = "quire.engines.native.cpu"
_ROOT = Path(__file__).parent.parent
_IMPORTS = re.compile(rf"^from {re.escape(_PACKAGE)}\.([\w.]+) import (.*)$", re.MULTILINE)
_COMPILER = ("compiler.objects", "compiler.translator")

_lock = threading.Lock()
_addresses: dict[str, int] = {}
_alive: list[object] = []
"""What keeps the code of `_addresses` alive."""


def load_kernels(
    names: Iterable[str], on_compile: Callable[[str], None] | None = None
) -> dict[str, int]:
    """The addresses of kernels, the same for all models of the process, by names of `KERNELS`.

    `on_compile` gets one line of text if some have to be compiled first; without it the line is
    logged.
    """
    with _lock:
        missing = [name for name in dict.fromkeys(names) if name not in _addresses]
        for name, code in object_codes(missing, on_compile or logger.warning).items():
            _addresses[name], engine = load_object(code, _entry(name))
            _alive.append(engine)
        return dict(_addresses)


def kernel_address(name: str) -> int:
    """The address of one kernel, which is compiled if need be."""
    return _addresses[name] if name in _addresses else load_kernels([name])[name]


def kernel_function(name: str, count: int) -> Callable[..., None]:
    """A kernel of `count` integers and no result, as a function of Python's."""
    # CFUNCTYPE, unlike PYFUNCTYPE, releases the interpreter's lock during the call.
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * count)(kernel_address(name))


def load_step(on_compile: Callable[[str], None] | None = None) -> StepFunction:
    """The compiled step, the same for every model in the process."""
    address = load_kernels(["step"], on_compile)["step"]
    # CFUNCTYPE, unlike PYFUNCTYPE, releases the interpreter's lock during the call.
    return ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(address)


def _entry(name: str) -> str:
    return f"quire_{name}"


# ---- what is kept


def find_kernel(name: str) -> Kernel:
    """The kernel of this name; its module is imported."""
    place, _, path = KERNELS[name].partition(":")
    attribute, _, key = path.partition(".")
    found = getattr(import_module(f"{_PACKAGE}.{place}"), attribute)
    return found[key] if key else found


def source_files(name: str) -> list[Path]:
    """The modules that a kernel's code follows from, in a fixed order: its own and all that it imports."""
    return [_path(module) for module in _modules(name)]


def _modules(name: str) -> list[str]:
    waiting, found = [KERNELS[name].partition(":")[0], *_COMPILER], set[str]()
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _imported(module)
    return sorted(found)


def _path(module: str) -> Path:
    return (_ROOT / module.replace(".", "/")).with_suffix(".py")


@functools.cache
def _imported(module: str) -> list[str]:
    """The modules of this package that a module imports."""
    found: list[str] = []
    for place, names in _IMPORTS.findall(_source(module).decode()):
        if _path(place).exists():
            found.append(place)
        else:  # a room, of which modules are imported
            found += [f"{place}.{one.strip()}" for one in names.split(",")]
    return found


@functools.cache
def _source(module: str) -> bytes:
    return _path(module).read_bytes()


def cache_key(name: str) -> str:
    """A name for everything that a kernel's code follows from."""
    return key_of(source_key(name), *_machine())


@functools.cache
def _machine() -> tuple[object, ...]:
    """What code follows from besides its sources. The order of a set is another in each process."""
    one = current()
    target = (one.triple, one.cpu, one.flags, sorted(one.features))
    return version("llvmlite"), platform.python_version(), *target


@functools.cache
def source_key(name: str) -> str:
    """A name for the sources that a kernel's code follows from."""
    return key_of(list(map(_source, _modules(name))), KERNELS[name])


def prebuilt_file(name: str, target: KernelTarget) -> Path:
    """Where a wheel has the code of a kernel, if it was made of the sources that are there."""
    return OBJECTS / target.name / f"{name}-{source_key(name)}.o"


def _prebuilt(name: str) -> bytes | None:
    file = prebuilt_file(name, current())
    return file.read_bytes() if file.is_file() else None


def object_codes(names: list[str], on_compile: Callable[[str], None]) -> dict[str, bytes]:
    """The object files, from the wheel, from the cache folder, or compiled."""
    codes = {name: code for name in names if (code := _prebuilt(name)) is not None}
    names = [name for name in names if name not in codes]
    files = {name: f"kernel-{name}-{cache_key(name)}.bin" for name in names}
    for name, file in files.items():
        kept = read_kept(file)
        if kept is not None:
            codes[name] = bytes(kept)
    missing = [name for name in names if name not in codes]
    if missing:
        for name, code in compile_with_progress(missing, on_compile):
            keep(files[name], lambda path, code=code: path.write_bytes(code), "compiled kernels")
            codes[name] = code
    return codes


def compile_kernel(name: str) -> bytes:
    """The object file of one kernel."""
    # Here and not above: a start with kept code needs no kernels.
    from quire.engines.native.cpu.compiler.objects import compile_object
    from quire.engines.native.cpu.compiler.translator import Translation

    translation = Translation()
    translation.add_entry(find_kernel(name), _entry(name))
    return compile_object(translation)


def compile_with_progress(
    names: list[str], on_compile: Callable[[str], None]
) -> Iterator[tuple[str, bytes]]:
    """Kernels and their code, one by one; `on_compile` gets one line before."""
    kernels = "a kernel" if len(names) == 1 else f"{len(names)} kernels"
    on_compile(f"Compiling {kernels} for this machine, once; it takes some seconds ...")
    start = time.perf_counter()
    helper = second_compiler(names)
    try:
        theirs: list[str] = []
        for name in names:  # the helper goes from the last to the first
            if helper is not None and helper.has_begun(name):
                theirs.append(name)
            else:
                yield name, compile_kernel(name)
        for name in theirs:
            code = helper.code(name) if helper is not None else None
            yield name, compile_kernel(name) if code is None else code
    finally:
        if helper is not None:
            helper.close()
    logger.info("Compiled the kernels in %.1f s", time.perf_counter() - start)
