"""Weights in GGUF's blocks as the kernels read them: see `kernels.block_forms` for the order.

Nothing is rounded: codes, scales and minimums are those of the file, in another place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels.block_forms import (
    COLUMNS,
    FORMS,
    PACKED_BY_KERNELS,
    SPAN,
    SUPER_SPANS,
    BlockForm,
)
from quire.engines.native.cpu.kernels.layout import LINE, WIDE_BYTES
from quire.engines.native.cpu.memory.arrays import HugeArena, aligned_zeros
from quire.engines.native.cpu.program.machine_code import kernel_function

if TYPE_CHECKING:
    from quire.gguf.blocks import Integers

_DROPPED = 16 * 2**20
"""Bytes after whose packing the pages that were read are dropped."""
_PIECE = 1 << 20  # weights that one thread packs at a time
_SUPERS: dict[str, tuple[int, ...]] = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_XS": (0,),
}
"""Where a block has its float16: that of the scales, and that of the minimums if there are any."""


@dataclass(frozen=True, slots=True)
class PackedBlocks:
    """A weight (columns, depth) in blocks; multiplied with rows of 8 bits, or of 16 if `exact`."""

    form: str
    exact: bool
    columns: int
    depth: int
    codes: NDArray[np.uint8]  # (blocks of 16 columns, spans, bytes of a span)
    factors: NDArray[np.uint8]  # (blocks, spans, bytes of a span's scales and minimums)
    supers: NDArray[np.float16]  # (blocks, 8 spans, 1 or 2, 16); empty if scales are not nested

    @property
    def shape(self) -> tuple[int, int]:
        return self.columns, self.depth

    @property
    def packed_depth(self) -> int:
        """The depth rounded up to whole spans."""
        return -(-self.depth // SPAN) * SPAN

    @property
    def row_bytes(self) -> int:
        """Bytes from one rounded row to the next, whole cache lines."""
        size = (
            self.packed_depth * (2 if self.exact else 1 + WIDE_BYTES)
            + self.packed_depth // SPAN * 12
        )
        return -(-size // LINE) * LINE

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        return self.codes, self.factors, self.supers

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    @property
    def kernel(self) -> str:
        """The name of the kernel that multiplies with it."""
        return f"linear_{self.form}{'_exact' if self.exact else ''}"

    @property
    def rounder(self) -> str:
        """The name of the kernel that rounds rows for it."""
        return "round_exact" if self.exact else "round_fast"

    @property
    def reader(self) -> str:
        """The name of the kernel that reads its columns as the rows of an embedding."""
        return f"read_{self.form}"

    def has_finite_scales(self) -> bool:
        """Whether no scale or minimum is infinite or NaN."""
        scales = FORMS[self.form].scales
        if scales == "single":
            return bool(np.isfinite(self.factors.view(np.float32)).all())
        halves = (self.supers if scales == "nested" else self.factors).view(np.uint16)
        exponent = np.uint16(0x7C00)
        return bool(((halves & exponent) != exponent).all())

    def with_arrays(self, arrays: Iterator[NDArray[Any]]) -> PackedBlocks:
        """The same with its arrays in another place."""
        codes, factors, supers = arrays
        return dataclasses.replace(self, codes=codes, factors=factors, supers=supers)


def form_of(kind: str) -> str:
    """The form of a type of blocks."""
    return kind.lower() if kind.lower() in FORMS else "codebook"


def pack_blocks(
    kind: str,
    data: BlockRows,
    depth: int,
    *,
    exact: bool,
    pool: ThreadPoolExecutor | None = None,
    arena: HugeArena | None = None,
) -> PackedBlocks:
    """Pack a weight of a type with blocks: `data` has (columns, bytes of a row)."""
    zeros = arena.zeros if arena is not None else aligned_zeros
    name, columns = form_of(kind), len(data)
    form = FORMS[name]
    blocks, spans = -(-columns // COLUMNS), depth // SPAN
    above = -(-spans // SUPER_SPANS) if form.scales == "nested" else 0
    packed = PackedBlocks(
        name,
        exact,
        columns,
        depth,
        zeros((blocks, spans, form.span_bytes), np.uint8),
        zeros((blocks, spans, form.factor_bytes), np.uint8),
        zeros((blocks, above, form.kinds, COLUMNS), np.float16),
    )
    step = max(1, _PIECE // max(1, COLUMNS * depth))
    parts = [slice(first, min(first + step, blocks)) for first in range(0, blocks, step)]
    fill = _by_kernel(packed, data) if by_kernel(name) else _by_decoding(packed, form, kind, data)
    if pool is None or len(parts) == 1:
        for part in parts:
            fill(part)
    else:
        list(pool.map(fill, parts))
    return packed


class BlockPacker:
    """Packs the matrices of one model, in all threads, and lets go of the pages that it has read.

    Else the model would be in memory twice. `drop_pages` does that for all that was read.
    """

    def __init__(self, drop_pages: Callable[[], None], *, exact: bool, threads: int) -> None:
        self._drop_pages, self._exact = drop_pages, exact
        self._pool = ThreadPoolExecutor(threads, "quire-pack") if threads > 1 else None
        self._arena = HugeArena()
        self._read = 0  # bytes since pages were dropped

    def pack(self, kind: str, data: BlockRows, depth: int) -> PackedBlocks:
        """See `pack_blocks`."""
        packed = pack_blocks(
            kind, data, depth, exact=self._exact, pool=self._pool, arena=self._arena
        )
        self._read += packed.nbytes
        if self._read > _DROPPED:
            self._drop_pages()
            self._read = 0
        return packed

    def close(self) -> None:
        """End its threads. It packs no more."""
        if self._pool is not None:
            self._pool.shutdown()


class BlockRows(Protocol):
    """Rows of blocks as a file has them: an array, or what makes them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.uint8]: ...


Fill: TypeAlias = Callable[[slice], None]
"""Packs some blocks of columns."""


def by_kernel(form: str) -> bool:
    """Whether a kernel packs the blocks of a form as they are in the file."""
    return form in PACKED_BY_KERNELS


def _by_kernel(packed: PackedBlocks, data: BlockRows) -> Fill:
    pack = kernel_function(f"pack_{packed.form}", 7)
    spans = packed.codes.shape[1]

    def fill(part: slice) -> None:
        rows = data[part.start * COLUMNS : part.stop * COLUMNS]
        rows = rows if rows.strides[1] == 1 else np.ascontiguousarray(rows)
        places = [array[part].ctypes.data for array in packed.arrays]
        pack(rows.ctypes.data, rows.strides[0], len(rows), spans, *places)

    return fill


def _by_decoding(packed: PackedBlocks, form: BlockForm, kind: str, data: BlockRows) -> Fill:
    interleave = kernel_function(f"order_{form.bits}", 4)
    return lambda part: _fill(packed, form, kind, data, part, interleave)


def _fill(
    packed: PackedBlocks, form: BlockForm, kind: str, data: BlockRows, part: slice,
    interleave: Callable[[int, int, int, int], None],
) -> None:  # fmt: skip
    """Pack some blocks of columns."""
    # Here and not above: who has no such weights does without it.
    from quire.gguf.blocks import decode

    rows = data[part.start * COLUMNS : part.stop * COLUMNS]
    count = -(-len(rows) // COLUMNS)
    missing = count * COLUMNS - len(rows)
    if missing:  # columns that nobody asks for
        rows = np.concatenate((rows, np.zeros((missing, rows.shape[1]), np.uint8)))
    integers = decode(kind, np.ascontiguousarray(rows))
    where = slice(part.start, part.start + count)
    codes, target = _stored_codes(form, integers), packed.codes[where]
    interleave(codes.ctypes.data, count, codes.shape[1], target.ctypes.data)
    scales, lowest = integers.scales, integers.minimums
    if form.scales == "nested":
        supers = _supers(kind, rows)
        packed.supers[where] = supers.reshape(count, COLUMNS, *supers.shape[1:]).transpose(
            0, 2, 3, 1
        )
        scales = _divided(scales, supers[:, :, 0])
        lowest = None if lowest is None else _divided(lowest, supers[:, :, 1])
    both = [scales] if lowest is None else [scales, lowest]
    if integers.group * form.parts > SPAN:  # a type of codebooks that has one scale for both halves
        both = [np.repeat(one, form.parts, axis=1) for one in both]
    stored = {"half": np.float16, "single": np.float32, "nested": np.int8}[form.scales]
    # (columns, spans, minimum or scale, part) to (blocks, spans, minimum or scale, part, column)
    spans = packed.codes.shape[1]
    ordered = np.stack(
        [one.astype(np.int16 if form.scales == "nested" else stored) for one in both], axis=1
    ).reshape(count, COLUMNS, len(both), spans, form.parts)
    ordered = ordered.astype(stored).transpose(0, 3, 2, 4, 1)
    packed.factors[where] = np.ascontiguousarray(ordered).view(np.uint8).reshape(count, spans, -1)


def _supers(kind: str, rows: NDArray[np.uint8]) -> NDArray[np.float16]:
    """The float16 of every block of 256: (columns, blocks, 1 or 2)."""
    from quire.gguf.tensor_types import type_named

    blocks = rows.reshape(len(rows), -1, type_named(kind).bytes)
    parts = [
        np.ascontiguousarray(blocks[:, :, at : at + 2]).view(np.float16) for at in _SUPERS[kind]
    ]
    return np.concatenate(parts, axis=2)


def _divided(products: NDArray[np.float32], supers: NDArray[np.float16]) -> NDArray[np.float32]:
    """The integers whose products with their block's float16 are given: these are exact."""
    wide = supers.astype(np.float32)
    groups = products.reshape(*wide.shape, -1)
    quotients = np.divide(
        groups, wide[:, :, None], out=np.zeros_like(groups), where=wide[:, :, None] != 0
    )
    return np.rint(quotients).reshape(products.shape)


def _stored_codes(form: BlockForm, integers: Integers) -> NDArray[np.uint8]:
    """The codes as the form has them: of levels, which one it is."""
    if not form.levels:
        return integers.codes
    index = np.zeros(256, np.uint8)
    shift = integers.zero - form.middle
    for code, level in reversed(list(enumerate(form.levels))):
        index[level + shift] = code
    return np.take(index, integers.codes)
