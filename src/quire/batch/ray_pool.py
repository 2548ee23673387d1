"""The actors of a batch on Ray: made, filled evenly, made again where they die, more or fewer by need."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from quire.batch.ray_actor import ActorOrder, Loaded, ModelActor, Outcome
from quire.batch.rows import Row
from quire.errors import EngineDeadError, EngineStartError, QuireError

logger = logging.getLogger("quire")

UNKNOWN_SEQUENCES = 32
"""Rows that an engine runs at once, where it does not say."""
MANY_CALLS = 4096  # of one actor at once, beyond all rows that it is ever given
LOOK_EVERY = 1.0  # seconds between two looks at whether actors are missing, or idle
IDLE = 30.0  # seconds without a row after which an actor is given back
PAUSE = 2.0  # seconds until an actor is made again that could not be loaded
CLOSING = 15.0  # seconds in which an engine may end its processes


@dataclass(frozen=True, slots=True)
class ActorNeeds:
    """What Ray reserves for an actor, on one node."""

    cpus: int
    gpus: int = 0

    def __str__(self) -> str:
        return f"{self.cpus} CPUs" + (f" and {self.gpus} GPUs" if self.gpus else "")


class ActorLost(Exception):
    """An actor, its engine or its node has died while a row was there."""


@dataclass(eq=False, slots=True)
class PooledActor:
    """An actor as the driver knows it."""

    handle: Any
    node: str = ""
    slots: int = 0
    """Rows that it is given at once."""
    in_flight: int = 0
    is_alone: bool = False
    """Whether it is kept for one row, which may be a deadly one."""
    is_alive: bool = True
    keeper: asyncio.Task[None] | None = None
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def has_room(self) -> bool:
        """Whether it takes a row."""
        return self.is_alive and not self.is_alone and self.in_flight < self.slots


class ActorPool:
    """The actors of one run, used in one event loop; `close` ends them."""

    def __init__(
        self,
        order: ActorOrder,
        needs: ActorNeeds,
        bounds: tuple[int, int],
        *,
        slots: int | None = None,
        max_deaths: int = 10,
        patience: float = 300.0,
    ) -> None:
        """Make a pool without actors.

        Args:
            bounds: the fewest and the most actors.
            slots: rows that an actor is given at once; None takes what keeps its engine full.
            max_deaths: how many actors may die, of other reasons than their node's end.
            patience: seconds after which it is an error that the cluster has room for no actor.
        """
        self._order, self._needs = order, needs
        self._least, self._most = bounds
        self._slots, self._max_deaths, self._patience = slots, max_deaths, patience
        self._actors: list[PooledActor] = []  # those whose engine is loaded
        self._keepers: set[asyncio.Task[None]] = set()
        self._deaths = 0
        self._has_begun = asyncio.Event()  # an actor has been loaded, or the pool has failed
        self._failure: QuireError | None = None
        self._changed = asyncio.Event()
        self._turns: deque[asyncio.Future[None]] = deque()
        self._held = 0  # turns that were taken
        self._alone = asyncio.Lock()
        self._scaling: asyncio.Task[None] | None = None

    # --- beginning and end -----------------------------------------------------------------------

    async def start(self, count: int) -> int:
        """Make `count` actors, within the bounds, and wait for the first one.

        Returns:
            How many rows an actor is given at once.

        Raises:
            ModelError, EngineError: its model cannot be loaded, or the cluster has no room.
        """
        for _ in range(min(max(count, self._least), self._most)):
            self._add()
        self._scaling = asyncio.create_task(self._scale())
        await self._has_begun.wait()
        if self._failure is not None:
            raise self._failure
        return self._actors[0].slots if self._actors else UNKNOWN_SEQUENCES

    async def close(self) -> None:
        """End all actors."""
        tasks = [*self._keepers, *filter(None, [self._scaling])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- rows ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait until an actor has room for one more row.

        Raises:
            EngineDeadError: no actor can answer any more.
        """
        self._check()
        while self._held >= self._room():
            turn = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            await turn
            self._check()
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self._tell()

    def _room(self) -> int:
        return sum(one.slots for one in self._actors if one.is_alive)

    async def answer(self, row: Row, started: Callable[[], None] | None) -> Outcome:
        """Let the least loaded actor answer a row.

        Raises:
            ActorLost: it has died.
            EngineDeadError: no actor can answer any more.
        """
        self._check()
        while not (free := [one for one in self._actors if one.has_room]):
            await self._change()
        return await self._ask(min(free, key=lambda one: one.in_flight), row, started)

    async def answer_alone(self, row: Row) -> Outcome:
        """Let an actor answer a row with nothing else in flight there; raises as `answer`."""
        async with self._alone:
            while not (free := [one for one in self._actors if one.is_alive]):
                await self._change()
            actor = min(free, key=lambda one: one.in_flight)
            actor.is_alone = True
            try:
                while actor.in_flight and actor.is_alive:
                    await self._change()
                return await self._ask(actor, row, None)
            finally:
                actor.is_alone = False
                self._tell()

    async def _ask(
        self, actor: PooledActor, row: Row, started: Callable[[], None] | None
    ) -> Outcome:
        from ray.exceptions import RayError, RayTaskError

        actor.in_flight += 1
        try:
            outcome = await _outcome(actor.handle, row, started)
        except RayTaskError:  # a fault of quire's own, in that process
            raise
        except RayError as error:
            self._lose(actor)
            raise ActorLost(_first_line(error)) from error
        finally:
            actor.in_flight -= 1
            actor.idle_since = time.monotonic()
            self._tell()
        if isinstance(outcome, EngineDeadError):
            self._lose(actor)
            raise ActorLost(str(outcome))
        return outcome

    def _lose(self, actor: PooledActor) -> None:
        """Give an actor no more rows; its keeper makes another one."""
        import ray

        if actor.is_alive:
            actor.is_alive = False
            ray.kill(actor.handle)

    # --- changes ---------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Let all who wait look again."""
        event, self._changed = self._changed, asyncio.Event()
        event.set()
        free = self._room() - self._held
        while self._turns and (free > 0 or self._failure is not None):
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1

    async def _change(self) -> None:
        await self._changed.wait()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise EngineDeadError(str(self._failure)) from self._failure

    def _fail(self, error: QuireError) -> None:
        self._failure = self._failure or error
        self._has_begun.set()
        self._tell()

    # --- actors ----------------------------------------------------------------------------------

    def _add(self) -> None:
        keeper = asyncio.create_task(self._keep())
        self._keepers.add(keeper)
        keeper.add_done_callback(self._kept)

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        self._keepers.discard(keeper)
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            told = error if isinstance(error, QuireError) else EngineDeadError(_first_line(error))
            self._fail(told)

    async def _keep(self) -> None:
        """Have one actor, and another one where it dies.

        Raises:
            ModelError, EngineError: no actor can be had.
        """
        while True:
            actor = PooledActor(self._make(), keeper=asyncio.current_task())
            try:
                await self._load(actor)
                if not actor.slots and self._actors:
                    self._most -= 1  # the batch goes on with those that it has
                    return
                if actor.slots:
                    await self._until_dead(actor)
            finally:
                await self._end(actor)

    def _make(self) -> Any:
        import ray

        needs = self._needs
        options: Any = {
            "num_cpus": needs.cpus,
            "num_gpus": needs.gpus,
            "max_concurrency": MANY_CALLS,
            # Rows and actors are tried again here, where it is known which row was where.
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        return ray.remote(ModelActor).options(**options).remote(self._order)

    async def _load(self, actor: PooledActor) -> None:
        """Wait for an actor's place and its model. An actor that cannot be loaded gets no slots.

        Raises:
            ModelError, EngineError: see `_count_death`.
        """
        from ray.exceptions import RayError, RayTaskError

        try:
            actor.node = await self._placed(actor.handle)
            loaded: Loaded | QuireError = await actor.handle.load.remote()
        except RayTaskError:
            raise
        except RayError as error:
            loaded = EngineDeadError(_first_line(error))
        if isinstance(loaded, QuireError):
            await self._count_death(actor, loaded)
            logger.warning("An engine on Ray could not be loaded: %s", loaded)
            await asyncio.sleep(PAUSE)
            return
        actor.slots = self._slots or 2 * (loaded.max_sequences or UNKNOWN_SEQUENCES)
        actor.idle_since = time.monotonic()
        self._actors.append(actor)
        self._has_begun.set()
        self._tell()

    async def _placed(self, handle: Any) -> str:
        """The node on which Ray has put an actor, which may first have to be started."""
        placing = asyncio.ensure_future(handle.place.remote())
        try:
            while not placing.done():
                done, _ = await asyncio.wait([placing], timeout=self._patience)
                if not (done or self._actors):
                    raise EngineStartError(
                        f"In {self._patience:g} s the cluster had no room for an engine, which needs "
                        f"{self._needs} on one node. `ray status` shows what it has."
                    )
            return placing.result()
        finally:
            placing.cancel()

    async def _until_dead(self, actor: PooledActor) -> None:
        from ray.exceptions import RayError

        try:
            await actor.handle.live.remote()
        except RayError as error:
            actor.is_alive = False
            died = EngineDeadError(f"An engine on Ray has died: {_first_line(error)}")
            await self._count_death(actor, died)
            logger.warning("%s It is made anew.", died)

    async def _count_death(self, actor: PooledActor, error: QuireError) -> None:
        """Count an actor's death, unless its node has gone, which is no fault of the engine.

        Raises:
            QuireError: the error, where no engine has ever been there, or too many have died.
        """
        if not self._has_begun.is_set() and not isinstance(error, EngineDeadError):
            raise error
        if actor.node and not await asyncio.to_thread(_is_alive, actor.node):
            return
        self._deaths += 1
        if self._deaths > self._max_deaths:
            raise error

    async def _end(self, actor: PooledActor) -> None:
        """End an actor, and the processes of its engine."""
        import ray
        from ray.exceptions import RayError

        if actor in self._actors:
            self._actors.remove(actor)
        with suppress(RayError, TimeoutError):
            if actor.is_alive and actor.slots:
                await asyncio.wait_for(actor.handle.close.remote(), CLOSING)
        actor.is_alive = False
        ray.kill(actor.handle)

    # --- as many as are needed -------------------------------------------------------------------

    async def _scale(self) -> None:
        """Add actors while all are full, and give back those that have nothing to do."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            actors = self._actors
            starting = len(self._keepers) - len(actors)
            if actors and not starting and not any(one.has_room for one in actors):
                for _ in range(min(len(actors), self._most - len(self._keepers))):
                    self._add()
            before = time.monotonic() - IDLE
            idle = [one for one in actors if not one.in_flight and one.idle_since < before]
            for actor in idle[: max(0, len(self._keepers) - self._least)]:
                actors.remove(actor)
                if actor.keeper is not None:
                    actor.keeper.cancel()


async def _outcome(handle: Any, row: Row, started: Callable[[], None] | None) -> Outcome:
    if started is None:
        return await handle.answer.remote(row)
    async for reference in handle.answer_streamed.options(num_returns="streaming").remote(row):
        outcome = await reference
        if outcome is not None:
            return outcome
        started()
    raise ActorLost("The answer ended before its end.")


def _is_alive(node: str) -> bool:
    import ray

    return any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
