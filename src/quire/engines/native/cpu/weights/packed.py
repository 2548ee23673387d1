"""Quantised weights as the kernels read them; those that are rounded at load are kept for next time.

A `QuantizedMatrix` is a weight as integers in plain order. `pack` interleaves it once into the order
that the tiles read (see `kernels.quantized_tiles`). Rounding a model at load takes far longer than
reading it, so the packed result is kept in the cache folder, one safetensors file for each state of
the source, and mapped at the next start.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels.layout import (
    LINEARS,
    QUANT_BLOCK,
    UNROUNDED,
    quantized_row_bytes,
)
from quire.engines.native.cpu.program.machine_code import kernel_function
from quire.engines.native.cpu.weights.blocks import PackedBlocks
from quire.engines.native.cpu.weights.float8 import Float8Weight
from quire.engines.native.models import spec as spec_module
from quire.engines.native.models.layers.latent_attention import is_head_map
from quire.engines.native.models.spec import DecoderSpec
from quire.engines.native.models.tensors import TensorSpec
from quire.errors import WeightsError
from quire.machine.cache import keep, key_of, read_kept
from quire.quantization import matrix as matrix_module
from quire.quantization import rounding
from quire.quantization.matrix import QuantizedMatrix
from quire.quantization.schemes import Quantization
from quire.weights.safetensors import SafetensorsFile, WeightsFolder, widen

logger = logging.getLogger("quire")

Packed: TypeAlias = "PackedMatrix | PackedBlocks | Float8Weight"
Tensor: TypeAlias = "NDArray[Any] | Packed"
QuantizedKind = Literal["int8", "int4"]

SPANS = (64, 32)
"""How many inputs may share a scale of the activations: the first that the weights' groups allow."""

_ROUNDED = 1 << 18  # weights that a thread rounds at a time: they stay in its cache
_TILE_COLUMNS = 4 * QUANT_BLOCK  # columns that the widest tile reads: weights are padded to it


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A weight (columns, depth) in the order in which the tiles read it.

    `w = unit * scale * (code - zero)`. A span is `span` inputs, whose activations share a scale; a
    scale of the weights serves `repeat` spans.
    """

    bits: int
    columns: int
    depth: int
    span: int
    repeat: int
    unit: float
    codes: NDArray[np.uint8]  # (blocks, steps, 16, 4)
    scales: NDArray[np.float16]  # (blocks, groups, 16)
    zeros: NDArray[np.uint8] | None  # (blocks, groups, 16); None: the middle, 128 or 8

    exact: ClassVar = False
    """Whether the rows that it is multiplied with keep 16 bits."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.columns, self.depth

    @property
    def packed_depth(self) -> int:
        """The depth rounded up to whole spans."""
        return -(-self.depth // self.span) * self.span

    @property
    def row_bytes(self) -> int:
        """Bytes from one rounded row to the next."""
        return quantized_row_bytes(self.packed_depth, self.span)

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        parts = (self.codes, self.scales, self.zeros)
        return tuple(part for part in parts if part is not None)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    @property
    def kernel(self) -> str:
        """The name of the kernel that multiplies with it."""
        return f"linear_int{self.bits}{'' if self.zeros is None else '_zeros'}"

    @property
    def rounder(self) -> str:
        """The name of the kernel that rounds rows for it."""
        return "round_rows"

    def with_arrays(self, arrays: Iterator[NDArray[Any]]) -> PackedMatrix:
        """The same with its arrays in another place."""
        codes, scales = next(arrays), next(arrays)
        zeros = None if self.zeros is None else next(arrays)
        return dataclasses.replace(self, codes=codes, scales=scales, zeros=zeros)


def span_for(group: int) -> int | None:
    """The span for weights in groups of so many inputs; None if the kernels have none for it."""
    return next((span for span in SPANS if group % span == 0), None)


# ---- packing


def pack(matrix: QuantizedMatrix, span: int) -> PackedMatrix:
    """Pack a matrix whose inputs are in their own order.

    Its group is a multiple of `span`, or its whole depth.
    """
    assert matrix.order is None
    columns, depth = matrix.shape
    group = -(-matrix.group // span) * span if matrix.group >= depth else matrix.group
    assert group % span == 0
    middle = 1 << (matrix.bits - 1)
    padded_columns = -(-columns // _TILE_COLUMNS) * _TILE_COLUMNS
    codes = np.full((padded_columns, -(-depth // span) * span), middle, np.uint8)
    codes[:columns, :depth] = matrix.codes
    unit = _unit(matrix.scales)
    symmetric = bool((matrix.zeros == middle).all())
    return PackedMatrix(
        bits=matrix.bits,
        columns=columns,
        depth=depth,
        span=span,
        repeat=group // span,
        unit=unit,
        codes=_interleave(codes, matrix.bits),
        scales=_by_block((matrix.scales / np.float32(unit)).astype(np.float16), padded_columns),
        zeros=None if symmetric else _by_block(matrix.zeros, padded_columns),
    )


def round_and_pack(
    values: NDArray[Any], bits: Literal[4, 8], group: int, threads: int
) -> PackedMatrix:
    """`pack` of `rounding.quantize`, by compiled code: values (columns, depth) are floats of any type.

    Raises:
        WeightsError: as `rounding.quantize`.
    """
    columns, depth = values.shape
    padded_columns = -(-columns // _TILE_COLUMNS) * _TILE_COLUMNS
    groups, blocks = -(-depth // group), padded_columns // QUANT_BLOCK
    width = groups * group
    codes = np.empty((blocks, width * bits // 32, QUANT_BLOCK, 4), np.uint8)
    scales = np.zeros((padded_columns, groups), np.float32)
    round_groups, order = (
        kernel_function(f"round_{bits}_{group}", 4),
        kernel_function(f"order_{bits}", 4),
    )

    def fill(first: int) -> None:
        part = values[first * QUANT_BLOCK : (first + step) * QUANT_BLOCK]
        count = min(step, blocks - first)
        wide = np.zeros((count * QUANT_BLOCK, width), np.float32)
        wide[: len(part), :depth] = widen(part) if part.dtype == np.uint16 else part
        plain = np.empty(wide.shape, np.uint8)
        place = scales[first * QUANT_BLOCK :]
        groups_here = wide.size // group
        round_groups(wide.ctypes.data, groups_here, plain.ctypes.data, place.ctypes.data)
        order(plain.ctypes.data, count, width, codes[first].ctypes.data)

    step = max(1, _ROUNDED // (QUANT_BLOCK * width))
    starts = range(0, blocks, step)
    with ThreadPoolExecutor(threads, "quire-quantize") as pool:
        list(pool.map(fill, starts))
    if not np.isfinite(scales).all():
        raise WeightsError("The weights hold infinities or NaN, which cannot be quantised")
    unit = _unit(scales)
    halves = (scales / np.float32(unit)).astype(np.float16)
    return PackedMatrix(
        bits, columns, depth, group, 1, unit, codes, _by_block(halves, padded_columns), None
    )


def _unit(scales: NDArray[np.float32]) -> float:
    """A power of two that brings the scales into the range in which float16 is most precise."""
    largest = float(np.abs(scales).max(initial=0.0))
    return math.ldexp(1.0, math.frexp(largest)[1]) if 0 < largest < math.inf else 1.0


def _interleave(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """(columns, depth) to the order of the tiles, (blocks, steps, 16, 4)."""
    columns, depth = codes.shape
    blocks = columns // QUANT_BLOCK
    if bits == 8:
        steps = codes.reshape(blocks, QUANT_BLOCK, depth // 4, 4)
    else:
        pairs = codes.reshape(blocks, QUANT_BLOCK, depth // 8, 2, 4)
        steps = pairs[:, :, :, 0] | (pairs[:, :, :, 1] << np.uint8(4))
    return np.ascontiguousarray(steps.transpose(0, 2, 1, 3))


def _by_block(values: NDArray[Any], padded_columns: int) -> NDArray[Any]:
    """(columns, groups) to (blocks, groups, 16)."""
    columns, groups = values.shape
    padded = np.zeros((padded_columns, groups), values.dtype)
    padded[:columns] = values
    return np.ascontiguousarray(padded.reshape(-1, QUANT_BLOCK, groups).transpose(0, 2, 1))


# ---- packing a model

_GROUPS: dict[QuantizedKind, int] = {"int8": 64, "int4": 32}
_KERNELS = Path(__file__).parents[1] / "kernels"
_MODELS = Path(spec_module.__file__ or "").parent
_CODE = [
    *(Path(module.__file__ or "") for module in (matrix_module, rounding, spec_module)),
    _MODELS / "names.py",
    *sorted((_MODELS / "layers").glob("*.py")),
    *(_KERNELS / name for name in ("rounding.py", "block_packing.py")),
]
"""Modules that a kept file follows from, beside this one."""


class Packer:
    """Packs the matrices of one model.

    Those of a quantised checkpoint are packed anew at every start, which takes little; those that
    `kind` says to round are kept.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        source: WeightsFolder,
        kind: QuantizedKind | None,
        threads: int,
        on_progress: Callable[[str], None] | None,
    ) -> None:
        self._kind, self._threads = kind, threads
        self._on_progress = on_progress or logger.info
        self._source = source
        self._span = _GROUPS[kind] if kind else _span_of(spec.quantization)
        self._name = ""
        self._kept: dict[str, NDArray[Any]] = {}
        self._results: dict[str, PackedMatrix] = {}
        self._began = 0.0
        if kind is not None:
            self._states = source.file_states()
            self._name = f"weights-{kind}-{self._key(spec)}.safetensors"
            self._kept = _read_kept(self._name, threads)

    def _key(self, spec: DecoderSpec) -> str:
        """A name for everything that the rounded weights follow from.

        That is every byte of the source: two models may differ in a few rows alone.
        """
        # What stretches the context changes no weight.
        shape = dataclasses.replace(spec.without_rope(), max_positions=0)
        return key_of(
            self._source.fingerprint(self._threads),
            shape,
            [path.read_bytes() for path in (Path(__file__), *_CODE)],
            (QUANT_BLOCK, _GROUPS, np.__version__),
        )

    def rounds(self, role: str) -> bool:
        """Whether a full-precision tensor in this role is to be rounded.

        The router and the score of a shared expert are not: they are small, and a small error in
        them can choose another expert. Nor are a state's rates and decays, whose errors add up.
        """
        linear = role.rpartition(".")[2]  # of an expert's: experts.<i>.gate
        if self._kind is None or linear in UNROUNDED:
            return False
        return linear in LINEARS or linear == "head" or is_head_map(role)

    def pack(self, matrix: QuantizedMatrix) -> PackedMatrix | None:
        """A checkpoint's matrix for the kernels; None if they have no tiles for its groups.

        With GPTQ's act-order, the inputs of a group lie apart, which no tile reads, and blocks of
        bitsandbytes may be of any size. Such a matrix is rounded once more: to 8 bits, which is far
        finer than the 4 that it has.
        """
        if self._span is None:
            return None
        fits = matrix.group % self._span == 0 or matrix.group >= matrix.shape[1]
        if matrix.order is None and fits:
            return pack(matrix.on_even_steps(), self._span)
        values = matrix.dequantized()
        rounded = rounding.quantize(values, bits=8, group=self._span, threads=self._threads)
        return pack(rounded, self._span)

    def round(self, tensor: TensorSpec, values: NDArray[Any]) -> PackedMatrix:
        """A full-precision matrix rounded and packed: kept from an earlier start, or made now."""
        assert self._kind is not None
        assert self._span is not None
        name = f"{tensor.name} {tensor.role}"
        packed = self._find(name, tensor)
        if packed is None:
            self._report()
            bits = self._bits(tensor.role)
            try:
                packed = round_and_pack(values, bits, self._span, self._threads)
            except WeightsError as error:
                raise WeightsError(f"{self._source.folder}: {tensor.name}: {error}") from None
        self._results[name] = packed
        return packed

    def _report(self) -> None:
        """Say once that rounding has begun, and note when."""
        if not self._began:
            self._began = time.perf_counter()
            self._on_progress(
                f"Quantising the weights of {self._source.folder.name} to {self._kind}, once ..."
            )

    def _find(self, name: str, tensor: TensorSpec) -> PackedMatrix | None:
        """The matrix in the kept file; None if it is not there, or not as it must be."""
        kept = self._kept
        codes, scales, unit = (kept.get(f"{name} {part}") for part in ("codes", "scales", "unit"))
        if codes is None or scales is None or unit is None:
            return None
        columns, depth = tensor.shape
        assert self._span is not None
        bits = self._bits(tensor.role)
        blocks = -(-columns // _TILE_COLUMNS) * (_TILE_COLUMNS // QUANT_BLOCK)
        groups = -(-depth // self._span)
        # The kernels follow these shapes into the mapped file without a look at its size.
        if (
            (codes.dtype, codes.shape)
            != (np.uint8, (blocks, groups * self._span * bits // 32, QUANT_BLOCK, 4))
            or (scales.dtype, scales.shape) != (np.float16, (blocks, groups, QUANT_BLOCK))
            or (unit.dtype, unit.shape) != (np.float32, (1,))
        ):
            logger.warning("The kept weights of %s are not as they must be, and made again.", name)
            return None
        return PackedMatrix(
            bits, columns, depth, self._span, 1, float(unit[0]), codes, scales, None
        )

    def _bits(self, role: str) -> Literal[4, 8]:
        # Errors of the head change the choice of tokens directly: it stays at 8 bits.
        return 4 if self._kind == "int4" and role != "head" else 8

    def keep(self) -> None:
        """Keep the results for the next start, unless somebody has changed the source meanwhile."""
        if not self._began:
            return
        arrays: dict[str, NDArray[Any]] = {}
        for name, matrix in self._results.items():
            assert matrix.zeros is None
            arrays[f"{name} codes"], arrays[f"{name} scales"] = matrix.codes, matrix.scales
            arrays[f"{name} unit"] = np.array([matrix.unit], np.float32)
        if self._source.file_states() == self._states:
            from safetensors.numpy import save_file

            fill = functools.partial(save_file, arrays)
            keep(self._name, fill, "quantised weights", threads=self._threads)
        self._results.clear()
        logger.info("Quantised the weights in %.1f s", time.perf_counter() - self._began)


def _span_of(quantization: Quantization | None) -> int | None:
    """The span that all quantised modules of a checkpoint can have; None if there is none."""
    if quantization is None:
        return None
    groups = {rule.scheme.group for rule in quantization.rules if rule.scheme is not None}
    spans = [span_for(group) for group in groups if group]
    if any(span is None for span in spans):
        return None
    return min([span for span in spans if span is not None], default=64)


def _read_kept(name: str, threads: int) -> dict[str, NDArray[Any]]:
    """The arrays of a kept file, mapped; none if it is missing or damaged."""
    content = read_kept(name, threads=threads)
    if content is None:
        return {}
    try:
        file = SafetensorsFile(Path(name), content)
        return {name: file.tensor(name).values for name in file.names()}
    except WeightsError as error:
        logger.warning("The quantised weights in %s are made again: %s", name, error)
        return {}
