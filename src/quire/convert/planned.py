"""A tensor that a file is to have, and the parts of a folder's tensors that it is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.models.tensors import TensorSpec

_PLAIN: Final = re.compile(
    r"blk\.\d+\.(ffn_gate_inp(_shexp)?\.weight|shortconv\.conv\.weight|ssm_conv1d(_[qkv])?\.weight"
    r"|ssm_[ad]|altup_(correct|predict)_coef\.weight)"
    r"|position_embd\.weight|.*_norm\.weight|.*\.bias"
)
"""What stays float32 though it may be a matrix: the choice of experts hangs on it, or it is small."""

Order = NDArray[np.intp]
"""For each row, or column, of a file's tensor, the one of the folder's."""


@dataclass(frozen=True, slots=True, eq=False)
class PlannedPart:
    """A folder's tensor, or rows of it, that becomes some rows of a file's tensor."""

    spec: TensorSpec
    rows: Order | None = None
    """Which rows, in order; None for all."""
    columns: Order | None = None
    """The same of its columns."""
    is_turned: bool = False
    """It lies on its side in the file."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor of the file: its parts lie below each other."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[PlannedPart, ...]
    zero_rows: int = 0
    """So many rows of zeros come last, which no part is."""

    @property
    def is_matrix(self) -> bool:
        """Whether it has the type that was asked for; vectors are float32."""
        return len(self.shape) > 1 and not _PLAIN.fullmatch(self.name)
