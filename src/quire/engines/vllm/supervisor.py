"""Supervision of vLLM's engine: a thread watches its processes, and restarts it if it dies."""

from __future__ import annotations

import logging
import threading

from quire.engines.seam import EngineLoad
from quire.engines.vllm.launch import RunningEngine, start, stop, stop_dead
from quire.engines.vllm.log import LogReader, hint
from quire.engines.vllm.plan import EnginePlan
from quire.errors import EngineClosedError, EngineDeadError, EngineError, sentence

logger = logging.getLogger("quire")

_CHECK_SECONDS = 0.25
"""Time between two checks of the engine's processes."""


class Supervisor:
    """Starts an engine and holds it. `current` may be called from any thread.

    Args:
        plan: what to start.
        timeout: seconds that a start may take.
        max_restarts: how often a dead engine is restarted, in all. The delay before each restart
            doubles, from one second.

    Raises:
        ConfigError, EngineStartError, OutOfMemoryError: see `launch.start`.
    """

    def __init__(self, plan: EnginePlan, timeout: float, max_restarts: int) -> None:
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

    def current(self) -> RunningEngine:
        """The running engine.

        Raises:
            EngineClosedError: `close` was called.
            EngineDeadError: the engine has died, whether or not it is being restarted.
        """
        with self._lock:  # what is closed has no engine any more
            if self._unusable is not None:
                raise self._unusable
            started = self._started
        if started.is_dead:
            raise self._died()
        return started

    @property
    def load(self) -> EngineLoad | None:
        """The load of the running engine; None where there is none."""
        with self._lock:
            started = None if self._unusable is not None else self._started
        return None if started is None or started.is_dead else started.load

    @property
    def is_watching(self) -> bool:
        """Whether a dead engine is, or will be, restarted; False once that is given up."""
        return self._watcher.is_alive() and self._max_restarts > 0

    def close(self) -> None:
        """End the engine and its processes. May be called twice."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            self._unusable = EngineClosedError("The engine was closed.")
        if threading.current_thread() is not self._watcher:
            self._watcher.join()
        stop(self._started)
        del self._started  # the last reference to AsyncLLM, whose memory is freed with it

    # --- in the watcher's thread -----------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closing.wait(_CHECK_SECONDS):
            if not self._started.is_dead:
                continue
            self._cause = self._log.cause()
            # First, so that no request is submitted to the engine while it is being stopped.
            self._set_unusable(self._died())
            stop_dead(self._started)
            if not self._restart():
                return

    def _restart(self) -> bool:
        """Restart until it succeeds; return False when no tries are left or `close` was called."""
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
            except Exception as error:  # the watcher thread must not end while tries are left
                logger.error("vLLM could not be started again: %s", error)
                continue
            return self._take(started)
        self._set_unusable(EngineDeadError(self._gone()))
        return False

    def _take(self, started: RunningEngine) -> bool:
        """Serve a restarted engine; stop it and return False if `close` was called meanwhile."""
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
