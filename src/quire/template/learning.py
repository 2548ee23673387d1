"""What a chat template says of its model's answers, learned by rendering known ones.

A turn is rendered whose texts stand nowhere else: an answer, one with a thought before it, one call,
two calls. What the template writes around these texts is what the model writes around its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from quire.messages import ToolCall
from quire.template.format import find_markers
from quire.tools.call_form import CallForm
from quire.tools.learning import FIRST, MOST_CHARACTERS, SECOND, Splitter, learn_form

USER = "ahoy there old lighthouse"
TEXT = "Wait a bit for fog."
THOUGHT = "Muse upon tides."
AFTER = "and then"
RESULT = "slack water at noon"

Show = Callable[[Sequence[Mapping[str, Any]], bool, bool, Mapping[str, Any]], str | None]
"""The rendering of messages; with tools; with the beginning of an answer; with variables. None where
the template refuses them."""

THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message under which templates look for its thought."""
_NOTHING: Mapping[str, Any] = {}
_THINKING = (_NOTHING, {"enable_thinking": True, "thinking": True})
_SAYS_THOUGHT = re.compile(r"think|thought", re.IGNORECASE)
_THINK = re.compile(r"[<[◁](\w+:)?think(:\w+)?[>\]▷]", re.IGNORECASE)
"""Marks of a thought whatever closes it."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned of a template; texts are empty where the template has none."""

    shows_tools: bool
    form: CallForm | None
    thought: tuple[str, str] | None
    """What opens and closes a thought; None where the template writes none."""
    before_text: tuple[str, ...]
    after_text: tuple[str, ...]
    """What stands before and after the text of an answer, as `<|START_RESPONSE|>` does."""
    stops: tuple[str, ...]
    """Control tokens that end a turn."""
    none_content: bool
    """Whether calls without a text are shown only where the content is None, not an empty text."""
    message_ends: tuple[str, ...] = ()
    """Control tokens that end a turn after its text or its calls, and a message inside of it too: a
    thought, or a text before calls."""
    goes_on: tuple[str, ...] = ()
    """What follows such a token where calls follow in the same turn."""
    head: str = ""
    """What begins a turn after a result, where the prompt leaves it to the model."""


def probe_tools() -> list[dict[str, Any]]:
    """The tools that the probes call."""
    tools: list[dict[str, Any]] = []
    for call in (FIRST, SECOND):
        properties = {
            key: {"type": "string" if isinstance(value, str) else "integer", "description": key}
            for key, value in json.loads(call.arguments).items()
        }
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        function = {"name": call.name, "description": call.name, "parameters": parameters}
        tools.append({"type": "function", "function": function})
    return tools


def learn(
    show: Show,
    message: Callable[..., Mapping[str, Any]],
    *,
    written: str,
    special: Collection[str],
    added: Collection[str] = (),
) -> Learned:
    """Learn what a template says.

    Args:
        show: renders messages.
        message: makes one, of a role, a content or None, calls, and further keys.
        written: all texts of the template's own.
        special: texts of tokens that may end a turn.
        added: texts of further tokens, which are never divided.
    """
    markers = find_markers(written)
    split = Splitter({*special, *added, *markers})
    return _Turns(show, message, special, split, markers).learned()


class _Turns:
    """Renderings of one turn after a user's."""

    def __init__(
        self,
        show: Show,
        message: Callable[..., Mapping[str, Any]],
        special: Collection[str],
        split: Splitter,
        written: Collection[str],
    ) -> None:
        self._show, self._message, self._split, self._written = show, message, split, written
        self._special = frozenset(special)
        self._user = message("user", USER)
        self._rendered: dict[tuple[ToolCall, ...], tuple[str | None, bool]] = {}

    def learned(self) -> Learned:
        """All that can be seen."""
        prompt = self._show([self._user], True, True, {})
        shows_tools = prompt is not None and FIRST.name in prompt
        return Learned(
            shows_tools=shows_tools,
            form=learn_form(self._write_calls, self._split.markers),
            thought=self._thought_words,
            before_text=self._before_text,
            after_text=tuple(
                filter(None, (self._after_text, self._before_stop(), self._between_messages))
            ),
            stops=self._stops,
            none_content=self._calls_of((FIRST,))[1],
            message_ends=self._message_ends,
            goes_on=self._goes_on,
            head=self._head_after_result(),
        )

    # ---- renderings

    @cached_property
    def _with_tools(self) -> bool:
        """Whether even a turn without calls is rendered with tools: some templates want them."""
        return self._show([self._user], False, True, {}) is None

    def _tail(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: bool = False,
        begins: bool = False,
        variables: Mapping[str, Any] = _NOTHING,
    ) -> str | None:
        """What is rendered after the first text of the user."""
        text = self._show([self._user, *messages], tools or self._with_tools, begins, variables)
        tail = text.partition(USER)[2] if text is not None and USER in text else None
        return tail if tail is not None and len(tail) <= MOST_CHARACTERS else None

    @cached_property
    def _begun(self) -> str:
        """What a prompt ends with: the turn's head, and perhaps an open thought."""
        return self._tail([], begins=True) or ""

    @cached_property
    def _head(self) -> str:
        """The part of `_begun` that every answer has, without what opens a thought."""
        answer = self._message("assistant", TEXT)
        thoughtful = self._message("assistant", TEXT, reasoning_content=THOUGHT)
        tails = (
            self._tail([answer]),
            self._tail([thoughtful]),
            self._tail([answer, self._message("user", AFTER)]),
        )
        head = self._begun
        for tail in tails:
            if tail is not None:
                head = self._split.common_prefix(head, tail)
        return head

    def _answer(
        self,
        content: str | None,
        variables: Mapping[str, Any] = _NOTHING,
        calls: Sequence[ToolCall] = (),
        *,
        beside_tools: bool = False,
        **more: Any,
    ) -> str | None:
        """What the model writes in its turn, and what ends the turn."""
        message = self._message("assistant", content, calls, **more)
        tail = self._tail([message], tools=bool(calls) or beside_tools, variables=variables)
        if tail is None:
            return None
        rest = tail[len(self._split.common_prefix(self._head, tail)) :]
        header = self._header.match(rest)
        return rest[header.end() :] if header is not None else rest

    @cached_property
    def _header(self) -> re.Pattern[str]:
        """What begins a turn in the history where its white space is not that of a prompt."""
        header = self._begun[len(self._head) :]
        pieces = [piece for piece in self._split.split(header) if piece.strip()]
        if not pieces or _SAYS_THOUGHT.search(pieces[0]):
            return re.compile("")
        end = r"\s*" if header[-1].isspace() else ""
        return re.compile(r"\s*" + r"\s*".join(map(re.escape, pieces)) + end)

    @cached_property
    def _plain(self) -> str:
        """An answer of text."""
        answer = self._answer(TEXT)
        return answer if answer is not None and TEXT in answer else ""

    @cached_property
    def _thoughtful(self) -> tuple[str, str] | None:
        """An answer with a thought before it, or a call with one; and what follows the thought."""
        for variables in _THINKING:
            for key in THOUGHT_KEYS:
                thought: dict[str, Any] = {key: THOUGHT}
                answer = self._answer(TEXT, variables, **thought)
                if answer is not None and THOUGHT in answer and TEXT in answer:
                    return answer, TEXT
        thoughts: dict[str, Any] = dict.fromkeys(THOUGHT_KEYS, THOUGHT)
        answer = self._answer("", _THINKING[1], calls=[FIRST], **thoughts)
        if answer is not None and THOUGHT in answer and FIRST.name in answer:
            return answer, FIRST.name
        return None

    @cached_property
    def _call(self) -> str:
        """An answer of one call."""
        return self._calls_of((FIRST,))[0] or ""

    def _calls_of(self, calls: tuple[ToolCall, ...]) -> tuple[str | None, bool]:
        """An answer that consists of calls, with the turn's end; and whether it took None for a text."""
        if calls not in self._rendered:
            self._rendered[calls] = self._render_calls(calls)
        return self._rendered[calls]

    def _render_calls(self, calls: tuple[ToolCall, ...]) -> tuple[str | None, bool]:
        values = [str(value) for call in calls for value in json.loads(call.arguments).values()]
        for content in ("", None):
            answer = self._answer(content, calls=calls)
            if answer is not None and all(value in answer for value in values):
                return answer, content is None
        return None, False

    def _write_calls(self, calls: Sequence[ToolCall]) -> str | None:
        """What the model writes for calls alone, without the turn's end or an empty thought."""
        answer, _ = self._calls_of(tuple(calls))
        if answer is None:
            return None
        end = answer.rfind(self._end_of_call) if self._end_of_call else len(answer)
        written = answer[: end if end >= 0 else len(answer)]
        written = self._without_thought(written)
        for before in self._before_text:  # around a text that is empty
            written = written.removeprefix(before + self._after_text)
        return written

    # ---- what is seen in them

    @cached_property
    def _end_of_call(self) -> str:
        """What ends a turn of calls: the end that it shares with a text's, or a token of its own."""
        after = _after_arguments(self._call)
        shared = self._split.common_suffix(after, self._end_of_text)
        if shared.strip():
            return shared
        pieces = self._split.split(after.rstrip())
        own = bool(self._end_of_text.strip()) and pieces[-1:] and pieces[-1] in self._special
        if own:
            return pieces[-1] + after[len(after.rstrip()) :]
        stop = self._stop_before_result
        return after[after.index(stop) :] if stop and stop in after else ""

    @cached_property
    def _stop_before_result(self) -> str:
        """The control token that ends calls where a result follows them.

        It is that of a text where both have one, and none that stands between two calls.
        """
        tail = self._tail(self._round, tools=True) or ""
        called, shown, _ = tail.partition(RESULT)
        if not (shown and self._call):
            return ""
        two = self._calls_of((FIRST, SECOND))[0] or ""
        inside = self._before_call + two[: max(two.find(SECOND.name), 0)]
        ends = [one for one in self._specials(_after_arguments(called)) if one not in inside]
        of_text = [one for one in ends if one in self._end_of_text + self._after_turn]
        return next(iter([*of_text, *ends]), "")

    @cached_property
    def _round(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """A call and its result."""
        call = self._message("assistant", None if self._calls_of((FIRST,))[1] else "", [FIRST])
        return call, self._message("tool", RESULT, tool_call_id=FIRST.id, name=FIRST.name)

    def _head_after_result(self) -> str:
        answer = self._message("assistant", TEXT)
        asked = self._tail(self._round, tools=True, begins=True) or ""
        answered = self._tail([*self._round, answer], tools=True) or ""
        if not (self._call and RESULT in asked and TEXT in answered):
            return ""
        begun = self._split.common_prefix(asked, answered)
        head = answered[len(begun) :].partition(TEXT)[0]
        is_left_out = begun == asked and head.strip() and self._head.endswith(head)
        return head if is_left_out else ""

    @cached_property
    def _end_of_text(self) -> str:
        return self._plain.rpartition(TEXT)[2]

    @cached_property
    def _after_turn(self) -> str:
        """What stands between an answer and the user's next message."""
        answer = self._message("assistant", TEXT)
        tail = self._tail([answer, self._message("user", AFTER)]) or ""
        return tail.partition(TEXT)[2].partition(AFTER)[0] if AFTER in tail else ""

    @cached_property
    def _before_call(self) -> str:
        # A call may be known by its id alone: Kimi K2's model makes it of the name.
        return self._call[: min(_places_of_calls(self._call), default=0)]

    @cached_property
    def _thought_words(self) -> tuple[str, str] | None:
        if self._thoughtful is None:
            return self._signs_of_thought
        answer, following = self._thoughtful
        opening, _, rest = answer.partition(THOUGHT)
        close = self._first_marker(rest.partition(following)[0])
        if not close.strip():
            return self._signs_of_thought
        if not opening.strip():  # every prompt opens the thought, or every answer
            forced = self._begun[len(self._head) :].partition(close.strip())[0]
            opening = forced if forced.strip() else self._last_marker(self._head)
        return opening, close

    @cached_property
    def _before_text(self) -> tuple[str, ...]:
        """What stands before a text that begins an answer, and before one that follows a thought."""
        found = [self._without_thought(self._plain.partition(TEXT)[0])]
        beside_tools = self._answer(TEXT, beside_tools=True)
        if beside_tools is not None and TEXT in beside_tools:
            found.append(self._without_thought(beside_tools.partition(TEXT)[0]))
        if self._thoughtful is not None and self._thought_words is not None:
            answer, following = self._thoughtful
            between = answer.partition(THOUGHT)[2].partition(following)[0]
            if following == TEXT:
                found.append(between[len(self._thought_words[1]) :])
        return tuple(dict.fromkeys(text for text in found if text.strip()))

    @cached_property
    def _between_messages(self) -> str:
        """What begins another message of the same turn: that of the text after a thought."""
        if len(self._before_text) < 2:
            return ""
        first, *others = self._before_text
        return next((text.removesuffix(first) for text in others if text.endswith(first)), "")

    @cached_property
    def _after_text(self) -> str:
        shared = self._split.common_suffix(self._end_of_text, self._end_of_call)
        if not shared.strip():
            return ""
        after = self._end_of_text[: len(self._end_of_text) - len(shared)]
        return after if after.strip() else ""

    def _without_thought(self, text: str) -> str:
        """A text of the template's own without a thought that is empty."""
        if self._thought_words is None:
            return text
        opening, close = (word.strip() for word in self._thought_words)
        head, found, rest = text.partition(close)
        if found and not head.replace(opening, "").strip():
            return rest.lstrip("\n") if rest.strip() else ""
        return text.replace(opening, "", 1) if text.strip() == opening else text

    def _first_marker(self, text: str) -> str:
        """The text up to its first marker, with the white space after it."""
        pieces = self._split.split(text)
        for index, piece in enumerate(pieces):
            if self._split.is_marker(piece):
                rest = "".join(pieces[index + 1 :])
                return "".join(pieces[: index + 1]) + rest[: len(rest) - len(rest.lstrip())]
        return text

    def _last_marker(self, text: str) -> str:
        """The text from its last marker on."""
        pieces = self._split.split(text)
        for index in range(len(pieces) - 1, -1, -1):
            if self._split.is_marker(pieces[index]):
                return "".join(pieces[index:])
        return ""

    @cached_property
    def _signs_of_thought(self) -> tuple[str, str] | None:
        """What looks like the marks of a thought among the template's own texts.

        Some templates only cut thoughts off, at what closes them.
        """
        for marker in sorted(filter(_SAYS_THOUGHT.search, self._written), key=len):
            if marker[1:2] == "/":
                return marker[:1] + marker[2:], marker
            closings = _closings(marker)
            written = [close for close in closings if close in self._written]
            if written or _THINK.fullmatch(marker):
                return marker, (written or closings)[0]
        return None

    @cached_property
    def _ends(self) -> tuple[list[str], list[str]]:
        """The control tokens that may end a turn: a text's, and those of calls.

        A text that nothing ends goes up to what begins the next message.
        """
        text = self._specials(self._end_of_text[len(self._after_text) :])
        calls = self._specials(self._end_of_call) or self._specials(self._stop_before_result)
        return text or self._specials(self._after_turn), calls

    @cached_property
    def _inside(self) -> str:
        """What stands inside of a turn."""
        thoughtful = self._thoughtful[0] if self._thoughtful is not None else ""
        return self._plain.rpartition(TEXT)[0] + thoughtful.rpartition(TEXT)[0] + self._before_call

    @cached_property
    def _stops(self) -> tuple[str, ...]:
        """The control tokens that end a turn: of an answer, and of calls where that is another.

        What also stands inside of a turn ends a message, not the turn.
        """
        found = [next((one for one in ends if one not in self._inside), "") for ends in self._ends]
        return tuple(dict.fromkeys(filter(None, found)))

    @cached_property
    def _message_ends(self) -> tuple[str, ...]:
        """Those that also stand inside, where nothing else ends the turn."""
        found = [
            ends[0] for ends in self._ends if ends and all(one in self._inside for one in ends)
        ]
        return tuple(dict.fromkeys(found))

    @cached_property
    def _goes_on(self) -> tuple[str, ...]:
        """What stands between the end of a message and the calls that follow it, up to a marker."""
        thoughts: dict[str, Any] = dict.fromkeys(THOUGHT_KEYS, THOUGHT)
        answers = (
            self._call,
            self._answer(TEXT, calls=[FIRST]),
            self._answer("", _THINKING[1], calls=[FIRST], **thoughts),
        )
        found: list[str] = []
        for end in self._message_ends:
            for answer in filter(None, answers):
                begun = answer[: min(_places_of_calls(answer), default=0)]
                _, ended, between = begun.rpartition(end)
                if ended and not (TEXT in between or THOUGHT in between):
                    found.append(self._up_to_marker(between))
        return tuple(dict.fromkeys(filter(None, found)))

    def _before_stop(self) -> str:
        """What the model still writes at a turn's end before the token that stops it."""
        end = self._end_of_text[len(self._after_text) :]
        for stop in self._stops:
            head, found, _ = end.partition(stop)
            if found and head.strip():
                return head
        return ""

    def _specials(self, text: str) -> list[str]:
        return [piece for piece in self._split.split(text) if piece in self._special]

    def _up_to_marker(self, text: str) -> str:
        """The text up to its last marker; all of it where it has none."""
        pieces = self._split.split(text)
        while pieces and not self._split.is_marker(pieces[-1]):
            pieces.pop()
        return "".join(pieces) or text.strip()


def _places_of_calls(text: str) -> list[int]:
    """Where calls are named in a text."""
    places = [text.find(word) for word in (FIRST.name, str(FIRST.id))]
    return [place for place in places if place >= 0]


def _after_arguments(text: str) -> str:
    """What follows the last argument of a call from its end on; empty where it has none."""
    last = max(map(text.rfind, map(str, json.loads(FIRST.arguments).values())))
    return text[last:] if last >= 0 else ""


def _closings(opening: str) -> list[str]:
    """What may close a marker: `</think>`, `<|END_THINKING|>`, `[/THINK]`, `◁/think▷`."""
    found = [opening[:1] + "/" + opening[1:]]
    for begin, end in (("START", "END"), ("start", "end"), ("begin", "end")):
        if begin in opening:
            found.append(opening.replace(begin, end, 1))
    return found
