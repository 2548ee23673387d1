"""What was found of the set, as it is recorded: the documentation's tables are made from it.

The templates themselves are others' work and are not kept here, so that a test cannot render them. What
it can hold to each other are the manifest, these records, and the pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).with_name("records.json")
_SHOWN = ("tools", "calls", "thoughts")

EQUAL, BOTH_RAISE, REFUSES_TOOLS, ONLY_HERE = "=", "r", "t", "+"
KEEPS_CALLS, WITHOUT_ESCAPES = "c", "e"
DIFFERS, ONLY_REFUSED_HERE, DROPS_TOOLS = "x", "!", "s"
RENDERING = {
    EQUAL: "equal",
    BOTH_RAISE: "refused by the template, in transformers and here",
    REFUSES_TOOLS: "refused here, since the template shows no tools",
    ONLY_HERE: "rendered here, refused in transformers",
    KEEPS_CALLS: "with all calls here, of which one is lost in transformers",
    WITHOUT_ESCAPES: "without the `&#34;` that the template's `safe` makes of quotes in transformers",
    DIFFERS: "different",
    ONLY_REFUSED_HERE: "refused here alone",
    DROPS_TOOLS: "equal, and the tools are dropped in silence",
}
SANE_RENDERINGS = frozenset(
    {EQUAL, BOTH_RAISE, REFUSES_TOOLS, ONLY_HERE, KEEPS_CALLS, WITHOUT_ESCAPES}
)

RIGHT, WRONG, REFUSED, WRONGLY_REFUSED, NOT_WRITTEN = ".", "x", "t", "!", "-"
READING = {
    RIGHT: "read right, whole and in characters",
    WRONG: "read wrong",
    REFUSED: "refused, since the template shows no tools",
    WRONGLY_REFUSED: "refused",
    NOT_WRITTEN: "not written by the template",
}


@dataclass(frozen=True)
class Written:
    """An answer as a template writes it."""

    prompt: str
    text: str
    """All that follows the prompt, with what ends the turn."""
    unwritten: str = ""
    """The end of the prompt that the template does not write in front of this answer: the beginning of
    a thought, mostly."""
    thinking: bool | None = None
    """`enable_thinking`, where it must be given for a prompt after which this answer can come."""
    text_is_thought: bool = False
    """Whether the template would write the answer's text in the same way were it a thought."""


@dataclass(frozen=True)
class VllmResult:
    """What vLLM's best pair of parsers makes of a template's answers."""

    tool_parser: str
    reasoning_parser: str
    readings: str
    """A letter of `READING` for each answer."""


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
    forced: str = ""
    """A letter of `READING` for each of the answers of which a call is forced."""
    vllm: VllmResult | None = None
    details: list[str] = field(default_factory=list)
    """Lines for people: what is wrong."""

    @property
    def renders(self) -> bool:
        """Whether all conversations are rendered as in transformers, or refused for a reason."""
        return set(self.renderings) <= SANE_RENDERINGS

    @property
    def refuses_calls(self) -> bool:
        """Whether its calls cannot be offered: the template writes calls, and lists no tools."""
        return self.shows_calls and REFUSED in self.readings

    @property
    def reads(self) -> bool:
        """Whether all that the template writes is read."""
        return not {WRONG, WRONGLY_REFUSED} & set(self.readings)


# --- JSON ---------------------------------------------------------------------------------------


def read_records(path: Path = RECORDS) -> dict[str, Finding]:
    """The findings that are recorded, by the templates' names."""
    records = json.loads(path.read_text(encoding="utf-8"))
    return {name: _of_record(name, record) for name, record in records.items()}


def write_records(findings: Iterable[Finding], path: Path = RECORDS) -> None:
    """Record findings, one a line, so that a difference shows which templates it is about."""
    lines = [f" {json.dumps(one.name)}: {json.dumps(_to_record(one))}" for one in findings]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _to_record(found: Finding) -> dict[str, Any]:
    record: dict[str, Any] = {
        "sha256": found.sha256,
        "shows": [word for word in _SHOWN if getattr(found, f"shows_{word}")],
        "renderings": found.renderings,
        "hashes": " ".join(one or "-" for one in found.hashes),
        "readings": found.readings,
        "forced": found.forced,
    }
    if found.vllm is not None:
        record["vllm"] = [found.vllm.tool_parser, found.vllm.reasoning_parser, found.vllm.readings]
    return record


def _of_record(name: str, record: dict[str, Any]) -> Finding:
    found = Finding(
        name,
        record["sha256"],
        renderings=record["renderings"],
        hashes=tuple("" if one == "-" else one for one in record["hashes"].split()),
        readings=record["readings"],
        forced=record.get("forced", ""),
        vllm=VllmResult(*record["vllm"]) if "vllm" in record else None,
    )
    for word in record["shows"]:
        setattr(found, f"shows_{word}", True)
    return found
