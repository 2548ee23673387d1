"""Admission: limits on running completions and waiting requests; the rest is refused at once.

    closed ──open──► a request enters ──► running ──► left
                         │                  ▲
                         └──► waiting ──────┘   the lowest priority number first, then the oldest,
                                                and those in the background after all others

All of it happens in one event loop, without locks. A waiting request holds nothing but its slot in
the queue. A request that would wait longer than it may is refused on arrival.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import time
from dataclasses import dataclass
from types import TracebackType

from quire.errors import QuireError, RequestTimeoutError
from quire.server.errors import NotReady, Overloaded


@dataclass(eq=False)
class Ticket:
    """One request, from `enter` to its end. `async with` waits for admission."""

    admission: Admission
    cost: int
    priority: int
    deadline: float | None
    background: bool
    number: int
    turn: asyncio.Future[None] | None = None
    task: asyncio.Task[object] | None = None
    error: QuireError | None = None
    entered_at: float = 0.0
    started_at: float = 0.0

    async def __aenter__(self) -> Ticket:
        self.task = asyncio.current_task()
        try:
            await self.admission.admit(self)
        except asyncio.CancelledError:
            self.raise_error()
            raise
        self.started_at = time.monotonic()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.admission.leave(self)
        if isinstance(error, asyncio.CancelledError):
            self.raise_error()

    def end(self, error: QuireError) -> None:
        """End the request with this error, whether it waits or runs."""
        if self.turn is not None and not self.turn.done():
            self.turn.set_exception(error)
        elif self.task is not None and self.error is None:
            self.error = error
            self.task.cancel()

    def raise_error(self) -> None:
        """Raise the error of `end` in place of its cancellation; other cancellations stay."""
        if self.error is not None and self.task is not None and self.task.uncancel() == 0:
            raise self.error from None


class _Pace:
    """How fast requests finish: moving averages in seconds, 0 before the first."""

    def __init__(self) -> None:
        self.interval = 0.0
        """Between the ends of two completions, while other requests wait."""
        self.service = 0.0
        """From a request's admission to its end."""
        self._last: float | None = None  # the last end, if requests waited then

    def ended(self, ticket: Ticket, busy: bool) -> None:
        """Record a request's end. `busy`: others wait; an idle server's intervals say nothing."""
        now = time.monotonic()
        if ticket.started_at and not ticket.background:
            self.service = _updated(self.service, now - ticket.started_at)
        if busy and self._last is not None:
            self.interval = _updated(self.interval, (now - self._last) / ticket.cost)
        self._last = now if busy else None


def _updated(average: float, value: float) -> float:
    return average + 0.1 * (value - average) if average else value


class Admission:
    """The queue in front of the engine.

    Args:
        capacity: completions that run at once. A larger request runs when nothing else does.
        max_waiting: requests that wait.
        queue_timeout: seconds that a request may wait.
        background: completions in the background that run at once, of `capacity`, while nothing else
            does; beside others one request does.
    """

    def __init__(
        self, capacity: int, max_waiting: int, queue_timeout: float, background: int = 1
    ) -> None:
        self.capacity, self.max_waiting, self.queue_timeout = capacity, max_waiting, queue_timeout
        self.background = background
        self.refused = 0
        self.expired = 0
        self._closed: tuple[str, float | None] | None = None
        self._running: dict[Ticket, None] = {}
        self._waiting: list[Ticket] = []  # sorted by `_order`
        self._numbers = itertools.count()
        self._cost = self._background_cost = 0
        self._pace = _Pace()
        self._idle = asyncio.Event()
        self._idle.set()

    # --- for requests ----------------------------------------------------------------------------

    def enter(
        self,
        cost: int,
        priority: int = 0,
        deadline: float | None = None,
        *,
        background: bool = False,
    ) -> Ticket:
        """A ticket for a request: `async with` waits for admission, and raises as below.

        Args:
            cost: number of completions.
            priority: lower numbers are served first.
            deadline: when the request must be over, in seconds of the monotonic clock.
            background: whether it is served after all others, waits for as long as that takes, and
                is no reason to refuse another one.

        Raises:
            NotReady: admission is closed.
            Overloaded: the queue is full, or too long for the request's deadline.
            RequestTimeoutError: the request's time passed in the queue.
        """
        return Ticket(self, max(1, cost), priority, deadline, background, next(self._numbers))

    def check(self) -> None:
        """Refuse early what `enter` would refuse; raises as it does."""
        self.check_open()
        waiting = self.waiting
        if waiting >= self.max_waiting and (waiting or not self._fits(1)):
            raise self._overloaded(_FULL)

    def check_open(self) -> None:
        """Raise NotReady if admission is closed."""
        if self._closed is not None:
            raise NotReady(self._closed[0], retry_after=self._closed[1])

    async def admit(self, ticket: Ticket) -> None:
        """Wait until a ticket is admitted; raises as `enter` says."""
        ticket.entered_at = time.monotonic()
        self.check_open()
        is_next = not self._waiting or _order(ticket) < _order(self._waiting[0])
        if is_next and self._has_room(ticket):
            self._run(ticket)
            return
        if ticket.background:
            await self._wait(ticket, None)
            return
        if self.waiting >= self.max_waiting:
            raise self._overloaded(_FULL)
        patience = self._patience(ticket)
        if _MARGIN * self._expected_wait() > patience:
            raise self._overloaded("The server is busy: the request would time out in the queue.")
        await self._wait(ticket, patience)

    async def _wait(self, ticket: Ticket, patience: float | None) -> None:
        ticket.turn = asyncio.get_running_loop().create_future()
        bisect.insort(self._waiting, ticket, key=_order)
        self._idle.clear()
        timer: asyncio.TimerHandle | None = None
        if patience is not None:
            timer = asyncio.get_running_loop().call_later(patience, self._expire, ticket)
        try:
            await ticket.turn
        except BaseException:
            if ticket in self._running:  # it was admitted and cancelled in the same moment
                self.leave(ticket)
            else:
                self._forget(ticket)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            ticket.turn = None

    def _patience(self, ticket: Ticket) -> float:
        """The longest wait, in seconds, that leaves a request enough time to be served."""
        if ticket.deadline is None:
            return self.queue_timeout
        spare = ticket.deadline - time.monotonic() - self._pace.service
        return max(0.0, min(self.queue_timeout, spare))

    def _expire(self, ticket: Ticket) -> None:
        if ticket.turn is not None and not ticket.turn.done():
            self.expired += 1
            ticket.turn.set_exception(
                RequestTimeoutError("The request timed out while it waited in the queue.")
            )

    # --- the queue -------------------------------------------------------------------------------

    def _fits(self, cost: int) -> bool:
        return not self._running or self._cost + cost <= self.capacity

    def _has_room(self, ticket: Ticket) -> bool:
        behind = self._background_cost if ticket.background else 0
        is_alone = self._cost == behind  # whoever comes now waits for a step, and shares the CPUs
        return self._fits(ticket.cost) and (
            not behind or (is_alone and behind + ticket.cost <= self.background)
        )

    def _run(self, ticket: Ticket) -> None:
        self._running[ticket] = None
        self._cost += ticket.cost
        self._background_cost += ticket.cost if ticket.background else 0
        self._idle.clear()

    def leave(self, ticket: Ticket) -> None:
        """Free a finished request's capacity."""
        if ticket in self._running:
            del self._running[ticket]
            self._cost -= ticket.cost
            self._background_cost -= ticket.cost if ticket.background else 0
            self._pace.ended(ticket, bool(self.waiting))
            self._let_in()

    def _forget(self, ticket: Ticket) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            self._let_in()

    def _let_in(self) -> None:
        """Admit the next requests while there is room; none overtakes the first."""
        while self._waiting:
            first = self._waiting[0]
            if first.turn is None or first.turn.done():  # its own task is ending it
                self._waiting.pop(0)
                continue
            if not self._has_room(first):
                break
            self._waiting.pop(0)
            self._run(first)
            first.turn.set_result(None)
        if not self._waiting and not self._running:
            self._idle.set()

    def _expected_wait(self) -> float:
        """An estimate, in seconds, of a new request's wait; 0 before any was measured."""
        ahead = sum(ticket.cost for ticket in self._waiting if not ticket.background) + 1
        return ahead * self._pace.interval

    def _overloaded(self, text: str) -> Overloaded:
        self.refused += 1
        wait = self._expected_wait() or 1.0
        return Overloaded(text, retry_after=min(max(1.0, wait / 2), 60.0))

    # --- for the server --------------------------------------------------------------------------

    def open(self) -> None:
        """Admit requests."""
        self._closed = None

    def close(self, text: str, retry_after: float | None = 5.0) -> None:
        """Refuse new requests; those that wait or run stay."""
        self._closed = (text, retry_after)

    def end_waiting(self, error: QuireError) -> None:
        """End the waiting requests with this error."""
        for ticket in list(self._waiting):
            ticket.end(error)

    def end_all(self, error: QuireError) -> None:
        """End all requests: each one's own task raises this error."""
        self.end_waiting(error)
        for ticket in list(self._running):
            ticket.end(error)

    def running_since(self, moment: float) -> list[Ticket]:
        """Running requests that had entered by `moment` of the monotonic clock."""
        return [ticket for ticket in self._running if ticket.entered_at <= moment]

    async def idle(self) -> None:
        """Wait until no request waits or runs."""
        await self._idle.wait()

    @property
    def running(self) -> int:
        """Requests that run."""
        return len(self._running)

    @property
    def running_completions(self) -> int:
        return self._cost

    @property
    def background_completions(self) -> int:
        """Completions in the background that run."""
        return self._background_cost

    @property
    def waiting(self) -> int:
        """Requests that wait, but for those in the background."""
        return len(self._waiting) - sum(ticket.background for ticket in self._waiting)

    def check_integrity(self) -> None:
        """Assert that every request is accounted for."""
        assert self._cost == sum(ticket.cost for ticket in self._running)
        assert self._waiting == sorted(self._waiting, key=_order)
        assert not set(self._running) & set(self._waiting)
        assert self._cost <= self.capacity or len(self._running) == 1
        assert self.waiting <= self.max_waiting
        behind = [ticket.cost for ticket in self._running if ticket.background]
        assert self._background_cost == sum(behind)
        assert self._background_cost <= self.background or len(behind) == 1
        live = [t for t in self._waiting if t.turn is not None and not t.turn.done()]
        assert not live or not self._has_room(live[0]), "a request waits although there is room"
        assert self._idle.is_set() == (not self._running and not self._waiting)


_MARGIN = 1.2  # on expected waits: better a 429 now than a timeout after a long wait
_FULL = "The server is busy and its queue is full: try again later."


def _order(ticket: Ticket) -> tuple[bool, int, int]:
    return ticket.background, ticket.priority, ticket.number
