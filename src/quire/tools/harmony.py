"""Harmony, gpt-oss's format: an answer is a row of messages, each with a header that says what it is.

    <|channel|>analysis<|message|>…<|end|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>

The prompt has begun the first header. A channel tells thoughts (`analysis`) from what is shown, and a
recipient makes a message a call, whatever its channel is. Headers are read as openai-harmony reads
them. Where that library gives up, on a missing marker for instance, no text is lost here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from quire.messages import ToolCall
from quire.outputs import AnswerPart, TextPart, ThoughtPart
from quire.tools.base import dump, load
from quire.tools.call_form import CallForm, JsonArguments, Slot
from quire.tools.stream import MAX_NAME, ToolParser

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
MESSAGE_END = "<|end|>"
"""It ends a message, after which the turn goes on."""
TURN_ENDS = ("<|return|>", "<|call|>")
MARKERS = (START, CHANNEL, CONSTRAIN, MESSAGE, MESSAGE_END, *TURN_ENDS)
BETWEEN = f"{MESSAGE_END}{START}assistant"
"""What stands between two messages of an answer."""
THOUGHT = f"{CHANNEL}analysis{MESSAGE}"
PREAMBLE = f"{CHANNEL}commentary{MESSAGE}"
ANSWER = f"{CHANNEL}final{MESSAGE}"
CALL_FORM = CallForm(
    (f"{CHANNEL}commentary to=functions.", Slot.NAME, f" {CONSTRAIN}json{MESSAGE}", Slot.ARGUMENTS),
    JsonArguments(),
    markers=MARKERS,
    most=1,
)
"""A call as gpt-oss was trained to write it. `<|call|>` ends the turn, so that there is one."""

TEMPLATE_FORM = CallForm(
    (Slot.NAME, f"{CHANNEL}commentary json{MESSAGE}", Slot.ARGUMENTS),
    JsonArguments(),
    open=" to=functions.",
    markers=MARKERS,
    most=1,
)
"""A call as the chat template writes it, which models write that were trained further on it."""

MAX_HEADER = 1024
"""Characters. What is longer, and has no `<|message|>`, is text."""
MAX_WORDS = 3
"""The words of a header beside its channel and `to=`: a role, a recipient and a type of content."""

_MARKER = re.compile("|".join(map(re.escape, MARKERS)))
_LONGEST = max(map(len, MARKERS))
_PIECE = re.compile(
    rf"(?P<channel>{re.escape(CHANNEL)}\s*[^\s<]*)|(?P<type>{re.escape(CONSTRAIN)}\s*[^\s<]*)"
    r"|(?P<to>to=\s*(?P<name>[^\s<]*))|(?P<word>[^\s<]+|<)"
)
_MARKED = re.compile(rf"({re.escape(CHANNEL)}|{re.escape(CONSTRAIN)})\s*[^\s<]*")
_CHANNELS = frozenset({"analysis", "commentary", "final"})
_ROLES = frozenset({"assistant", "user", "system", "developer", "tool"})
_NOBODY = frozenset({"assistant", "user", "all"})  # recipients that are no tools
_TOOL = re.compile(r"functions\..+|python|(browser|container)\..+")

_Kind: TypeAlias = Literal["thought", "text", "call", "foreign"]


def writes_harmony(template: str) -> bool:
    """Whether a chat template, or what it has written, has harmony's headers."""
    return CHANNEL in template and MESSAGE in template


@dataclass(frozen=True, slots=True)
class _Header:
    """What a header says. `foreign`: the message is another role's, which the model made up."""

    kind: _Kind
    recipient: str = ""
    text_from: int = 0
    """Where the message's text begins, in a header that no `<|message|>` has ended."""
    is_answer: bool = False
    """Whether the message is the final answer, after which a turn ends."""


class HarmonyReader:
    """Reads one answer as it streams, into ordered parts.

    Invariant: the parts, joined, do not depend on where the text was cut. Two messages of one kind in
    a row have a line break between them.

    Args:
        begun: what the prompt has written of the first message, after `<|start|>`.
        tools: the names of the tools that were offered; a recipient may be one without `to=`.
        parser: makes a parser for calls in the text of a message, as those of models are that were
            fine-tuned on another format.
        ends_at_answer: whether a message's end ends the turn where the message is the final answer.
    """

    def __init__(
        self,
        begun: str = "assistant",
        *,
        tools: Collection[str] = (),
        parser: Callable[[], ToolParser] | None = None,
        ends_at_answer: bool = False,
    ) -> None:
        self._tools, self._make_parser = frozenset(tools), parser
        self._ends_at_answer, self._is_answer = ends_at_answer, False
        self.ended = False
        """Whether the turn has ended; what comes then is not read."""
        self.dropped = 0
        """How many characters of the last text were not read: the end of the turn, and what came
        after it."""
        self._header: str | None = ""  # as far as it has come; None inside of a message
        self._has_role = False
        self._kind: _Kind = "text"
        self._recipient = ""
        self._arguments: list[str] = []
        self._parser: ToolParser | None = None
        self._last: _Kind | None = None  # of what was emitted last
        self._is_new = False  # nothing was emitted of this message
        self._held = ""
        self._at = 0
        self.thoughts: list[tuple[int, int]] = []
        """The start and end offset of each thought in the answer's text."""
        self._start(begun)

    def _start(self, begun: str) -> None:
        """Read what the prompt holds of the answer's first header."""
        self.add(begun)
        if self._header is not None and self._header.strip() == "assistant":
            self._header, self._has_role = "", True
        self._last, self._is_new, self._at = None, self._header is not None, 0
        self.thoughts = [(0, 0)] if self.in_thought else []

    @property
    def _in_header(self) -> bool:
        return self._header is not None

    @property
    def in_thought(self) -> bool:
        """Whether the text that comes next continues a thought."""
        return self._header is None and self._kind == "thought"

    def add(self, text: str) -> list[AnswerPart]:
        """Take the next text of the answer; return what is now certain."""
        parts: list[AnswerPart] = []
        text, begin = self._held + text, 0
        for match in _MARKER.finditer(text):
            self._take(text[begin : match.start()], parts)
            if self._ends_at_answer and self._is_answer and match[0] == MESSAGE_END:
                self.ended, self._held, self.dropped = True, "", len(text) - match.start()
                return parts
            self._mark(match[0], parts)
            begin = match.end()
        end = max(begin, _end_of_certain(text))
        self._take(text[begin:end], parts)
        self._held = text[end:]
        return parts

    def flush(self, *, cut: bool = False) -> list[AnswerPart]:
        """End the answer; return what was held back.

        A call that was `cut`, by the limit of tokens for instance, keeps the part of its arguments
        that came. An engine hides the `<|call|>` that ends a whole one.
        """
        parts: list[AnswerPart] = []
        held, self._held = self._held, ""
        self._take(held, parts)
        if self._header is not None:
            self._begin_unended(parts, cut=cut)
        self._finish(parts, cut=cut)
        return parts

    # --- headers ---------------------------------------------------------------------------------

    def _mark(self, marker: str, parts: list[AnswerPart]) -> None:
        if marker in (CHANNEL, CONSTRAIN) and self._header is not None:
            self._header += marker
        elif marker not in (CONSTRAIN, MESSAGE):
            if self._header is not None:
                self._begin_unended(parts)
            self._finish(parts)
            self._header = CHANNEL if marker == CHANNEL else ""
            self._has_role = marker != START
        self._at += len(marker)
        if marker == MESSAGE and self._header is not None:
            self._begin(self._read_header(self._header))

    def _read_header(self, header: str, *, is_ended: bool = True) -> _Header:
        """What a header says; one that is not ended may be text, whose words say nothing."""
        channel = recipient = ""
        words: list[re.Match[str]] = []
        for match in _PIECE.finditer(header):
            if match["channel"]:
                channel = channel or match[0].removeprefix(CHANNEL).strip()
            elif match["to"] and (is_ended or CHANNEL in header or self._is_tool(match["name"])):
                recipient = recipient or match["name"]
            elif not match["type"]:
                words.append(match)
        role = "assistant"
        if not self._has_role and words and (words[0][0] in _ROLES or recipient == role):
            role = words.pop(0)[0]  # or the name of a tool, whose result this is
        elif words and words[0][0] == role and (is_ended or channel or not self._has_role):
            del words[0]
        for word in words if is_ended else ():
            if word[0] in _CHANNELS:
                channel = channel or word[0]
            elif self._is_tool(word[0]):
                recipient = recipient or word[0]
        name = "" if recipient in _NOBODY else recipient.removeprefix("functions.")
        kind: _Kind = "thought" if channel == "analysis" else "text"
        if name:
            kind = "call"
        if role != "assistant":
            kind = "foreign"
        text_from = words[0].start() if words else len(header)
        return _Header(kind, name, text_from, kind == "text" and channel == "final")

    def _is_tool(self, name: str) -> bool:
        return name in self._tools or _TOOL.fullmatch(name) is not None

    def _begin(self, header: _Header) -> None:
        """Begin a message's content."""
        self._header, self._is_new, self._is_answer = None, True, header.is_answer
        self._kind, self._recipient, self._arguments = header.kind, header.recipient, []
        if header.kind == "thought":
            self.thoughts.append((self._at, self._at))

    def _begin_unended(self, parts: list[AnswerPart], *, cut: bool = False) -> None:
        """Begin a message whose header no `<|message|>` has ended, if it has text or is a call."""
        written = self._header or ""
        if cut and self._may_be_header(written):
            return
        header = self._read_header(written, is_ended=False)
        text = _MARKED.sub("", written[header.text_from :])
        if text.strip() or header.kind == "call":
            self._begin(header)
            self._emit(text, parts)

    def _may_be_header(self, written: str) -> bool:
        """Whether this has more of a header than words, which may as well be an answer's first ones."""
        bare = written.lstrip()
        is_recipient = bare.startswith("to=") or "to=".startswith(bare)
        return not self._has_role or CHANNEL in written or is_recipient

    # --- content ---------------------------------------------------------------------------------

    def _take(self, text: str, parts: list[AnswerPart]) -> None:
        """Take text without markers."""
        if self._header is None:
            self._emit(text, parts)
        elif text:
            self._header += text
            end = _end_of_header(self._header)
            if end is not None:
                rest = self._header[end:]
                self._header = self._header[:end]
                self._begin_unended(parts)
                if self._in_header:  # white space alone
                    self._begin(_Header("text"))
                self._emit(rest, parts)
        self._at += len(text)

    def _emit(self, text: str, parts: list[AnswerPart]) -> None:
        if not text:
            return
        if self._kind == "call":
            self._arguments.append(text)
        elif self._kind == "thought":
            self._put(ThoughtPart(text), parts)
        elif self._kind == "text" and self._make_parser is None:
            self._put(TextPart(text), parts)
        elif self._kind == "text" and self._make_parser is not None:
            self._parser = self._parser or self._make_parser()
            self._put_pieces(self._parser.add(text), parts)

    def _put(self, part: TextPart | ThoughtPart, parts: list[AnswerPart]) -> None:
        kind: _Kind = "text" if isinstance(part, TextPart) else "thought"
        if self._is_new and self._last == kind:
            part = type(part)("\n" + part.text)
        self._last, self._is_new = kind, False
        parts.append(part)

    def _put_pieces(self, pieces: Collection[str | ToolCall], parts: list[AnswerPart]) -> None:
        for piece in pieces:
            if isinstance(piece, str):
                self._put(TextPart(piece), parts)
            else:
                parts.append(piece)
                self._last = "call"

    def _finish(self, parts: list[AnswerPart], *, cut: bool = False) -> None:
        """End the message, if one has begun."""
        if self._header is not None:
            return
        if self._kind == "call":
            parts.append(ToolCall(self._recipient, _arguments("".join(self._arguments), cut)))
            self._last = "call"
        elif self._kind == "thought":
            self.thoughts[-1] = (self.thoughts[-1][0], self._at)
        if self._parser is not None:
            self._put_pieces(self._parser.flush(), parts)
            self._parser = None
        self._header, self._is_answer = "", False


def _end_of_certain(text: str) -> int:
    """How much of the text cannot be the beginning of a marker that is still to come."""
    at = text.rfind("<", max(len(text) - _LONGEST + 1, 0))
    if at >= 0 and any(marker.startswith(text[at:]) for marker in MARKERS):
        return at
    return len(text)


def _end_of_header(header: str) -> int | None:
    """Where text begins that no header has; None where all may still be one."""
    end = MAX_HEADER if len(header) > MAX_HEADER else None
    words = 0
    for match in _PIECE.finditer(header):
        if end is not None and match.start() >= end:
            break
        if match.end() - match.start() > MAX_NAME:
            return match.start() + MAX_NAME
        if match["word"]:
            words += 1
            if words > MAX_WORDS:
                undecided = match.end() == len(header) and "to=".startswith(match[0])
                return None if undecided else match.start()
    return end


def _arguments(text: str, cut: bool) -> str:
    """A call's arguments as JSON: an object where that is what the model wrote.

    What is no JSON, such as the code that the built-in tool `python` takes, becomes a JSON string;
    of a call that was cut, the part that came is kept.
    """
    text = text.strip()
    if not text:
        return "" if cut else "{}"
    try:
        value = load(text)
    except ValueError:
        if cut:
            return text
        value = text
    if isinstance(value, str):
        inner = _object_in(value)
        value = value if inner is None else inner
    return dump(value)


def _object_in(text: str) -> dict[str, Any] | None:
    """The object that a text is, with a type before it, or a brace too many after it."""
    start = text.find("{")
    if start < 0 or text[:start].strip() not in ("", "json"):
        return None
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text, start)
        load(text[start:end])  # no NaN in it
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and not text[end:].strip("]} \t\r\n") else None
