"""From `step.step` to an object file, by Numba and LLVM. Imported only when there is none yet.

Numba optimises each function together with all that it calls, and so a callee once for each of its
callers, over and over. Here it only translates; the whole is optimised once, which takes a quarter
of the time.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from numba import cfunc, config

from quire.engines.native.cpu.machine_code import BoundToProcessError
from quire.engines.native.cpu.step import step

ENTRY = "quire_step"
_KNOWN_SYMBOLS = frozenset({"sched_yield", "memset", "memcpy", "memmove"})  # every C library's


def compile_step() -> bytes:
    """Compile the step and return an object file whose one entry is `void quire_step(int64, int64)`.

    Raises BoundToProcessError when it would need more than the C library.
    """
    with _only_translating():
        callback = cfunc("void(int64, int64)", error_model="numpy")(step.py_func)
    module = llvm.parse_assembly(callback.inspect_llvm())
    native = str(callback.native_name).removeprefix("cfunc.")
    module.link_in(llvm.parse_assembly(_entry(native)))
    machine = _prepare(module)
    declared = {f.name for f in module.functions if f.is_declaration and f.name[:5] != "llvm."}
    code = machine.emit_object(module)
    if not declared <= _KNOWN_SYMBOLS:
        unknown = ", ".join(sorted(declared - _KNOWN_SYMBOLS))
        raise BoundToProcessError(f"the machine code calls {unknown}", code)
    return code


@contextmanager
def _only_translating() -> Generator[None]:
    """Numba's own optimisation is off meanwhile, for all that this process compiles."""
    settings: Any = config  # its names are made when it is imported
    kept = settings.OPT
    settings.OPT = type(kept)(0)
    try:
        yield
    finally:
        settings.OPT = kept


def _entry(native: str) -> str:
    """Code that calls the native function as Numba would: room for a result, room for an error."""
    return f"""
        declare i32 @"{native}"(ptr, ptr, i64, i64)
        define void @{ENTRY}(i64 %thread, i64 %table) {{
            %result = alloca ptr
            %error = alloca ptr
            %status = call i32 @"{native}"(ptr %result, ptr %error, i64 %thread, i64 %table)
            ret void
        }}
    """


def _prepare(module: llvm.ModuleRef) -> llvm.TargetMachine:
    """Drop what the entry does not reach, and optimise; return what generates code."""
    for function in module.functions:
        if not function.is_declaration and function.name != ENTRY:
            function.linkage = "internal"
    for variable in module.global_variables:
        variable.linkage = "internal"
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        jit=True,
    )
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    options.slp_vectorization = False
    options.loop_unrolling = False  # tiles are unrolled already, as far as there are registers
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getModulePassManager()
    passes.add_strip_dead_prototype_pass()
    passes.run(module, builder)
    return machine
