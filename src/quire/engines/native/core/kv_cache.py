"""The blocks of the paged KV cache: tables of them, the pool that hands them out, the prefix cache.

Every block is in exactly one of three states:

    owned   in `references` block tables, at least one
    idle    in no table, but its content is cached: kept until the block is needed
    free    in no table, and with no known content

Only ids are kept here; the keys and values themselves belong to the runner.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Root: TypeAlias = tuple[str | None, ...]
"""What the keys and values of a whole sequence depend on besides its tokens: adapter, salt."""

Parent: TypeAlias = int | Root
"""What comes before a cached block: another cached block, or the root."""


class BlockTable:
    """The blocks of one sequence in order of position.

    Block `i` holds the keys and values of the tokens `i * block_size` up to `(i + 1) * block_size`.
    The ids are kept twice: `blocks` is a list, which is quicker to read one by one, and `array` holds
    the same ids at its beginning, from where batches copy them at once.
    """

    __slots__ = ("array", "blocks")

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.array: NDArray[np.int32] = np.zeros(8, dtype=np.int32)  # stale from len(blocks) on

    def extend(self, blocks: Iterable[int]) -> None:
        """Append blocks."""
        start = len(self.blocks)
        self.blocks.extend(blocks)
        end = len(self.blocks)
        if end > len(self.array):
            grown = np.zeros(max(end, 2 * len(self.array)), dtype=np.int32)
            grown[:start] = self.array[:start]
            self.array = grown
        self.array[start:end] = self.blocks[start:]

    def replace(self, index: int, block: int) -> None:
        """Put another block at an index."""
        self.blocks[index] = block
        self.array[index] = block

    def truncate(self, count: int) -> list[int]:
        """Keep the first `count` blocks and return the others."""
        rest = self.blocks[count:]
        del self.blocks[count:]
        return rest


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
        self.references = [0] * num_blocks
        """In how many tables each block is."""
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._cache = PrefixCache()
        self.on_forget: Callable[[int], None] | None = None
        """Called with a block whose content is not cached any more."""

    @property
    def num_available(self) -> int:
        """Blocks that can be taken now, free and idle ones together."""
        return len(self._free) + len(self._idle)

    @property
    def num_idle(self) -> int:
        """Blocks that are in no table, but whose content is cached."""
        return len(self._idle)

    def take(self, count: int = 1) -> list[int]:
        """Take blocks for one table. So many must be available."""
        taken: list[int] = []
        for _ in range(count):
            if self._free:
                block = self._free.pop()
            else:
                block, _ = self._idle.popitem(last=False)  # always a leaf: see above
                self._forget(block)
            self.references[block] = 1
            taken.append(block)
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Count one more table that holds these blocks; idle ones come back into use."""
        for block in blocks:
            if not self.references[block]:
                del self._idle[block]
            self.references[block] += 1

    def release(self, blocks: Sequence[int], *, discard: bool = False) -> None:
        """Count one table less. `discard` forgets contents too, unless other blocks depend on them."""
        for block in reversed(blocks):  # children become idle, and are evicted, before parents
            self.references[block] -= 1
            if self.references[block]:
                continue
            if discard and self._cache.is_leaf(block):
                self._forget(block)
            if block in self._cache:
                self._idle[block] = None
            else:
                self._free.append(block)

    def _forget(self, block: int) -> None:
        self._cache.forget(block)
        if self.on_forget is not None:
            self.on_forget(block)

    def match(self, root: Root, keys: Iterable[bytes]) -> list[int]:
        """Return the longest chain of cached blocks from the root, without taking them."""
        hits: list[int] = []
        if not self.caching:
            return hits
        parent: Parent = root
        for key in keys:
            block = self._cache.find(parent, key)
            if block is None:
                break
            hits.append(block)
            parent = block
        return hits

    def publish(self, parent: Parent, key: bytes, block: int) -> int:
        """Cache a full, computed block and return the block to use for it from now on.

        Where two sequences computed the same content side by side, the first one published stays,
        and the caller's own block is exchanged for it: memory is saved, and every chain in the
        cache is a chain in some table, which is what lets a parent outlive its children.
        """
        known = self._cache.find(parent, key)
        if known is None:
            self._cache.add(parent, key, block)
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
        assert held == self.references, "reference counts differ from the tables"
        free, idle = set(self._free), set(self._idle)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & idle
        assert free | idle == {b for b in range(self.num_blocks) if not held[b]}, "a block leaked"
        assert all(block in self._cache for block in idle)
        assert not any(block in self._cache for block in free)
        self._cache.check_integrity()


class PrefixCache:
    """Maps the content of full blocks to the blocks that hold it. It counts no references.

    It is an exact trie, kept in one dictionary: a cached block's key is its parent and the bytes of
    its token ids. So a hit compares the token ids themselves and the parent's identity, where a
    chained hash, the usual way, would compare a digest of all tokens before: two prompts can never
    meet by collision. A block id serves as the parent's identity because a block stays cached at
    least as long as its children (see `BlockPool`).
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[Parent, bytes], int] = {}
        self._keys: dict[int, tuple[Parent, bytes]] = {}
        self._num_children: dict[int, int] = {}  # of cached blocks that have any

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def find(self, parent: Parent, key: bytes) -> int | None:
        """Return the block that holds this content after that parent, if one is cached."""
        return self._blocks.get((parent, key))

    def add(self, parent: Parent, key: bytes, block: int) -> None:
        """Enter a full block that has been computed. Its content must not be cached yet."""
        entry = (parent, key)
        assert entry not in self._blocks
        assert block not in self._keys
        self._blocks[entry] = block
        self._keys[block] = entry
        if isinstance(parent, int):
            self._num_children[parent] = self._num_children.get(parent, 0) + 1

    def is_leaf(self, block: int) -> bool:
        """Whether a block is cached and is no other one's parent."""
        return block in self._keys and block not in self._num_children

    def forget(self, block: int) -> None:
        """Take a leaf out of the cache."""
        assert block not in self._num_children, "a parent would go before its children"
        entry = self._keys.pop(block)
        del self._blocks[entry]
        parent = entry[0]
        if isinstance(parent, int):
            self._num_children[parent] -= 1
            if not self._num_children[parent]:
                del self._num_children[parent]

    def check_integrity(self) -> None:
        """Assert that both maps mirror each other and that every parent is cached."""
        assert {block: entry for entry, block in self._blocks.items()} == self._keys
        counts: dict[int, int] = {}
        for parent, _ in self._blocks:
            if isinstance(parent, int):
                assert parent in self._keys, "a cached block's parent is not cached"
                counts[parent] = counts.get(parent, 0) + 1
        assert counts == self._num_children
