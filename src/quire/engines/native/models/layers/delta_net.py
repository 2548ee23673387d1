"""The gated delta net: a mixer that keeps a matrix for each head, instead of keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from quire.engines.native.models.layers.mixer import StateMixer
from quire.engines.native.models.tensors import Rows, TensorSpec

TAPS = 4
"""Inputs of the causal convolution."""
SLICE = 32
"""Value dimensions of a slice of a head's state, which one task computes."""


@dataclass(frozen=True, slots=True)
class DeltaNetNames:
    """Names of a gated delta net's tensors after the layer's prefix.

    A folder has each map in a tensor of its own; or queries, keys and values in one, `qkv`; or these
    and the gate in `qkvz`, and rates and decays in `ba`, both with the rows of a key head together. The
    convolution is in one tensor, `conv`, or in one for each of queries, keys and values.
    """

    q: str = ""
    k: str = ""
    v: str = ""
    z: str = "linear_attn.in_proj_z"
    rate: str = "linear_attn.in_proj_b"
    decay: str = "linear_attn.in_proj_a"
    o: str = "linear_attn.out_proj"
    qkv: str = ""
    qkvz: str = ""
    ba: str = ""
    q_conv: str = ""
    k_conv: str = ""
    v_conv: str = ""
    conv: str = ""
    log_decay: str = "linear_attn.A_log"
    step_bias: str = "linear_attn.dt_bias"
    norm: str = "linear_attn.norm"
    z_b: str = ""
    decay_b: str = ""
    """The second maps of gates and decays that are made in two steps."""


@dataclass(frozen=True, slots=True)
class DeltaNetSpec(StateMixer):
    """A gated delta net (arXiv 2412.06464): several value heads may share a key head.

    Its maps are queries, keys and values, the gate `z` of the output, and for each value head a rate and a
    decay.
    """

    key_heads: int
    value_heads: int
    key_size: int
    """The size of a query or key head."""
    value_size: int
    norm_eps: float
    """Of the norm of the output."""
    rate_scale: float = 1.0
    """The most that a state learns of a row: 2 where it may turn its sign."""
    tiled_output: bool = False
    """The columns of the output map are in llama.cpp's order of value heads: first one of each key head,
    then another of each, and so on."""
    names: DeltaNetNames = DeltaNetNames()

    @property
    def key_width(self) -> int:
        """The queries of a row, or its keys, over all heads."""
        return self.key_heads * self.key_size

    @property
    def out_size(self) -> int:
        """The numbers of each row that the output map reads."""
        return self.value_heads * self.value_size

    @property
    def channels(self) -> int:
        """Of the convolution: queries, keys and values."""
        return 2 * self.key_width + self.out_size

    @property
    def state_floats(self) -> int:
        """Float32 numbers of one sequence's state in one layer."""
        slices = -(-self.value_size // SLICE)
        matrices = self.value_heads * slices * self.key_size * SLICE
        return (TAPS - 1) * self.channels + matrices

    @property
    def widths(self) -> Mapping[str, int]:
        """The columns that it needs: also of the output's gate, and of rates and decays."""
        return self._widths(self.value_heads + self.decays)

    def _widths(self, up: int) -> dict[str, int]:
        return {
            "queries": self.key_width,
            "keys": self.key_width,
            "values": self.out_size,
            "gate": self.out_size,
            "up": up,
        }

    @property
    def decays(self) -> int:
        """How many decays a row has."""
        return self.value_heads

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """Its tensors in one layer, whose names begin with `prefix`."""
        names = self.names
        for role, rows in self._map_rows().items():
            name, part, whole = self._stored_in(role) or (getattr(names, role), (), 0)
            yield TensorSpec(role, f"{prefix}{name}.weight", (rows, hidden), part, whole)
        shape = (hidden, self.out_size)
        yield TensorSpec("o", f"{prefix}{names.o}.weight", shape, columns=self._output_columns())
        yield from self._conv(prefix)
        yield self._log_decay(f"{prefix}{names.log_decay}")
        yield TensorSpec("step_bias", f"{prefix}{names.step_bias}", (self.decays,))
        yield TensorSpec("mixer_norm", f"{prefix}{names.norm}.weight", (self.value_size,))

    def _log_decay(self, name: str) -> TensorSpec:
        return TensorSpec("log_decay", name, (self.value_heads,))

    def _output_columns(self) -> Rows:
        """Where the columns of the output map are in a folder's; none if they are as there."""
        if not self.tiled_output:
            return ()
        size, group = self.value_size, self.value_heads // self.key_heads
        order = (key * group + one for one in range(group) for key in range(self.key_heads))
        return tuple((head * size, (head + 1) * size) for head in order)

    def _conv(self, prefix: str) -> Iterator[TensorSpec]:
        names, sizes, first = self.names, self._map_rows(), 0
        for part in ("q", "k", "v"):
            end = first + sizes[part]
            rows, whole = (((first, end),), self.channels) if names.conv else ((), 0)
            name = names.conv or getattr(names, f"{part}_conv")
            yield TensorSpec(
                f"{part}_conv", f"{prefix}{name}.weight", (sizes[part], 1, TAPS), rows, whole
            )
            first = end

    def _map_rows(self) -> dict[str, int]:
        """The rows of each map of a layer's input."""
        keys, values, heads = self.key_width, self.out_size, self.value_heads
        return {"q": keys, "k": keys, "v": values, "z": values, "rate": heads, "decay": heads}

    def _stored_in(self, role: str) -> tuple[str, Rows, int] | None:
        """The tensor that a map is part of: its name, the rows of the part, all its rows."""
        names, sizes = self.names, self._map_rows()
        for name, roles, groups in (
            (names.qkv, ("q", "k", "v"), 1),
            (names.qkvz, ("q", "k", "v", "z"), self.key_heads),
            (names.ba, ("rate", "decay"), self.key_heads),
        ):
            if name and role in roles:
                first = sum(sizes[other] for other in roles[: roles.index(role)]) // groups
                size, whole = sizes[role] // groups, sum(sizes[other] for other in roles)
                starts = range(first, whole, whole // groups)
                return name, tuple((start, start + size) for start in starts), whole
        return None


@dataclass(frozen=True, slots=True)
class KimiDeltaSpec(DeltaNetSpec):
    """Kimi Delta Attention (arXiv 2510.26692): each dimension of a key has a decay of its own.

    A layer has as many key heads as value heads, of one size. Decays and the output's gate are each made in two
    steps, by a vector of the size of a head: `decay` and `z` make those, and `decay_b` and `z_b` make of them what
    is wanted. The gate is a sigmoid.
    """

    @property
    def decays(self) -> int:
        return self.key_width

    @property
    def rank(self) -> int:
        """The size of the small vectors."""
        return self.value_size

    @property
    def widths(self) -> Mapping[str, int]:
        up = self.value_heads + self.decays + 2 * self.rank
        return {**self._widths(up), "scratch": self.key_size}

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """Its tensors in one layer: also `z_b` and `decay_b`."""
        yield from DeltaNetSpec.tensors(self, prefix, hidden)
        for role, rows in (("z_b", self.out_size), ("decay_b", self.decays)):
            name = getattr(self.names, role)
            yield TensorSpec(role, f"{prefix}{name}.weight", (rows, self.rank))

    def _log_decay(self, name: str) -> TensorSpec:
        stored = (1, 1, self.value_heads, 1)
        return TensorSpec("log_decay", name, (self.value_heads,), stored=stored)

    def _map_rows(self) -> dict[str, int]:
        return {**DeltaNetSpec._map_rows(self), "z": self.rank, "decay": self.rank}
