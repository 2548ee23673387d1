"""Attention: queries, keys and values, which a file may have in one tensor, their norms, and the output."""

from __future__ import annotations

from collections.abc import Iterator

from quire.gguf.layout.sizes import Block
from quire.gguf.layout.tensors import FolderTensor, StoredPart, zeros


def attention(block: Block) -> Iterator[FolderTensor]:
    """The tensors of a layer's attention."""
    sizes, architecture = block.sizes, block.sizes.architecture
    yield from _query_key_norms(block)
    head_dim = sizes.head_dim(block.layer)
    out, kv = sizes.heads * head_dim, sizes.kv_heads(block.layer) * head_dim
    q = 2 * out if architecture.gated_attention else out
    if architecture.fused_qkv:
        yield _fused(block, q, kv)
    else:
        yield from _apart(block, q, kv)
    yield from block.linear("self_attn.o_proj", "attn_output", sizes.hidden, out)
    if architecture.sinks:
        yield block.whole("self_attn.sinks", "attn_sinks.weight", (sizes.heads,))


def _fused(block: Block, q: int, kv: int) -> FolderTensor:
    """Queries, keys and values, which a folder has in one tensor."""
    hidden, there = block.sizes.hidden, block.there
    shape = (q + 2 * kv, hidden)
    apart = tuple(
        StoredPart(f"{there}attn_{role}.weight", (rows, hidden))
        for role, rows in (("q", q), ("k", kv), ("v", kv))
    )
    ways = ((StoredPart(f"{there}attn_qkv.weight", shape),), apart)
    return FolderTensor(f"{block.here}self_attn.qkv_proj.weight", shape, ways)


def _apart(block: Block, q: int, kv: int) -> Iterator[FolderTensor]:
    """Queries, keys and values: tensors of their own, or rows of a fused one."""
    sizes, total = block.sizes, q + 2 * kv
    halves = sizes.rotated if sizes.architecture.rotates_halves else 0
    roles = [("q", 0, q, sizes.heads)]
    if not sizes.shares_keys(block.layer):
        roles.append(("k", q, kv, sizes.kv_heads(block.layer)))
        if not sizes.keys_are_values(block.layer):
            roles.append(("v", q + kv, kv, 0))
    for role, first, rows, heads in roles:
        stored = f"attn_{role}"
        for suffix, columns in (("weight", (sizes.hidden,)), ("bias", ())):
            if suffix == "bias" and stored not in sizes.biases:
                continue
            own = StoredPart(f"{block.there}{stored}.{suffix}", (rows, *columns))
            name = f"{block.there}attn_qkv.{suffix}"
            fused = StoredPart(name, (total, *columns), first, rows)
            heads = heads if sizes.architecture.interleaved or halves else 0
            name = f"{block.here}self_attn.{role}_proj.{suffix}"
            wanted = FolderTensor(name, own.shape, ((own,), (fused,)), heads, halves)
            absent = suffix == "bias" and stored not in sizes.stored_biases
            yield zeros(wanted) if absent else wanted


def _query_key_norms(block: Block) -> Iterator[FolderTensor]:
    sizes, kind = block.sizes, block.sizes.architecture.query_key_norms
    if not kind or not _has_norms(block, kind):
        return
    head_dim, kv_heads = sizes.head_dim(block.layer), sizes.kv_heads(block.layer)
    roles = [("q", sizes.heads)]
    if not sizes.shares_keys(block.layer):
        roles.append(("k", kv_heads))
    for role, heads in roles:
        size = head_dim * (heads if kind in ("width", "each") else 1)
        shape = (heads, head_dim) if kind == "each" else (size,)
        part = StoredPart(f"{block.there}attn_{role}_norm.weight", shape)
        name = f"{block.here}self_attn.{sizes.architecture.norm_names[role]}.weight"
        yield FolderTensor(name, (size,), ((part,),), shift=sizes.architecture.norm_shift)


def _has_norms(block: Block, kind: str) -> bool:
    config = block.sizes.config
    if kind == "each":  # some of the architecture's models have them
        return bool(config.get("use_qk_norm") or config.get("qk_layernorm"))
    return bool(config.get("use_qk_norm", True))
