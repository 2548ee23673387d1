"""A template made from a named format's declaration."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, Unpack

from quire.errors import TemplateError
from quire.messages import Conversation, Message, ToolCall, check_alternation
from quire.prompt import Element, Span, Spans, TextElement
from quire.template.format import (
    CONTENT,
    EOS,
    Format,
    Slots,
    fill,
    fill_to_content,
    find_markers,
    merge_spans,
)
from quire.template.harmony import read_answer
from quire.template.template import (
    RenderOptions,
    Template,
    continued_message,
    mark_thought,
    message_spans,
    refuse_media,
)
from quire.tools.base import ToolFormat
from quire.tools.harmony import writes_harmony
from quire.tools.learned import WithOwnForm
from quire.tools.registry import get_tool_format


class NamedTemplate(Template):
    """One of the formats of `formats/`, with the tool format and default system that were chosen.

    All text of the conversation is literal, so that no control token arises from it: system, user,
    assistant, tools, calls and results. The one exception is a thought at the start of an
    assistant's text: the words around it stay control tokens, for the model wrote them as such.
    """

    def __init__(
        self,
        declaration: Format,
        *,
        tool_format: str | None = None,
        default_system: str | None = None,
        own: Template | None = None,
    ) -> None:
        """`own` is the model's own chat template, whose calls are read as well."""
        self.own = own
        self.format = declaration
        self.name = declaration.name
        self.stop_words = declaration.stop_words
        self.thought_words = declaration.thought_words
        self.reasoning = declaration.reasoning
        self.is_harmony = writes_harmony(declaration.thought_words[0])
        self.efficient_eos = declaration.efficient_eos
        self.replace_eos = declaration.replace_eos
        self.media = declaration.media
        self.default_system = declaration.default_system
        if default_system is not None:
            self.default_system = default_system
        self._own_default = default_system is None
        self._tools = get_tool_format(tool_format or declaration.tools)
        self.tool_format: ToolFormat | None = self._tools
        theirs = own.tool_format if own is not None else None
        if theirs is not None and theirs is not self._tools:
            self.tool_format = WithOwnForm(self._tools, theirs)
        self._function = declaration.function_slots
        if tool_format is not None:  # as in the reference, calls are then written as a plain turn
            self._function = CONTENT if declaration.efficient_eos else (CONTENT, EOS)
        self._controls = _control_texts(declaration, self._tools)

    def render(
        self,
        conversation: Conversation,
        *,
        enable_thinking: bool | None = True,
        preserve_thinking: bool = False,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> list[Element]:
        """Write the conversation up to the answer. As in the reference, None asks for no thought."""
        if variables:
            given = ", ".join(variables)
            raise TemplateError(
                f"The named template {self.name!r} takes no further variables (given: {given}); "
                "only a model's own chat template does."
            )
        check_alternation(conversation, self.name)
        for message in conversation.messages:
            refuse_media(message, self.name)
        thinks = bool(enable_thinking)
        if continue_final_message:
            last = continued_message(conversation)
            last = read_answer(last) if self.is_harmony else last
            before = replace(conversation, messages=conversation.messages[:-1])
            answer = self._opened(last, thinks)
            opened = fill_to_content(self.format.assistant, answer) if answer else []
            return [*self._turns_so_far(before, preserve_thinking), *opened]
        elements = self._turns_so_far(conversation, preserve_thinking)
        is_open = conversation.messages[-1].role != "assistant"
        if is_open != add_generation_prompt:
            needed = "an assistant's message" if is_open else "a user's message or a tool's result"
            raise TemplateError(
                f"The named template {self.name!r} begins an answer as a part of the turn before it, "
                f"so that this value of add_generation_prompt needs {needed} at the end."
            )
        if is_open and self.reasoning and not thinks:
            elements.append(TextElement((Span(self._empty_thought()),)))
        return elements

    def render_answer(
        self, conversation: Conversation, answer: Message, **how: Unpack[RenderOptions]
    ) -> list[Element]:
        """Write an answer as the reference writes what is trained: as the turn after the prompt.

        A reasoning format's answer without a thought follows an empty one, which is the prompt's where
        thinking is off.
        """
        refuse_media(answer, self.name)
        answer = read_answer(answer) if self.is_harmony else answer
        thinks = bool(how.get("enable_thinking", True))
        keep = thinks or not self.reasoning
        elements: list[Element] = []
        words = [word.strip() for word in self.thought_words]
        has_thought = bool(answer.reasoning) or any(word in answer.text for word in words)
        if self.reasoning and thinks and not has_thought:
            elements.append(TextElement((Span(self._empty_thought()),)))
        slots = self._function if answer.tool_calls else self.format.assistant
        elements += fill(slots, self._answer(answer, keep))
        return [*elements, EOS] if self.efficient_eos else elements

    def _turns_so_far(self, conversation: Conversation, preserve_thinking: bool) -> list[Element]:
        keep = preserve_thinking or not self.reasoning
        elements = fill(self.format.prefix)
        system = self._system(conversation)
        if system is not None and not self.format.system_in_user:
            elements += fill(self.format.system, system)
            system = None
        for slots, content in self._turns(conversation, keep):
            if system is not None:
                content = (*_first_text(fill(self.format.system, system)), *content)
                system = None
            elements += fill(slots, content)
        return elements

    def _system(self, conversation: Conversation) -> Spans | None:
        """The system text with the tools after it; None where there is neither."""
        given = Span(conversation.system or "", literal=True)
        if not given.text:
            given = Span(self.default_system, literal=not self._own_default)
        tools = self._tools.list_tools(conversation.tools) if conversation.tools else ()
        if tools and not given.text and self.format.trims_tools:
            tools = (tools[0]._replace(text=tools[0].text.lstrip("\n")), *tools[1:])
        is_written = given.text or conversation.tools or conversation.empty_tools
        return (given, *tools) if is_written else None

    def _turns(self, conversation: Conversation, keep: bool) -> Iterator[tuple[Slots, Spans]]:
        """The slots and the text of each turn; consecutive results are one turn."""
        for role, group in groupby(conversation.messages, key=lambda message: message.role):
            messages = list(group)
            if role == "tool":
                yield self.format.observation_slots, self._results(messages)
                continue
            for message in messages:
                if role == "user":
                    yield self.format.user, message_spans(message)
                else:
                    message = read_answer(message) if self.is_harmony else message
                    calls = bool(message.tool_calls)
                    slots = self._function if calls else self.format.assistant
                    yield slots, self._answer(message, keep)

    def _results(self, messages: list[Message]) -> Spans:
        between = str(self.format.result_join)
        spans: list[Span] = []
        for message in messages:
            spans += [Span(between), *message_spans(message)]
        return tuple(spans[1:])

    def _answer(self, message: Message, keep: bool) -> Spans:
        """An assistant's turn: its thought if it is kept, its text and its calls."""
        calls = self._calls(message.tool_calls)
        if message.has_control:  # a medium in an answer: no thought is looked for around it
            return (*message_spans(message), *calls)
        if not keep:
            text = self._without_thoughts(message.text)
        elif message.reasoning and self.reasoning:  # given apart from the text
            before, after = self.thought_words
            thought = (Span(before), Span(message.reasoning, literal=True), Span(after))
            return (*thought, Span(message.text, literal=True), *calls)
        else:
            text = message.text
        return (*mark_thought(text, self.thought_words), *calls)

    def _opened(self, message: Message, thinks: bool) -> Spans:
        """An assistant's turn so far: its thought, and its text if that has begun.

        An answer without a thought follows an empty one, as the models were trained on it.
        """
        before, after = self.thought_words
        if not message.reasoning:
            has_thought = message.text.lstrip().startswith(before.strip())
            is_bare = self.reasoning and not has_thought and (message.text or not thinks)
            thought = (Span(self._empty_thought()),) if is_bare else ()
        elif message.text:
            thought = (Span(before), Span(message.reasoning, literal=True), Span(after))
        else:
            return (Span(before), Span(message.reasoning, literal=True))
        text = mark_thought(message.text, self.thought_words, may_be_open=True)
        return merge_spans((*thought, *text))

    def _calls(self, calls: tuple[ToolCall, ...]) -> Spans:
        return self._tools.write_calls(calls) if calls else ()

    def _without_thoughts(self, text: str) -> str:
        before, after = map(re.escape, self.thought_words)
        return re.sub(f"{before}.*?{after}", "", text, flags=re.DOTALL).lstrip("\n")

    def _empty_thought(self) -> str:
        empty = self.format.empty_thought
        return "".join(self.thought_words) if empty is None else empty


def _first_text(elements: list[Element]) -> Spans:
    return next((element.spans for element in elements if isinstance(element, TextElement)), ())


_SAMPLE_TOOL: dict[str, Any] = {
    "name": "tool",
    "description": "a tool",
    "parameters": {
        "type": "object",
        "properties": {"text": {"type": "string", "description": "a text", "enum": ["a", "b"]}},
        "required": ["text"],
    },
}
_SAMPLE_CALL = ToolCall("tool", '{"text": "a"}')


@functools.cache
def _control_texts(declaration: Format, tools: ToolFormat) -> frozenset[str]:
    """The markers in everything that the format writes itself, and the words that it names so.

    A tool and a call are written as samples, to see what their format writes around them.
    """
    written: list[str] = [*declaration.thought_words, declaration.default_system]
    words: list[str] = [*declaration.stop_words, *declaration.media.texts, *declaration.controls]
    for slot in declaration.all_slots:
        if isinstance(slot, str):
            written.append(slot)
        elif slot.text:
            words.append(slot.text)
    spans = (*tools.list_tools((_SAMPLE_TOOL,)), *tools.write_calls((_SAMPLE_CALL,)))
    written += [span.text for span in spans if not span.literal]
    words += [word.strip() for word in (*declaration.thought_words, *tools.markers)]
    markers = (marker for text in written for marker in find_markers(text))
    return frozenset(word for word in (*words, *markers) if word)
