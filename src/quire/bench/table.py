"""From figures to the rows of a table, for one configuration or two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from quire.bench.figures import Figures, LoadFigures

MISSING = "–"


@dataclass(frozen=True)
class Row:
    """One line: what it is, each configuration's value in words, and the second over the first.

    `is_first_of_part` begins a new part of the table.
    """

    label: str
    values: tuple[str, ...]
    ratio: str = ""
    is_first_of_part: bool = False


def table_rows(figures: Sequence[Figures]) -> list[Row]:
    """All lines of the table."""
    parts = [
        list(_start_rows(figures)),
        *(list(_load_rows(loads)) for loads in zip(*(f.loads for f in figures), strict=True)),
        list(_memory_rows(figures)),
        list(_quality_rows(figures)),
    ]
    return [
        Row(row.label, row.values, row.ratio, is_first_of_part=place == 0)
        for part in parts
        for place, row in enumerate(part)
    ]


def _start_rows(figures: Sequence[Figures]) -> Iterator[Row]:
    yield _row("start, to loaded", [f.start.loaded for f in figures], seconds)
    yield _row("start, to first token", [f.start.first_token for f in figures], seconds)


def _load_rows(loads: Sequence[LoadFigures]) -> Iterator[Row]:
    streams = loads[0].streams
    yield _row(f"{streams} at once: tokens/s", [load.rate for load in loads], _rate)
    yield _percentile_row("first token", [load.first for load in loads])
    yield _percentile_row("between tokens", [load.gap for load in loads])
    yield _percentile_row("whole answer", [load.whole for load in loads])


def _percentile_row(name: str, found: Sequence[Mapping[int, float]]) -> Row:
    label = f"  {name}, p50 / p90 / p99"
    values = [
        " / ".join(seconds(value) for value in one.values()) if one else MISSING for one in found
    ]
    middles = [one.get(50) for one in found]
    return Row(label, tuple(values), _ratio(middles))


def _memory_rows(figures: Sequence[Figures]) -> Iterator[Row]:
    yield _row("peak memory of its processes", [f.memory.peak_rss for f in figures], size)
    yield _row("  weights", [f.memory.weights for f in figures], size)
    yield _row("  KV cache", [f.memory.kv_cache for f in figures], size)


def _quality_rows(figures: Sequence[Figures]) -> Iterator[Row]:
    qualities = [figure.quality for figure in figures if figure.quality is not None]
    if len(qualities) != len(figures):
        return
    counts = tuple(f"{len(quality.logprobs):,}" for quality in qualities)
    values = tuple(f"{_perplexity(one.perplexity)} ± {one.error:.1g}" for one in qualities)
    yield Row("perplexity", values, _ratio([quality.perplexity for quality in qualities]))
    yield Row("  tokens", counts)
    if len(qualities) == 2 and counts[0] == counts[1]:
        mean, error = qualities[1].against(qualities[0])
        yield Row("  more nats a token", ("", f"{mean:+.2g} ± {error:.1g}"))


def _row(label: str, values: Sequence[float | None], show: Callable[[float], str]) -> Row:
    shown = tuple(MISSING if value is None else show(value) for value in values)
    return Row(label, shown, _ratio(values))


def _ratio(values: Sequence[float | None]) -> str:
    """The second over the first, where there are two."""
    if len(values) != 2 or values[0] is None or values[1] is None or not values[0]:
        return ""
    return f"{values[1] / values[0]:.2f}"


def seconds(value: float) -> str:
    """A duration with a unit that suits it."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1000 * value:.3g} ms" if value >= 0.001 else f"{1e6 * value:.3g} µs"


def size(value: float) -> str:
    """Bytes with a unit that suits them."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def _perplexity(value: float) -> str:
    """Near 1 it is the small differences that tell."""
    return f"{value:.5f}" if value < 10 else f"{value:,.2f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
