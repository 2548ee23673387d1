"""The figures as a picture: rates and times by the number of streams."""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quire.bench.figures import Figures, LoadFigures
from quire.errors import ConfigError

_LOW, _HIGH = 50, 99


def check_can_plot() -> None:
    """Raise ConfigError where matplotlib is missing; nothing is imported yet."""
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
        for axes, times in ((firsts, _firsts(one.loads)), (gaps, _gaps(one.loads))):
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
    """A name in few lines; a leading underscore or a dollar sign means nothing here."""
    shown = textwrap.shorten(name, 300, placeholder=" ...").replace("$", r"\$")
    return "\n".join(textwrap.wrap("\u200b" + shown, 120, break_on_hyphens=False))


def _firsts(loads: Sequence[LoadFigures]) -> list[tuple[float, float]]:
    """Milliseconds, median and high."""
    return [(1000 * load.first[_LOW], 1000 * load.first[_HIGH]) for load in loads]


def _gaps(loads: Sequence[LoadFigures]) -> list[tuple[float, float]]:
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
