"""Blocks of the KV cache: who holds them, which are free, which can be had again by their content.

Every block is in exactly one of three states:

    owned   in `references` block tables, at least one
    idle    in none, but its content is cached: kept until its room is needed
    free    in none, and nothing is known of its content
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from quire.engines.native.prefix_cache import Parent, PrefixCache, Root


class BlockPool:
    """Hands out blocks, counts references, and keeps idle blocks for later hits.

    Blocks are taken from the free ones first, then from the idle ones, the least recently used
    first. The idle ones are an OrderedDict rather than a heap of times or a plain queue: a hit takes
    a block out of the middle, in O(1). A table is released from its tail, so that of one chain the
    deepest block goes first: what remains is always a prefix that can still be hit, and a parent
    never goes before its children.
    """

    def __init__(self, num_blocks: int, *, caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self.caching = caching
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._cache = PrefixCache()

    @property
    def num_available(self) -> int:
        """Blocks that can be taken now, free and idle ones together."""
        return len(self._free) + len(self._idle)

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    def is_shared(self, block: int) -> bool:
        return self._references[block] > 1

    def is_idle(self, block: int) -> bool:
        return block in self._idle

    def take(self) -> int:
        """Take a block for one table. One must be available."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            self._cache.forget(block)
        self._references[block] = 1
        return block

    def share(self, blocks: Iterable[int]) -> None:
        """Count one more table that holds these blocks; idle ones come back into use."""
        for block in blocks:
            if not self._references[block]:
                del self._idle[block]
            self._references[block] += 1

    def release(self, blocks: Sequence[int], *, discard: bool = False) -> None:
        """Count one table less. `discard` forgets contents too, as far as nobody else uses them."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if discard and block in self._cache and not self._cache.has_children(block):
                self._cache.forget(block)
            if block in self._cache:
                self._idle[block] = None
            else:
                self._free.append(block)

    def match(self, root: Root, token_blocks: Iterable[bytes]) -> list[int]:
        """Return the longest chain of cached blocks from the root, without taking them."""
        found: list[int] = []
        parent: Parent = root
        for tokens in token_blocks if self.caching else ():
            block = self._cache.find(parent, tokens)
            if block is None:
                break
            found.append(block)
            parent = block
        return found

    def publish(self, parent: Parent, tokens: bytes, block: int) -> int:
        """Cache a full, computed block and return the block to use for it from now on.

        Where two sequences computed the same content side by side, the first one published stays,
        and the caller's own block is exchanged for it: memory is saved, and every chain in the
        cache is a chain in some table, which is what lets a parent outlive its children.
        """
        known = self._cache.find(parent, tokens)
        if known is None:
            self._cache.add(parent, tokens, block)
            return block
        if known != block:
            self.share((known,))
            self.release((block,))
        return known

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that every block is accounted for, given all block tables there are."""
        held = [0] * self.num_blocks
        for table in tables:
            assert len(set(table)) == len(table), "a table holds a block twice"
            for block in table:
                held[block] += 1
        assert held == self._references, "reference counts differ from the tables"
        free, idle = set(self._free), set(self._idle)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & idle
        assert free | idle == {b for b in range(self.num_blocks) if not held[b]}, "a block leaked"
        assert all(block in self._cache for block in idle)
        assert not any(block in self._cache for block in free)
        self._cache.check_integrity()
