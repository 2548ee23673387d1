"""Rotary embeddings (RoPE), and factors of queries by their position: what models say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RopeKind = Literal["default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding: `rope.inverse_frequencies` says what each field means for each kind.

    `positions` is the context that the model was trained for, before any scaling.
    """

    kind: RopeKind = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    positions: int = 0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    partial: float = 1.0
    """The share of a head's dimensions, from the first on, that is rotated. With `proportional`, these are
    of the first pairs of the whole head, and the frequencies those that they have among all pairs."""
    interleaved: bool = False
    """The two dimensions of a rotated pair are neighbours, instead of half a head apart."""
    sections: tuple[int, ...] = ()
    """M-RoPE: how many pairs are rotated by the position in time, then height, then width, and so on."""
    interleaved_sections: bool = False
    """These pairs take turns, instead of lying one section after the other (Qwen3-VL)."""
    is_local: bool = False
    """It is of layers with a window, in a model whose other layers have one of their own. What stretches
    the context leaves it alone."""

    def size(self, head_dim: int) -> int:
        """How many dimensions of a head are rotated, some of them perhaps by angles of 0."""
        return head_dim if self.kind == "proportional" else int(head_dim * self.partial)


@dataclass(frozen=True, slots=True)
class QueryScale:
    """A factor of the queries that grows with their position: `1 + beta * log(1 + floor(p / length))`.

    It keeps attention sharp over texts that are longer than `length`.
    """

    beta: float
    length: int
    first: int = 0
    """The position that the first token is taken for."""
