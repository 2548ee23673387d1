"""Stacks of experts in MXFP4, from a folder of safetensors: the blocks of GGUF's type of that name."""

from __future__ import annotations

from typing import Any, Literal

from numpy.typing import NDArray

from quire.engines.native.cpu.weights.blocks import BlockPacker, PackedBlocks
from quire.engines.native.models.tensors import TensorPart, TensorSpec
from quire.quantization import mxfp4
from quire.quantization.module_tensors import TensorSource
from quire.weights.safetensors import WeightsFolder, round_to_bfloat16

_KIND = "MXFP4"


def is_in_blocks(source: TensorSource, tensor: TensorSpec) -> bool:
    """Whether the folder has a tensor in this form."""
    return any(mxfp4.is_stored(source, part.name) for part in tensor.within)


def block_rows(source: TensorSource, tensor: TensorSpec) -> mxfp4.GgufRows:
    """The rows of a tensor in this form as GGUF has them.

    Raises:
        WeightsError: the stack is not as it must be.
    """
    part = next(one for one in tensor.within if mxfp4.is_stored(source, one.name))
    experts, rows, depth = part.shape
    codes, exponents = mxfp4.stored_stack(source, part.name, (experts, rows, depth))
    # Stacks of codes have their rows in order, also where those of floats lie on their side.
    own = TensorPart(part.name, part.shape, part.first_row, part.step)
    columns = tensor.shape[0]
    return mxfp4.GgufRows(
        own.take(codes, (columns, codes.shape[2])),
        own.take(exponents, (columns, exponents.shape[2])),
        part.name,
    )


class Mxfp4Reader:
    """Reads the matrices of a folder that are parts of stacks in MXFP4."""

    def __init__(
        self,
        source: WeightsFolder,
        dtype: Literal["auto", "float32", "bfloat16", "float16"],
        *,
        exact: bool,
        threads: int,
    ) -> None:
        self._source, self._dtype = source, dtype
        self._packer = BlockPacker(source.drop_pages, exact=exact, threads=threads)

    def has(self, tensor: TensorSpec) -> bool:
        """Whether the folder has a tensor in this form."""
        return is_in_blocks(self._source, tensor)

    def read(self, tensor: TensorSpec) -> NDArray[Any] | PackedBlocks:
        """The tensor in blocks, unrounded; or in floats of the type that was asked for.

        Raises:
            WeightsError: the stack is not as it must be.
        """
        rows = block_rows(self._source, tensor)
        if self._dtype == "auto":
            return self._packer.pack(_KIND, rows, tensor.shape[1])
        # Here and not above: who computes with the blocks does without it.
        from quire.gguf.blocks import dequantize

        values = dequantize(_KIND, rows[:])
        return round_to_bfloat16(values) if self._dtype == "bfloat16" else values

    def close(self) -> None:
        """End its threads. It reads no more."""
        self._packer.close()
