"""What a safetensors file holds, by its header, and the raw bits of one tensor.

The `safetensors` package checks the header (lengths, offsets, no gap, nothing after the end). The
same JSON is then read again for the offsets, which the package does not give away, so that bfloat16
can be looked at without torch. Data is read and not mapped: a file cut short meanwhile gives an
error, not a signal that ends the process.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open


@dataclass(frozen=True, slots=True)
class FloatBits:
    """How the bits of one floating type are read."""

    word: np.dtype[Any]
    """The unsigned integer of the same width."""
    exponent: int
    """The mask of the exponent; all ones there mean infinity or NaN."""

    @property
    def magnitude(self) -> int:
        """The mask of everything but the sign."""
        return (1 << (8 * self.word.itemsize - 1)) - 1


FLOATS = {
    "F64": FloatBits(np.dtype("<u8"), 0x7FF0_0000_0000_0000),
    "F32": FloatBits(np.dtype("<u4"), 0x7F80_0000),
    "F16": FloatBits(np.dtype("<u2"), 0x7C00),
    "BF16": FloatBits(np.dtype("<u2"), 0x7F80),
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: its type by safetensors' name, its shape, and where its bytes begin."""

    dtype: str
    shape: tuple[int, ...]
    start: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of the file at `path`, by name.

    Raises:
        ValueError: the file is truncated, no safetensors file, or cannot be read. The text does
            not name the file.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        return {
            name: TensorEntry(
                entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except SafetensorError as error:
        raise ValueError(f"truncated, or no safetensors file ({error})") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from None
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"a header that cannot be read ({type(error).__name__})") from None


def read_bits(path: Path, entry: TensorEntry) -> NDArray[Any]:
    """The bits of a tensor of a type in `FLOATS`, as unsigned integers in one dimension.

    Raises:
        ValueError: the file ends before the tensor does, or cannot be read.
    """
    word = FLOATS[entry.dtype].word
    count = math.prod(entry.shape)
    try:
        bits = np.fromfile(path, dtype=word, count=count, offset=entry.start)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from None
    if bits.size != count:
        raise ValueError("truncated")
    return bits
