"""The tensors of a model: their names and shapes in a folder, and where a file may have them.

llama.cpp's names have changed over the years, and some tensors may be fused or not: each tensor has one
or several ways to be found, of which the first that the file has is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from quire.gguf.architectures import BIASES, Architecture

EMBEDDINGS, HEAD = "token_embd.weight", "output.weight"


class StoredPart(NamedTuple):
    """A stored tensor, or some of its rows. Those of a vector are its elements."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    first: int = 0
    rows: int = 0
    """How many from the first; 0 for all."""


Way = tuple[StoredPart, ...]
"""Parts that lie below each other in a folder's tensor."""


@dataclass(frozen=True, slots=True)
class FolderTensor:
    """A tensor of a folder, and the ways in which a file may have it. No way: it is zeros."""

    name: str
    shape: tuple[int, ...]
    ways: tuple[Way, ...]
    heads: int = 0
    """The file has the rows of so many heads in llama.cpp's order; 0 for the folder's."""
    shift: float = 0.0
    """What the file's values are larger by."""


class Layout:
    """The tensors of one model, by its architecture and its config."""

    def __init__(
        self, architecture: Architecture, config: Mapping[str, Any], stored_biases: Set[str]
    ) -> None:
        self._architecture, self._config = architecture, config
        self._stored_biases = stored_biases
        self._hidden: int = config["hidden_size"]
        self._ffn: int = config["intermediate_size"]
        self._heads: int = config["num_attention_heads"]
        self._kv_heads: int = config["num_key_value_heads"]
        self._head_dim: int = config["head_dim"]
        self._has_biases = {
            role
            for key, roles in BIASES.get(config["model_type"], {}).items()
            if not key or config.get(key)
            for role in roles
        }

    def tensors(self) -> Iterator[FolderTensor]:
        """All tensors, in the model's order."""
        table, shift = (self._config["vocab_size"], self._hidden), self._architecture.norm_shift
        yield _whole("model.embed_tokens.weight", EMBEDDINGS, table)
        for layer in range(self._config["num_hidden_layers"]):
            yield from self._layer(f"model.layers.{layer}.", f"blk.{layer}.")
        yield _whole("model.norm.weight", "output_norm.weight", (self._hidden,), shift)
        if not self._config["tie_word_embeddings"]:
            yield _whole("lm_head.weight", HEAD, table)

    def _layer(self, here: str, there: str) -> Iterator[FolderTensor]:
        """`here` is how names in a folder begin, `there` those in a file."""
        yield from self._norms(here, there)
        yield from self._attention(here, there)
        experts = self._config.get("num_local_experts") or self._config.get("num_experts")
        if experts:
            yield from self._router_and_experts(here, there, experts)
        elif self._architecture.fused_gate_up:
            shape = (2 * self._ffn, self._hidden)
            yield _whole(f"{here}mlp.gate_up_proj.weight", f"{there}ffn_up.weight", shape)
            yield from self._map(here, there, "mlp.down_proj", "ffn_down", self._hidden, self._ffn)
        else:
            for role in ("gate", "up"):
                name, stored = f"mlp.{role}_proj", f"ffn_{role}"
                yield from self._map(here, there, name, stored, self._ffn, self._hidden)
            yield from self._map(here, there, "mlp.down_proj", "ffn_down", self._hidden, self._ffn)

    def _norms(self, here: str, there: str) -> Iterator[FolderTensor]:
        architecture = self._architecture
        shift = architecture.norm_shift
        for stored, name in architecture.norms.items():
            shape = (self._hidden,)
            yield _whole(f"{here}{name}.weight", f"{there}{stored}.weight", shape, shift)
        if architecture.query_key_norms:
            for role, heads in (("q", self._heads), ("k", self._kv_heads)):
                size = self._head_dim * (heads if architecture.query_key_norms == "width" else 1)
                name, stored = f"self_attn.{role}_norm.weight", f"attn_{role}_norm.weight"
                yield _whole(here + name, there + stored, (size,), shift)

    def _map(
        self, here: str, there: str, name: str, stored: str, rows: int, columns: int
    ) -> Iterator[FolderTensor]:
        """A linear map of its own, and its bias."""
        yield _whole(f"{here}{name}.weight", f"{there}{stored}.weight", (rows, columns))
        if stored in self._has_biases:
            bias = _whole(f"{here}{name}.bias", f"{there}{stored}.bias", (rows,))
            yield bias if stored in self._stored_biases else _zeros(bias)

    def _attention(self, here: str, there: str) -> Iterator[FolderTensor]:
        """Queries, keys and values, which a file may have in one tensor, and the output."""
        q, kv = self._heads * self._head_dim, self._kv_heads * self._head_dim
        roles = (("q", q, self._heads), ("k", kv, self._kv_heads), ("v", kv, 0))
        if self._architecture.fused_qkv:
            shape = (q + 2 * kv, self._hidden)
            apart = tuple(
                StoredPart(f"{there}attn_{role}.weight", (rows, self._hidden))
                for role, rows, _ in roles
            )
            ways = ((StoredPart(f"{there}attn_qkv.weight", shape),), apart)
            yield FolderTensor(f"{here}self_attn.qkv_proj.weight", shape, ways)
        else:
            first = 0
            for role, rows, heads in roles:
                yield from self._slice(here, there, role, first, rows, heads)
                first += rows
        yield from self._map(here, there, "self_attn.o_proj", "attn_output", self._hidden, q)

    def _slice(
        self, here: str, there: str, role: str, first: int, rows: int, heads: int
    ) -> Iterator[FolderTensor]:
        """Queries, keys or values: tensors of their own, or rows of fused ones."""
        total = (self._heads + 2 * self._kv_heads) * self._head_dim
        stored = f"attn_{role}"
        for suffix, columns in (("weight", (self._hidden,)), ("bias", ())):
            if suffix == "bias" and stored not in self._has_biases:
                continue
            own = StoredPart(f"{there}{stored}.{suffix}", (rows, *columns))
            fused = StoredPart(f"{there}attn_qkv.{suffix}", (total, *columns), first, rows)
            heads = heads if self._architecture.interleaved else 0
            name = f"{here}self_attn.{role}_proj.{suffix}"
            wanted = FolderTensor(name, own.shape, ((own,), (fused,)), heads)
            absent = suffix == "bias" and stored not in self._stored_biases
            yield _zeros(wanted) if absent else wanted

    def _router_and_experts(self, here: str, there: str, experts: int) -> Iterator[FolderTensor]:
        is_mixtral = self._config["model_type"] == "mixtral"
        block = "block_sparse_moe." if is_mixtral else "mlp."
        names = ("w1", "w3", "w2") if is_mixtral else ("gate_proj", "up_proj", "down_proj")
        size = self._config.get("moe_intermediate_size", self._ffn)
        router = f"{there}ffn_gate_inp.weight"
        yield _whole(f"{here}{block}gate.weight", router, (experts, self._hidden))
        for expert in range(experts):
            for role, name in zip(("gate", "up", "down"), names, strict=True):
                full = f"{here}{block}experts.{expert}.{name}.weight"
                yield self._expert(full, there, role, expert, experts, size)
        shared = self._config.get("shared_expert_intermediate_size", 0)
        if shared:
            score = f"{there}ffn_gate_inp_shexp.weight"
            yield _whole(f"{here}mlp.shared_expert_gate.weight", score, (1, self._hidden))
            for role in ("gate", "up", "down"):
                shape = (self._hidden, shared) if role == "down" else (shared, self._hidden)
                name = f"{here}mlp.shared_expert.{role}_proj.weight"
                yield _whole(name, f"{there}ffn_{role}_shexp.weight", shape)

    def _expert(
        self, name: str, there: str, role: str, expert: int, experts: int, size: int
    ) -> FolderTensor:
        """A map of one expert: rows of a tensor of all, or a tensor of its own, as before April 2024."""
        shape = (self._hidden, size) if role == "down" else (size, self._hidden)
        rows, columns = shape
        stacked = StoredPart(
            f"{there}ffn_{role}_exps.weight", (experts, *shape), expert * rows, rows
        )
        ways = [(stacked,)]
        if role != "down":
            first = 2 * rows * expert + (rows if role == "up" else 0)
            both = (experts, 2 * rows, columns)
            ways.append((StoredPart(f"{there}ffn_gate_up_exps.weight", both, first, rows),))
        ways.append((StoredPart(f"{there}ffn_{role}.{expert}.weight", shape),))
        return FolderTensor(name, shape, tuple(ways))


def _whole(name: str, stored: str, shape: tuple[int, ...], shift: float = 0.0) -> FolderTensor:
    """A tensor that a file has as a folder has it."""
    return FolderTensor(name, shape, ((StoredPart(stored, shape),),), shift=shift)


def _zeros(wanted: FolderTensor) -> FolderTensor:
    """A bias that no layer of the file has."""
    return FolderTensor(wanted.name, wanted.shape, ())
