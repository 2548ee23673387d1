"""The pool of servers: it chooses the one for each request, and probes their health."""

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
"""Returns whether the server at an address is healthy; raises nothing but CancelledError."""


@dataclass(slots=True, eq=False)
class RemoteServer:
    """One server of the pool."""

    address: str
    healthy: bool = True
    in_flight: int = 0
    """How many of this process's requests it has."""
    last_taken: int = 0
    """The number of the `take` that chose it last."""
    checked: float = float("-inf")
    """When `healthy` was last set, by `time.monotonic`."""


class ServerPool:
    """The servers of one model. All methods must be called from one event loop.

    Invariant: each `take` that returns a server is followed by one `release` of it, so `in_flight`
    is the number of requests between the two.
    """

    def __init__(self, addresses: Sequence[str], probe: Probe) -> None:
        self.servers = tuple(RemoteServer(address) for address in addresses)
        self._probe = probe
        self._takes = itertools.count(1)
        self._watcher: asyncio.Task[None] | None = None

    def take(self, tried: Collection[RemoteServer] = ()) -> RemoteServer | None:
        """Choose a healthy server with the fewest requests in flight, in rotation among equals.

        Unhealthy servers come last, but are not left out: where no other is left, trying one is
        better than refusing the request. None where all were tried.
        """
        untried = [server for server in self.servers if server not in tried]
        if not untried:
            return None
        chosen = min(untried, key=lambda one: (not one.healthy, one.in_flight, one.last_taken))
        chosen.in_flight += 1
        chosen.last_taken = next(self._takes)
        return chosen

    def release(self, server: RemoteServer) -> None:
        """Note that the request which took this server has ended."""
        server.in_flight -= 1

    def note(self, server: RemoteServer, *, healthy: bool) -> None:
        """Record a server's health, as a probe or a request has just shown it."""
        server.healthy = healthy
        server.checked = time.monotonic()

    async def check(self) -> None:
        """Probe all servers whose state is older than a second.

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
        """Start probing in the background of the running loop, unless that runs already."""
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Stop probing."""
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
        """Probe, at the same time, all servers that were checked so many seconds ago or earlier."""
        now = time.monotonic()
        due = [
            server
            for server in self.servers
            if now - server.checked >= (healthy_age if server.healthy else unhealthy_age)
        ]
        results = await asyncio.gather(*(self._probe(one.address) for one in due))
        for server, healthy in zip(due, results, strict=True):
            self.note(server, healthy=healthy)
