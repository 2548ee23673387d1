"""The engine that runs now: watched, and started again after a death where that is asked for."""

from __future__ import annotations

import logging
import threading

from quire.engines.seam import EngineLoad
from quire.engines.vllm.launch import Started, start, stop, stop_dead
from quire.engines.vllm.log import LogReader, hint
from quire.engines.vllm.plan import Plan
from quire.errors import EngineClosedError, EngineDeadError, EngineError, sentence

logger = logging.getLogger("quire")

_LOOK_EVERY = 0.25
"""Seconds between two looks at the engine's processes."""

_GONE = "vLLM's engine has died."


class Supervisor:
    """Holds the running engine. `current` may be called from any thread.

    Args:
        plan: what to start.
        timeout: seconds that a start may take.
        max_restarts: how often a dead engine is started again, in all; with a back-off that doubles
            from one second.

    Raises, when made:
        ConfigError, EngineStartError, OutOfMemoryError: see `launch.start`.
    """

    def __init__(self, plan: Plan, timeout: float, max_restarts: int) -> None:
        self._plan, self._timeout, self._max_restarts = plan, timeout, max_restarts
        self.restarts = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._unusable: EngineError | None = None
        self._started = start(plan, timeout)
        self._log = LogReader()
        self._cause: str | None = None
        self._watcher = threading.Thread(target=self._watch, name="quire-vllm-watch", daemon=True)
        self._watcher.start()

    def current(self) -> Started:
        """The running engine.

        Raises:
            EngineClosedError, EngineDeadError: there is none.
        """
        unusable = self._unusable
        if unusable is not None:
            raise unusable
        started = self._started
        if _is_dead(started):
            raise self._died()
        return started

    @property
    def load(self) -> EngineLoad | None:
        """What the running engine tells of itself, if there is one."""
        started = None if self._unusable is not None else self._started
        return None if started is None or _is_dead(started) else started.load

    @property
    def is_watching(self) -> bool:
        """Whether a dead engine is, or will be, started again; False once that is given up."""
        return self._watcher.is_alive() and self._max_restarts > 0

    def close(self) -> None:
        """End the engine and its processes; twice does no harm."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            self._unusable = EngineClosedError("The engine was closed.")
        if threading.current_thread() is not self._watcher:
            self._watcher.join()
        stop(self._started)
        del self._started  # the last reference: vLLM frees what it holds

    # --- in the watcher's thread -----------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closing.wait(_LOOK_EVERY):
            if not _is_dead(self._started):
                continue
            self._cause = self._log.cause()
            self._set_unusable(self._died())
            stop_dead(self._started)
            if not self._restart():
                return

    def _restart(self) -> bool:
        """Start again until it succeeds; False when there are no more tries."""
        delay = 1.0
        while self.restarts < self._max_restarts:
            self.restarts += 1
            logger.warning(
                "vLLM's engine has died; starting it again (%d of %d) in %.0f s.",
                self.restarts, self._max_restarts, delay,
            )  # fmt: skip
            if self._closing.wait(delay):
                return False
            delay *= 2
            try:
                started = start(self._plan, self._timeout, self._closing)
            except Exception as error:  # whatever it is, the watch goes on
                logger.error("vLLM could not be started again: %s", error)
                continue
            return self._take(started)
        self._set_unusable(EngineDeadError(self._gone()))
        return False

    def _take(self, started: Started) -> bool:
        with self._lock:
            if not self._closing.is_set():
                self._started, self._unusable = started, None
                self._log, self._cause = LogReader(), None
                logger.info("vLLM's engine runs again.")
                return True
        stop(started)
        return False

    def _set_unusable(self, error: EngineError) -> None:
        with self._lock:
            if not self._closing.is_set():
                self._unusable = error

    def _died(self) -> EngineDeadError:
        if self.restarts < self._max_restarts:
            return EngineDeadError("vLLM's engine has died and is being started again.")
        return EngineDeadError(self._gone())

    def _gone(self) -> str:
        cause = "." if self._cause is None else sentence(f": {self._cause}")
        tried = (
            f"It was started again {self.restarts} times (vllm_max_restarts)."
            if self._max_restarts
            else "Set vllm_max_restarts to have it started again by itself."
        )
        return f"vLLM's engine has died{cause} {tried}{hint()}"


def _is_dead(started: Started) -> bool:
    """Whether vLLM says so, or its first process is gone."""
    if started.engine.errored:
        return True
    return bool(started.processes) and not _runs(started)


def _runs(started: Started) -> bool:
    import psutil

    try:
        return started.processes[0].status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
