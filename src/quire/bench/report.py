"""Figures for people: the rows of a table, and a picture."""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.bench.figures import Figures, LoadFigures
from quire.errors import ConfigError

MISSING = "–"
_LOW, _HIGH = 50, 99
"""The percentiles in the picture."""

# --- the table ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableRow:
    """One line: what it is, each configuration's value in words, and the second over the first.

    `is_first_of_part` begins a new part of the table.
    """

    label: str
    values: tuple[str, ...]
    ratio: str = ""
    is_first_of_part: bool = False


def table_rows(figures: Sequence[Figures]) -> list[TableRow]:
    """All lines of the table."""
    parts = [
        list(_start_rows(figures)),
        *(list(_load_rows(loads)) for loads in zip(*(f.loads for f in figures), strict=True)),
        list(_memory_rows(figures)),
        list(_quality_rows(figures)),
    ]
    return [
        TableRow(row.label, row.values, row.ratio, is_first_of_part=index == 0)
        for part in parts
        for index, row in enumerate(part)
    ]


def _start_rows(figures: Sequence[Figures]) -> Iterator[TableRow]:
    yield _row("start, to loaded", [f.start.loaded for f in figures], seconds)
    yield _row("start, to first token", [f.start.first_token for f in figures], seconds)


def _load_rows(loads: Sequence[LoadFigures]) -> Iterator[TableRow]:
    streams = loads[0].streams
    yield _row(f"{streams} at once: tokens/s", [load.rate for load in loads], _rate)
    yield _percentile_row("first token", [load.first for load in loads])
    yield _percentile_row("between tokens", [load.gap for load in loads])
    yield _percentile_row("whole answer", [load.whole for load in loads])


def _percentile_row(name: str, percentiles: Sequence[Mapping[int, float]]) -> TableRow:
    label = f"  {name}, p50 / p90 / p99"
    values = [
        " / ".join(seconds(value) for value in one.values()) if one else MISSING
        for one in percentiles
    ]
    middles = [one.get(50) for one in percentiles]
    return TableRow(label, tuple(values), _ratio(middles))


def _memory_rows(figures: Sequence[Figures]) -> Iterator[TableRow]:
    yield _row("peak memory of its processes", [f.memory.peak_rss for f in figures], size)
    yield _row("  weights", [f.memory.weights for f in figures], size)
    yield _row("  KV cache", [f.memory.kv_cache for f in figures], size)


def _quality_rows(figures: Sequence[Figures]) -> Iterator[TableRow]:
    qualities = [figure.quality for figure in figures if figure.quality is not None]
    if len(qualities) != len(figures):
        return
    counts = tuple(f"{len(quality.logprobs):,}" for quality in qualities)
    values = tuple(f"{_perplexity(one.perplexity)} ± {one.error:.1g}" for one in qualities)
    yield TableRow("perplexity", values, _ratio([quality.perplexity for quality in qualities]))
    yield TableRow("  tokens", counts)
    if len(qualities) == 2 and counts[0] == counts[1]:
        mean, error = qualities[1].against(qualities[0])
        yield TableRow("  more nats a token", ("", f"{mean:+.2g} ± {error:.1g}"))


def _row(label: str, values: Sequence[float | None], show: Callable[[float], str]) -> TableRow:
    shown = tuple(MISSING if value is None else show(value) for value in values)
    return TableRow(label, shown, _ratio(values))


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
    """A perplexity with more digits near 1, where small differences matter."""
    return f"{value:.5f}" if value < 10 else f"{value:,.2f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


# --- the picture -------------------------------------------------------------------------------------


def check_can_plot() -> None:
    """Raise ConfigError where matplotlib is missing. Nothing is imported yet."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'quire-llm[bench]'.")


def write_plot(figures: Sequence[Figures], file: Path) -> None:
    """Write a PNG: tokens a second, time to the first token, and time between tokens.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture: Any = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(picture)
    rates, firsts, gaps = picture.subplots(1, 3)
    for number, one in enumerate(figures):
        streams = [load.streams for load in one.loads]
        rates.plot(streams, [load.rate for load in one.loads], "o-", label=_label(one.name))
        for axes, times in ((firsts, _first_times(one.loads)), (gaps, _gap_times(one.loads))):
            middle, high = zip(*times, strict=True)
            axes.plot(streams, middle, "o-", color=f"C{number}")
            axes.plot(streams, high, "--", color=f"C{number}")
    for axes, title in (
        (rates, "tokens/s, all streams together"),
        (firsts, f"time to the first token, ms: median, p{_HIGH} dashed"),
        (gaps, f"time between tokens, ms: median, p{_HIGH} dashed"),
    ):
        _finish(axes, title, figures[0].loads)
    picture.legend(loc="outside lower center", fontsize=8)
    try:
        picture.savefig(file, format="png", dpi=120)
    except OSError as error:
        raise ConfigError(f"Cannot write {file}: {error.strerror or error}.") from None


def _label(name: str) -> str:
    """A name in few lines, without the meanings that matplotlib gives to `_` in front and to `$`."""
    shown = textwrap.shorten(name, 300, placeholder=" ...").replace("$", r"\$")
    return "\n".join(textwrap.wrap("\u200b" + shown, 120, break_on_hyphens=False))


def _first_times(loads: Sequence[LoadFigures]) -> list[tuple[float, float]]:
    """Milliseconds, median and high."""
    return [(1000 * load.first[_LOW], 1000 * load.first[_HIGH]) for load in loads]


def _gap_times(loads: Sequence[LoadFigures]) -> list[tuple[float, float]]:
    nothing = float("nan")  # answers of one token have no gaps
    return [
        (1000 * load.gap.get(_LOW, nothing), 1000 * load.gap.get(_HIGH, nothing)) for load in loads
    ]


def _finish(axes: Any, title: str, loads: Sequence[LoadFigures]) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("streams")
    axes.set_xscale("log", base=2)
    axes.set_xticks([load.streams for load in loads], [str(load.streams) for load in loads])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
