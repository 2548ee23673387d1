"""The language that kernels are written in: a small part of Python, and primitives that write LLVM code.

A `kernel` is a Python function of integers, floats and truths, declared by its annotations. It may
assign, compute, compare, branch, loop with `while` and `for ... in range(...)`, and call other kernels
and primitives; names of its module are constants. It has no objects, and so no exceptions and no
interpreter: that is what makes its translation quick, and lets its code be kept in a file. What the
language has no words for (registers, masks, prefetches, atomics) is a `primitive`: a Python function
that writes LLVM code, with a declared type.

    int     64 bits, signed; also addresses, in bytes. `//` and `%` round down as Python's; by 0 gives 0
    float   32 bits, also where Python's have 64; nothing but `float(...)` makes one of an integer
    bool    a comparison's result
    Struct  the address of one, whose fields are its attributes; true unless it is 0: see `structs`
    Structs[Struct]  the address of the first of several, of which `[index]` is one
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from llvmlite import ir

from quire.engines.native.cpu.compiler.structs import Struct


@dataclass(frozen=True, slots=True)
class ValueType:
    """A type of the language, and LLVM's for it."""

    name: str
    llvm: ir.Type


@dataclass(frozen=True, slots=True)
class StructType(ValueType):
    """The address of a struct, or of the first of several."""

    struct: type[Struct]
    several: bool


INT = ValueType("int", ir.IntType(64))
FLOAT = ValueType("float", ir.FloatType())
BOOL = ValueType("bool", ir.IntType(1))
NOTHING = ValueType("None", ir.VoidType())

ResultType: TypeAlias = ValueType | tuple[ValueType, ...]

_BY_ANNOTATION = {one.name: one for one in (INT, FLOAT, BOOL, NOTHING)}
_POINTER = re.compile(r"(?:(Structs)\[)?(\w+)\]?(?: \| None)?")


def pointer_to(struct: type[Struct], *, several: bool = False) -> StructType:
    """The type of a struct's address, or of that of several."""
    return _pointer(struct, several)


@functools.cache
def _pointer(struct: type[Struct], several: bool) -> StructType:
    # Each type is one object: the translator compares them by identity.
    name = f"Structs[{struct.__name__}]" if several else struct.__name__
    return StructType(name, INT.llvm, struct, several)


def named_type(text: str, names: Mapping[str, Any]) -> ValueType | None:
    """The type that an annotation names, where `names` are known; None if it is none."""
    if text in _BY_ANNOTATION:
        return _BY_ANNOTATION[text]
    match = _POINTER.fullmatch(text)
    struct = names.get(match[2]) if match else None
    if match and isinstance(struct, type) and issubclass(struct, Struct):
        return pointer_to(struct, several=match[1] is not None)
    return None


@functools.cache
def field_types(struct: type[Struct]) -> dict[str, ValueType]:
    """The types of a struct's fields, in order.

    Raises:
        KernelError: a field is of no type of the language.
    """
    names = vars(sys.modules[struct.__module__])
    found: dict[str, ValueType] = {}
    for name, text in struct.fields.items():
        kind = named_type(text, names)
        if kind is None:
            raise KernelError(f"{struct.__name__}.{name}: {text} is no type of the language")
        found[name] = kind
    return found


class KernelError(Exception):
    """A kernel says what the language has no meaning for."""


class Kernel:
    """A function of the language. Called from Python, it is compiled by itself: see `alone`."""

    def __init__(self, function: Callable[..., Any], is_outlined: bool = False) -> None:
        self.__doc__, self.__module__ = function.__doc__, function.__module__
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.function, self.is_outlined = function, is_outlined
        self._alone: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        return f"kernel {self.name}"

    @functools.cached_property
    def parameters(self) -> dict[str, ValueType]:
        """The parameters and their types, in order."""
        names = inspect.signature(self.function).parameters
        return {name: self._type_of(name) for name in names}

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """What the parameters have that are not given."""
        given = inspect.signature(self.function).parameters.values()
        return {one.name: one.default for one in given if one.default is not one.empty}

    @functools.cached_property
    def result(self) -> ResultType:
        """What it returns: a tuple of types for several values."""
        text = self._annotation("return")
        if text.startswith("tuple[") and text.endswith("]"):
            return tuple(self._named(one.strip()) for one in text[6:-1].split(","))
        return self._named(text)

    def _type_of(self, name: str) -> ValueType:
        return self._named(self._annotation(name))

    def _annotation(self, name: str) -> str:
        """As it is written, also where the module does not keep annotations as texts."""
        if name not in self.function.__annotations__:
            raise KernelError(f"{self!r}: {name} is not declared as int, float or bool")
        found = self.function.__annotations__[name]
        return found.__name__ if isinstance(found, type) else str(found)

    def _named(self, text: str) -> ValueType:
        found = named_type(text, self.function.__globals__)
        if found is None:
            raise KernelError(
                f"{self!r}: {text} is no type of the language: int, float, bool and structs are"
            )
        return found

    def __call__(self, *args: Any) -> Any:
        """Run it in this thread, with arguments as its types."""
        if self._alone is None:
            # Here and not above: whoever only declares kernels needs no compiler.
            from quire.engines.native.cpu.compiler.alone import compile_alone

            self._alone = compile_alone(self)
        return self._alone(*args)


def kernel(function: Callable[..., Any]) -> Any:
    """Make a kernel of a function. Untyped: a kernel is called with addresses of all kinds."""
    return Kernel(function)


def outlined(function: Callable[..., Any]) -> Any:
    """A kernel that stays a function of its own, where others would be copied into each place that calls
    them. It is for what is called once a row or task: a call is nothing there, each copy takes time to
    compile.
    """
    return Kernel(function, is_outlined=True)


class Primitive:
    """A function that writes LLVM code where it is called."""

    def __init__(
        self,
        build: Callable[..., Any],
        result: ValueType,
        parameters: tuple[ValueType, ...],
    ) -> None:
        self.__doc__ = build.__doc__
        self.build, self.result, self.parameters = build, result, parameters

    def __repr__(self) -> str:
        return f"primitive {getattr(self.build, '__qualname__', self.build)}"


def primitive(result: ValueType, *parameters: ValueType) -> Callable[[Callable[..., Any]], Any]:
    """Make a primitive of `build(builder, *arguments)`, which returns the result's LLVM value."""

    def make(build: Callable[..., Any]) -> Any:
        return Primitive(build, result, parameters)

    return make


def calling(result: ValueType, *parameters: ValueType) -> Any:
    """A primitive `call(address, *arguments)` of a kernel of this type, whose address is known at run time.

    So a kernel is compiled apart from those that call it: see `program.machine_code`.
    """
    kind = ir.FunctionType(result.llvm, [one.llvm for one in parameters])

    @primitive(result, INT, *parameters)
    def call(builder: ir.IRBuilder, address: Any, *arguments: Any) -> Any:
        return builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)

    return call
