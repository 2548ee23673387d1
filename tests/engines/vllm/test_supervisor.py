"""The watch over an engine: deaths are seen, engines started again within bounds, closes are clean.

What is started here are stand-ins; `test_engine_life.py` kills the real one.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engines.vllm import supervisor
from quire.engines.vllm.launch import RunningEngine
from quire.engines.vllm.plan import EnginePlan
from quire.engines.vllm.supervisor import Supervisor
from quire.errors import EngineClosedError, EngineDeadError, EngineStartError
from tests.polling import wait_until

PLAN = EnginePlan({"model": "m"})
PATIENCE = 60.0  # seconds that a loaded machine may take


class Hurried(threading.Event):
    """Waits a fiftieth of the time, and remembers which back-offs were asked for."""

    delays: list[float]

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        if timeout >= 1:
            self.delays.append(timeout)
        return super().wait(timeout / 50)


class World:
    """The engines that were started and stopped, and what the next starts do."""

    def __init__(self) -> None:
        self.started: list[RunningEngine] = []
        self.stopped: list[RunningEngine] = []
        self.next: list[Callable[[], None]] = []
        self.delays: list[float] = []
        self.processes: tuple[psutil.Process, ...] = ()
        self.attempts = 0

    def start(self, plan: EnginePlan, timeout: float, given_up: Any = None) -> RunningEngine:
        assert (plan, timeout) == (PLAN, 5.0)
        self.attempts += 1
        if self.next:
            self.next.pop(0)()
        processor = SimpleNamespace(has_unfinished_requests=lambda: False)
        engine: Any = SimpleNamespace(errored=False, output_processor=processor)
        self.started.append(RunningEngine(engine, self.processes))
        return self.started[-1]

    def stop(self, started: RunningEngine) -> None:
        self.stopped.append(started)

    def kill(self, started: RunningEngine) -> None:
        engine: Any = started.engine
        engine.errored = True

    @property
    def left(self) -> list[RunningEngine]:
        return [one for one in self.started if not any(one is other for other in self.stopped)]


def make_world(patch: pytest.MonkeyPatch) -> World:
    world = World()
    event = type("OfThisWorld", (Hurried,), {"delays": world.delays})
    threads = SimpleNamespace(
        Event=event,
        Lock=threading.Lock,
        Thread=threading.Thread,
        current_thread=threading.current_thread,
    )
    patch.setattr(supervisor, "start", world.start)
    patch.setattr(supervisor, "stop", world.stop)
    patch.setattr(supervisor, "stop_dead", world.stop)
    patch.setattr(supervisor, "threading", threads)
    return world


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return make_world(monkeypatch)


@pytest.fixture
def supervise(world: World) -> Iterator[Callable[[int], Supervisor]]:
    """Makes a supervisor; when the test ends it is closed, and nothing may be left."""
    made: list[Supervisor] = []

    def make(restarts: int) -> Supervisor:
        made.append(Supervisor(PLAN, 5.0, restarts))
        return made[-1]

    yield make
    for one in made:
        one.close()
        assert not one._watcher.is_alive()
    assert not world.left


def runs(supervisor: Supervisor) -> bool:
    try:
        supervisor.current()
    except EngineDeadError:
        return False
    return True


def fails() -> None:
    raise EngineStartError("no")


def assert_set(event: threading.Event) -> None:
    """Wait for what the test sets."""
    assert event.wait(PATIENCE)


# --- deaths --------------------------------------------------------------------------------------


def test_the_running_engine(world: World, supervise: Any) -> None:
    made = supervise(0)
    assert made.current() is world.started[0]
    assert made.restarts == 0


def test_a_first_start_that_fails_is_the_callers(world: World) -> None:
    world.next.append(fails)
    threads = set(threading.enumerate())
    with pytest.raises(EngineStartError):
        Supervisor(PLAN, 5.0, 3)
    assert world.attempts == 1
    assert not set(threading.enumerate()) - threads


def test_a_death_is_seen_at_once(
    world: World, supervise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_CHECK_SECONDS", 600 * 50)  # the watcher sleeps on
    made = supervise(0)
    world.kill(world.started[0])
    with pytest.raises(EngineDeadError, match="Set vllm_max_restarts"):
        made.current()
    assert world.stopped == []


def test_a_killed_process_is_a_death(world: World, supervise: Any) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        world.processes = (psutil.Process(process.pid),)
        made = supervise(0)
        assert made.current() is world.started[0]
        process.kill()
        wait_until(lambda: not runs(made))  # a zombie: nobody has waited for it yet
        assert world.started[0].processes[0].status() == psutil.STATUS_ZOMBIE
    finally:
        process.kill()
        process.wait()
    assert not runs(made)


def test_without_restarts_it_stays_dead(world: World, supervise: Any) -> None:
    made = supervise(0)
    world.kill(world.started[0])
    wait_until(lambda: len(world.stopped) == 1)
    made._watcher.join(PATIENCE)
    with pytest.raises(EngineDeadError, match="Set vllm_max_restarts"):
        made.current()
    assert (world.attempts, made.restarts, world.delays) == (1, 0, [])


# --- restarts ------------------------------------------------------------------------------------


def test_it_is_started_again(world: World, supervise: Any) -> None:
    made, go_on = supervise(1), threading.Event()
    world.next.append(lambda: assert_set(go_on))
    world.kill(world.started[0])
    with pytest.raises(EngineDeadError, match="is being started again"):
        made.current()
    go_on.set()
    wait_until(lambda: runs(made))
    assert made.current() is world.started[1]
    assert world.stopped == [world.started[0]]
    assert (made.restarts, world.delays) == (1, [1.0])


def test_starts_that_fail_are_tried_again_with_a_back_off(world: World, supervise: Any) -> None:
    made = supervise(5)
    world.next += [fails, fails, fails]
    world.kill(world.started[0])
    wait_until(lambda: runs(made))
    assert made.restarts == 4
    assert world.delays == [1.0, 2.0, 4.0, 8.0]
    world.kill(world.started[1])
    wait_until(lambda: len(world.started) == 3 and runs(made))
    assert world.delays[4:] == [1.0]


def test_the_bound_holds(world: World, supervise: Any) -> None:
    made = supervise(3)
    for number in range(3):
        world.kill(world.started[number])
        wait_until(lambda number=number: len(world.started) == number + 2 and runs(made))
    world.kill(world.started[3])
    made._watcher.join(PATIENCE)
    with pytest.raises(EngineDeadError, match=r"started again 3 times \(vllm_max_restarts\)"):
        made.current()
    assert (world.attempts, made.restarts) == (4, 3)
    assert not world.left


# --- close ---------------------------------------------------------------------------------------


def test_a_closed_one_says_so_and_twice_does_no_harm(world: World, supervise: Any) -> None:
    made = supervise(3)
    made.close()
    made.close()
    with pytest.raises(EngineClosedError):
        made.current()
    assert world.stopped == world.started
    assert not hasattr(made, "_started")


@pytest.mark.parametrize("ask", [Supervisor.current, Supervisor.load.fget], ids=["current", "load"])
def test_a_close_in_the_midst_of_a_question_waits_for_it(
    world: World, supervise: Any, ask: Callable[[Any], Any]
) -> None:
    made = supervise(0)
    closing = threading.Thread(target=made.close)

    class Asked(Supervisor):
        """Closed when it has just told that it can be used."""

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name == "_unusable" and closing.ident is None:
                closing.start()
                closing.join(0.1)
            return value

    made.__class__ = Asked
    ask(made)
    closing.join(PATIENCE)
    with pytest.raises(EngineClosedError):
        made.current()


def test_a_close_during_the_back_off_starts_nothing(
    world: World, supervise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hurried, "wait", lambda self, timeout: threading.Event.wait(self, 0.01)
                        if timeout < 1 else threading.Event.wait(self, 240))  # fmt: skip
    made = supervise(3)
    world.kill(world.started[0])
    wait_until(lambda: made.restarts == 1)
    made.close()  # does not wait for the end of the back-off, after which there would be a start
    assert world.attempts == 1
    with pytest.raises(EngineClosedError):
        made.current()


def test_a_close_during_a_restart_leaves_nothing(world: World, supervise: Any) -> None:
    made = supervise(3)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert_set(go_on)

    world.next.append(slow)
    world.kill(world.started[0])
    assert begun.wait(PATIENCE)
    closing = threading.Thread(target=made.close)
    closing.start()
    wait_until(lambda: made._closing.is_set())
    with pytest.raises(EngineClosedError):
        made.current()
    go_on.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert len(world.started) == 2
    assert not world.left


def test_closes_from_many_threads(world: World, supervise: Any) -> None:
    made = supervise(1)
    threads = [threading.Thread(target=made.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert world.stopped == world.started


@given(
    st.integers(0, 4),
    st.lists(st.sampled_from(["dies", "fails", "lives"]), max_size=6),
    st.integers(0, 30),
)
@settings(max_examples=40, deadline=None)
def test_nothing_is_left_and_the_bound_holds_whatever_happens(
    restarts: int, fates: list[str], milliseconds: int
) -> None:
    """Starts fail, engines die at birth, and a close comes at any time."""
    with pytest.MonkeyPatch.context() as patch:
        world = make_world(patch)

        def start(plan: EnginePlan, timeout: float, given_up: Any = None) -> RunningEngine:
            fate = fates[world.attempts - 1] if 0 < world.attempts <= len(fates) else "dies"
            if fate == "fails":
                world.next.append(fails)
            started = world.start(plan, timeout)
            if fate == "dies":
                world.kill(started)
            return started

        patch.setattr(supervisor, "start", start)
        patch.setattr(supervisor, "_CHECK_SECONDS", 0.05)
        made = Supervisor(PLAN, 5.0, restarts)
        time.sleep(milliseconds / 1000)
        made.close()
        assert not made._watcher.is_alive()
        assert world.attempts <= 1 + restarts
        assert not world.left
        with pytest.raises(EngineClosedError):
            made.current()
