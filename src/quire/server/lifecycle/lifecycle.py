"""The life of a served engine.

    loading ──► ready ──► draining ──► stopped
       │        │   ▲         ▲
       │        ▼   │         │ a signal, in any state
       │      restarting ─────┘
       ▼        ▼
      failed: the server ends with the error

The gate is open in `ready` alone. A request that is in when the engine dies, or when the time of the
drain is over, ends with an error of its own, which its stream tells.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil
from typing import Literal, TypeVar

from quire.adapters.folder import Adapter
from quire.chat.base_engine import BaseEngine
from quire.engines.seam import EngineLoad
from quire.errors import EngineClosedError, EngineDeadError, EngineError, QuireError
from quire.server.admission import Admission
from quire.server.arguments import ServerArguments
from quire.server.observability.log import EventLog, fault
from quire.server.service import Service

State = Literal["loading", "ready", "restarting", "draining", "stopped", "failed"]
T = TypeVar("T")

_LOOK_EVERY = 0.25  # seconds between two looks at an engine
_LOOK_ELSEWHERE = 2.0  # where looking asks another server
_GRACE = 1.0  # seconds in which requests of a dead engine learn of it from the engine itself
_PROGRESS_EVERY = 5.0
_SEQUENCES = 256  # where the engine does not say how many it runs


class Lifecycle:
    """Loads the engine, watches it, starts it again, drains and closes it.

    Args:
        service: what the engine is attached to.
        make_engine: makes it, in a thread.
        log: is told of each change.
        stop: ends the server; called at the end of a drain or after a failure.
        address: where it is served, to be told.
    """

    def __init__(
        self,
        service: Service,
        gate: Admission,
        make_engine: Callable[[], BaseEngine],
        log: EventLog,
        stop: Callable[[], None],
        address: str = "",
    ) -> None:
        self._service, self._gate, self._make_engine = service, gate, make_engine
        self._log, self._stop, self._address = log, stop, address
        self._arguments: ServerArguments = service.arguments
        self.state: State = "loading"
        self.failure: BaseException | None = None
        self._restarts = 0
        self._theirs = 0  # starts that engines before this one made by themselves
        self._hurry = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        gate.close("The model is being loaded: try again soon.")

    def start(self) -> None:
        """Begin to load, in the running loop."""
        self._tasks.append(asyncio.ensure_future(self._run()))

    @property
    def restarts(self) -> int:
        """How often an engine was started again."""
        own = self._service.engine.state.restarts if self._service.is_attached else 0
        return self._restarts + self._theirs + own

    def engine_load(self) -> EngineLoad | None:
        """What the engine tells of itself, if there is one that does."""
        return self._service.engine.state.load if self._service.is_attached else None

    async def close(self) -> None:
        """Free the engine."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close_engine()
        if self.state != "failed":
            self._enter("stopped")

    # --- loading and watching --------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._load()
            while True:
                await self._watch()
                await self._revive()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.failure = error
            self._gate.close("The engine has failed for good.", None)
            self._gate.end_all(_as_engine_error(error))
            self._enter("failed", **fault(error))
            self._stop()

    async def _load(self, adapters: Sequence[Adapter] = ()) -> None:
        """Make an engine and serve it; `adapters` are loaded if it does not have them."""
        name = self._arguments.served_model_name
        self._log.event("loading", model=name, message="Loading the model.")
        telling = asyncio.ensure_future(self._tell_progress())
        try:
            engine = await in_thread(self._make_engine)
        finally:
            telling.cancel()
        await _load_adapters(engine, adapters, self._log)
        self._service.attach(engine)
        sequences = engine.info.max_sequences or _SEQUENCES
        # A few more than the engine runs wait in it, so that each place is taken at once.
        self._gate.capacity = self._arguments.max_running or ceil(sequences * 9 / 8)
        self._serve()

    async def _tell_progress(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(_PROGRESS_EVERY)
            seconds = round(time.monotonic() - began)
            self._log.event("loading", seconds=seconds, message="Still loading.")

    def _serve(self) -> None:
        if self.state in ("draining", "stopped"):
            return
        self._gate.open()
        name, at = self._service.models.name, f" at {self._address}" if self._address else ""
        self._enter("ready", capacity=self._gate.capacity, message=f"Serving {name}{at}.")

    async def _watch(self) -> None:
        """Return when the engine has died; requests that wait end at once, the others soon."""
        engine = self._service.engine
        while True:
            await asyncio.sleep(_LOOK_ELSEWHERE if engine.info.is_remote else _LOOK_EVERY)
            try:
                await engine.health()
            except EngineError as error:
                self._died(engine, error)
                return

    def _died(self, engine: BaseEngine, error: EngineError) -> None:
        self._gate.close("The engine has died and is being started again.", 10.0)
        self._gate.end_waiting(error)
        self._enter("restarting", **fault(error))
        if not engine.info.is_remote:  # what runs on another machine may go on, and knows it
            self._tasks.append(asyncio.ensure_future(self._end_lost(time.monotonic(), error)))

    async def _end_lost(self, died: float, error: QuireError) -> None:
        """End those that the engine has not told."""
        await asyncio.sleep(_GRACE)
        for ticket in self._gate.running_since(died):
            ticket.end(error)

    # --- starting again --------------------------------------------------------------------------

    async def _revive(self) -> None:
        engine = self._service.engine
        while engine.state.recovers:
            await asyncio.sleep(_LOOK_ELSEWHERE if engine.info.is_remote else _LOOK_EVERY)
            with suppress(EngineError):
                await engine.health()
                self._serve()
                return
        await self._replace(engine)

    async def _replace(self, engine: BaseEngine) -> None:
        """Make a new engine in place of one that stays dead.

        Raises:
            EngineDeadError: it was started again as often as is allowed.
        """
        adapters = engine.adapters
        cause = await _cause(engine)
        await self._close_engine()
        self._theirs += engine.state.restarts
        while self._restarts + self._theirs < self._arguments.max_restarts:
            self._restarts += 1
            delay = 2.0 ** (self._restarts - 1)
            self._log.event("restart", "warning", number=self._restarts, delay=delay)
            await asyncio.sleep(delay)
            try:
                await self._load(adapters)
            except Exception as error:
                self._log.event("restart_failed", "error", **fault(error))
                continue
            return
        raise EngineDeadError(
            f"{cause} It was started again {self._restarts + self._theirs} times (max_restarts)."
        )

    async def _close_engine(self) -> None:
        if not self._service.is_attached:
            return
        engine = self._service.engine
        self._service.detach()
        try:
            await engine.close()
        except Exception as error:
            self._log.event("close_failed", "error", **fault(error))

    # --- draining --------------------------------------------------------------------------------

    def drain(self) -> None:
        """Let nobody in any more, wait for those who are in, and stop; again: wait no longer."""
        if self.state in ("draining", "stopped", "failed"):
            self._hurry.set()
            return
        loading = self.state != "ready"
        self._gate.close("The server is shutting down.", 5.0)
        self._enter("draining", running=self._gate.running, waiting=self._gate.waiting)
        if loading:
            self._hurry.set()
        self._tasks.append(asyncio.ensure_future(self._drain()))

    async def _drain(self) -> None:
        waits = [
            asyncio.ensure_future(self._gate.idle()),
            asyncio.ensure_future(self._hurry.wait()),
        ]
        await asyncio.wait(
            waits, timeout=self._arguments.drain_timeout, return_when=asyncio.FIRST_COMPLETED
        )
        for wait in waits:
            wait.cancel()
        self._gate.end_all(EngineClosedError("The server was shut down before the answer's end."))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._gate.idle(), 2.0)
        self._stop()

    def _enter(self, state: State, **fields: object) -> None:
        if self.state == "draining" and state in ("ready", "restarting", "loading"):
            return
        self.state = state
        level = "error" if state == "failed" else "warning" if state == "restarting" else "info"
        self._log.event(state, level, **fields)


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that ends with the process, so that it can be given up."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def post(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:
            failed = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(post, result, failed)

    threading.Thread(target=run, name="quire-load", daemon=True).start()
    return await done


async def _cause(engine: BaseEngine) -> str:
    try:
        await engine.health()
    except EngineError as error:
        return str(error)
    return "The engine has died."


def _as_engine_error(error: BaseException) -> QuireError:
    return error if isinstance(error, QuireError) else EngineDeadError("The engine has failed.")


async def _load_adapters(engine: BaseEngine, adapters: Sequence[Adapter], log: EventLog) -> None:
    """Load what was served before the engine was made again, and what it does not have."""
    there = {adapter.name for adapter in engine.adapters}
    for adapter in adapters:
        if adapter.name not in there:
            try:
                await engine.load_adapter(adapter.path, adapter.name)
            except QuireError as error:
                log.event("adapter_lost", "error", adapter=adapter.name, **fault(error))
