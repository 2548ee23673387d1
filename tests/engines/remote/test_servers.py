"""The pool: whose turn it is, and who is healthy."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engines.remote import servers
from quire.engines.remote.servers import Server, ServerPool
from quire.errors import EngineDeadError


def probe_of(well: set[str], asked: list[str] | None = None) -> Callable[[str], Awaitable[bool]]:
    async def probe(address: str) -> bool:
        if asked is not None:
            asked.append(address)
        return address in well

    return probe


def pool_of(*addresses: str) -> ServerPool:
    return ServerPool(addresses, probe_of(set(addresses)))


def taken(pool: ServerPool, tried: tuple[Server, ...] = ()) -> Server:
    server = pool.take(tried)
    assert server is not None
    return server


@given(st.lists(st.integers(0, 9), max_size=60))
def test_the_fewest_requests_win_and_counts_are_right(steps: list[int]) -> None:
    pool = pool_of("a", "b", "c")
    under_way: list[Server] = []
    for step in steps:
        if step < 6 or not under_way:
            fewest = min(server.under_way for server in pool.servers)
            server = taken(pool)
            assert server.under_way == fewest + 1
            under_way.append(server)
        else:
            pool.release(under_way.pop(step % len(under_way)))
        assert [one.under_way for one in pool.servers] == [
            under_way.count(one) for one in pool.servers
        ]


def test_ties_go_round() -> None:
    pool = pool_of("a", "b", "c")
    order: list[str] = []
    for _ in range(6):
        server = taken(pool)
        order.append(server.address)
        pool.release(server)
    assert order == ["a", "b", "c", "a", "b", "c"]


def test_unhealthy_servers_come_last_and_each_is_tried_once() -> None:
    pool = pool_of("a", "b", "c")
    a, b, c = pool.servers
    pool.note(a, healthy=False)
    c.under_way = 5
    assert taken(pool) is b
    assert taken(pool, (b,)) is c
    assert taken(pool, (b, c)) is a
    assert pool.take((a, b, c)) is None


async def test_health_is_asked_again_when_it_is_old() -> None:
    asked: list[str] = []
    well = {"a"}
    pool = ServerPool(["a", "b"], probe_of(well, asked))
    await pool.check()
    assert sorted(asked) == ["a", "b"]
    await pool.check()
    assert len(asked) == 2  # younger than a second
    well.clear()
    pool.servers[0].checked = pool.servers[1].checked = float("-inf")
    with pytest.raises(EngineDeadError, match="a, b"):
        await pool.check()


async def test_the_watch_brings_a_server_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_TICK_SECONDS", 0.01)
    monkeypatch.setattr(servers, "UNHEALTHY_PROBE_SECONDS", 0.02)
    well: set[str] = {"a"}
    pool = ServerPool(["a", "b"], probe_of(well))
    pool.note(pool.servers[1], healthy=False)
    pool.watch()
    pool.watch()  # one watcher is enough
    await asyncio.sleep(0.1)
    assert not pool.servers[1].healthy
    well.add("b")
    for _ in range(500):
        if pool.servers[1].healthy:
            break
        await asyncio.sleep(0.01)
    assert pool.servers[1].healthy
    await pool.stop()
    await pool.stop()
    assert len(asyncio.all_tasks()) == 1
