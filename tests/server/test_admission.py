"""The gate: who runs, who waits, who is refused. A state machine walks it at random."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quire.errors import EngineDeadError, QuireError, RequestTimeoutError
from quire.server.admission import Admission
from quire.server.errors import NotReady, Overloaded


class Visitor:
    """One request: enters, and stays until it is told to leave."""

    def __init__(
        self, gate: Admission, cost: int, priority: int = 0, deadline: float | None = None
    ) -> None:
        self.cost, self.priority = cost, priority
        self.inside = False
        self.leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._visit(gate, deadline))

    async def _visit(self, gate: Admission, deadline: float | None) -> None:
        async with gate.enter(self.cost, self.priority, deadline):
            self.inside = True
            try:
                await self.leave.wait()
            finally:
                self.inside = False

    @property
    def over(self) -> bool:
        return self.task.done()

    @property
    def error(self) -> BaseException | None:
        return self.task.exception() if self.over and not self.task.cancelled() else None


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


class Walk(RuleBasedStateMachine):
    """The gate beside a plain model of it: two lists, searched through."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.capacity, self.max_waiting = 5, 4
        self.gate = self._run(self._make())
        self.running: list[Visitor] = []
        self.waiting: list[Visitor] = []  # in the order of their coming
        self.closed = False
        self.all: list[Visitor] = []

    async def _make(self) -> Admission:
        return Admission(self.capacity, self.max_waiting, 1000.0)

    def _run(self, work):  # type: ignore[no-untyped-def]
        return self.loop.run_until_complete(work)

    def _settle(self) -> None:
        self._run(settle())

    def _room(self, cost: int) -> bool:
        used = sum(visitor.cost for visitor in self.running)
        return not self.running or used + cost <= self.capacity

    def _let_in(self) -> None:
        while self.waiting:
            first = min(self.waiting, key=lambda visitor: visitor.priority)
            if not self._room(first.cost):
                return
            self.waiting.remove(first)
            self.running.append(first)

    @rule(cost=st.integers(1, 7), priority=st.integers(-1, 1))
    def enter(self, cost: int, priority: int) -> None:
        async def come() -> Visitor:
            visitor = Visitor(self.gate, cost, priority)
            await settle()
            return visitor

        visitor = self._run(come())
        self.all.append(visitor)
        if self.closed:
            assert isinstance(visitor.error, NotReady)
        elif self._room(cost) and all(priority < one.priority for one in self.waiting):
            self.running.append(visitor)
        elif len(self.waiting) >= self.max_waiting:
            assert isinstance(visitor.error, Overloaded)
            assert visitor.error.retry_after
        else:
            self.waiting.append(visitor)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        visitor = data.draw(st.sampled_from(self.running))
        visitor.leave.set()
        self.running.remove(visitor)
        self._let_in()
        self._settle()
        assert visitor.over
        assert visitor.error is None

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        visitor = data.draw(st.sampled_from([*self.running, *self.waiting]))
        visitor.task.cancel()
        (self.running if visitor in self.running else self.waiting).remove(visitor)
        self._let_in()
        self._settle()
        assert visitor.task.cancelled()

    @precondition(lambda self: self.running and self.waiting)
    @rule(data=st.data())
    def cancel_who_is_being_let_in(self, data: st.DataObject) -> None:
        """Its turn comes and its client goes in one moment."""
        before = list(self.waiting)
        leaving = data.draw(st.sampled_from(self.running))
        self.running.remove(leaving)
        self._let_in()
        let_in = [visitor for visitor in before if visitor in self.running]

        async def both() -> None:
            leaving.leave.set()
            await asyncio.sleep(0)  # the one that leaves has been woken
            for visitor in let_in:
                visitor.task.cancel()
            await settle()

        self._run(both())
        for visitor in let_in:
            assert visitor.task.cancelled()
            self.running.remove(visitor)
        self._let_in()

    @rule()
    def close(self) -> None:
        self.gate.close("closed")
        self.closed = True

    @rule()
    def open(self) -> None:
        self.gate.open()
        self.closed = False

    @rule()
    def end_waiting(self) -> None:
        self.gate.end_waiting(EngineDeadError("gone"))
        self._settle()
        assert all(isinstance(visitor.error, EngineDeadError) for visitor in self.waiting)
        self.waiting.clear()

    @rule()
    def end_all(self) -> None:
        everybody = [*self.running, *self.waiting]
        self.gate.end_all(EngineDeadError("gone"))
        self._settle()
        assert all(isinstance(visitor.error, EngineDeadError) for visitor in everybody)
        self.running.clear()
        self.waiting.clear()

    @invariant()
    def is_as_the_model(self) -> None:
        self._settle()
        self.gate.check_integrity()
        assert self.gate.running == len(self.running)
        assert self.gate.waiting == len(self.waiting)
        assert all(visitor.inside for visitor in self.running)
        assert not any(visitor.inside or visitor.over for visitor in self.waiting)

    def teardown(self) -> None:
        async def end() -> None:
            self.gate.end_all(EngineDeadError("the end"))
            await asyncio.wait_for(self.gate.idle(), 60)

        self._run(end())
        self.gate.check_integrity()
        self._settle()
        for visitor in self.all:
            assert visitor.over
            _ = visitor.error  # looked at, so that asyncio does not miss it
        self.loop.close()


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


async def test_the_oldest_goes_first() -> None:
    gate = Admission(1, 10, 10)
    order: list[int] = []

    async def visit(number: int) -> None:
        async with gate.enter(1):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(visit(number) for number in range(8)))
    assert order == list(range(8))


async def test_one_that_has_waited_long_enough_is_told_so() -> None:
    gate = Admission(1, 10, 0.05)
    holder = Visitor(gate, 1)
    await settle()
    with pytest.raises(RequestTimeoutError):
        async with gate.enter(1):
            pass
    assert gate.expired == 1
    holder.leave.set()
    await gate.idle()
    gate.check_integrity()


async def test_a_deadline_ends_the_waiting_too() -> None:
    gate = Admission(1, 10, 100)
    holder = Visitor(gate, 1)
    await settle()
    with pytest.raises(RequestTimeoutError):
        async with gate.enter(1, deadline=time.monotonic() + 0.02):
            pass
    holder.leave.set()
    await gate.idle()


async def test_who_would_wait_too_long_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("quire.server.admission.time", clock)
    now = 1000.0
    gate = Admission(1, 1000, 300)
    visitors = [Visitor(gate, 1) for _ in range(20)]
    for visitor in visitors[:12]:  # each takes 20 s, while others wait
        await settle()
        now += 20
        visitor.leave.set()
        await settle()
    others = [Visitor(gate, 1) for _ in range(200)]
    await settle()
    refused = [other for other in others if isinstance(other.error, Overloaded)]
    assert len(refused) > 150
    assert all(error.error.retry_after >= 1 for error in refused)  # type: ignore[union-attr]
    gate.end_all(EngineDeadError("the end"))
    with suppress(QuireError):
        await asyncio.gather(*(one.task for one in [*visitors, *others]), return_exceptions=True)
    gate.check_integrity()


async def test_the_background_is_served_after_all_others_and_in_small_numbers() -> None:
    gate = Admission(4, 2, 60.0, background=2)
    behind = [asyncio.ensure_future(_in_background(gate)) for _ in range(6)]
    await settle()
    gate.check_integrity()
    assert (gate.running, gate.waiting) == (2, 0)  # two may run, and the others hold up nobody
    gate.check()
    live = [Visitor(gate, 1, priority=9) for _ in range(4)]
    await settle()
    gate.check_integrity()  # one in the background would do beside others, two run already
    assert [one.inside for one in live] == [True, True, False, False]
    with pytest.raises(Overloaded):
        gate.check()
    behind[0].cancel()
    await settle()
    assert live[2].inside, "who came before them in the background waits on"
    live[0].leave.set()
    await settle()
    assert live[3].inside
    for one in live:
        one.leave.set()
    await settle()
    gate.check_integrity()
    assert gate.running == 2
    gate.end_all(EngineDeadError("gone"))
    await settle()
    assert all(isinstance(one.exception(), EngineDeadError) for one in behind[1:])
    assert gate.running == gate.waiting == 0


async def _in_background(gate: Admission) -> None:
    async with gate.enter(1, deadline=0.0, background=True):
        await asyncio.Event().wait()


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    gate = Admission(1, 1, 10)
    visitor = Visitor(gate, 1)
    await settle()
    visitor.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visitor.task
    assert gate.running == 0


async def test_the_early_check_refuses_what_enter_would() -> None:
    gate = Admission(1, 1, 10)
    gate.check()
    visitors = [Visitor(gate, 1), Visitor(gate, 1)]
    await settle()
    with pytest.raises(Overloaded):
        gate.check()
    gate.close("draining")
    with pytest.raises(NotReady, match="draining"):
        gate.check()
    gate.open()
    gate.end_all(EngineDeadError("the end"))
    await asyncio.gather(*(one.task for one in visitors), return_exceptions=True)
    gate.check()
