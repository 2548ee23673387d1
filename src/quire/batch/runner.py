"""Runs a batch: rows are read and prepared ahead, the engine is kept full, every row gets its record."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

from quire.batch.answering import Answerer, Prepared, error_of
from quire.batch.feed import Feed, Place, arrange
from quire.batch.journal import Record
from quire.batch.rows import Row, RowError
from quire.errors import (
    BatchError,
    EngineBusyError,
    EngineClosedError,
    EngineDeadError,
    GenerationError,
    QuireError,
    sentence,
)

logger = logging.getLogger("quire")

FIRST_WINDOW = 32
"""Rows of the first window, so that the engine does not wait for a large one."""
PREPARING = 8
"""Rows that are prepared at once."""
BUSY = 0.5  # seconds until a row is asked again that the engine had no room for
ENOUGH = 100
"""Rows after which the share of failures counts."""
PARTS = 4
"""Parts into which rows are split of which one may have killed the engine."""

Ending: TypeAlias = Literal["finished", "drained", "stopped"]


@dataclass(slots=True)
class Progress:
    """The figures of a run so far. Rows of earlier runs are in `before`."""

    total: int | None = None
    before: int = 0
    done: int = 0
    failed: int = 0
    in_flight: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0
    cut: int = 0
    ended_by_length: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, record: Record) -> None:
        """Count a row that has come to its end."""
        self.done += 1
        self.failed += record.failed
        self.tokens_in += record.tokens_in
        self.tokens_out += record.tokens_out
        self.cached += record.cached
        self.cut += record.cut
        self.ended_by_length += record.ended_by_length


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, and when a batch gives up; see `BatchArguments`."""

    window: int = 1024
    in_flight: int = 256
    stop_after_failures: int = 20
    max_failure_rate: float = 1.0
    max_engine_restarts: int = 10


Restart: TypeAlias = Callable[[], Awaitable[Answerer]]
"""Brings a dead engine back, or a new one in its place."""


Turn: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]


class BatchRunner:
    """Runs the rows of one job on one engine. Use it once."""

    def __init__(
        self,
        rows: Iterator[Row],
        answerer: Answerer,
        put: Callable[[Record], None],
        limits: Limits,
        progress: Progress,
        *,
        restart: Restart | None = None,
        turn: Turn = nullcontext,
    ) -> None:
        """Make a runner.

        Args:
            rows: those that have no record yet; they are read in threads, one at a time.
            put: takes each record; it may wait, and raise to end the run.
            restart: without it, a dead engine ends the run.
            turn: waits until there is room for one more row, which it holds while one is answered.
        """
        self._rows, self._answerer, self._put = rows, answerer, put
        self._limits, self.progress, self._restart = limits, progress, restart
        self._turn = turn
        self._feed = Feed(limits.in_flight)
        self._next: list[Row] = []
        self._taken = 0  # rows that were read
        self._suspects: list[Prepared] = []  # rows in flight when the engine died
        # Whether all of the first rows may still fail, which of them have not ended, and their number.
        self._first_fail = bool(limits.stop_after_failures) and not progress.before
        self._first: set[int] = set()
        self._counted = 0
        self._healthy = asyncio.Event()
        self._healthy.set()
        self._idle = asyncio.Event()  # no row is in flight
        self._idle.set()
        self._recovery: asyncio.Task[None] | None = None
        self._restarts = 0
        self._draining = False
        self._asked_to_drain: tuple[float | None] | None = None
        self._given_up = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> Ending:
        """Answer all rows.

        Raises:
            BatchError: too many rows fail, or the writer does.
            EngineError: the engine died and could not be brought back.
        """
        self._loop = asyncio.get_running_loop()
        if self._asked_to_drain is not None:  # before there was a loop
            self._drain(*self._asked_to_drain)
        workers = [asyncio.create_task(self._work()) for _ in range(self._limits.in_flight)]
        tasks = [asyncio.create_task(self._produce()), *workers]
        given_up = asyncio.create_task(self._given_up.wait())
        try:
            await self._until_ended(tasks, given_up)
        finally:
            ended: list[asyncio.Task[Any]] = [*tasks, given_up]
            ended += filter(None, [self._recovery])
            for task in ended:
                task.cancel()
            await asyncio.gather(*ended, return_exceptions=True)
        if self._draining:
            return "drained"
        if self.progress.done != self._taken:
            raise BatchError(
                f"{self._taken - self.progress.done} rows have come to no end: this is a fault of quire. "
                "The same command asks them again."
            )
        return "finished"

    async def _until_ended(
        self, tasks: Sequence[asyncio.Task[None]], given_up: asyncio.Task[Any]
    ) -> None:
        """Wait for the end of all tasks, of the patience, or for the first failure, which is raised."""
        left: set[asyncio.Task[Any]] = {*tasks}
        recovery: asyncio.Task[None] | None = None
        while not given_up.done():
            if self._recovery is not recovery:
                recovery = self._recovery
                left.update(filter(None, [recovery]))
            if not left:
                break
            done, _ = await asyncio.wait(
                {*left, given_up}, timeout=1, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {given_up}:
                task.result()
            left -= done

    def drain(self, *, patience: float | None = None) -> None:
        """Begin no more rows, and end once those in flight have ended. Any thread may call it.

        Args:
            patience: seconds after which those in flight are given up too; they have no record, and
                are asked again by the next run.
        """
        self._asked_to_drain = (patience,)
        if self._loop is not None:
            with suppress(RuntimeError):  # the run has ended, and its loop is closed
                self._loop.call_soon_threadsafe(self._drain, patience)

    def _drain(self, patience: float | None) -> None:
        assert self._loop is not None
        self._draining = True
        self._feed.clear()
        if patience is not None:
            self._loop.call_later(patience, self._given_up.set)

    # --- reading and preparing -------------------------------------------------------------------

    async def _produce(self) -> None:
        size = min(FIRST_WINDOW, self._limits.window)
        reading = asyncio.create_task(asyncio.to_thread(self._take, size))
        try:
            while not self._draining:
                window, is_last = await reading
                size = min(2 * size, self._limits.window)
                if not is_last:
                    reading = asyncio.create_task(asyncio.to_thread(self._take, size))
                for place in arrange(await self._prepare(window), is_last=is_last):
                    await self._feed.put(place)
                if is_last:
                    self.progress.total = self.progress.before + self._taken
                    break
        finally:
            self._feed.close()
            # A thread that reads cannot be cancelled: it is waited for, since it uses the journal.
            await asyncio.gather(reading, return_exceptions=True)

    def _take(self, size: int) -> tuple[list[Row], bool]:
        """The next rows, and whether they are the last ones."""
        rows = [*self._next, *itertools.islice(self._rows, size - len(self._next))]
        self._taken += len(rows) - len(self._next)
        if self._first_fail and self._counted < self._limits.stop_after_failures:
            first = rows[: self._limits.stop_after_failures - self._counted]
            self._first.update(row.index for row in first)
            self._counted += len(first)
        self._next = list(itertools.islice(self._rows, 1))
        self._taken += len(self._next)
        return rows, not self._next

    async def _prepare(self, window: Sequence[Row]) -> list[Prepared]:
        """Prepare rows, and record those that cannot be asked."""
        free = asyncio.Semaphore(PREPARING)

        async def prepare(row: Row) -> Prepared | None:
            async with free:
                return await self._prepare_one(row)

        return [one for one in await asyncio.gather(*map(prepare, window)) if one is not None]

    async def _prepare_one(self, row: Row) -> Prepared | None:
        """A row made ready; None where it was recorded as failed."""
        if row.error is not None:
            self._record(self._answerer.failed(row, row.error))
            return None
        while True:
            answerer = self._answerer
            try:
                return await answerer.prepare(row)
            except (EngineClosedError, EngineDeadError):
                await self._healthy.wait()
                if answerer is self._answerer:
                    raise
            except QuireError as error:
                self._record(answerer.failed(row, error_of(error, "prepare")))
                return None

    # --- answering -------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            async with self._turn():
                place = await self._feed.take()
                if place is None:
                    return
                await self._answer_at(place)

    async def _answer_at(self, place: Place) -> None:
        await self._healthy.wait()  # the engine may have died while there was nothing to take
        started = partial(self._feed.release, place) if place.followers else None
        self._begin()
        try:
            await self._answer(place.prepared, started)
        except EngineDeadError as error:
            self._suspects.append(place.prepared)
            self._died(error)
        finally:
            self._feed.release(place)
            self._end()

    def _begin(self) -> None:
        self.progress.in_flight += 1
        self._idle.clear()

    def _end(self) -> None:
        self.progress.in_flight -= 1
        if not self.progress.in_flight:
            self._idle.set()

    async def _answer(self, prepared: Prepared, started: Callable[[], None] | None = None) -> None:
        """Answer a row and record it. Faults of its own are recorded too.

        Raises:
            EngineDeadError, EngineClosedError: the engine can answer none.
        """
        for tries_left in (1, 0):
            try:
                record = await self._ask(prepared, started)
            except (EngineDeadError, EngineClosedError):
                raise
            except GenerationError as error:  # a fault in a step, which may be another row's
                if tries_left:
                    continue
                record = self._answerer.failed(prepared.row, error_of(error, "generate"))
            except QuireError as error:
                record = self._answerer.failed(prepared.row, error_of(error, "generate"))
            self._record(record)
            return

    async def _ask(self, prepared: Prepared, started: Callable[[], None] | None) -> Record:
        while True:
            try:
                return await self._answerer.answer(prepared, started)
            except EngineBusyError:
                await asyncio.sleep(BUSY)

    def _record(self, record: Record) -> None:
        self._put(record)
        progress, limits = self.progress, self._limits
        progress.add(record)
        if record.error is None:
            self._first_fail = self._first_fail and record.index not in self._first
            return
        self._first.discard(record.index)
        if self._first_fail and not self._first and self._counted == limits.stop_after_failures:
            raise BatchError(
                f"The first {limits.stop_after_failures} rows all failed, the last one with: {_told(record)} Mend "
                "this and start the batch again with retry_failed=true, or go on in any case with "
                "stop_after_failures=0."
            )
        share = progress.failed / progress.done
        if progress.done >= ENOUGH and share > limits.max_failure_rate:
            raise BatchError(
                f"{progress.failed:,} of {progress.done:,} rows have failed, a larger share than "
                f"max_failure_rate ({limits.max_failure_rate:g}); the last one with: {_told(record)}"
            )

    # --- an engine that dies ---------------------------------------------------------------------

    def _died(self, error: EngineDeadError) -> None:
        """Stop asking, and bring the engine back once all rows in flight have failed with it."""
        if self._healthy.is_set():
            self._healthy.clear()
            self._recovery = asyncio.create_task(self._recover(error))

    async def _recover(self, error: EngineDeadError) -> None:
        await self._idle.wait()
        await self._bring_back(error)
        suspects, self._suspects = self._suspects, []
        # One of them may have killed it. They are asked again in parts, with nothing else in flight,
        # so that the one is found, and nobody else is taken for it.
        parts = _split(suspects)
        while parts and not self._draining:
            part = parts.pop()
            died = await self._try_again(part)
            if died:
                await self._bring_back(error)
                if len(part) == 1:
                    told = RowError(
                        "engine", f"The engine died twice of this row: {error}", "engine_died"
                    )
                    self._record(self._answerer.failed(part[0].row, told))
                else:
                    parts += _split(died)
        self._healthy.set()

    async def _try_again(self, part: Sequence[Prepared]) -> list[Prepared]:
        """Ask rows again; returns those in flight when the engine died, if it did."""
        died: list[Prepared] = []

        async def ask(prepared: Prepared) -> None:
            try:
                await self._answer(prepared)
            except EngineDeadError:
                died.append(prepared)

        self.progress.in_flight += len(part)
        try:
            await asyncio.gather(*map(ask, part))
        finally:
            self.progress.in_flight -= len(part)
        return died

    async def _bring_back(self, error: EngineDeadError) -> None:
        """Start the engine again.

        Raises:
            EngineDeadError: it has died too often, or cannot be started again.
        """
        self._restarts += 1
        if self._restart is None or self._restarts > self._limits.max_engine_restarts:
            raise error
        logger.warning("The engine died, and is started again (%s).", error)
        self._answerer = await self._restart()


def _split(rows: list[Prepared]) -> list[list[Prepared]]:
    """Rows in `PARTS` parts of about one size."""
    size = -(-len(rows) // PARTS) or 1
    return [rows[index : index + size] for index in range(0, len(rows), size)]


def _told(record: Record) -> str:
    return sentence(record.message)
