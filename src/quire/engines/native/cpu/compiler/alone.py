"""A kernel by itself, called from Python: for tests, and for whoever writes one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from quire.engines.native.cpu.compiler.language import (
    BOOL,
    FLOAT,
    INT,
    NOTHING,
    Kernel,
    StructType,
    ValueType,
)
from quire.engines.native.cpu.compiler.linker import load_object
from quire.engines.native.cpu.compiler.objects import compile_object
from quire.engines.native.cpu.compiler.translator import Translation

_ENTRY = "quire_alone"
_WORD = ir.PointerType(INT.llvm)
_NUMPY = {INT: np.int64, FLOAT: np.float32, BOOL: np.int64}


def compile_alone(kernel: Kernel) -> Callable[..., Any]:
    """A function that runs a kernel, with its arguments as they come.

    Arguments and results are handed over in words of memory, so that no platform's way of passing a
    float or a pair matters.
    """
    translation = Translation()
    _write_entry(translation, kernel)
    address, engine = load_object(compile_object(translation), _ENTRY)
    run: Any = ctypes.CFUNCTYPE(None, ctypes.c_int64)(address)
    run.engine = engine  # which keeps its code alive
    kinds = list(kernel.parameters.values())
    results = _several(kernel)

    def call(*args: Any) -> Any:
        given = {**kernel.defaults, **dict(zip(kernel.parameters, args, strict=False))}
        words = np.zeros(len(kinds) + len(results), np.int64)
        for place, (name, kind) in enumerate(kernel.parameters.items()):
            value = given[name]
            if isinstance(kind, StructType):
                value = 0 if value is None else value.address
            words[place : place + 1].view(_NUMPY.get(kind, np.int64))[0] = value
        run(words.ctypes.data)
        made = [
            words[len(kinds) + place :].view(_NUMPY.get(kind, np.int64))[0].item()
            for place, kind in enumerate(results)
        ]
        return tuple(made) if isinstance(kernel.result, tuple) else made[0] if made else None

    return call


def _several(kernel: Kernel) -> tuple[ValueType, ...]:
    """The types of the results."""
    if isinstance(kernel.result, tuple):
        return kernel.result
    return () if kernel.result is NOTHING else (kernel.result,)


def _write_entry(translation: Translation, kernel: Kernel) -> None:
    inner = translation.function_of(kernel)
    entry = ir.Function(translation.module, ir.FunctionType(NOTHING.llvm, [INT.llvm]), _ENTRY)
    builder = ir.IRBuilder(entry.append_basic_block())
    words = builder.inttoptr(entry.args[0], _WORD)

    def word(place: int, kind: ValueType) -> Any:
        address = builder.gep(words, [INT.llvm(place)])
        return builder.bitcast(address, ir.PointerType(FLOAT.llvm if kind is FLOAT else INT.llvm))

    given: list[Any] = []
    for place, kind in enumerate(kernel.parameters.values()):
        value = builder.load(word(place, kind))
        given.append(builder.trunc(value, BOOL.llvm) if kind is BOOL else value)
    result = builder.call(inner, given)
    kinds = _several(kernel)
    for place, kind in enumerate(kinds):
        value = builder.extract_value(result, place) if isinstance(kernel.result, tuple) else result
        value = builder.zext(value, INT.llvm) if kind is BOOL else value
        builder.store(value, word(len(given) + place, kind))
    builder.ret_void()
