"""Which full blocks of the KV cache hold which tokens: an exact trie, kept in one dictionary.

A cached block's key is (its parent, its token ids). The parent is the cached block before it or,
for a first block, a root that names what else the keys and values depend on (adapter, salt). So a
hit compares the token ids and the parent's identity, not a digest of them: two prompts never meet
by collision. A block id serves as identity because a block stays cached at least as long as its
children (see `BlockPool`).
"""

from __future__ import annotations

from typing import TypeAlias

Root: TypeAlias = tuple[str | None, ...]
"""What the keys and values of a whole sequence depend on besides its tokens: adapter, salt."""

Parent: TypeAlias = int | Root
"""The cached block before, or the root."""


class PrefixCache:
    """Maps (parent, token ids) to block and back. It owns no blocks and counts no references."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[Parent, bytes], int] = {}
        self._keys: dict[int, tuple[Parent, bytes]] = {}
        self._children: dict[int, int] = {}  # of cached blocks that have any

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, parent: Parent, tokens: bytes) -> int | None:
        """Return the block that holds these tokens after that parent, if one is cached."""
        return self._blocks.get((parent, tokens))

    def add(self, parent: Parent, tokens: bytes, block: int) -> None:
        """Enter a full block that has been computed. The key must not be there yet."""
        key = (parent, tokens)
        assert key not in self._blocks
        assert block not in self._keys
        self._blocks[key] = block
        self._keys[block] = key
        if isinstance(parent, int):
            self._children[parent] = self._children.get(parent, 0) + 1

    def has_children(self, block: int) -> bool:
        return block in self._children

    def forget(self, block: int) -> None:
        """Take a block without children out of the cache."""
        assert block not in self._children, "a parent would go before its children"
        key = self._keys.pop(block)
        del self._blocks[key]
        parent = key[0]
        if isinstance(parent, int):
            self._children[parent] -= 1
            if not self._children[parent]:
                del self._children[parent]

    def check_integrity(self) -> None:
        """Assert that both maps mirror each other and that every parent is cached."""
        assert {block: key for key, block in self._blocks.items()} == self._keys
        counts: dict[int, int] = {}
        for parent, _ in self._blocks:
            if isinstance(parent, int):
                assert parent in self._keys, "a cached block's parent is not cached"
                counts[parent] = counts.get(parent, 0) + 1
        assert counts == self._children
