"""Where a running server's gauges come from."""

from __future__ import annotations

from quire.engines.seam import EngineLoad
from quire.server.admission import Admission
from quire.server.life import Life
from quire.server.log import EventLog


class LiveSource:
    """The state of a server at this moment; see `metrics.Source`."""

    def __init__(self, life: Life, gate: Admission, log: EventLog) -> None:
        self._life, self._gate, self._log = life, gate, log

    def load(self) -> EngineLoad | None:
        """What the engine knows of itself."""
        return self._life.engine_load()

    def state(self) -> str:
        """The server's state."""
        return self._life.state

    def counts(self) -> dict[str, float]:
        """Counts of the gate, the log and the engine's life."""
        return {
            "running": self._gate.running_completions,
            "waiting": self._gate.waiting,
            "refused": self._gate.refused,
            "dropped": self._log.dropped,
            "restarts": self._life.restarts,
        }
