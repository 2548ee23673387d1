"""The pool of servers: which one is chosen, and when health is probed."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engines.remote import server_pool
from quire.engines.remote.server_pool import RemoteServer, ServerPool
from quire.errors import EngineDeadError
from tests.polling import eventually


def probe_of(
    healthy: set[str], probed: list[str] | None = None
) -> Callable[[str], Awaitable[bool]]:
    async def probe(address: str) -> bool:
        if probed is not None:
            probed.append(address)
        return address in healthy

    return probe


def pool_of(*addresses: str) -> ServerPool:
    return ServerPool(addresses, probe_of(set(addresses)))


def taken(pool: ServerPool, tried: tuple[RemoteServer, ...] = ()) -> RemoteServer:
    server = pool.take(tried)
    assert server is not None
    return server


@given(st.lists(st.integers(0, 9), max_size=60))
def test_server_with_fewest_requests_is_chosen(steps: list[int]) -> None:
    pool = pool_of("a", "b", "c")
    in_flight: list[RemoteServer] = []
    for step in steps:
        if step < 6 or not in_flight:
            fewest = min(server.in_flight for server in pool.servers)
            server = taken(pool)
            assert server.in_flight == fewest + 1
            in_flight.append(server)
        else:
            pool.release(in_flight.pop(step % len(in_flight)))
        assert [one.in_flight for one in pool.servers] == [
            in_flight.count(one) for one in pool.servers
        ]


def test_equal_servers_take_turns() -> None:
    pool = pool_of("a", "b", "c")
    order: list[str] = []
    for _ in range(6):
        server = taken(pool)
        order.append(server.address)
        pool.release(server)
    assert order == ["a", "b", "c", "a", "b", "c"]


def test_unhealthy_servers_come_last() -> None:
    pool = pool_of("a", "b", "c")
    a, b, c = pool.servers
    pool.note(a, healthy=False)
    c.in_flight = 5
    assert taken(pool) is b
    assert taken(pool, (b,)) is c
    assert taken(pool, (b, c)) is a
    assert pool.take((a, b, c)) is None


async def test_old_health_is_probed_again() -> None:
    probed: list[str] = []
    healthy = {"a"}
    pool = ServerPool(["a", "b"], probe_of(healthy, probed))
    await pool.check()
    assert sorted(probed) == ["a", "b"]
    assert all(server.checked > float("-inf") for server in pool.servers)
    for server in pool.servers:
        server.checked = float("inf")  # fresh, however slow this machine is
    await pool.check()
    assert len(probed) == 2
    healthy.clear()
    pool.servers[0].checked = pool.servers[1].checked = float("-inf")
    with pytest.raises(EngineDeadError, match="a, b"):
        await pool.check()


async def test_watcher_notices_a_recovered_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_pool, "_TICK_SECONDS", 0.01)
    monkeypatch.setattr(server_pool, "UNHEALTHY_PROBE_SECONDS", 0.02)
    healthy: set[str] = {"a"}
    probed: list[str] = []
    pool = ServerPool(["a", "b"], probe_of(healthy, probed))
    pool.note(pool.servers[1], healthy=False)
    pool.watch()
    pool.watch()  # a second call starts no second watcher
    await eventually(lambda: probed.count("b") >= 2)
    assert not pool.servers[1].healthy
    healthy.add("b")
    await eventually(lambda: pool.servers[1].healthy)
    await pool.stop()
    await pool.stop()
    assert len(asyncio.all_tasks()) == 1
