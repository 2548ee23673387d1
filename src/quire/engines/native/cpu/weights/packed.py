"""Quantised weights as the kernels read them; those that are rounded at load are kept for next time.

A `QuantizedMatrix` is a weight as integers in plain order. `pack` interleaves it once into the order
that the tiles read (see `kernels.quantized_tiles`). Rounding a model at load takes far longer than
reading it, so the packed result is written to the cache folder, one safetensors file for each state
of the source, and mapped at the next start.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels.layout import LINEARS, QUANT_BLOCK
from quire.engines.native.models.spec import DecoderSpec, TensorSpec
from quire.errors import WeightsError
from quire.machine.cache import cache_folder, write_whole
from quire.quantization.matrix import QuantizedMatrix
from quire.quantization.rounding import quantize
from quire.quantization.schemes import Quantization
from quire.weights.safetensors import SafetensorsFile, WeightsFolder

logger = logging.getLogger("quire")

Tensor: TypeAlias = "NDArray[Any] | PackedMatrix"
QuantizedKind = Literal["int8", "int4"]

SPANS = (64, 32)
"""How many inputs may share a scale of the activations: the first that the weights' groups allow."""

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

    @property
    def shape(self) -> tuple[int, int]:
        return self.columns, self.depth

    @property
    def packed_depth(self) -> int:
        """The depth rounded up to whole spans."""
        return -(-self.depth // self.span) * self.span

    @property
    def nbytes(self) -> int:
        zeros = 0 if self.zeros is None else self.zeros.nbytes
        return self.codes.nbytes + self.scales.nbytes + zeros


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

_VERSION = b"quire packed weights 1"
_GROUPS: dict[QuantizedKind, int] = {"int8": 64, "int4": 32}
_SAMPLES, _SAMPLE_BYTES = 4, 512  # of each tensor, whose hash is part of a kept file's name


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
        self._folder = source.folder
        self._span = _GROUPS[kind] if kind else _span_of(spec.quantization)
        self._path: Path | None = None
        self._kept: dict[str, NDArray[Any]] = {}
        self._results: dict[str, PackedMatrix] = {}
        self._began = 0.0
        if kind is not None:
            digest = hashlib.sha256(_VERSION + kind.encode())
            digest.update(repr((LINEARS, _GROUPS)).encode())
            digest.update(source.fingerprint(_SAMPLES, _SAMPLE_BYTES))
            self._path = cache_folder() / f"weights-{kind}-{digest.hexdigest()[:24]}.safetensors"
            self._kept = _read_kept(self._path)

    def rounds(self, role: str) -> bool:
        """Whether a full-precision tensor in this role is to be rounded.

        The router and the score of a shared expert are not: they are small, and a small error in
        them can choose another expert.
        """
        linear = role.rpartition(".")[2]  # of an expert's: experts.<i>.gate
        return self._kind is not None and (linear in LINEARS or linear == "head")

    def pack(self, matrix: QuantizedMatrix) -> PackedMatrix | None:
        """A checkpoint's matrix for the kernels; None if they have no tiles for its groups.

        With GPTQ's act-order, the inputs of a group lie apart, which no tile reads. Such a matrix is
        rounded once more: to 8 bits, which is far finer than the 4 that it has.
        """
        if self._span is None:
            return None
        if matrix.order is not None:
            values = matrix.dequantized()
            matrix = quantize(values, bits=8, group=self._span, threads=self._threads)
        return pack(matrix, self._span)

    def round(self, tensor: TensorSpec, values: NDArray[Any]) -> PackedMatrix:
        """A full-precision matrix rounded and packed: kept from an earlier start, or made now."""
        assert self._kind is not None
        assert self._span is not None
        name = f"{tensor.name} {tensor.role}"
        packed = self._find(name, tensor)
        if packed is None:
            self._report()
            # Errors of the head change the choice of tokens directly: it stays at 8 bits.
            bits = 4 if self._kind == "int4" and tensor.role != "head" else 8
            try:
                matrix = quantize(values, bits=bits, group=self._span, threads=self._threads)
            except WeightsError as error:
                raise WeightsError(f"{self._folder}: {tensor.name}: {error}") from None
            packed = pack(matrix, self._span)
        self._results[name] = packed
        return packed

    def _report(self) -> None:
        """Say once that rounding has begun, and note when."""
        if not self._began:
            self._began = time.perf_counter()
            self._on_progress(
                f"Quantising the weights of {self._folder.name} to {self._kind}, once ..."
            )

    def _find(self, name: str, tensor: TensorSpec) -> PackedMatrix | None:
        """The matrix in the kept file; None if it is not there."""
        kept = self._kept
        if f"{name} codes" not in kept:
            return None
        codes, scales = kept[f"{name} codes"], kept[f"{name} scales"]
        columns, depth = tensor.shape
        assert self._span is not None
        steps = -(-depth // self._span) * self._span
        bits = 8 if codes.shape[1] * 4 == steps else 4
        return PackedMatrix(
            bits, columns, depth, self._span, 1, float(kept[f"{name} unit"][0]), codes, scales, None
        )

    def keep(self) -> None:
        """Write the results for the next start. If they cannot be written, it makes them again."""
        if self._path is None or not self._began:
            return
        arrays: dict[str, NDArray[Any]] = {}
        for name, matrix in self._results.items():
            assert matrix.zeros is None
            arrays[f"{name} codes"], arrays[f"{name} scales"] = matrix.codes, matrix.scales
            arrays[f"{name} unit"] = np.array([matrix.unit], np.float32)
        _write_kept(self._path, arrays)
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


def _read_kept(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a kept file, mapped; none if it is missing or damaged."""
    if not path.is_file():
        return {}
    try:
        file = SafetensorsFile(path)
        return {name: file.tensor(name).values for name in file.names()}
    except WeightsError as error:
        logger.warning("The quantised weights in %s are damaged (%s) and made again.", path, error)
        return {}


def _write_kept(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write a kept file, if the folder can be written."""
    from safetensors.numpy import save_file

    try:
        write_whole(path, lambda temporary: save_file(arrays, temporary))
    except Exception as error:  # a full disk is an exception of safetensors' own
        logger.warning(
            "The quantised weights cannot be kept in %s (%s), so every start makes them again.",
            path.parent,
            error,
        )
