"""The figures of one model, kept as JSON, and the tables made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, machine, table
from benchmarks.peers.goals import GOALS, Facts
from benchmarks.peers.points import Model
from benchmarks.peers.process import Peer, Precision

CLASSES: tuple[Precision, ...] = ("full", "8-bit", "4-bit")


class Results:
    """What was measured of one model, now and before; see `benchmarks/results/peers-NAME.json`."""

    def __init__(self, name: str) -> None:
        self.file = RESULTS / f"peers-{name}.json"
        self.content: dict[str, Any] = {
            "points": {},
            "versions": {},
            "refused": {},
            "limits": {},
            "disturbed": {},
        }
        if self.file.is_file():
            self.content |= json.loads(self.file.read_text(encoding="utf-8"))
        self._is_fresh_limit = True

    def runs(self, name: str, version: str) -> None:
        """A configuration has started: what was said against it before no longer holds."""
        self.content["versions"][name] = version
        self.content["refused"].pop(name, None)

    def refused(self, name: str, reason: str) -> None:
        """A configuration is not to be had; its old figures go."""
        self.content["refused"][name] = " ".join(reason.split())
        self.content["versions"].pop(name, None)
        for found in self.content["points"].values():
            found.pop(name, None)

    def refused_point(self, point: str, name: str, reason: str) -> None:
        """A configuration cannot be measured at this point."""
        self.content["refused"][f"{point}: {name}"] = " ".join(reason.split())
        self.content["points"].get(point, {}).pop(name, None)

    def limits(self, read: float, multiply: float) -> None:
        """Bytes and floating-point operations a second: the best that was seen in this run."""
        old = {} if self._is_fresh_limit else self.content["limits"]
        self._is_fresh_limit = False
        self.content["limits"] = {
            "read": max(read, old.get("read", 0.0)),
            "multiply": max(multiply, old.get("multiply", 0.0)),
        }

    def disturbed(self, point: str, name: str, share: float) -> None:
        """A figure that was only to be had while something else computed too."""
        self.content["disturbed"].setdefault(point, {})[name] = round(share, 2)

    def begin(self, point: str) -> None:
        """The point is measured again: what was said of it before no longer matters."""
        self.content["disturbed"].pop(point, None)
        self.content["refused"] = {
            name: reason
            for name, reason in self.content["refused"].items()
            if not name.startswith(f"{point}: ")
        }

    def point(self, name: str, found: dict[str, float]) -> None:
        """Keep one point, at once, so that an end halfway loses nothing."""
        self.content["points"][name] = {**self.content["points"].get(name, {}), **found}
        self.save()

    def save(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        self.content["machine"] = machine()
        self.file.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")


def show(results: Results, model: Model, peers: Sequence[Peer], folder: Path) -> None:
    """Print the figures, the ratios, the goals, and what could not be had."""
    content = results.content
    points = [point for point in model.points if point.name in content["points"]]
    print(f"\n## {model.name}: {folder.name}, on {content['machine']}\n")
    if not points:
        print("Nothing was measured yet.")
        return
    facts = Facts(folder, content["limits"])
    header = ["", *(f"{p.name}{', s' if p.is_seconds else ''}" for p in points)]
    rows: list[list[object]] = []
    for peer in peers:
        for configuration in peer.configurations:
            name = f"{peer.name} {configuration.name}"
            values = [content["points"][p.name].get(name) for p in points]
            if any(value is not None for value in values):
                rows.append([name, *map(_figure, values)])
    if facts.limits:
        for name, limits in facts.rows(points):
            rows.append([name, *map(_figure, limits)])
    rows += _ratios(content["points"], [p.name for p in points], peers)
    print(table(header, rows))
    _show_goals(content["points"], facts)
    for name, reason in content["refused"].items():
        print(f"- {name}: {reason}")
    for point, names in content["disturbed"].items():
        print(f"- {point}, disturbed by other work: {', '.join(names)}")
    print(f"\nVersions: {', '.join(f'{n} {v}' for n, v in content['versions'].items())}.")


def _ratios(
    figures: dict[str, dict[str, float]], points: Sequence[str], peers: Sequence[Peer]
) -> list[list[object]]:
    """A row for each precision: quire's figure over the best peer's, and who that is."""
    rows: list[list[object]] = []
    for precision in CLASSES:
        names = {
            f"{peer.name} {configuration.name}"
            for peer in peers
            for configuration in peer.configurations
            if configuration.precision == precision
        }
        cells: list[str] = []
        for point in points:
            less_is_better = point.startswith(("cold", "prefix"))
            own = [(v, n) for n, v in figures[point].items() if n in names and _is_quire(n)]
            others = [(v, n) for n, v in figures[point].items() if n in names and not _is_quire(n)]
            if not own or not others:
                cells.append("–")
                continue
            value, name = min(others) if less_is_better else max(others)
            cells.append(f"{own[0][0] / value:.2f} × {name.partition(' ')[0]}")
        if any(cell != "–" for cell in cells):
            rows.append([f"**quire / best peer, {precision}**", *cells])
    return rows


def _is_quire(name: str) -> bool:
    return name.startswith("quire ")


def _show_goals(figures: dict[str, dict[str, float]], facts: Facts) -> None:
    rows: list[list[object]] = []
    for goal in GOALS:
        found = goal.ratio(figures, facts)
        if found is not None:
            sign = "≤" if goal.at_most else "≥"
            reached = found <= goal.wanted if goal.at_most else found >= goal.wanted
            rows.append(
                [goal.text, f"{sign} {goal.wanted:g}", f"{found:.2f}", "yes" if reached else "no"]
            )
    if rows:
        print("\n" + table(["goal", "wanted", "found", "reached"], rows))
    print()


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if value < 20 else f"{value:.0f}"
