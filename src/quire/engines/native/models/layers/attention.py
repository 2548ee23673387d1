"""The sizes of attention."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The sizes of a layer's attention: what its heads are, and what the KV cache holds of them."""

    heads: int
    kv_heads: int
    head_dim: int
    """Of queries and keys."""
    value_dim: int
    is_latent: bool = False
    """Keys are a rotated part and then the value, which the cache holds once for both."""

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
