"""Sparse FFNs: the router, the experts and the shared one."""

from __future__ import annotations

from collections.abc import Iterator

from quire.gguf.config.experts import EXPERT_SCALES, ExpertFamily
from quire.gguf.layout.sizes import Block
from quire.gguf.layout.tensors import FolderTensor, StoredPart, whole, zeros

_ROLES = ("gate", "up", "down")  # those without a gate have the last two


def sparse(block: Block, family: ExpertFamily) -> Iterator[FolderTensor]:
    """The router and the experts of a layer."""
    count, size = block.sizes.config[family.count], block.sizes.config[family.size]
    hidden = block.sizes.hidden
    all_experts = (count, hidden)
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
    width = hidden
    if latent := block.sizes.config.get(family.latent_size):
        width = latent
        for name, stored, shape in zip(
            family.latent_maps, ("down", "up"), ((latent, hidden), (hidden, latent)), strict=True
        ):
            yield block.whole(f"{name}.weight", f"ffn_latent_{stored}.weight", shape)
    for expert in range(count):
        own = f"{block.here}{family.experts.format(expert)}"
        for role, name in zip(_ROLES[-len(family.maps) :], family.maps, strict=True):
            rows, columns = (width, size) if role == "down" else (size, width)
            yield _expert(block, f"{own}{name}.weight", role, expert, (count, rows, columns))
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
    roles = _ROLES[-len(family.maps) : -1]
    parts = tuple(
        StoredPart(f"{block.there}ffn_{role}_shexp.weight", (size, block.sizes.hidden))
        for role in roles
    )
    *first, last = family.shared_maps
    ways = (parts,) if len(first) == 1 else tuple((part,) for part in parts)
    for name, way in zip(first, ways, strict=True):
        shape = (size * len(way), block.sizes.hidden)
        yield FolderTensor(f"{block.here}{family.shared}{name}.weight", shape, (way,))
    down = f"{block.there}ffn_down_shexp.weight"
    yield whole(f"{block.here}{family.shared}{last}.weight", down, (block.sizes.hidden, size))


def _expert(
    block: Block, name: str, role: str, expert: int, stack: tuple[int, int, int]
) -> FolderTensor:
    """A map of one expert: rows of a tensor of all, or a tensor of its own, as before April 2024.

    `stack` is the shape of the map of all experts.
    """
    experts, rows, columns = stack
    stacked = StoredPart(f"{block.there}ffn_{role}_exps.weight", stack, expert * rows, rows)
    ways = [(stacked,)]
    if role != "down":
        first = 2 * rows * expert + (rows if role == "up" else 0)
        both = (experts, 2 * rows, columns)
        ways.append((StoredPart(f"{block.there}ffn_gate_up_exps.weight", both, first, rows),))
    ways.append((StoredPart(f"{block.there}ffn_{role}.{expert}.weight", stack[1:]),))
    return FolderTensor(name, stack[1:], tuple(ways))
