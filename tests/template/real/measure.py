"""What is found of one template: its renderings beside transformers', its answers read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from quire.errors import QuireError, RequestError
from tests.template.real.conversations import (
    ANSWERS,
    CONVERSATIONS,
    THOUGHT,
    WITH_TOOLS,
    Message,
)
from tests.template.real.reading import Reader, problem
from tests.template.real.reference import Reference, Written
from tests.template.real.templates import digest

EQUAL, BOTH_RAISE, REFUSES_TOOLS, ONLY_HERE = "=", "r", "t", "+"
DIFFERS, ONLY_REFUSED_HERE, DROPS_TOOLS = "x", "!", "s"
RENDERING = {
    EQUAL: "equal",
    BOTH_RAISE: "refused by the template, in transformers and here",
    REFUSES_TOOLS: "refused here, since the template shows no tools",
    ONLY_HERE: "rendered here, refused in transformers",
    DIFFERS: "different",
    ONLY_REFUSED_HERE: "refused here alone",
    DROPS_TOOLS: "equal, and the tools are dropped in silence",
}
SANE_RENDERINGS = frozenset({EQUAL, BOTH_RAISE, REFUSES_TOOLS, ONLY_HERE})

RIGHT, WRONG, REFUSED, WRONGLY_REFUSED, NOT_WRITTEN = ".", "x", "t", "!", "-"
READING = {
    RIGHT: "read right, whole and in characters",
    WRONG: "read wrong",
    REFUSED: "refused, since the template shows no tools",
    WRONGLY_REFUSED: "refused",
    NOT_WRITTEN: "not written by the template",
}


@dataclass
class Finding:
    """What was found of one template."""

    name: str
    sha256: str
    shows_tools: bool = False
    shows_calls: bool = False
    shows_thoughts: bool = False
    renderings: str = ""
    """A letter of `RENDERING` for each conversation."""
    hashes: tuple[str, ...] = ()
    """The beginnings of the SHA-256 of the texts that transformers renders; "" where it refuses."""
    readings: str = ""
    """A letter of `READING` for each answer."""
    answers: dict[str, Written] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)
    """Lines for people: what is wrong."""

    @property
    def renders(self) -> bool:
        """Whether all conversations are rendered as in transformers, or refused for a reason."""
        return set(self.renderings) <= SANE_RENDERINGS

    @property
    def reads(self) -> bool:
        """Whether all that the template writes is read."""
        return not {WRONG, WRONGLY_REFUSED} & set(self.readings)


class Measure:
    """One template, in transformers and here."""

    def __init__(self, name: str, template: str) -> None:
        """Load it.

        Raises:
            ConfigError: quire cannot compile it.
        """
        self.reference, self.reader = Reference(template), Reader(template)
        reference = self.reference
        self.finding = Finding(name, digest(template), reference.shows_tools, reference.shows_calls)

    def compare(self) -> Finding:
        """Render all conversations."""
        found = self.finding
        letters, hashes = [], []
        for name, messages in CONVERSATIONS.items():
            letter, text = self._compare(name, messages)
            letters.append(letter)
            hashes.append("" if text is None else digest(text)[:8])
        found.renderings, found.hashes = "".join(letters), tuple(hashes)
        return found

    def _compare(self, name: str, messages: list[Message]) -> tuple[str, str | None]:
        tools = name in WITH_TOOLS
        renderings = self.reference.renderings(messages, tools=tools)
        first = next(renderings)
        try:
            ours = self.reader.prompt(messages, tools=tools)
        except RequestError as error:
            if first is None and all(text is None for text in renderings):
                return BOTH_RAISE, None
            if tools and not self.reference.shows_tools:
                return REFUSES_TOOLS, first
            self._note(f"{name}: {type(error).__name__}: {error}")
            return ONLY_REFUSED_HERE, first
        if ours == first or ours in renderings:
            dropped = tools and not self.reference.shows_tools
            return DROPS_TOOLS if dropped else EQUAL, ours
        if first is None:
            return ONLY_HERE, None
        self._note(f"{name}: {_difference(ours, first)}")
        return DIFFERS, first

    def read(self) -> Finding:
        """Read back all answers that the template writes."""
        self.finding.readings = "".join(self._read(case) for case in ANSWERS)
        return self.finding

    def _read(self, case: str) -> str:
        answer = ANSWERS[case]
        written = self.reference.answer(answer)
        if written is None:
            return NOT_WRITTEN
        self.finding.answers[case] = written
        self.finding.shows_thoughts |= bool(answer.thought) and THOUGHT in written.text
        try:
            results = self.reader.read(answer, written)
        except QuireError as error:
            if isinstance(error, RequestError) and not self.reference.shows_tools:
                return REFUSED
            self._note(f"{case}: {type(error).__name__}: {error}")
            return WRONGLY_REFUSED
        problems = {how: problem(answer, written, one) for how, one in results.items()}
        for what in dict.fromkeys(filter(None, problems.values())):
            hows = [how for how, one in problems.items() if one == what]
            self._note(f"{case}, {' and '.join(hows)}: {what}")
        if any(problems.values()):
            self._note(f"  from {written.text[:600]!r} after {written.prompt[-40:]!r}")
        return WRONG if any(problems.values()) else RIGHT

    def _note(self, line: str) -> None:
        self.finding.details.append(line)


def _difference(ours: str, theirs: str) -> str:
    """Where two texts part."""
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
              min(len(ours), len(theirs)))  # fmt: skip
    start = max(0, at - 30)
    return f"here {ours[start : at + 60]!r}, in transformers {theirs[start : at + 60]!r}"


# --- records ------------------------------------------------------------------------------------


def to_record(found: Finding) -> dict[str, object]:
    """A finding as JSON."""
    shows = [word for word in ("tools", "calls", "thoughts") if getattr(found, f"shows_{word}")]
    return {
        "sha256": found.sha256,
        "shows": " ".join(shows),
        "renderings": found.renderings,
        "hashes": " ".join(one or "-" for one in found.hashes),
        "readings": found.readings,
    }


def of_record(name: str, record: dict[str, str]) -> Finding:
    """A finding from JSON."""
    shows = record["shows"].split()
    return Finding(
        name,
        record["sha256"],
        "tools" in shows,
        "calls" in shows,
        "thoughts" in shows,
        record["renderings"],
        tuple("" if one == "-" else one for one in record["hashes"].split()),
        record["readings"],
    )


def lines(records: dict[str, dict[str, object]]) -> Iterator[str]:
    """JSON text of records, one template a line, so that a change shows what it changes."""
    yield "{\n"
    for index, (name, record) in enumerate(records.items()):
        comma = "," if index + 1 < len(records) else ""
        yield f" {json.dumps(name)}: {json.dumps(record, ensure_ascii=False)}{comma}\n"
    yield "}\n"
