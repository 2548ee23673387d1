"""From LLVM code to object files, and from these to functions where `linker` does not link them itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import binding as llvm

from quire.engines.native.cpu.compiler.targets import KernelTarget, current

if TYPE_CHECKING:
    from quire.engines.native.cpu.compiler.translator import Translation

# LLVM aligns loops to 16 bytes. Whether a short loop then crosses a boundary of the instruction cache
# depends on all the code before it, and costs a tenth of the time of the tiles that read bfloat16. So
# innermost loops are aligned to 2^5 bytes. LLVM ignores an option that it does not know.
_OPTION = "--x86-experimental-pref-innermost-loop-alignment=5"


def compile_object(translation: Translation, target: KernelTarget | None = None) -> bytes:
    """The object file of a translation, for this process's target if none is given."""
    target = target or current()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.set_option("quire", _OPTION)
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.flags, opt=3, reloc="pic", jit=True
    )
    translation.module.triple = machine.triple
    module = llvm.parse_assembly(str(translation.module))
    module.data_layout = str(machine.target_data)
    # Level 3 takes 1.4 times as long, copies loops for each case of what does not change in them, and the
    # steps are no quicker: the generators have written the tiles as they are to run.
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = True
    options.slp_vectorization = False
    options.loop_unrolling = False  # the tiles are unrolled already, as far as registers reach
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getModulePassManager()
    passes.add_strip_dead_prototype_pass()
    passes.run(module, builder)
    return machine.emit_object(module)


def link_by_llvm(code: bytes, entry: str) -> tuple[int, object]:
    """The address of a function in an object file, and what keeps its code alive."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine.get_function_address(entry), engine
