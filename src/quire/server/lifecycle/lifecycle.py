"""The lifecycle of a served engine.

    loading ──► ready ──► draining ──► stopped
       │        │   ▲         ▲
       │        ▼   │         │ a signal, in any state
       │      restarting ─────┘
       ▼        ▼
      failed: the server ends with the error

Admission is open in `ready` alone. A request in flight when the engine dies, or when the drain's time
is over, ends with an error of its own, which its stream sends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil
from typing import Literal

from quire.adapters.folder import Adapter
from quire.chat.base_engine import BaseEngine
from quire.engines.seam import EngineLoad
from quire.errors import EngineClosedError, EngineDeadError, EngineError, QuireError
from quire.server.admission import Admission
from quire.server.arguments import ServerArguments
from quire.server.observability.log import EventLog, fault
from quire.server.service import Service
from quire.server.threads import in_thread

State = Literal["loading", "ready", "restarting", "draining", "stopped", "failed"]

_LOOK = 0.05  # seconds between two looks at whether the engine is loaded
_POLL = 0.25  # seconds between two health checks of an engine
_POLL_REMOTE = 2.0  # for a remote engine, whose health check is a request
_GRACE = 1.0  # seconds in which a dead engine may end its requests itself
_PROGRESS_EVERY = 5.0
_SEQUENCES = 256  # if the engine does not say how many it runs
BACKGROUND_PART = 64
"""The part of the engine's completions that batches may have. It is small, since each one makes every
step a little longer, and people's first tokens wait for steps."""


class Lifecycle:
    """Loads the engine, checks its health, restarts, drains and closes it.

    Args:
        service: gets the engine attached.
        make_engine: makes the engine; called in a thread.
        log: gets an event for each change of state.
        stop: ends the server; called after a drain or a failure.
        address: the server's address, for the log.
    """

    def __init__(
        self,
        service: Service,
        admission: Admission,
        make_engine: Callable[[], BaseEngine],
        log: EventLog,
        stop: Callable[[], None],
        address: str = "",
    ) -> None:
        self._service, self._admission, self._make_engine = service, admission, make_engine
        self._log, self._stop, self._address = log, stop, address
        self._arguments: ServerArguments = service.arguments
        self.state: State = "loading"
        self.failure: BaseException | None = None
        self._restarts = 0
        self._past_restarts = 0  # which engines before this one made by themselves
        self._drain_now = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        admission.close("The model is being loaded: try again soon.")

    def start(self) -> None:
        """Begin to load the engine, in the running loop."""
        self._tasks.append(asyncio.ensure_future(self._run()))

    async def loaded(self) -> None:
        """Wait until the engine is loaded.

        Raises:
            ModelError, EngineError: it could not be.
        """
        while self.state == "loading":
            await asyncio.sleep(_LOOK)
        if self.failure is not None:
            raise self.failure

    @property
    def restarts(self) -> int:
        """How often an engine was restarted, by the server or by itself."""
        own = self._service.engine.state.restarts if self._service.is_attached else 0
        return self._restarts + self._past_restarts + own

    def engine_load(self) -> EngineLoad | None:
        """The engine's own figures; None without an engine that has any."""
        return self._service.engine.state.load if self._service.is_attached else None

    async def close(self) -> None:
        """Close the engine and stop all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close_engine()
        if self.state != "failed":
            self._enter("stopped")

    # --- loading and health checks ---------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._load()
            while True:
                await self._until_dead()
                await self._recover()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.failure = error
            self._admission.close("The engine has failed for good.", None)
            self._admission.end_all(_as_engine_error(error))
            self._enter("failed", **fault(error))
            self._stop()

    async def _load(self, adapters: Sequence[Adapter] = ()) -> None:
        """Make an engine and serve it, with those of `adapters` that it does not have yet."""
        name = self._arguments.served_model_name
        self._log.event("loading", model=name, message="Loading the model.")
        progress = asyncio.ensure_future(self._log_progress())
        try:
            engine = await in_thread(self._make_engine, "quire-load")
        finally:
            progress.cancel()
        await _load_adapters(engine, adapters, self._log)
        self._service.attach(engine)
        sequences = engine.info.max_sequences or _SEQUENCES
        # A few more than the engine runs wait inside it, so that a finished one is replaced at once.
        self._admission.capacity = self._arguments.max_running or ceil(sequences * 9 / 8)
        share = ceil(sequences / BACKGROUND_PART)
        self._admission.background = self._arguments.max_batch_completions or share
        self._serve()

    async def _log_progress(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(_PROGRESS_EVERY)
            seconds = round(time.monotonic() - began)
            self._log.event("loading", seconds=seconds, message="Still loading.")

    def _serve(self) -> None:
        if self.state in ("draining", "stopped"):
            return
        self._admission.open()
        name, at = self._service.models.name, f" at {self._address}" if self._address else ""
        self._enter("ready", capacity=self._admission.capacity, message=f"Serving {name}{at}.")

    async def _until_dead(self) -> None:
        """Return when the engine has died; waiting requests end at once, running ones soon."""
        engine = self._service.engine
        while True:
            await asyncio.sleep(_POLL_REMOTE if engine.info.is_remote else _POLL)
            try:
                await engine.health()
            except EngineError as error:
                self._died(engine, error)
                return

    def _died(self, engine: BaseEngine, error: EngineError) -> None:
        self._admission.close("The engine has died and is being started again.", 10.0)
        self._admission.end_waiting(error)
        self._enter("restarting", **fault(error))
        if not engine.info.is_remote:  # a remote engine's requests may go on, and end by themselves
            self._tasks.append(asyncio.ensure_future(self._end_lost(time.monotonic(), error)))

    async def _end_lost(self, died: float, error: QuireError) -> None:
        """End the requests that the dead engine has not ended itself."""
        await asyncio.sleep(_GRACE)
        for ticket in self._admission.running_since(died):
            ticket.end(error)

    # --- restarting ------------------------------------------------------------------------------

    async def _recover(self) -> None:
        engine = self._service.engine
        while engine.state.recovers:
            await asyncio.sleep(_POLL_REMOTE if engine.info.is_remote else _POLL)
            with suppress(EngineError):
                await engine.health()
                self._serve()
                return
        await self._replace(engine)

    async def _replace(self, engine: BaseEngine) -> None:
        """Replace an engine that stays dead with a new one.

        Raises:
            EngineDeadError: after `max_restarts` restarts.
        """
        adapters = engine.adapters
        cause = await _cause(engine)
        await self._close_engine()
        self._past_restarts += engine.state.restarts
        while self._restarts + self._past_restarts < self._arguments.max_restarts:
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
            f"{cause} It was started again {self._restarts + self._past_restarts} times (max_restarts)."
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
        """Refuse new requests, wait for those in flight, and stop; a second call does not wait."""
        if self.state in ("draining", "stopped", "failed"):
            self._drain_now.set()
            return
        loading = self.state != "ready"
        self._admission.close("The server is shutting down.", 5.0)
        self._enter("draining", running=self._admission.running, waiting=self._admission.waiting)
        if loading:
            self._drain_now.set()
        self._tasks.append(asyncio.ensure_future(self._drain()))

    async def _drain(self) -> None:
        waits = [
            asyncio.ensure_future(self._admission.idle()),
            asyncio.ensure_future(self._drain_now.wait()),
        ]
        await asyncio.wait(
            waits, timeout=self._arguments.drain_timeout, return_when=asyncio.FIRST_COMPLETED
        )
        for wait in waits:
            wait.cancel()
        error = EngineClosedError("The server was shut down before the answer was complete.")
        self._admission.end_all(error)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._admission.idle(), 2.0)
        self._stop()

    def _enter(self, state: State, **fields: object) -> None:
        if self.state == "draining" and state in ("ready", "restarting", "loading"):
            return
        self.state = state
        level = "error" if state == "failed" else "warning" if state == "restarting" else "info"
        self._log.event(state, level, **fields)


async def _cause(engine: BaseEngine) -> str:
    try:
        await engine.health()
    except EngineError as error:
        return str(error)
    return "The engine has died."


def _as_engine_error(error: BaseException) -> QuireError:
    return error if isinstance(error, QuireError) else EngineDeadError("The engine has failed.")


async def _load_adapters(engine: BaseEngine, adapters: Sequence[Adapter], log: EventLog) -> None:
    """Load the adapters that the engine before served and this one does not have."""
    loaded = {adapter.name for adapter in engine.adapters}
    for adapter in adapters:
        if adapter.name not in loaded:
            try:
                await engine.load_adapter(adapter.path, adapter.name)
            except QuireError as error:
                log.event("adapter_lost", "error", adapter=adapter.name, **fault(error))
