"""What is found of one template: its renderings beside transformers', its answers read back."""

from __future__ import annotations

import html

from quire.errors import QuireError, RequestError
from tests.template.real.conversations import (
    ANSWERS,
    CONVERSATIONS,
    FORCED,
    THOUGHT,
    WITH_TOOLS,
    Message,
)
from tests.template.real.reading import Reader, problem
from tests.template.real.records import (
    BOTH_RAISE,
    DIFFERS,
    DROPS_TOOLS,
    EQUAL,
    KEEPS_CALLS,
    NOT_WRITTEN,
    ONLY_HERE,
    ONLY_REFUSED_HERE,
    REFUSED,
    REFUSES_TOOLS,
    RIGHT,
    WITHOUT_ESCAPES,
    WRONG,
    WRONGLY_REFUSED,
    Finding,
    Written,
)
from tests.template.real.reference import Reference
from tests.template.real.templates import digest


class Measure:
    """One template, in transformers and here."""

    def __init__(self, name: str, template: str) -> None:
        """Load it.

        Raises:
            ConfigError: quire cannot compile it.
        """
        self.reference, self.reader = Reference(template), Reader(template)
        reference = self.reference
        self.finding = Finding(name, digest(template))
        self.finding.shows_tools = reference.shows_tools
        self.finding.shows_calls = reference.shows_calls
        self.written: dict[str, Written] = {}
        """The answers that the template writes."""

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
            if first is None and next(renderings, None) is None:
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
        if _keeps_calls(messages, ours, first):
            return KEEPS_CALLS, first
        if ours == html.unescape(first):
            return WITHOUT_ESCAPES, first
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
        self.written[case] = written
        self.finding.shows_thoughts |= bool(answer.thought) and THOUGHT in written.text
        try:
            results = self.reader.read(self.reference.question(answer), written)
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

    def force(self) -> Finding:
        """Whether the grammar of a forced call takes the calls that the template writes."""
        self.finding.forced = "".join(self._force(case) for case in FORCED)
        return self.finding

    def _force(self, case: str) -> str:
        answer, written = ANSWERS[case], self.written.get(case)
        if written is None or written.unwritten.strip():
            return NOT_WRITTEN  # or only where the prompt has not opened a thought
        try:
            read = self.reader.read_forced(self.reference.question(answer), written)
        except QuireError as error:
            if isinstance(error, RequestError) and not self.reference.shows_tools:
                return REFUSED
            self._note(f"{case}, forced: {type(error).__name__}: {error}")
            return WRONGLY_REFUSED
        wrong = "not what the grammar takes" if read is None else problem(answer, written, read)
        if wrong:
            self._note(f"{case}, forced: {wrong}")
            self._note(f"  from {written.text[:600]!r} after {written.prompt[-40:]!r}")
        return WRONG if wrong else RIGHT

    def _note(self, line: str) -> None:
        self.finding.details.append(line)


def _keeps_calls(messages: list[Message], ours: str, theirs: str) -> bool:
    """Whether our rendering has each call, and theirs lacks one, as that of gpt-oss's template does."""
    calls = [call["function"] for message in messages for call in message.get("tool_calls") or ()]
    values = [str(value) for call in calls for value in call["arguments"].values()]
    return all(value in ours for value in values) and any(
        theirs.count(value) < ours.count(value) for value in values
    )


def _difference(ours: str, theirs: str) -> str:
    """Where two texts part."""
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
              min(len(ours), len(theirs)))  # fmt: skip
    start = max(0, at - 30)
    return f"here {ours[start : at + 60]!r}, in transformers {theirs[start : at + 60]!r}"
