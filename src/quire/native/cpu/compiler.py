"""From `step.step` to an object file, by Numba and LLVM. Imported only when there is none yet."""

from __future__ import annotations

import llvmlite.binding as llvm
from numba import cfunc

from quire.native.cpu.machine_code import BoundToProcessError
from quire.native.cpu.step import step

ENTRY = "quire_step"
_KNOWN_SYMBOLS = frozenset({"sched_yield", "memset", "memcpy", "memmove"})  # every C library's


def compile_step() -> bytes:
    """Compile the step and return an object file whose one entry is `void quire_step(int64, int64)`.

    Raises BoundToProcessError when it would need more than the C library.
    """
    callback = cfunc("void(int64, int64)", error_model="numpy")(step.py_func)
    module = llvm.parse_assembly(callback.inspect_llvm())
    native = str(callback.native_name).removeprefix("cfunc.")
    module.link_in(llvm.parse_assembly(_entry(native)))
    machine = _prepare(module)
    declared = {f.name for f in module.functions if f.is_declaration and f.name[:5] != "llvm."}
    if not declared <= _KNOWN_SYMBOLS:
        unknown = ", ".join(sorted(declared - _KNOWN_SYMBOLS))
        raise BoundToProcessError(f"the machine code calls {unknown}", callback.ctypes)
    return machine.emit_object(module)


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
    """Drop what the entry does not reach; return what generates code for this machine."""
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
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.add_strip_dead_prototype_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    return machine
