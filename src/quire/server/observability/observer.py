"""The observation of each request: counted for metrics, logged, and traced."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from quire.outputs import Delta
from quire.server.call import Caller
from quire.server.errors import problem_of
from quire.server.observability.metrics import RequestMetrics
from quire.server.observability.request_log import CURRENT, RequestRecord
from quire.server.service import Kind

if TYPE_CHECKING:
    from quire.server.observability.tracing import Tracer


class RequestObserver:
    """Makes an observation for each request; used as `Service.observe`."""

    def __init__(self, metrics: RequestMetrics, tracer: Tracer | None = None) -> None:
        self._metrics, self._tracer = metrics, tracer

    def __call__(self, kind: Kind, caller: Caller, count: int) -> RequestObservation:
        """Begin the observation of a request."""
        self._metrics.completions.add(count)
        times = RequestMetrics() if caller.background else self._metrics
        return RequestObservation(self._metrics, times, self._tracer, kind, count)


class RequestObservation:
    """One request in flight. Times are seconds of the monotonic clock."""

    __slots__ = (
        "_admitted", "_began", "_count", "_ended", "_first", "_generated", "_kind", "_last", "_metrics",
        "_prompt", "_reasons", "_record", "_times", "_tracer", "_wall",
    )  # fmt: skip

    def __init__(
        self,
        metrics: RequestMetrics,
        times: RequestMetrics,
        tracer: Tracer | None,
        kind: Kind,
        count: int,
    ) -> None:
        """`times` are told how long it took: nobody's, of a request for which nobody waits."""
        self._metrics, self._times, self._tracer = metrics, times, tracer
        self._kind, self._count = kind, count
        self._began = time.monotonic()
        self._wall = time.time_ns()
        self._admitted = self._first = 0.0
        self._last: dict[int, float] = {}
        self._generated: dict[int, int] = {}
        self._prompt: int | None = None
        self._reasons: list[str] = []
        self._record: RequestRecord | None = CURRENT.get()
        self._ended = False

    def admitted(self) -> None:
        """The request has left the queue."""
        self._admitted = time.monotonic()
        self._times.queue.add(self._admitted - self._began)

    def delta(self, delta: Delta) -> None:
        """One completion gained tokens or has finished."""
        index, count = delta.index, len(delta.token_ids)
        if count:
            # An answer in one delta does not reveal when its first token was generated.
            self._tokens(index, count, whole=count > 1 and delta.finish_reason is not None)
        if delta.finish_reason is not None:
            self._finish(delta)

    def _tokens(self, index: int, count: int, *, whole: bool) -> None:
        now, times = time.monotonic(), self._times
        self._metrics.generated_tokens += count
        self._generated[index] = self._generated.get(index, 0) + count
        last = self._last.get(index)
        self._last[index] = now
        if whole and last is None:
            return
        if not self._first:
            self._first = now
            times.first_token.add(now - self._began)
        elif last is not None:
            times.between_tokens.add((now - last) / count, count)

    def _finish(self, delta: Delta) -> None:
        metrics, generated = self._metrics, self._generated.get(delta.index, 0)
        reason = delta.finish_reason or "stop"
        self._reasons.append(reason)
        metrics.finished[reason] += 1
        metrics.generation.add(generated)
        usage = delta.usage
        if usage is not None and self._prompt is None:
            self._prompt = usage.prompt_tokens
            metrics.prompt_tokens += usage.prompt_tokens
            metrics.cached_tokens += usage.cached_tokens
            metrics.prompt.add(usage.prompt_tokens)

    def end(self, error: BaseException | None) -> None:
        """The request is over."""
        if self._ended:
            return
        self._ended = True
        seconds = time.monotonic() - self._began
        if error is None:
            self._times.whole.add(seconds)
            generated = sum(self._generated.values())
            if self._first and generated > 1:
                spent = max(self._last.values()) - self._first
                self._times.each_token.add(spent / max(1, generated / self._count - 1))
        else:
            self._metrics.failed[_error_name(error)] += 1
        self._record_end(error)

    def _record_end(self, error: BaseException | None) -> None:
        details = {
            "kind": self._kind,
            "prompt_tokens": self._prompt,
            "completion_tokens": sum(self._generated.values()),
            "finish_reason": ",".join(self._reasons) or None,
            "queue_seconds": self._admitted - self._began if self._admitted else None,
            "first_token_seconds": self._first - self._began if self._first else None,
            "error": None if error is None else _error_name(error),
        }
        if self._record is not None:
            self._record.details.update(details)
        if self._tracer is not None:
            self._tracer.record(self._wall, details)


def _error_name(error: BaseException) -> str:
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return "gone"
    return problem_of(error).code or type(error).__name__
