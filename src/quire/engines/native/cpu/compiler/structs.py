"""Structs: words of memory with names and types, which Python fills and kernels read.

One declaration serves both sides. A struct's fields are 8 bytes each: an int, a float (32 bits, in the
first 4), a bool, or the address of another struct. In Python a field takes a number, an array (whose
address is written, and which is kept alive as long as it stands there), or a struct. In a kernel, which
gets the struct's address, `struct.name` reads a field, `struct.name = value` writes it, and
`struct[index]` is one of several structs that follow each other.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

WORD = 8
"""Bytes of a field."""

StructT = TypeVar("StructT", bound="Struct")


class Struct:
    """What all structs are. A subclass declares its fields by annotations."""

    fields: ClassVar[dict[str, str]]
    """The names of the fields, in order, with their annotations."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.fields = dict(inspect.get_annotations(cls))
        for index, (name, kind) in enumerate(cls.fields.items()):
            setattr(cls, name, _Field(name, index, is_float=kind == "float"))

    def __init__(self, **values: Any) -> None:
        self._attach(np.zeros(len(self.fields), np.int64))
        for name, value in values.items():
            setattr(self, name, value)

    def _attach(self, words: NDArray[np.int64]) -> None:
        self.words = words
        self.kept: dict[str, Any] = {}

    @classmethod
    def size(cls) -> int:
        """Bytes of one."""
        return WORD * len(cls.fields)

    @classmethod
    def offset(cls, name: str) -> int:
        """Bytes before a field."""
        return WORD * list(cls.fields).index(name)

    @property
    def address(self) -> int:
        """The address of the words, valid while this object lives."""
        return self.words.ctypes.data


class Structs(list[StructT]):
    """Structs that follow each other in memory."""

    def __init__(self, kind: type[StructT], count: int) -> None:
        words = np.zeros((count, len(kind.fields)), np.int64)
        made: list[StructT] = []
        for row in words:
            one = kind.__new__(kind)
            one._attach(row)  # pyright: ignore[reportPrivateUsage]
            made.append(one)
        super().__init__(made)
        self.words = words

    @property
    def address(self) -> int:
        """The address of the first, valid while this object lives."""
        return self.words.ctypes.data


class _Field:
    """A field, as Python sees it."""

    def __init__(self, name: str, index: int, *, is_float: bool) -> None:
        self._name, self._index, self._is_float = name, index, is_float

    def __get__(self, struct: Any, owner: type[Any]) -> Any:
        if struct is None:
            return self
        if self._is_float:
            return float(struct.words.view(np.float32)[2 * self._index])
        return int(struct.words[self._index])

    def __set__(self, struct: Any, value: Any) -> None:
        if self._is_float:
            struct.words.view(np.float32)[2 * self._index] = value
            return
        kept = None
        if value is None:
            value = 0
        elif isinstance(value, np.ndarray):
            assert value.flags.c_contiguous
            kept, value = value, value.ctypes.data
        elif isinstance(value, (Struct, Structs)):
            kept, value = value, value.address
        struct.words[self._index] = value
        struct.kept.pop(self._name, None)
        if kept is not None:
            struct.kept[self._name] = kept
