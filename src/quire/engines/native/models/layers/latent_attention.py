"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values are made of one small vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from quire.engines.native.models.layers.attention import AttentionShape
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.tensors import Rows, TensorSpec

NORM_EPS = 1e-6
"""Of the norms inside of it, whatever the model's own is."""


@dataclass(frozen=True, slots=True)
class LatentAttentionSpec:
    """Attention over latents: the KV cache holds `kv_rank` numbers of each token, and its rotated key.

    A head's key is a linear map of the latent, followed by the rotated key, which all heads share; its
    value is another linear map of the latent. Neither is ever made: the first map is applied to the query
    instead, and the second to what attention gives. So there is one key-value head, whose key is the
    rotated part and the latent, and whose value is the latent; the cache holds it once for both.
    """

    heads: int
    q_rank: int
    """The size of the vector that queries are made of; 0 if they are made of the layer's input."""
    kv_rank: int
    nope_dim: int
    """Dimensions of a query that are not rotated."""
    rope_dim: int
    """Dimensions of a query that are rotated, and those of the key that all heads share."""
    value_dim: int
    rope: RopeSpec | None
    scale: float
    """The scores are multiplied by it."""
    is_split: bool = False
    """The folder has the maps of keys and of values apart, those of keys as they are computed with."""
    bias: bool = False
    """Of the maps to the small vectors, and of the output's."""

    @property
    def shape(self) -> AttentionShape:
        """The sizes of attention over the latents."""
        size = self.rope_dim + self.kv_rank
        return AttentionShape(self.heads, 1, size, self.kv_rank, is_latent=True)

    @property
    def q_dim(self) -> int:
        """Dimensions of a query as it is projected."""
        return self.nope_dim + self.rope_dim

    @property
    def state_floats(self) -> int:
        return 0

    @property
    def out_size(self) -> int:
        return self.heads * self.value_dim

    @property
    def widths(self) -> Mapping[str, int]:
        return {
            "queries": self.shape.q_size,
            "keys": self.shape.k_size,
            "gate": max(self.q_rank, 1),
            "up": max(self.heads * self.q_dim, self.shape.out_size),
            "scratch": max(self.nope_dim, self.value_dim) + self.kv_rank,
        }

    def with_rope(self, rope: RopeSpec | None) -> LatentAttentionSpec:
        return replace(self, rope=rope)

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """`q_a`, `kv_a`, `o`, with a rank of queries `q_b`, norms, and for each head `k.<i>` and `v.<i>`.

        `q_a` makes queries themselves if they have no rank. The rows of `kv_a` that make the rotated key
        come first here. `k.<i>` is (kv_rank, nope_dim): what a head's query is multiplied by.
        """
        own, kv_rank = f"{prefix}self_attn.", self.kv_rank
        q_size, kv_size = self.heads * self.q_dim, kv_rank + self.rope_dim
        if self.q_rank:
            yield from self._map("q_a", f"{own}q_a_proj", (self.q_rank, hidden))
            yield TensorSpec("q_a_norm", f"{own}q_a_layernorm.weight", (self.q_rank,))
            yield TensorSpec("q_b", f"{own}q_b_proj.weight", (q_size, self.q_rank))
        else:
            yield TensorSpec("q_a", f"{own}q_proj.weight", (q_size, hidden))
        rotated_first = ((kv_rank, kv_size), (0, kv_rank))
        yield from self._map("kv_a", f"{own}kv_a_proj_with_mqa", (kv_size, hidden), rotated_first)
        yield TensorSpec("kv_a_norm", f"{own}kv_a_layernorm.weight", (kv_rank,))
        yield from self._split_heads(own) if self.is_split else self._heads(own)
        yield from self._map("o", f"{own}o_proj", (hidden, self.out_size))

    def _split_heads(self, own: str) -> Iterator[TensorSpec]:
        roles = (("k", self.kv_rank, self.nope_dim), ("v", self.value_dim, self.kv_rank))
        for head in range(self.heads):
            for role, rows, columns in roles:
                name, part = f"{own}{role}_b_proj.weight", ((head * rows, (head + 1) * rows),)
                yield TensorSpec(f"{role}.{head}", name, (rows, columns), part, self.heads * rows)

    def _heads(self, own: str) -> Iterator[TensorSpec]:
        name, width = f"{own}kv_b_proj.weight", self.nope_dim + self.value_dim
        rows = self.heads * width
        for head in range(self.heads):
            first, middle, end = (head * width + x for x in (0, self.nope_dim, width))
            yield TensorSpec(
                f"k.{head}", name, (self.kv_rank, self.nope_dim), ((first, middle),), rows,
                turned=True,
            )  # fmt: skip
            yield TensorSpec(
                f"v.{head}", name, (self.value_dim, self.kv_rank), ((middle, end),), rows
            )

    def _map(
        self, role: str, name: str, shape: tuple[int, int], rows: Rows = ()
    ) -> Iterator[TensorSpec]:
        of_rows = shape[0] if rows else 0
        yield TensorSpec(role, f"{name}.weight", shape, rows, of_rows)
        if self.bias:
            yield TensorSpec(f"{role}_bias", f"{name}.bias", shape[:1], rows, of_rows)


def latent_heads(mixers: Iterable[object]) -> int:
    """The heads of a model's latent attention; 0 if it has none."""
    return max((one.heads for one in mixers if isinstance(one, LatentAttentionSpec)), default=0)


def is_head_map(role: str) -> bool:
    """Whether the role is the map of one head of latent attention."""
    return role.startswith(("k.", "v."))
