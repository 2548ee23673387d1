"""From `step.step` to an object file, by Numba and LLVM. Imported only if there is none yet.

Left to itself, Numba optimises each function together with all that it calls, and so a callee once
for each of its callers, over and over. Here it only translates. The whole is then optimised once,
which takes a quarter of the time.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from numba import cfunc, config

from quire.engines.native.cpu.program.step import step

ENTRY = "quire_step"
# LLVM aligns loops to 16 bytes. Whether a short loop then crosses a boundary of the instruction cache
# depends on all the code before it, and costs a tenth of the time of the tiles that read bfloat16. So
# innermost loops are aligned to 2^5 bytes. LLVM ignores an option that it does not know.
_OPTION = "--x86-experimental-pref-innermost-loop-alignment=5"
_C_LIBRARY = frozenset({"sched_yield", "memset", "memcpy", "memmove"})  # in every C library


class CompiledStep(NamedTuple):
    """The step as an object file whose one entry is `void quire_step(int64 thread, int64 table)`."""

    code: bytes
    foreign_symbols: list[str]
    """What the code calls beside the C library: then it runs in this process only."""


def compile_step() -> CompiledStep:
    """Compile the step for this processor."""
    with _without_optimisation():
        callback = cfunc("void(int64, int64)", error_model="numpy")(step.py_func)
    module = llvm.parse_assembly(callback.inspect_llvm())
    llvm.set_option("quire", _OPTION)
    native = str(callback.native_name).removeprefix("cfunc.")
    module.link_in(llvm.parse_assembly(_entry(native)))
    machine = _optimise(module)
    declared = {f.name for f in module.functions if f.is_declaration and f.name[:5] != "llvm."}
    return CompiledStep(machine.emit_object(module), sorted(declared - _C_LIBRARY))


@contextmanager
def _without_optimisation() -> Generator[None]:
    """Turn Numba's own optimisation off, for all that this process compiles meanwhile."""
    settings: Any = config  # its names are made when it is imported, so no type checker knows them
    before = settings.OPT
    settings.OPT = type(before)(0)
    try:
        yield
    finally:
        settings.OPT = before


def _entry(native: str) -> str:
    """LLVM code that calls the native function as Numba would, with room for a result and an error.

    Numba's own C callback would take the interpreter's lock to report an exception. There is none.
    """
    return f"""
        declare i32 @"{native}"(ptr, ptr, i64, i64)
        define void @{ENTRY}(i64 %thread, i64 %table) {{
            %result = alloca ptr
            %error = alloca ptr
            %status = call i32 @"{native}"(ptr %result, ptr %error, i64 %thread, i64 %table)
            ret void
        }}
    """


def _optimise(module: llvm.ModuleRef) -> llvm.TargetMachine:
    """Optimise what the entry reaches, drop the rest; return what generates code."""
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
    options.loop_unrolling = False  # the tiles are unrolled already, as far as registers reach
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getModulePassManager()
    passes.add_strip_dead_prototype_pass()
    passes.run(module, builder)
    return machine
