"""A model's own chat template, in Jinja, rendered as transformers renders it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from quire.errors import ConfigError, MessageError, TemplateError, ToolError
from quire.messages import Control, Conversation, Joint, Media, Message, Part, Text, ToolCall
from quire.prompt import Element, Span, Spans, TextElement
from quire.template.budget import CallArguments
from quire.template.declared import Settled, settle
from quire.template.format import MediaTokens, find_markers, merge_spans
from quire.template.harmony import begin_answer, history, is_harmony, of_harmony
from quire.template.learning import THOUGHT_KEYS, Learned, learn, probe_tools
from quire.template.marked import join, own
from quire.template.sandbox import Renderer
from quire.template.template import (
    Template,
    continued_message,
    mark_thought,
    message_spans,
    refuse_media,
)
from quire.tokenizer import Tokenizer
from quire.tools.base import ToolFormat, wrap
from quire.tools.harmony import MESSAGE_END, writes_harmony
from quire.tools.learned import LearnedFormat
from quire.tools.learning import FIRST
from quire.tools.registry import detect_tool_format, get_tool_format

_NO_THOUGHT = ("<think>\n", "\n</think>\n\n")
"""What is taken for a thought where a template shows none: many models write one all the same."""
_NOTHING: Mapping[str, Any] = {}
_FUNCTION, _TEXT = own("function"), own("text")
_PROBE = "a b c"
_PROBE_PARTS = [{"type": _TEXT, "text": _PROBE}]
_RESERVED = frozenset({"messages", "tools", "add_generation_prompt"})
"""The variables that are not a request's own to give."""
_THINKING_SWITCHES = ("enable_thinking", "thinking", "reasoning")
"""Names of the variable by which templates turn thinking on and off."""
_END = "EndOfWhatIsContinued "
"""Marks the end of a message that is continued; by its space is seen whether the template strips."""
_DECODER = json.JSONDecoder()
_TEXT_ALONE = frozenset[type]({Text})
_OWN_ROLES = {role: own(role) for role in ("system", "user", "assistant", "tool")}
"""Roles are the template's own text: many templates write them inside of a marker."""


class JinjaTemplate(Template):
    """The chat template of a model's folder.

    The template sees what transformers' `apply_chat_template` would show it: `messages` (the system
    message in front), `tools` in OpenAI's form or None, `documents` or None,
    `add_generation_prompt`, the special tokens by name, and `variables`. What it reads under other
    names in its family, the switch for thinking and the thought of a message, it is given so.

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
        renderers = self._renderers.values()
        self.variables = frozenset[str]().union(*(one.variables for one in renderers)) - _RESERVED
        keys = frozenset[str]().union(*(one.keys for one in renderers))
        self._thinking_switch = _first_of(_THINKING_SWITCHES, self.variables)
        self._thought_key = _first_of(THOUGHT_KEYS, keys)
        source = "\n".join(named.values())
        self._takes_texts = "content" in source and self._shows(_PROBE_PARTS)
        # One that never asks for a part's type would drop a medium.
        self.takes_parts = self._takes_texts and "type" in source
        self._parts_always = self._takes_texts and not self._shows(_PROBE)
        learned = self._learn(tokenizer)
        self.is_harmony = is_harmony(learned)
        # Harmony's messages have a reader of their own, which knows more than regions do.
        settled = Settled(learned) if self.is_harmony else settle(learned, tokenizer)
        learned = self.learned = settled.learned
        self._not_followed = settled.warning
        self.shows_tools = learned.shows_tools or tool_format is not None
        self.reasoning = learned.thought is not None
        self.thought_words = learned.thought or _NO_THOUGHT
        self._thought_opening = self.thought_words[0].strip()
        self.before_text, self.after_text = learned.before_text, learned.after_text
        self.stop_words = learned.stops
        self.message_ends, self.goes_on = learned.message_ends, learned.goes_on
        self.head = learned.head
        family = detect_tool_format(source)
        self._chosen_format = get_tool_format(tool_format) if tool_format else None
        if self._chosen_format is not None:
            self.tool_format = self._chosen_format
        elif learned.form is not None:
            self.tool_format = LearnedFormat(learned.form, family, settled.rendered_form)
        else:
            self.tool_format = family
        self._controls = self._find_controls(tokenizer)

    def render(
        self,
        conversation: Conversation,
        *,
        enable_thinking: bool | None = None,
        preserve_thinking: bool = False,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> list[Element]:
        if self.is_harmony:
            conversation = replace(conversation, messages=tuple(history(conversation.messages)))
        given: dict[str, Any] = {"documents": None, **self._special, **(variables or {})}
        if enable_thinking is not None:
            given.setdefault(self._thinking_switch, enable_thinking)
        if preserve_thinking:
            given.setdefault("preserve_thinking", True)
        given["add_generation_prompt"] = add_generation_prompt and not continue_final_message
        given["tools"] = [wrap(tool) for tool in conversation.tools] or None
        renderer = self._renderer(
            with_tools=bool(conversation.tools), with_documents=bool(given["documents"])
        )
        if continue_final_message:
            spans = self._render_open(renderer, given, conversation)
        else:
            spans = self._render_messages(renderer, given, conversation)
        elements: list[Element] = [TextElement(spans)] if spans else []
        if self.is_harmony and enable_thinking is False and not conversation.tools:
            elements += begin_answer(elements)
        return elements

    def with_tools_shown(self, conversation: Conversation) -> Conversation:
        if not conversation.tools or self.learned.shows_tools:
            return conversation
        if self._chosen_format is None:
            reads = " or ".join(sorted(name for name in self.variables if "tools" in name))
            hint = f", or give its variables: it reads {reads}" if reads else ""
            raise ToolError(
                "The model's own chat template shows no tools, so the model would never call one. "
                "Leave tools out; or give tool_format (qwen, for instance), in which tools are then "
                f"shown in the system message; or name a template with tools{hint}."
            )
        return _with_tools_in_system(conversation, self._chosen_format, self.default_system)

    def _render_messages(
        self, renderer: Renderer, given: Mapping[str, Any], conversation: Conversation
    ) -> Spans:
        """Render; where that fails, once more with ids of calls as some templates want them."""
        try:
            return renderer.render({**given, "messages": self._messages(conversation)})
        except TemplateError:
            # These templates refuse ids of any other form, and calls without one, which many
            # callers and LLaMA-Factory's form send. Elsewhere new ids would change prompts.
            numbered = _number_calls(conversation)
            if numbered == conversation:
                raise
            return renderer.render({**given, "messages": self._messages(numbered)})

    def _render_open(
        self, renderer: Renderer, given: Mapping[str, Any], conversation: Conversation
    ) -> Spans:
        """Render up to where the last message's text ends, or its thought if it has no text."""
        last = continued_message(conversation)
        before = replace(conversation, messages=conversation.messages[:-1])
        thought = self._open_thought(last)
        if thought is not None:
            opened = replace(last, parts=(), reasoning=thought + _END)
            return self._cut_rendering(renderer, given, before, opened) or self._thinking_prompt(
                renderer, given, before, thought
            )
        parts = (*_marked_parts(last, self.thought_words), Text(_END))
        cut = self._cut_rendering(renderer, given, before, replace(last, parts=parts))
        if cut is None:
            raise TemplateError(
                "The chat template leaves out the end of the last message, so that it cannot be "
                "continued."
            )
        return cut

    def _cut_rendering(
        self, renderer: Renderer, given: Mapping[str, Any], before: Conversation, opened: Message
    ) -> Spans | None:
        """A conversation with one more message, up to the mark in that; None where it is not shown."""
        conversation = replace(before, messages=(*before.messages, opened))
        try:
            return _cut_at_end(self._render_messages(renderer, given, conversation))
        except TemplateError:
            if opened.parts:
                raise
            return None  # a message of a thought alone, which some templates refuse

    def _thinking_prompt(
        self, renderer: Renderer, given: Mapping[str, Any], before: Conversation, thought: str
    ) -> Spans:
        """The prompt of an answer and what the model has thought since: the history shows no thoughts."""
        spans = self._render_messages(renderer, {**given, "add_generation_prompt": True}, before)
        opening = "" if self.starts_in_thought([TextElement(spans)]) else self.thought_words[0]
        return merge_spans((*spans, Span(opening), Span(thought, literal=True)))

    def _open_thought(self, message: Message) -> str | None:
        """The thought in which a message ends; None where its text has begun."""
        if not self.continues_thought(message):
            return None
        opening = self.thought_words[0].strip()
        text = message.text.lstrip()
        return text.removeprefix(opening).lstrip("\n") if text else message.reasoning

    def _renderer(self, *, with_tools: bool = False, with_documents: bool = False) -> Renderer:
        """The template for this, of a model that has several by name."""
        wanted = [*(["tool_use"] if with_tools else []), *(["rag"] if with_documents else [])]
        for name in (*wanted, "default"):
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
            content = [{"type": _TEXT, "text": system}] if self._parts_always else system
            shown.append({"role": _OWN_ROLES["system"], "content": content})
        for message in conversation.messages:
            shown.append(self._message(message))
        return shown

    def _message(self, message: Message) -> dict[str, Any]:
        parts = message.parts
        kinds = _TEXT_ALONE
        if len(parts) > 1 or (parts and type(parts[0]) is not Text):
            kinds = frozenset(map(type, parts))
        content: str | None = self._content(message, has_control=Control in kinds)
        if not content and message.tool_calls and self.learned.none_content:
            content = None
        shown: dict[str, Any] = {"role": _OWN_ROLES[message.role], "content": content}
        if Media in kinds and not self.takes_parts:
            refuse_media(message, self.name)
        if Media in kinds or (Joint in kinds and self._takes_texts):
            shown["content"] = [_part(part) for part in message.parts if type(part) is not Joint]
        elif self._parts_always and content is not None:
            shown["content"] = [{"type": _TEXT, "text": content}]
        if message.reasoning is not None:
            shown[self._thought_key] = message.reasoning
        if message.tool_calls:
            shown["tool_calls"] = [_call(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            shown["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            shown["name"] = message.name
        return shown

    def _content(self, message: Message, *, has_control: bool) -> str:
        """A message's text; what the model or a media family wrote as control tokens is marked."""
        text = message.text
        if has_control:
            spans = message_spans(message)
        elif message.role == "assistant" and text.lstrip().startswith(self._thought_opening):
            spans = mark_thought(text, self.thought_words)
        else:
            return text
        return join([span.text if span.literal else own(span.text) for span in spans])

    def _shows(self, content: Any) -> bool:
        """Whether a probe comes out as it is where a user's content is given in this form."""
        spans = self._probe([{"role": _OWN_ROLES["user"], "content": content}], begins=True)
        literal = [span.text.strip() for span in spans or () if span.literal and span.text.strip()]
        return literal == [_PROBE]

    def _probe(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        begins: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] = _NOTHING,
    ) -> Spans | None:
        """The rendering of messages as they are; None where the template refuses them."""
        given = {**self._special, **variables, "documents": None, "messages": list(messages)}
        given |= {"tools": tools, "add_generation_prompt": begins}
        try:
            return self._renderer(with_tools=tools is not None).render(given)
        except TemplateError:
            return None

    def warning(self) -> str | None:
        """What could not be learned of the template and should be told; None where nothing is missing."""
        reasons = [self._not_followed] if self._not_followed else []
        if self.learned.shows_tools and self.tool_format is None:
            reasons.append(
                "The model's own chat template shows tools, but not how the model calls them, so its "
                "calls stay text. Give tool_format, the name of the format that it was trained with."
            )
        return " ".join(reasons) or None

    def _learn(self, tokenizer: Tokenizer) -> Learned:
        tools = [wrap(tool) for tool in probe_tools()]

        def show(
            messages: Sequence[Mapping[str, Any]],
            with_tools: bool,
            begins: bool,
            variables: Mapping[str, Any],
        ) -> str | None:
            offered = tools if with_tools else None
            spans = self._probe(messages, begins=begins, tools=offered, variables=variables)
            return None if spans is None else "".join(span.text for span in spans)

        if writes_harmony(self._written):
            asked = self._probe_message("user", _PROBE)
            prompt = show([asked], True, True, {})
            answer = show([asked, self._probe_message("assistant", _PROBE)], False, False, {})
            return of_harmony(
                shows_tools=prompt is not None and FIRST.name in prompt,
                ends_messages_alike=answer is not None and answer.rstrip().endswith(MESSAGE_END),
            )
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
            shown = [{"type": _TEXT, "text": content}]
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


def _with_tools_in_system(
    conversation: Conversation, tool_format: ToolFormat, default_system: str
) -> Conversation:
    """The conversation with its tools, calls and results as texts that any template writes.

    Tools stand at the end of the system message, calls at the end of an assistant's text, and the
    results of calls in a user's turn, one a line.
    """
    system = conversation.system if conversation.system is not None else default_system
    listed = "".join(span.text for span in tool_format.list_tools(conversation.tools))
    messages: list[Message] = []
    for message in conversation.messages:
        if message.tool_calls:
            written = _span_parts(tool_format.write_calls(message.tool_calls))
            message = replace(message, parts=(*message.parts, *written), tool_calls=())
        elif message.role == "tool":
            message = Message("user", message.parts)
            if messages and messages[-1].role == "user":
                before = messages.pop()
                message = replace(before, parts=(*before.parts, Text("\n"), *message.parts))
        messages.append(message)
    return Conversation(tuple(messages), (system + listed).lstrip("\n"))


def _span_parts(spans: Spans) -> tuple[Part, ...]:
    return tuple(Text(span.text) if span.literal else Control(span.text) for span in spans)


def _part(part: Part) -> dict[str, Any]:
    """A part as transformers shows it to a chat template."""
    if isinstance(part, Media):
        return {"type": own(part.kind)}
    return {"type": _TEXT, "text": own(part.text) if isinstance(part, Control) else part.text}


def _first_of(names: tuple[str, ...], read: frozenset[str]) -> str:
    """The first name that a template reads, else the most usual one."""
    return next((name for name in names if name in read), names[0])


def _marked_parts(message: Message, thought_words: tuple[str, str]) -> tuple[Part, ...]:
    """The parts of a text in which the words around a thought at its start are control tokens."""
    return _span_parts(mark_thought(message.text, thought_words))


def _cut_at_end(spans: Spans) -> Spans | None:
    """The spans up to the mark of the end; None where it is not in them."""
    text = "".join(span.text for span in spans)
    at = text.rfind(_END.strip())
    if at < 0:
        return None
    before = text[:at]
    left = len(before if text.startswith(_END, at) else before.rstrip())
    kept: list[Span] = []
    for span in spans:
        if left <= 0:
            break
        kept.append(Span(span.text[:left], span.literal))
        left -= len(span.text)
    return tuple(kept)


def _call(call: ToolCall) -> dict[str, Any]:
    text = call.arguments
    try:
        # `json.loads` takes twice as long for a few arguments, most of it to look for white space.
        value, end = _DECODER.raw_decode(text)
        if end < len(text):
            value = json.loads(text)
    except (ValueError, RecursionError):
        value = _value_of(text)
    arguments = CallArguments(value, text) if isinstance(value, dict) else text
    function = {"name": call.name, "arguments": arguments}
    if call.id is None:
        return {"type": _FUNCTION, "function": function}
    return {"type": _FUNCTION, "id": call.id, "function": function}


def _value_of(arguments: str) -> Any:
    """Arguments that do not begin with a value: with white space, empty, or no JSON."""
    try:
        return json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return arguments


def _number_calls(conversation: Conversation) -> Conversation:
    """Give all calls new ids, and the results that follow them those of their calls."""
    numbers = _call_ids()
    waiting: list[tuple[str | None, str]] = []  # the old and the new id of calls without a result
    messages: list[Message] = []
    for message in conversation.messages:
        if message.role != "tool" and messages and messages[-1].role != "assistant":
            waiting = []
        if message.tool_calls:
            pairs = [(call.id, _next_id(numbers)) for call in message.tool_calls]
            waiting += pairs
            calls = zip(message.tool_calls, pairs, strict=True)
            message = replace(
                message, tool_calls=tuple(replace(call, id=pair[1]) for call, pair in calls)
            )
        elif message.role == "tool" and waiting:
            old = message.tool_call_id
            pair = next((pair for pair in waiting if old and pair[0] == old), waiting[0])
            waiting.remove(pair)
            message = replace(message, tool_call_id=pair[1])
        messages.append(message)
    return replace(conversation, messages=tuple(messages))


_MOST_CALLS = 100_000  # the ids that they get are then used up


def _call_ids() -> Iterator[str]:
    """Ids of nine letters and digits, as the templates that check them want."""
    return (f"call{number:05d}" for number in range(_MOST_CALLS))


def _next_id(ids: Iterator[str]) -> str:
    for one in ids:
        return one
    raise MessageError(
        f"More than {_MOST_CALLS:,} tool calls have no id that this chat template takes: send fewer."
    )
