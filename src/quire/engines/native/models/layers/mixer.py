"""What a layer may have in place of plain attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from quire.engines.native.models.tensors import TensorSpec


class TokenMixer(Protocol):
    """Mixes the tokens of a sequence: by a state that each token changes, or by attention of another kind.

    Its output map has the role `o`: it reads `out_size` numbers of each row, and what it gives is added
    to the residual stream, as that of attention is.
    """

    @property
    def state_floats(self) -> int:
        """Float32 numbers of one sequence's state in one layer; 0 for none."""
        ...

    @property
    def attends(self) -> bool:
        """Whether it has keys and values in the KV cache, of the layer's `AttentionShape`.

        What latent attention over them gives is then in a step's `up`.
        """
        ...

    @property
    def out_size(self) -> int:
        """The numbers of each row that the output map reads."""
        ...

    @property
    def widths(self) -> Mapping[str, int]:
        """The columns that it needs of a step's `queries`, `keys`, `values`, `gate` and `up`.

        And, as `scratch`, those of the few rows that each thread has for itself.
        """
        ...

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """Its tensors in one layer, whose names begin with `prefix`."""
        ...
