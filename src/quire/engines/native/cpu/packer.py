"""From matrices to packed ones: those of a quantised checkpoint, and those quantised at load.

What was quantised at load is kept in the cache folder, one safetensors file for each state of the
source, and mapped at the next start.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.layout import LINEARS
from quire.engines.native.cpu.machine_code import cache_folder
from quire.engines.native.cpu.packed import PackedMatrix, pack, span_for
from quire.engines.native.models.spec import DecoderSpec, Rows, TensorSpec
from quire.errors import WeightsError
from quire.quantization.quantized import QuantizedMatrix
from quire.quantization.rounding import quantize
from quire.quantization.schemes import Quantization
from quire.weights.safetensors_file import SafetensorsFile

logger = logging.getLogger("quire")

QuantizedKind = Literal["int8", "int4"]

_VERSION = b"quire packed weights 1"
_GROUPS: dict[QuantizedKind, int] = {"int8": 64, "int4": 32}
_SAMPLES, _SAMPLE_BYTES = 4, 512  # of each tensor, that go into the name of a kept file


class Source(Protocol):
    """A folder's tensors."""

    folder: Path

    def fingerprint(self, samples: int, size: int) -> bytes: ...


class Packer:
    """Packs the matrices of one model."""

    def __init__(
        self,
        spec: DecoderSpec,
        source: Source,
        kind: QuantizedKind | None,
        threads: int,
        say: Callable[[str], None] | None,
    ) -> None:
        self._kind, self._threads, self._say = kind, threads, say or logger.info
        self._folder = source.folder
        self._span = _GROUPS[kind] if kind else _span_of(spec.quantization)
        self._path: Path | None = None
        self._kept: dict[str, NDArray[Any]] = {}
        self._made: dict[str, PackedMatrix] = {}
        self._began = 0.0
        if kind is not None:
            digest = hashlib.sha256(_VERSION + kind.encode())
            digest.update(repr((LINEARS, _GROUPS)).encode())
            digest.update(source.fingerprint(_SAMPLES, _SAMPLE_BYTES))
            self._path = cache_folder() / f"weights-{kind}-{digest.hexdigest()[:24]}.safetensors"
            self._kept = _read_kept(self._path)

    def wants(self, role: str) -> bool:
        """Whether a full-precision tensor in this role is to be quantised.

        Not the router and the shared expert's score: they are small, and what they choose jumps.
        """
        linear = role.rpartition(".")[2]  # of an expert's: experts.<i>.gate
        return self._kind is not None and (linear in LINEARS or linear == "head")

    def packed(self, matrix: QuantizedMatrix) -> PackedMatrix | None:
        """A checkpoint's matrix for the kernels; None where they do not take its groups.

        Inputs in an order of their own (GPTQ's act-order) have groups that lie apart, so that such
        a matrix is rounded once more: to 8 bits, which is far finer than the 4 that it has.
        """
        if self._span is None:
            return None
        if matrix.order is not None:
            values = matrix.dequantized()
            matrix = quantize(values, bits=8, group=self._span, threads=self._threads)
        return pack(matrix, self._span)

    def quantized(self, tensor: TensorSpec, values: NDArray[Any]) -> PackedMatrix:
        """A full-precision matrix quantised: kept from an earlier start, or made now."""
        assert self._kind is not None
        assert self._span is not None
        name = f"{tensor.name} {tensor.role}"
        kept = self._find(name, tensor)
        if kept is None:
            self._tell()
            # The head decides between tokens: it stays at 8 bits.
            bits = 4 if self._kind == "int4" and tensor.role != "head" else 8
            try:
                matrix = quantize(values, bits=bits, group=self._span, threads=self._threads)
            except WeightsError as error:
                raise WeightsError(f"{self._folder}: {tensor.name}: {error}") from None
            kept = pack(matrix, self._span)
        self._made[name] = kept
        return kept

    def _tell(self) -> None:
        if not self._began:
            self._began = time.perf_counter()
            self._say(f"Quantising the weights of {self._folder.name} to {self._kind}, once ...")

    def _find(self, name: str, tensor: TensorSpec) -> PackedMatrix | None:
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
        """Write what was made, so that the next start maps it. Without room it is made again."""
        if self._path is None or not self._began:
            return
        arrays: dict[str, NDArray[Any]] = {}
        for name, matrix in self._made.items():
            assert matrix.zeros is None
            arrays[f"{name} codes"], arrays[f"{name} scales"] = matrix.codes, matrix.scales
            arrays[f"{name} unit"] = np.array([matrix.unit], np.float32)
        _write_kept(self._path, arrays)
        self._made.clear()
        logger.info("Quantised the weights in %.1f s", time.perf_counter() - self._began)


def take_columns(matrix: QuantizedMatrix, rows: Rows) -> QuantizedMatrix:
    """Some of a matrix's columns (the rows of the stored tensor); all of them where none are named."""
    if not rows:
        return matrix
    where = np.concatenate([np.arange(first, end) for first, end in rows])
    return dataclasses.replace(
        matrix, codes=matrix.codes[where], scales=matrix.scales[where], zeros=matrix.zeros[where]
    )


def _span_of(quantization: Quantization | None) -> int | None:
    """The span that all quantised modules of a checkpoint can have; None where there is none."""
    if quantization is None:
        return None
    groups = {rule.scheme.group for rule in quantization.rules if rule.scheme is not None}
    spans = [span_for(group) for group in groups if group]
    if any(span is None for span in spans):
        return None
    return min([span for span in spans if span is not None], default=64)


def _read_kept(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a kept file, mapped; none where it is missing or damaged."""
    if not path.is_file():
        return {}
    try:
        file = SafetensorsFile(path)
        return {name: file.tensor(name).values for name in file.names()}
    except WeightsError as error:
        logger.warning("The quantised weights in %s are damaged (%s) and made again.", path, error)
        return {}


def _write_kept(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Whole or not at all: several first starts may do this at once."""
    from safetensors.numpy import save_file

    temporary = ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".weights-")
        os.close(handle)
        save_file(arrays, temporary)
        os.replace(temporary, path)
    except Exception as error:  # a full disk is safetensors' own exception
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        logger.warning(
            "The quantised weights cannot be kept in %s (%s), so every start makes them again.",
            path.parent,
            error,
        )
