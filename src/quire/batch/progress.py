"""How far a batch is, in one line."""

from __future__ import annotations

import time
from collections import deque

from quire.batch.runner import Progress

WINDOW = 60.0
"""Seconds over which rates are taken."""


class Rates:
    """Rates over the last minute of a run."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int, int, int]] = deque()

    def line(self, progress: Progress, now: float | None = None) -> str:
        """The state of a run: rows, rates, time left, and what its user should know of.

        Args:
            now: seconds of `time.monotonic`.
        """
        now = time.monotonic() if now is None else now
        rows, tokens_in, tokens_out = self._rates(progress, now)
        done = progress.before + progress.done
        parts = [
            f"{done:,} row{'' if done == 1 else 's'}"
            if progress.total is None
            else _share(done, progress.total)
        ]
        if progress.done:
            parts.append(f"{rows:,.1f} rows/s, tokens/s {tokens_in:,.0f} in, {tokens_out:,.0f} out")
        if progress.total is not None and rows > 0 and progress.total > done:
            parts.append(f"{_duration((progress.total - done) / rows)} left")
        counted = [
            (progress.failed, "failed"),
            (progress.ended_by_length, "ended by length"),
            (progress.cut, "prompts cut"),
        ]
        parts += [f"{count:,} {what}" for count, what in counted if count]
        if progress.cached:
            parts.append(f"{progress.cached / max(progress.tokens_in, 1):.0%} of prompts cached")
        return "; ".join(parts)

    def _rates(self, progress: Progress, now: float) -> tuple[float, float, float]:
        marks = self._marks
        if not marks:
            marks.append((progress.started, 0, 0, 0))
        marks.append((now, progress.done, progress.tokens_in, progress.tokens_out))
        while len(marks) > 2 and now - marks[1][0] > WINDOW:
            marks.popleft()
        first, last = marks[0], marks[-1]
        seconds = max(last[0] - first[0], 1e-9)
        rows, tokens_in, tokens_out = (
            (last[column] - first[column]) / seconds for column in (1, 2, 3)
        )
        return rows, tokens_in, tokens_out


def _share(done: int, total: int) -> str:
    return f"{done:,} of {total:,} rows ({done / total if total else 1:.0%})"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
