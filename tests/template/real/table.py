"""The tables of `docs/templates.md`, made from the records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.template.real.conversations import ANSWERS, CONVERSATIONS
from tests.template.real.records import (
    NOT_WRITTEN,
    REFUSED,
    RIGHT,
    SANE_RENDERINGS,
    Finding,
    read_records,
)
from tests.template.real.templates import read_manifest

_THINKING = [index for index, answer in enumerate(ANSWERS.values()) if answer.thought]


def sets_table() -> list[str]:
    """Where the templates come from, and counts for each place."""
    by_place: dict[str, list[Finding]] = defaultdict(list)
    places = {source.name: source.repository for source in read_manifest()}
    findings = read_records()
    for name, found in findings.items():
        by_place[places[name]].append(found)
    rows = [(f"[{place}](https://github.com/{place})", *_counts(found))
            for place, found in by_place.items()]  # fmt: skip
    rows.append(("**all**", *_counts(findings.values())))
    heads = (
        "From",
        "Templates",
        "Rendered alike",
        "Show tools",
        "Show calls",
        "Calls read",
        "Answers read",
        "Forced calls",
    )
    return _table(heads, rows)


def _counts(findings: Iterable[Finding]) -> tuple[str, ...]:
    found = list(findings)
    calling = [one for one in found if one.shows_calls]
    counts = (len(found), sum(one.renders for one in found), sum(one.shows_tools for one in found),
              len(calling), sum(one.reads for one in calling))  # fmt: skip
    answers = _right("".join(one.readings for one in found))
    return (*map(str, counts), answers, _right("".join(one.forced for one in found)))


def _right(letters: str) -> str:
    """How many answers are right, of those that the template writes and that are not refused."""
    return f"{letters.count(RIGHT):,} of {_read(letters):,}" if _read(letters) else "–"


def _read(letters: str) -> int:
    return len(letters) - letters.count(NOT_WRITTEN) - letters.count(REFUSED)


def templates_table() -> list[str]:
    """One row for each template."""
    heads = ("Template", f"Renderings, of {len(CONVERSATIONS)}", "Tools", "Calls", "Thoughts", "Answers",
             "Forced")  # fmt: skip
    return _table(heads, (_row(found) for found in read_records().values()))


def _row(found: Finding) -> tuple[str, ...]:
    alike = sum(letter in SANE_RENDERINGS for letter in found.renderings)
    tools = "listed" if found.shows_tools else "refused"
    calls = "written" if found.shows_calls else "–"
    thoughts = {found.readings[index] for index in _THINKING} - {NOT_WRITTEN, REFUSED}
    read = "–" if not found.shows_thoughts else "read" if thoughts == {RIGHT} else "not all read"
    name = f"`{found.name}`"
    return name, str(alike), tools, calls, read, _right(found.readings), _right(found.forced)


def parsers_table() -> list[str]:
    """Families, as vLLM names them by its tool parsers: how many answers it and quire read right."""
    by_family: dict[str, list[Finding]] = defaultdict(list)
    for found in read_records().values():
        if found.vllm is not None and not found.refuses_calls:
            by_family[found.vllm.tool_parser or "none"].append(found)
    rows: list[tuple[str, ...]] = []
    for family in sorted(by_family):
        rows.append((f"`{family}`" if family != "none" else family, *_beside(by_family[family])))
    rows.append(("**all**", *_beside([one for each in by_family.values() for one in each])))
    return _table(("vLLM's tool parser", "Templates", "Answers", "vLLM", "quire"), rows)


def _beside(findings: Sequence[Finding]) -> tuple[str, ...]:
    written = sum(_read(found.readings) for found in findings)
    theirs = sum(found.vllm.readings.count(RIGHT) for found in findings if found.vllm)
    ours = sum(found.readings.count(RIGHT) for found in findings)
    return str(len(findings)), f"{written:,}", f"{theirs:,}", f"{ours:,}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
