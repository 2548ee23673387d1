"""The tensors of one quantised module, checked; and integers packed into 32-bit words."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quire.errors import WeightsError
from quire.weights.safetensors import StoredTensor, widen

_FLOATS = ("F32", "F16", "BF16", "F64")
_EXPONENTS = "F8_E8M0"  # powers of two; 255 is NaN


class TensorSource(Protocol):
    """The tensors of a folder, by name: `WeightsFolder`, or tensors in memory."""

    def __contains__(self, name: str) -> bool: ...

    def stored(self, name: str) -> StoredTensor:
        """The tensor `name`. Raises WeightsError if there is none, or its file is damaged."""
        ...


class ModuleTensors:
    """The tensors `<module>.<part>`. Whatever is wrong with one raises a WeightsError that names it."""

    def __init__(self, source: TensorSource, module: str) -> None:
        self._source, self._module = source, module

    def __contains__(self, part: str) -> bool:
        return self.name(part) in self._source

    def name(self, part: str) -> str:
        """The full name of a part."""
        return f"{self._module}.{part}"

    def wrong(self, part: str, text: str) -> WeightsError:
        """The error for a tensor of which `text` says what is wrong."""
        return WeightsError(
            f"{self._source.stored(self.name(part)).path}: {self.name(part)} {text}"
        )

    def _read(self, part: str, types: tuple[str, ...], *shapes: tuple[int, ...]) -> StoredTensor:
        """The tensor of a part, of one of the types and one of the shapes."""
        tensor = self._source.stored(self.name(part))
        if tensor.dtype not in types:
            raise self.wrong(part, f"is stored as {tensor.dtype}, not as {' or '.join(types)}")
        if tensor.values.shape not in shapes:
            expected = " or ".join(map(str, shapes))
            raise self.wrong(
                part,
                f"has shape {tensor.values.shape}; config.json and its quantization ask for {expected}",
            )
        return tensor

    def words(self, part: str, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """Integers that are packed into 32-bit words: see `unpack`."""
        return self._read(part, ("I32",), shape).values

    def raw(self, part: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """A tensor of a type, by safetensors' name, as it is stored."""
        return self._read(part, (dtype,), shape).values

    def octets(self, part: str) -> NDArray[np.uint8]:
        """The bytes of a tensor of whatever type."""
        return (
            np.ascontiguousarray(self._source.stored(self.name(part)).values)
            .reshape(-1)
            .view(np.uint8)
        )

    def type_of(self, part: str) -> str:
        """The type of a part by safetensors' name, such as `I32`."""
        return self._source.stored(self.name(part)).dtype

    def signed(self, part: str, *shapes: tuple[int, ...], bits: int) -> NDArray[np.uint8]:
        """Signed integers of one byte each, made unsigned: the lowest of so many bits becomes 0."""
        values = self._read(part, ("I8",), *shapes).values
        half = 1 << (bits - 1)
        if bits < 8 and values.size and (values.min() < -half or values.max() >= half):
            raise self.wrong(part, f"holds integers outside of {bits} bits")
        return (values.view(np.uint8) + np.uint8(half)) & np.uint8(2 * half - 1)

    def floats(self, part: str, *shapes: tuple[int, ...]) -> NDArray[np.float32]:
        """Finite floats, as float32, of one of the shapes."""
        tensor = self._read(part, (*_FLOATS, _EXPONENTS), *shapes)
        values = _as_float32(tensor)
        if not np.isfinite(values).all():
            raise self.wrong(part, "holds infinities or NaN")
        return values

    def integers(self, part: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Integers of 16, 32 or 64 bits."""
        return self._read(part, ("I32", "I64", "I16"), shape).values.astype(np.int64)


def _as_float32(tensor: StoredTensor) -> NDArray[np.float32]:
    if tensor.dtype == "BF16":
        return widen(tensor.values)
    if tensor.dtype == _EXPONENTS:
        powers = np.ldexp(np.float32(1), tensor.values.astype(np.int32) - 127)
        return np.where(tensor.values == 255, np.float32(np.nan), powers)
    return tensor.values.astype(np.float32, copy=False)


def order_of_groups(
    tensors: ModuleTensors, part: str, depth: int, group: int
) -> NDArray[np.int32] | None:
    """The inputs sorted by group, from the tensor that holds each input's group.

    None if they are in order already, and if the tensor was never filled: without act-order, writers
    leave all of it at 0 (GPTQ) or at -1 (compressed-tensors).
    """
    groups = tensors.integers(part, (depth,))
    if (groups == 0).all() or (groups == -1).all():
        return None
    order = np.argsort(groups, kind="stable").astype(np.int32)
    if not np.array_equal(groups[order], np.arange(depth) // group):
        raise tensors.wrong(part, f"does not give each group {group} of the {depth} inputs")
    in_order = np.array_equal(order, np.arange(depth))
    return None if in_order else order


# ---- packed integers


def per_word(bits: int) -> int:
    """How many integers of `bits` one word holds."""
    return 32 // bits


def words_for(count: int, bits: int) -> int:
    """How many words hold `count` integers."""
    return -(-count // per_word(bits))


def unpack(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """The integers of each row: (rows, words) to (rows, words * per_word(bits)). `bits` is 4 or 8.

    The lowest bits of a word are its first integer. Eight-bit integers are the bytes of the words,
    and so a view if the words are contiguous.
    """
    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return octets
    integers = np.empty((octets.shape[0], 2 * octets.shape[1]), np.uint8)
    np.bitwise_and(octets, 15, out=integers[:, 0::2])
    np.right_shift(octets, 4, out=integers[:, 1::2])
    return integers
