"""A model's own chat template, in Jinja, rendered as transformers renders it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from quire.errors import ConfigError, MessageError, TemplateError
from quire.messages import Control, Conversation, Media, Message, Part, ToolCall
from quire.prompt import Element, TextElement
from quire.template.format import MediaTokens, find_markers
from quire.template.learning import Learned, learn, probe_tools
from quire.template.marked import join, own
from quire.template.sandbox import CallArguments, Renderer
from quire.template.template import Template, mark_thought, message_spans, refuse_media
from quire.tokenizer import Tokenizer
from quire.tools.base import wrap
from quire.tools.learned import LearnedFormat
from quire.tools.registry import detect_tool_format, get_tool_format

_NO_THOUGHT = ("<think>\n", "\n</think>\n\n")
"""What is taken for a thought where a template shows none: many models write one all the same."""
_PROBE = "a b c"
_PROBE_PARTS = [{"type": own("text"), "text": _PROBE}]
_OWN_ROLES = {role: own(role) for role in ("system", "user", "assistant", "tool")}
"""Roles are the template's own text: many templates write them inside of a marker."""


class JinjaTemplate(Template):
    """The chat template of a model's folder.

    The template sees what transformers' `apply_chat_template` would show it: `messages` (the system
    message in front), `tools` in OpenAI's form or None, `documents` None, `add_generation_prompt`
    True, the special tokens by name, `enable_thinking` where it is given, and `variables`.

    The format of tool calls, the marks around thoughts and answers, and what ends a turn are learned
    from renderings of known turns; `tool_format` names another format of calls.
    """

    is_models_own = True

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        tool_format: str | None = None,
        default_system: str | None = None,
    ) -> None:
        """Compile.

        Raises:
            ConfigError: the template has an error, or the tool format is unknown.
        """
        sources = tokenizer.chat_template
        named = {"default": sources} if isinstance(sources, str) else dict(sources or {})
        self.name = "the model's own"
        self.default_system = default_system or ""
        self.efficient_eos = self.replace_eos = False
        self.media = MediaTokens()
        self._special = {name: own(text) for name, text in tokenizer.special_tokens.items()}
        try:
            self._renderers = {name: Renderer(text) for name, text in named.items()}
        except TemplateError as error:
            raise ConfigError(
                f"{error} Mend it, or name another template (`template: ...`)."
            ) from None
        source = "\n".join(named.values())
        self._none_content = _asks_for_none(source)
        self.takes_parts = "content" in source and "type" in source and self._shows(_PROBE_PARTS)
        self._parts_always = self.takes_parts and not self._shows(_PROBE)
        learned = self.learned = self._learn(tokenizer)
        self.reasoning = learned.thought is not None
        self.thought_words = learned.thought or _NO_THOUGHT
        self.before_text, self.after_text = learned.before_text, learned.after_text
        self.stop_words = learned.stops
        family = detect_tool_format(source)
        if tool_format:
            self.tool_format = get_tool_format(tool_format)
        elif learned.form is not None:
            self.tool_format = LearnedFormat(learned.form, family)
        else:
            self.tool_format = family
        self._controls = self._find_controls(tokenizer)

    def render(
        self,
        conversation: Conversation,
        *,
        enable_thinking: bool | None = True,
        preserve_thinking: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> list[Element]:
        given: dict[str, Any] = {**self._special, **(variables or {})}
        if enable_thinking is not None:
            given.setdefault("enable_thinking", enable_thinking)
        if preserve_thinking:
            given.setdefault("preserve_thinking", True)
        given |= {"documents": None, "add_generation_prompt": True}
        given["tools"] = None
        if conversation.tools:
            given["tools"] = [wrap(tool) for tool in conversation.tools]
        renderer = self._renderer(bool(conversation.tools))
        given["messages"] = self._messages(conversation)
        try:
            spans = renderer.render(given)
        except TemplateError:
            # A few templates want ids that many callers, and LLaMA-Factory's form, leave out. They
            # are made only where a rendering fails: elsewhere they would change prompts.
            numbered = _number_calls(conversation)
            if numbered == conversation:
                raise
            spans = renderer.render(given | {"messages": self._messages(numbered)})
        return [TextElement(spans)] if spans else []

    def _renderer(self, with_tools: bool) -> Renderer:
        for name in ("tool_use", "default") if with_tools else ("default",):
            if name in self._renderers:
                return self._renderers[name]
        if len(self._renderers) == 1:
            return next(iter(self._renderers.values()))
        names = ", ".join(self._renderers)
        raise TemplateError(
            f"The model has several chat templates ({names}), and none is named default."
        )

    def _messages(self, conversation: Conversation) -> list[dict[str, Any]]:
        """The messages as transformers shows them to a chat template, the system message in front."""
        shown: list[dict[str, Any]] = []
        system = conversation.system
        if system is None and self.default_system:
            system = self.default_system
        if system is not None:
            content = [{"type": own("text"), "text": system}] if self._parts_always else system
            shown.append({"role": _OWN_ROLES["system"], "content": content})
        for message in conversation.messages:
            shown.append(self._message(message))
        return shown

    def _message(self, message: Message) -> dict[str, Any]:
        content: str | None = message.text
        kinds = set(map(type, message.parts))
        if Control in kinds:
            content = join(
                [own(s.text) if not s.literal else s.text for s in message_spans(message)]
            )
        elif message.role == "assistant":
            spans = mark_thought(message.text, self.thought_words)
            content = join([span.text if span.literal else own(span.text) for span in spans])
        if not content and message.tool_calls and self._none_content:
            content = None
        shown: dict[str, Any] = {"role": _OWN_ROLES[message.role], "content": content}
        if Media in kinds:
            if not self.takes_parts:
                refuse_media(message, self.name)
            shown["content"] = [_part(part) for part in message.parts]
        elif self._parts_always and content is not None:
            shown["content"] = [{"type": own("text"), "text": content}]
        if message.reasoning is not None:
            shown["reasoning_content"] = message.reasoning
        if message.tool_calls:
            shown["tool_calls"] = [_call(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            shown["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            shown["name"] = message.name
        return shown

    def _shows(self, content: Any) -> bool:
        """Whether a probe comes out as it is where a user's content is given in this form."""
        given = {**self._special, "tools": None, "documents": None, "add_generation_prompt": True}
        messages = [{"role": _OWN_ROLES["user"], "content": content}]
        try:
            spans = self._renderer(False).render({**given, "messages": messages})
        except TemplateError:
            return False
        literal = [span.text.strip() for span in spans if span.literal and span.text.strip()]
        return literal == [_PROBE]

    def _learn(self, tokenizer: Tokenizer) -> Learned:
        tools = [wrap(tool) for tool in probe_tools()]

        def show(
            messages: Sequence[Mapping[str, Any]],
            with_tools: bool,
            begins: bool,
            variables: Mapping[str, Any],
        ) -> str | None:
            given = {**self._special, **variables, "documents": None, "messages": list(messages)}
            given |= {"tools": tools if with_tools else None, "add_generation_prompt": begins}
            try:
                spans = self._renderer(with_tools).render(given)
            except TemplateError:
                return None
            return "".join(span.text for span in spans)

        return learn(
            show,
            self._probe_message,
            written=self._written,
            special=tokenizer.special_texts,
            added=tokenizer.added_texts,
        )

    def _probe_message(
        self, role: str, content: str | None, calls: Sequence[ToolCall] = (), **more: Any
    ) -> dict[str, Any]:
        """A message as `_message` makes it, with a content of None where that is asked for."""
        shown: Any = content
        if self._parts_always and content is not None:
            shown = [{"type": own("text"), "text": content}]
        message = {"role": _OWN_ROLES[role], "content": shown, **more}
        return {**message, "tool_calls": [_call(call) for call in calls]} if calls else message

    @property
    def _written(self) -> str:
        """All texts of the templates' own."""
        texts = [text for renderer in self._renderers.values() for text in renderer.own_texts]
        return "\n".join(texts)

    def _find_controls(self, tokenizer: Tokenizer) -> frozenset[str]:
        """The added tokens, and whatever looks like one, that the template writes itself."""
        written = self._written
        added = {text for text in tokenizer.added_texts if text.strip() and text in written}
        words = [*self._special.values(), *(word.strip() for word in self.thought_words)]
        words += self.tool_format.markers if self.tool_format else ()
        return frozenset(added | find_markers(written) | {str.__str__(word) for word in words})


def _part(part: Part) -> dict[str, Any]:
    """A part as transformers shows it to a chat template."""
    if isinstance(part, Media):
        return {"type": own(part.kind)}
    return {"type": own("text"), "text": own(part.text) if isinstance(part, Control) else part.text}


def _asks_for_none(template: str) -> bool:
    """Whether the template recognises calls without text by a content that is none."""
    bare = template.replace("'", "").replace('"', "").replace("]", "").replace("[", ".")
    return any(f"content is {test}" in bare for test in ("none", "not none"))


def _call(call: ToolCall) -> dict[str, Any]:
    try:
        value = json.loads(call.arguments) if call.arguments.strip() else {}
    except (ValueError, RecursionError):
        value = call.arguments
    arguments = CallArguments(value, call.arguments) if isinstance(value, dict) else call.arguments
    shown: dict[str, Any] = {"type": own("function")}
    if call.id is not None:
        shown["id"] = call.id
    return shown | {"function": {"name": call.name, "arguments": arguments}}


def _number_calls(conversation: Conversation) -> Conversation:
    """Give calls, and the results that follow them, the ids that they lack."""
    numbers = _call_ids()
    waiting: list[str] = []
    messages: list[Message] = []
    for message in conversation.messages:
        if message.tool_calls:
            calls = tuple(
                call if call.id else replace(call, id=_next_id(numbers))
                for call in message.tool_calls
            )
            waiting = [call.id for call in calls if call.id]
            message = replace(message, tool_calls=calls)
        elif message.role == "tool" and waiting:
            first = waiting.pop(0)
            message = replace(message, tool_call_id=message.tool_call_id or first)
        messages.append(message)
    return replace(conversation, messages=tuple(messages))


_MOST_CALLS = 100_000  # without ids; the ids that they get are then used up


def _call_ids() -> Iterator[str]:
    """Ids of nine letters and digits, as the templates that check them want."""
    return (f"call{number:05d}" for number in range(_MOST_CALLS))


def _next_id(ids: Iterator[str]) -> str:
    for one in ids:
        return one
    raise MessageError(
        f"More than {_MOST_CALLS:,} tool calls have no id: give each its own, or send fewer."
    )
