"""The pool of blocks and the prefix cache in it."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quire.engines.native.core.kv_cache import BlockPool, Parent

CONTENTS = (b"a", b"b", b"c")


class Tables(RuleBasedStateMachine):
    """Tables of named contents on a small pool; a model knows what each block must hold."""

    @initialize(num_blocks=st.integers(1, 8), caching=st.booleans())
    def start(self, num_blocks: int, caching: bool) -> None:
        self.pool = BlockPool(num_blocks, caching=caching)
        self.tables: list[list[int]] = []
        self.chains: list[tuple[bytes, ...]] = []  # what each table's blocks hold
        self.holds: dict[int, tuple[bytes, ...]] = {}  # block: the chain that ends with it

    @rule(chain=st.lists(st.sampled_from(CONTENTS), min_size=1, max_size=5).map(tuple))
    def open(self, chain: tuple[bytes, ...]) -> None:
        """Take what is cached of a chain, compute the rest, publish all of it."""
        table = self.pool.match((), chain)
        for index, block in enumerate(table):
            assert self.holds[block] == chain[: index + 1], "a hit on another content"
        assert not table or self.pool.caching
        revived = sum(not self.pool.references[block] for block in table)
        if len(chain) - len(table) + revived > self.pool.num_available:
            return
        self.pool.share(table)
        for index in range(len(table), len(chain)):
            table += self.pool.take()
            self.holds[table[-1]] = chain[: index + 1]
        if self.pool.caching:
            for index, tokens in enumerate(chain):
                parent: Parent = table[index - 1] if index else ()
                table[index] = self.pool.publish(parent, tokens, table[index])
                assert self.holds[table[index]] == chain[: index + 1]
        self.tables.append(table)
        self.chains.append(chain)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), discard=st.booleans())
    def close(self, data: st.DataObject, discard: bool) -> None:
        index = data.draw(st.integers(0, len(self.tables) - 1))
        del self.chains[index]
        self.pool.release(self.tables.pop(index), discard=discard)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.tables) - 1))
        self.pool.share(self.tables[index])
        self.tables.append(list(self.tables[index]))
        self.chains.append(self.chains[index])

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        self.pool.check_integrity(self.tables)
        for table, chain in zip(self.tables, self.chains, strict=True):
            for index, block in enumerate(table):
                assert self.holds[block] == chain[: index + 1], "a block in use was overwritten"

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            for table in self.tables:
                self.pool.release(table)
            assert self.pool.num_available == self.pool.num_blocks


Tables.TestCase.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, derandomize=True
)
TestTables = Tables.TestCase


def cached(pool: BlockPool, chain: tuple[bytes, ...]) -> list[int]:
    """Compute and publish a chain, release it, and return its blocks."""
    table: list[int] = []
    for tokens in chain:
        parent: Parent = table[-1] if table else ()
        table.append(pool.publish(parent, tokens, *pool.take()))
    pool.release(table)
    return table


def test_the_deepest_of_the_least_recently_used_goes_first() -> None:
    pool = BlockPool(4)
    old, new = cached(pool, (b"a", b"b")), cached(pool, (b"x", b"y"))
    assert pool.match((), (b"a", b"b")) == old
    pool.share(old)  # a hit makes it the most recently used
    pool.release(old)
    assert pool.take(4) == [new[1], new[0], old[1], old[0]]


def test_roots_keep_contents_apart() -> None:
    pool = BlockPool(4)
    block = pool.publish(("adapter",), b"a", *pool.take())
    assert pool.match((), (b"a",)) == []
    assert pool.match(("adapter",), (b"a",)) == [block]


def test_discarded_content_is_not_hit_again() -> None:
    pool = BlockPool(4)
    table = [pool.publish((), b"a", *pool.take())]
    pool.release(table, discard=True)
    assert pool.match((), (b"a",)) == []
    assert pool.num_idle == 0


def test_two_tables_of_equal_content_share_one_block() -> None:
    pool = BlockPool(4)
    first, second = pool.take(2)
    assert pool.publish((), b"a", first) == first
    assert pool.publish((), b"a", second) == first
    assert pool.references[first] == 2
    assert pool.num_available == 3
