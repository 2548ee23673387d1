"""What mixes the tokens of a sequence in a layer: attention, or something else in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, Self

from quire.engines.native.models.layers.attention import AttentionShape
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.tensors import TensorSpec


class TokenMixer(Protocol):
    """Mixes the tokens of a sequence: by attention of some kind, or by a state that each token changes.

    Its output map has the role `o`: it reads `out_size` numbers of each row, and what it gives is added
    to the residual stream.
    """

    @property
    def shape(self) -> AttentionShape | None:
        """The sizes of its attention over the KV cache; None if it has nothing there.

        What latent attention over it gives is in a step's `up`.
        """
        ...

    @property
    def rope(self) -> RopeSpec | None:
        """Its rotary embedding; None for none."""
        ...

    @property
    def rope_dim(self) -> int:
        """The size of the heads that `rope` rotates, wholly or in part."""
        ...

    @property
    def state_floats(self) -> int:
        """Float32 numbers of one sequence's state in one layer; 0 for none."""
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

    def with_rope(self, rope: RopeSpec | None) -> TokenMixer:
        """The same with another rotary embedding, if it has one."""
        ...

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """Its tensors in one layer, whose names begin with `prefix`."""
        ...


class StateMixer:
    """What is true of all mixers that keep a state, and nothing in the KV cache."""

    __slots__ = ()

    @property
    def shape(self) -> None:
        return None

    @property
    def rope(self) -> None:
        return None

    @property
    def rope_dim(self) -> int:
        return 0

    def with_rope(self, rope: RopeSpec | None) -> Self:
        """Itself: it has none."""
        return self
