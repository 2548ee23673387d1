"""The pool of servers: whose turn it is, and who is healthy."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from quire.errors import EngineDeadError

UNHEALTHY_PROBE_SECONDS = 2.0
HEALTHY_PROBE_SECONDS = 10.0
_TICK_SECONDS = 0.5
_FRESH_SECONDS = 1.0

Probe = Callable[[str], Awaitable[bool]]
"""Asks the server of an address whether it is well; never raises but for cancellation."""


@dataclass(slots=True, eq=False)
class Server:
    """One server. `under_way` counts this process's requests there."""

    address: str
    healthy: bool = True
    under_way: int = 0
    last_turn: int = 0
    checked: float = float("-inf")
    """When its health was learnt last (`time.monotonic`)."""


class ServerPool:
    """Servers to choose from. All methods belong to one event loop.

    Invariant: each `take` that returns a server is followed by one `release` of it, so `under_way`
    is the number of requests between the two.
    """

    def __init__(self, addresses: Sequence[str], probe: Probe) -> None:
        self.servers = tuple(Server(address) for address in addresses)
        self._probe = probe
        self._turns = itertools.count(1)
        self._watcher: asyncio.Task[None] | None = None

    def take(self, tried: Collection[Server] = ()) -> Server | None:
        """Choose a server for a request: the healthy one with the fewest under way, in turn.

        Unhealthy ones come last rather than never: where no other is left, trying is better than
        giving up. None where all were tried.
        """
        left = [server for server in self.servers if server not in tried]
        if not left:
            return None
        chosen = min(left, key=lambda one: (not one.healthy, one.under_way, one.last_turn))
        chosen.under_way += 1
        chosen.last_turn = next(self._turns)
        return chosen

    def release(self, server: Server) -> None:
        """The request that took this server has ended."""
        server.under_way -= 1

    def note(self, server: Server, *, healthy: bool) -> None:
        """Note what was just learnt of a server's health."""
        server.healthy = healthy
        server.checked = time.monotonic()

    async def check(self) -> None:
        """Probe all whose state is older than a second.

        Raises:
            EngineDeadError: no server is healthy.
        """
        await self._probe_older(_FRESH_SECONDS, _FRESH_SECONDS)
        if not any(server.healthy for server in self.servers):
            addresses = ", ".join(server.address for server in self.servers)
            raise EngineDeadError(
                f"No server is healthy: {addresses}. Start them, or look at their logs."
            )

    def watch(self) -> None:
        """Begin to probe in the background of the running loop, once."""
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """End the probes."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None and not watcher.done():
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            await self._probe_older(HEALTHY_PROBE_SECONDS, UNHEALTHY_PROBE_SECONDS)

    async def _probe_older(self, healthy_age: float, unhealthy_age: float) -> None:
        now = time.monotonic()
        due = [
            server
            for server in self.servers
            if now - server.checked >= (healthy_age if server.healthy else unhealthy_age)
        ]
        for server, well in zip(
            due, await asyncio.gather(*(self._probe(one.address) for one in due)), strict=True
        ):
            self.note(server, healthy=well)
