"""Structs: memory with named, typed fields, which Python fills and kernels read by one declaration.

A struct is a class whose annotations are its fields, a word of 8 bytes each: an `int`, which may be the
address of an array; a `float` (32 bits, in the first 4); a `bool`; the address of another struct, or of
`Structs`, several that follow each other. `| None` says that an address may be 0.

    class Norm(Struct):
        weight: int
        eps: float

In Python, `norm.eps = 1e-6` writes the field. In a kernel, a parameter `norm: Norm` is the struct's
address, `norm.eps` reads the field, `norm.eps = value` writes it, and `norms[index]` is one of `Structs`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

WORD = 8
"""Bytes of a field."""

StructT = TypeVar("StructT", bound="Struct")


class Struct:
    """What all structs are. What an address points to lives as long as it stands in a field: another
    struct is kept here, an array by whoever writes its address."""

    fields: ClassVar[dict[str, str]] = {}
    """The fields in order, each with its annotation."""

    def __init_subclass__(cls) -> None:
        cls.fields = {name: str(kind) for name, kind in inspect.get_annotations(cls).items()}
        for index, (name, kind) in enumerate(cls.fields.items()):
            setattr(cls, name, _FIELDS.get(kind, _Address)(index))

    def __init__(self, words: NDArray[np.int64] | None = None) -> None:
        """`words` are the memory: those given, or new ones, of zeros."""
        self.words = np.zeros(len(self.fields), np.int64) if words is None else words
        self.floats = self.words.view(np.float32)
        self.kept: dict[int, Struct | Structs[Any]] = {}

    @classmethod
    def size(cls) -> int:
        """Bytes of one."""
        return WORD * len(cls.fields)

    @property
    def address(self) -> int:
        """The address of the first word."""
        return self.words.ctypes.data


class Structs(Generic[StructT]):
    """Structs of one kind that follow each other in memory."""

    def __init__(self, kind: type[StructT], count: int) -> None:
        self.words = np.zeros((count, len(kind.fields)), np.int64)
        self._kind = kind
        self._made: dict[int, StructT] = {}

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> StructT:
        if index not in self._made:
            self._made[index] = self._kind(self.words[index])
        return self._made[index]

    def __iter__(self) -> Iterator[StructT]:
        return (self[index] for index in range(len(self)))

    def fill(self, field: str, values: Sequence[int]) -> None:
        """Write one field of all: numbers, or addresses of what the caller keeps."""
        self.words[:, list(self._kind.fields).index(field)] = values

    @property
    def address(self) -> int:
        """The address of the first one's first word."""
        return self.words.ctypes.data


# ---- fields, as Python sees them


class _Int:
    def __init__(self, index: int) -> None:
        self._index = index

    def __get__(self, struct: Struct | None, owner: type[Struct]) -> Any:
        return self if struct is None else int(struct.words[self._index])

    def __set__(self, struct: Struct, value: int) -> None:
        struct.words[self._index] = value


class _Bool(_Int):
    def __get__(self, struct: Struct | None, owner: type[Struct]) -> Any:
        return self if struct is None else bool(struct.words[self._index])


class _Float:
    def __init__(self, index: int) -> None:
        self._index = 2 * index

    def __get__(self, struct: Struct | None, owner: type[Struct]) -> Any:
        return self if struct is None else float(struct.floats[self._index])

    def __set__(self, struct: Struct, value: float) -> None:
        struct.floats[self._index] = value


class _Address:
    def __init__(self, index: int) -> None:
        self._index = index

    def __get__(self, struct: Struct | None, owner: type[Struct]) -> Any:
        return self if struct is None else struct.kept.get(self._index)

    def __set__(self, struct: Struct, value: Struct | Structs[Any] | None) -> None:
        if value is None:
            struct.kept.pop(self._index, None)
            struct.words[self._index] = 0
        else:
            struct.kept[self._index] = value
            struct.words[self._index] = value.address


_FIELDS: dict[str, Any] = {"int": _Int, "float": _Float, "bool": _Bool}
