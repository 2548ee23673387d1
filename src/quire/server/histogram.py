"""A histogram of Prometheus, kept by one thread alone: a bisection and two additions a value."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts of values by their upper bounds, as `prometheus_client` wants them at a scrape."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, so many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """How many values."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds, and how many values are at or below each; the last is +Inf."""
        names = [*(f"{float(bound)!r}" for bound in self._bounds), "+Inf"]
        running, rows = 0, list[tuple[str, float]]()
        for name, count in zip(names, self._counts, strict=True):
            running += count
            rows.append((name, running))
        return rows
