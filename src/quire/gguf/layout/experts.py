"""Sparse FFNs: the router, the experts and the shared one."""

from __future__ import annotations

from collections.abc import Iterator

from quire.gguf.config.experts import EXPERT_SCALES, ExpertFamily
from quire.gguf.layout.sizes import Block
from quire.gguf.layout.tensors import FolderTensor, StoredPart, whole, zeros

_ROLES = ("gate", "up", "down")


def sparse(block: Block, family: ExpertFamily) -> Iterator[FolderTensor]:
    """The router and the experts of a layer."""
    count, size = block.sizes.config[family.count], block.sizes.config[family.size]
    all_experts = (count, block.sizes.hidden)
    yield whole(
        f"{block.here}{family.router}.weight", f"{block.there}ffn_gate_inp.weight", all_experts
    )
    if family.biases:
        yield whole(
            f"{block.here}{family.router}.bias", f"{block.there}ffn_gate_inp.bias", (count,)
        )
    if family.correction:
        shape = (1, count) if family.correction_is_row else (count,)
        bias = whole(f"{block.here}{family.correction}", f"{block.there}exp_probs_b.bias", shape)
        yield bias if "exp_probs_b" in block.sizes.stored_biases else zeros(bias)
    for name, stored in family.vectors.items():
        length = count if stored == EXPERT_SCALES else block.sizes.hidden
        yield block.whole(name, stored, (length,))
    for expert in range(count):
        own = f"{block.here}{family.experts.format(expert)}"
        for role, name in zip(_ROLES, family.maps, strict=True):
            yield _expert(block, f"{own}{name}.weight", role, expert, count, size)
            if family.biases:
                rows = block.sizes.hidden if role == "down" else size
                stored = f"{block.there}ffn_{role}_exps.bias"
                part = StoredPart(stored, (count, rows), expert * rows, rows)
                yield FolderTensor(f"{own}{name}.bias", (rows,), ((part,),))
    shared = family.shared_width(block.sizes.config)
    if shared:
        yield from _shared(block, family, shared)


def _shared(block: Block, family: ExpertFamily, size: int) -> Iterator[FolderTensor]:
    """The shared expert, in which a folder may have gate and up fused."""
    if family.shared_score:
        score = f"{block.there}ffn_gate_inp_shexp.weight"
        yield whole(f"{block.here}{family.shared_score}.weight", score, (1, block.sizes.hidden))
    gate, up = (
        StoredPart(f"{block.there}ffn_{role}_shexp.weight", (size, block.sizes.hidden))
        for role in ("gate", "up")
    )
    *first, last = family.shared_maps
    ways = ((gate, up),) if len(first) == 1 else ((gate,), (up,))
    for name, way in zip(first, ways, strict=True):
        shape = (size * len(way), block.sizes.hidden)
        yield FolderTensor(f"{block.here}{family.shared}{name}.weight", shape, (way,))
    down = f"{block.there}ffn_down_shexp.weight"
    yield whole(f"{block.here}{family.shared}{last}.weight", down, (block.sizes.hidden, size))


def _expert(
    block: Block, name: str, role: str, expert: int, experts: int, size: int
) -> FolderTensor:
    """A map of one expert: rows of a tensor of all, or a tensor of its own, as before April 2024."""
    shape = (block.sizes.hidden, size) if role == "down" else (size, block.sizes.hidden)
    rows, columns = shape
    stacked = StoredPart(
        f"{block.there}ffn_{role}_exps.weight", (experts, *shape), expert * rows, rows
    )
    ways = [(stacked,)]
    if role != "down":
        first = 2 * rows * expert + (rows if role == "up" else 0)
        both = (experts, 2 * rows, columns)
        ways.append((StoredPart(f"{block.there}ffn_gate_up_exps.weight", both, first, rows),))
    ways.append((StoredPart(f"{block.there}ffn_{role}.{expert}.weight", shape),))
    return FolderTensor(name, shape, tuple(ways))
