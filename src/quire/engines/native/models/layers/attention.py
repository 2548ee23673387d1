"""Attention over keys and values of earlier tokens: its sizes, its norms and its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.layers.rope import QueryScale, RopeSpec
from quire.engines.native.models.tensors import Rows, TensorSpec


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The sizes of a layer's attention: what its heads are, and what the KV cache holds of them."""

    heads: int
    kv_heads: int
    head_dim: int
    """Of queries and keys."""
    value_dim: int

    @property
    def group(self) -> int:
        """The query heads that share a key-value head."""
        return self.heads // self.kv_heads

    @property
    def q_size(self) -> int:
        return self.heads * self.head_dim

    @property
    def k_size(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def v_size(self) -> int:
        return self.kv_heads * self.value_dim

    @property
    def out_size(self) -> int:
        """The numbers of each row that attention gives."""
        return self.heads * self.value_dim


@dataclass(frozen=True, slots=True)
class AttentionNames:
    """Names of attention's tensors after the layer's prefix."""

    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    o: str = "self_attn.o_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    sinks: str = "self_attn.sinks"
    qkv: str = ""
    """The tensor in which queries, keys and values are fused; empty if they are separate."""
    qkv_by_group: bool = False
    """In `qkv`, the queries, key and value of each key-value head are together (InternLM2)."""
    transposed: bool = False
    """The matrices are stored as (in, out), as GPT-2 has them."""


@dataclass(frozen=True, slots=True)
class HeadNormsSpec:
    """Norms of queries and keys, before their rotary embedding or after it."""

    norm: NormSpec
    span: Literal["head", "each_head", "width"] = "head"
    """Over each head, all with the same weights or each with weights of its own; or over all query heads
    together, and over all key heads."""
    after_rope: bool = False

    def tensors(self, role: str, name: str, heads: int, size: int) -> Iterator[TensorSpec]:
        """Those of the queries or of the keys. With a number in the name there is one for each head."""
        weight = f"{name}.weight"
        if self.span != "each_head":
            yield from self.norm.tensors(
                role, weight, heads * size if self.span == "width" else size
            )
            return
        pieces = heads if "{}" in name else 0
        yield TensorSpec(
            role, weight, (heads * size,), offset=self.norm.offset, pieces=pieces,
            stored=None if pieces else (heads, size),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Attention: maps of queries, keys, values and of the output, and what happens in between."""

    shape: AttentionShape
    rope: RopeSpec | None
    """The rotary embedding; None for a layer without."""
    scale: float
    """The scores are multiplied by it: mostly 1 / sqrt(head_dim)."""
    window: int = 0
    """How many positions a token sees, including its own; 0 for all."""
    is_chunked: bool = False
    """Windows are chunks of the text, one after the other, and a token sees its own up to itself."""
    qkv_bias: bool = False
    o_bias: bool = False
    norms: HeadNormsSpec | None = None
    value_norm: NormSpec | None = None
    """Over each value head; without weights."""
    query_scale: QueryScale | None = None
    """What queries are multiplied by besides, depending on their position."""
    value_scale: float = 1.0
    """The values are multiplied by it, so that what attention gives is."""
    clip: float = 0.0
    """Queries, keys and values are kept within plus and minus this much; 0 for no limit."""
    cap: float = 0.0
    """Soft cap of the scores: s becomes cap * tanh(s / cap); 0 for no cap."""
    alibi: float = 0.0
    """ALiBi: the factor of its slopes, by which scores sink with the distance; 0 for none."""
    sinks: bool = False
    """Each query head has a learned score that no position has, which takes a share of the softmax."""
    gated: bool = False
    """What attention gives is multiplied by the sigmoid of a gate, whose rows are beside those of the
    queries: head by head first a query's, then its gate's."""
    keys_are_values: bool = False
    """There is no map of values: what the map of keys gives, before its norm, are the values."""
    kv_source: int | None = None
    """The layer whose keys and values it attends to; None for its own."""
    names: AttentionNames = AttentionNames()

    @property
    def rope_dim(self) -> int:
        """The size of the heads that are rotated, wholly or in part."""
        return self.shape.head_dim

    @property
    def state_floats(self) -> int:
        """None: what it keeps of a sequence is in the KV cache."""
        return 0

    @property
    def out_size(self) -> int:
        return self.shape.out_size

    @property
    def widths(self) -> Mapping[str, int]:
        """Queries, keys and values, and the gate if it has one."""
        shape = self.shape
        own = {"queries": shape.q_size, "keys": shape.k_size, "values": shape.v_size}
        return {**own, "gate": shape.out_size} if self.gated else own

    def with_rope(self, rope: RopeSpec | None) -> AttentionSpec:
        return replace(self, rope=rope)

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """`q`, `k`, `v`, `o` and the gate `z`, as there are, each with its bias; sinks and norms."""
        names, shape = self.names, self.shape
        for role, rows, columns, bias in (
            ("q", shape.q_size, hidden, self.qkv_bias),
            ("k", shape.k_size, hidden, self.qkv_bias),
            ("v", shape.v_size, hidden, self.qkv_bias),
            ("o", hidden, shape.out_size, self.o_bias),
            ("z", shape.out_size, hidden, self.qkv_bias),
        ):
            if role not in self._absent:
                name, part, whole = self._fused(role) or (getattr(names, role), (), 0)
                yield TensorSpec(
                    role, f"{prefix}{name}.weight", (rows, columns), part, whole,
                    transposed=names.transposed,
                )  # fmt: skip
                if bias:
                    yield TensorSpec(f"{role}_bias", f"{prefix}{name}.bias", (rows,), part, whole)
        if self.sinks:
            yield TensorSpec("sinks", f"{prefix}{names.sinks}", (shape.heads,))
        if self.norms and self.norms.norm.weights:
            size, k_heads = shape.head_dim, shape.kv_heads if self.kv_source is None else 0
            yield from self.norms.tensors("q_norm", f"{prefix}{names.q_norm}", shape.heads, size)
            if k_heads:
                yield from self.norms.tensors("k_norm", f"{prefix}{names.k_norm}", k_heads, size)

    @property
    def _absent(self) -> set[str]:
        """The maps that it lacks."""
        absent = set[str]() if self.gated else {"z"}
        if self.kv_source is not None:
            absent |= {"k", "v"}
        return absent | {"v"} if self.keys_are_values else absent

    def _fused(self, role: str) -> tuple[str, Rows, int] | None:
        """The larger tensor that a map is part of: its name, the rows of the part, all its rows.

        None if the map has a tensor of its own.
        """
        names, shape = self.names, self.shape
        if self.gated and role in ("q", "z"):
            size = shape.head_dim
            starts = range(0 if role == "q" else size, 2 * shape.q_size, 2 * size)
            return names.q, tuple((start, start + size) for start in starts), 2 * shape.q_size
        if not names.qkv or role not in ("q", "k", "v"):
            return None
        groups = shape.kv_heads if names.qkv_by_group else 1
        q, k, v = shape.q_size // groups, shape.k_size // groups, shape.v_size // groups
        first, end = {"q": (0, q), "k": (q, q + k), "v": (q + k, q + k + v)}[role]
        width = q + k + v
        rows = tuple((start + first, start + end) for start in range(0, groups * width, width))
        return names.qkv, rows, groups * width
