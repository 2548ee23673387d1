"""What transformers renders: whole conversations, and the answers that a template itself writes.

A conversation can be spelled in several ways that mean the same: arguments as an object or as JSON
text, no content as None or as "", a thought under one of several keys. Each template takes some of
them, so that the reference is the first spelling which the template renders, and which it shows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast
from unittest import mock

import transformers.utils.chat_template_utils
from transformers import PreTrainedTokenizerFast

from quire.template import sandbox
from tests.template.real.conversations import (
    ASK,
    PARIS,
    TOOLS,
    Answer,
    Message,
    as_json,
    calling,
    result,
)
from tests.template.real.records import Written
from tests.template.real.templates import BOS, EOS, make_backend

_THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking", "thought", "tool_plan", "inline")
_IDS = ("call{number:05d}", "functions.{name}:{number}")
_MARKER = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{3,30}\]|◁[^◁▷\s]{1,20}▷")
_MOST_UNWRITTEN = 200
"""Characters of a prompt's end that the template may leave out in front of an answer."""
_QUESTION: Message = {"role": "user", "content": "What now?"}


class FixedTime(datetime):
    """A day that the renderings of dates agree on, whenever they are made."""

    @classmethod
    def now(cls, tz: Any = None) -> FixedTime:
        """The same moment each time."""
        return cls(2026, 1, 31, 12, 0, 0, tzinfo=tz)


@contextmanager
def fixed_time() -> Iterator[None]:
    """Let templates, in transformers and here, read one and the same date."""
    with (
        mock.patch.object(transformers.utils.chat_template_utils, "datetime", FixedTime),
        mock.patch.object(sandbox, "datetime", FixedTime),
    ):
        yield


@dataclass(frozen=True)
class Spelling:
    """How a conversation is written down for one template."""

    arguments_as_text: bool = False
    ids: str = _IDS[0]
    no_content: Any = None
    """What stands for the content of calls without text."""
    as_parts: bool = False
    thought_key: str = _THOUGHT_KEYS[0]

    def write(self, message: Message, first: int = 0) -> Message:
        """The message in this spelling."""
        written = dict(message)
        if calls := message.get("tool_calls"):
            written["tool_calls"] = [self._call(call, first + n) for n, call in enumerate(calls)]
            if message["content"] is None:
                written["content"] = self.no_content
        thought = written.pop("reasoning_content", None)
        if thought is not None and self.thought_key == "inline":
            written["content"] = f"<think>\n{thought}\n</think>\n\n{message['content'] or ''}"
        elif thought is not None:
            written[self.thought_key] = thought
        if self.as_parts and isinstance(written["content"], str):
            written["content"] = [{"type": "text", "text": written["content"]}]
        return written

    def _call(self, call: dict[str, Any], number: int) -> dict[str, Any]:
        function = dict(call["function"])
        if self.arguments_as_text:
            function["arguments"] = as_json(function["arguments"])
        made = self.ids.format(name=function["name"], number=number)
        return {**call, "id": made, "function": function}


class Reference:
    """One template in transformers."""

    def __init__(self, template: str) -> None:
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=make_backend(template),
            chat_template=template,
            bos_token=BOS,
            eos_token=EOS,
        )
        self.spelling = self._find_spelling()
        asked = self.attempt(self.spelled([_QUESTION]), tools=True)
        self.shows_tools = asked is not None and "get_weather" in asked
        self.shows_calls = self._shows_call(self.spelling)

    def render(
        self, messages: list[Message], *, tools: bool, prompt: bool = True, **given: Any
    ) -> str:
        """The text of messages as they are.

        Raises:
            Exception: whatever the template raises.
        """
        text = self.tokenizer.apply_chat_template(
            messages,
            tools=cast("Any", TOOLS if tools else None),
            add_generation_prompt=prompt,
            tokenize=False,
            **given,
        )
        assert isinstance(text, str)
        return text

    def attempt(
        self, messages: list[Message], *, tools: bool, prompt: bool = True, **given: Any
    ) -> str | None:
        """The rendering, or None where the template raises."""
        try:
            return self.render(messages, tools=tools, prompt=prompt, **given)
        except Exception:
            return None

    def spelled(self, messages: list[Message], spelling: Spelling | None = None) -> list[Message]:
        """The messages in this spelling, or in the template's."""
        number, written = 0, []
        for message in messages:
            written.append((spelling or self.spelling).write(message, number))
            number += len(message.get("tool_calls", ()))
        return written

    def renderings(self, messages: list[Message], *, tools: bool) -> Iterator[str | None]:
        """What the spellings of a conversation give, the template's own first; None where one raises.

        Parts of text are given as they are. A template that takes text alone raises, writes the
        list down, or drops them; what is right is then what vLLM shows it: the parts on lines of
        their own.
        """
        own = self.attempt(self.spelled(messages), tools=tools)
        if any(isinstance(message["content"], list) for message in messages):
            if own is None or not _shows_parts(own, messages):
                messages = [_joined(message) for message in messages]
                own = self.attempt(self.spelled(messages), tools=tools)
            yield own
            return
        yield own
        seen = [messages]
        yield self.attempt(messages, tools=tools)
        for as_text, content, parts, key in itertools.product(
            (False, True), (None, ""), (False, True), _THOUGHT_KEYS[:3]
        ):
            spelling = Spelling(as_text, self.spelling.ids, content, parts, key)
            if (spelled := self.spelled(messages, spelling)) not in seen:
                seen.append(spelled)
                yield self.attempt(spelled, tools=tools)

    # --- what the template takes, and shows ----------------------------------------------------

    def _find_spelling(self) -> Spelling:
        """The first spelling in which a call is shown; the first of all where none shows it.

        Kimi K2's templates write a call by its id alone, which its model makes of the name.
        """
        for as_text, parts, content, ids in itertools.product(
            (False, True), (False, True), (None, ""), _IDS
        ):
            spelling = Spelling(as_text, ids, content, parts)
            if self._shows_call(spelling):
                return spelling
        for parts in (False, True):
            spelling = Spelling(as_parts=parts)
            if "What" in (self.attempt(self.spelled([_QUESTION], spelling), tools=False) or ""):
                return spelling
        return Spelling()

    def _shows_call(self, spelling: Spelling) -> bool:
        """Whether a call's name and arguments are shown, and not as Python's text of the object."""
        asked = self.attempt(self.spelled([_QUESTION], spelling), tools=True, prompt=False)
        called = self.spelled([_QUESTION, calling(PARIS)], spelling)
        text = self.attempt(called, tools=True, prompt=False)
        if asked is None or text is None or "{'city'" in text:
            return False
        if text.count("None") > asked.count("None"):
            return False
        return "Paris" in text and text.count("get_weather") > asked.count("get_weather")

    # --- answers -------------------------------------------------------------------------------

    def answer(self, answer: Answer) -> Written | None:
        """The answer as the template writes it; None where it cannot, or does not show all calls."""
        written = self._in_some_spelling(answer)
        if written is None or not (answer.text and answer.calls) or answer.thought:
            return written
        as_thought = self._in_some_spelling(replace(answer, text="", thought=answer.text))
        same = as_thought is not None and as_thought.text == written.text
        return replace(written, text_is_thought=same)

    def _in_some_spelling(self, answer: Answer) -> Written | None:
        """The answer with its thought under the key that the template shows."""
        shown: Written | None = None
        keys = _THOUGHT_KEYS if answer.thought else _THOUGHT_KEYS[:1]
        for key, thinking in itertools.product(keys, (None, True)):
            written = self._written(answer, replace(self.spelling, thought_key=key), thinking)
            if written is None or not _shows_calls(written.text, answer):
                continue
            if key == "inline" and not self._thinks_inline(written, answer.thought):
                continue
            if answer.thought in written.text and not written.unwritten.strip():
                return written
            if not answer.thought or answer.thought not in written.text:
                shown = shown or written
        return shown

    def _thinks_inline(self, written: Written, thought: str) -> bool:
        """Whether a thought in the text is one: its tags are the template's, and it comes first."""
        closed = written.prompt.rstrip().endswith("</think>")
        has_tags = "</think>" in str(self.tokenizer.chat_template)
        first = re.match(rf"\s*(<think>\s*)?{re.escape(thought)}", written.text)
        return has_tags and not closed and first is not None

    def _written(self, answer: Answer, spelling: Spelling, thinking: bool | None) -> Written | None:
        before, tools = self.question(answer)
        given = {} if thinking is None else {"enable_thinking": thinking}
        turn = _turn(answer, 1 if answer.after_result else 0)
        spelled = self.spelled([*before, turn], spelling)
        prompt = self.attempt(spelled[:-1], tools=tools, **given)
        whole = self.attempt(spelled, tools=tools, prompt=False, **given)
        if prompt is None or whole is None:
            return None
        at = _common(prompt, whole)
        text, unwritten = whole[at:], prompt[at:]
        head = _head(text, unwritten)
        if head:  # with other white space than in the prompt: it is not part of the answer
            text, unwritten = text[head:], ""
        if len(unwritten) > _MOST_UNWRITTEN:
            return None
        return Written(prompt, text, unwritten, thinking)

    def question(self, answer: Answer) -> tuple[list[Message], bool]:
        """What stands before an answer, and whether the tools are given with it.

        A template that shows no tools is asked without them for an answer without calls.
        """
        tools = self.shows_tools or bool(answer.calls) or answer.after_result
        return ([ASK, calling(PARIS), result()] if answer.after_result else [ASK]), tools


def _shows_parts(text: str, messages: list[Message]) -> bool:
    """Whether all parts of text are in a rendering, and not the text of their list."""
    if re.search(r"""["']type["']: ["']text["']""", text):
        return False
    contents = [message["content"] for message in messages if isinstance(message["content"], list)]
    return all(part["text"].strip() in text for content in contents for part in content)


def _joined(message: Message) -> Message:
    """A message of text parts as one of text."""
    if isinstance(message["content"], str):
        return message
    return {**message, "content": "\n".join(part["text"] for part in message["content"])}


def _turn(answer: Answer, first: int) -> Message:
    more = {"reasoning_content": answer.thought} if answer.thought else {}
    if answer.calls:
        return calling(*answer.calls, content=answer.text or None, first=first, **more)
    return {"role": "assistant", "content": answer.text, **more}


def _shows_calls(text: str, answer: Answer) -> bool:
    """Whether the rendering has all calls: a call without arguments is known by its name."""
    wanted = [word for call in answer.calls for word in _words(call.arguments) or [call.name]]
    return all(word in text for word in wanted)


def _words(arguments: dict[str, Any]) -> list[str]:
    """A word of each call that no format writes otherwise."""
    first = next((str(value) for value in arguments.values() if isinstance(value, str)), "")
    return re.findall(r"[A-Za-z0-9]+", first)[:1]


def _common(prompt: str, whole: str) -> int:
    """How much of a prompt stands in front of the answer, cut at the border of a marker."""
    at = 0
    for left, right in zip(_pieces(prompt), _pieces(whole), strict=False):
        if left != right:
            break
        at += len(left)
    return at


def _head(text: str, prompt: str) -> int:
    """The length of what a text begins with if that is a prompt's end but for white space; else 0."""
    wanted = [char for char in prompt if not char.isspace()]
    length = 0
    while wanted and length < len(text):
        char = text[length]
        if not char.isspace() and char != wanted.pop(0):
            return 0
        length += 1
    return 0 if wanted else length


def _pieces(text: str) -> Iterator[str]:
    """Markers whole, all else character by character."""
    at = 0
    for match in _MARKER.finditer(text):
        yield from text[at : match.start()]
        yield match[0]
        at = match.end()
    yield from text[at:]
