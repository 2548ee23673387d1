"""Templates: a conversation in, elements or token ids out."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack, cast

from quire.errors import MediaError, MessageError
from quire.messages import Control, Conversation, Media, Message
from quire.prompt import Element, Span, Spans, TextElement, TokenElement
from quire.template.format import MediaTokens, merge_spans
from quire.tokenizer import Tokenizer
from quire.tools.base import ToolFormat
from quire.tools.harmony import MESSAGE_END, START, TURN_ENDS


class RenderOptions(TypedDict, total=False):
    """How a conversation is rendered, besides what is in it; see `Template.render`."""

    enable_thinking: bool | None
    preserve_thinking: bool
    variables: Mapping[str, Any] | None
    add_generation_prompt: bool
    continue_final_message: bool


class Template(ABC):
    """How a model wants its conversations written. Immutable, so that many models may share one."""

    name: str
    stop_words: tuple[str, ...]
    thought_words: tuple[str, str]
    """What opens and closes a thought in the model's text."""
    reasoning: bool
    """Whether the model thinks before it answers, so that its answers are split from thoughts."""
    before_text: tuple[str, ...] = ()
    after_text: tuple[str, ...] = ()
    """What the model writes before the text of an answer, one of these, and after it: part of the format."""
    message_ends: tuple[str, ...] = ()
    """Control tokens that end the turn after an answer's text or calls, and inside of it a message."""
    goes_on: tuple[str, ...] = ()
    """What follows them where calls follow in the same turn."""
    head: str = ""
    """What begins a turn, where some prompts leave it to the model."""
    default_system: str
    efficient_eos: bool
    replace_eos: bool
    media: MediaTokens
    tool_format: ToolFormat | None
    own: Template | None = None
    """The chat template of the model's folder, beside a named one."""
    shows_tools: bool = True
    """Whether a prompt lists the tools that it is given."""
    is_models_own: bool = False
    """Whether it is the chat template of the model's folder."""
    takes_parts: bool = False
    """Whether it writes the placeholders of media itself, from content that is a list of parts."""
    is_harmony: bool = False
    """Whether the model's answers are harmony's messages; see `quire.tools.harmony`."""
    variables: frozenset[str] = frozenset()
    """The names of further variables that it reads, which a request may give; a named one reads none."""
    _controls: frozenset[str]

    @property
    def media_family(self) -> str:
        """The family that expands media in the text; "Base" takes none."""
        return self.media.family

    @property
    def media_tokens(self) -> dict[str, str | None]:
        return {"image": self.media.image, "video": self.media.video, "audio": self.media.audio}

    def with_tools_shown(self, conversation: Conversation) -> Conversation:
        """The conversation in a form in which the model sees its tools.

        Raises:
            ToolError: this template shows none, and no format was chosen in which they could be
                shown in the system message.
        """
        return conversation

    def warning(self) -> str | None:
        """What a person should be told when the template is loaded, in a line; None for nothing."""
        return None

    def control_texts(self) -> frozenset[str]:
        """The texts that the template itself writes as control tokens.

        An added token of the tokenizer that is not marked special is kept out of literal text only
        if it is one of these.
        """
        return self._controls

    @abstractmethod
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
        """Write the conversation up to the answer.

        Args:
            conversation: what to write.
            enable_thinking: whether the model is to think; None takes the rule of the author of a
                model's own template.
            preserve_thinking: whether thoughts of earlier turns stay.
            variables: further ones for a model's own template, which replace its special tokens too.
            add_generation_prompt: whether the prompt ends where an answer begins. Otherwise it ends
                with the last message.
            continue_final_message: whether the prompt ends inside the last message, an assistant's:
                after its text, or after its thought where it has no text. Nothing begins an answer
                then.

        Raises:
            TemplateError: this template cannot render the conversation.
            ToolError: a tool or a call cannot be written in the template's tool format.
            MediaError: the conversation holds media and the template takes text alone.
            MessageError: the last message is none that can be continued.
        """

    def render_answer(
        self, conversation: Conversation, answer: Message, **how: Unpack[RenderOptions]
    ) -> list[Element]:
        """Write a given answer as the model would after the prompt of `render`, with the turn's end.

        The end is what stands in a history after it. Where a history writes the answer otherwise
        than after the prompt, only the answer's text is written.

        Raises:
            TemplateError, ToolError, MediaError: as `render`.
        """
        before = self.render(conversation, **how)
        history = replace(conversation, messages=(*conversation.messages, answer))
        finished: RenderOptions = {**how, "add_generation_prompt": False}
        whole = self.render(history, **finished)
        start = "".join(text_of_elements(before))
        if "".join(text_of_elements(whole)).startswith(start):
            return elements_after(whole, len(start))
        return [TextElement(message_spans(answer))] if answer.text else []

    def encode(
        self, conversation: Conversation, tokenizer: Tokenizer, **how: Unpack[RenderOptions]
    ) -> tuple[int, ...]:
        """Render, then encode: the prompt's token ids. Options and errors are those of `render`."""
        return self.encode_elements(self.render(conversation, **how), tokenizer)

    def encode_elements(
        self,
        elements: Sequence[Element],
        tokenizer: Tokenizer,
        controls: frozenset[str] = frozenset(),
    ) -> tuple[int, ...]:
        """The token ids of elements that this template has rendered, each text encoded by itself.

        `controls` are further texts that are control tokens: those that a media family writes.
        """
        control = self._controls | controls if controls else self._controls
        ids: list[int] = []
        for element in elements:
            if isinstance(element, TextElement):
                ids += tokenizer.encode_spans(element.spans, control)
            else:
                ids += self._encode_token(element, tokenizer)
        return tuple(ids)

    def _encode_token(self, element: TokenElement, tokenizer: Tokenizer) -> list[int]:
        """BOS and EOS are single ids, and nothing where the tokenizer has none.

        A control token given by its text is its id; where the tokenizer lacks it, its unknown token,
        as in the reference; where it lacks that too, the text itself, as text.
        """
        if element.kind == "bos":
            token_id = tokenizer.bos_token_id
        elif element.kind == "eos":
            token_id = self._eos_id(tokenizer)
        else:
            text = element.text or ""
            token_id = tokenizer.token_to_id(text)
            token_id = tokenizer.unk_token_id if token_id is None else token_id
            if token_id is None:
                return tokenizer.encode(text)
        return [] if token_id is None else [token_id]

    def _eos_id(self, tokenizer: Tokenizer) -> int | None:
        """The id of EOS: of the stop word that replaces it, else the tokenizer's own.

        A tokenizer without EOS ends with `<|endoftext|>` where it has that. Nothing is added to the
        vocabulary, unlike in the reference: a replacement that the tokenizer lacks is no EOS.
        """
        token_id = tokenizer.token_to_id(self.stop_words[0]) if self.replace_eos else None
        if token_id is None:
            token_id = tokenizer.eos_token_id
        return tokenizer.token_to_id("<|endoftext|>") if token_id is None else token_id

    def stop_token_ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Ids that end an answer: EOS (the template's, the tokenizer's), and single-token stop words."""
        ids = set(map(tokenizer.token_to_id, self.stop_words))
        ids |= {self._eos_id(tokenizer), tokenizer.eos_token_id}
        if self.is_harmony:
            ids.update(map(tokenizer.token_to_id, TURN_ENDS))
        return tuple(sorted(cast("set[int]", ids - {None, *self.message_end_ids(tokenizer)})))

    def message_end_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Ids that end a message but not the answer, so that nothing may stop at them."""
        ends = (MESSAGE_END,) if self.is_harmony else self.message_ends
        return frozenset(cast("set[int]", set(map(tokenizer.token_to_id, ends)) - {None}))

    def stop_strings(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        """The stop words that are no single token of this tokenizer."""
        return tuple(word for word in self.stop_words if tokenizer.token_to_id(word) is None)

    def continues_thought(self, message: Message) -> bool:
        """Whether a message that is continued ends inside of its thought, so that the answer does."""
        text = message.text.lstrip()
        if not text:
            return bool(message.reasoning)
        before, after = (word.strip() for word in self.thought_words)
        return bool(before) and text.startswith(before) and after not in text

    def starts_in_thought(self, elements: Sequence[Element]) -> bool:
        """Whether the prompt ends inside a thought that it has opened, as `<think>\\n` does."""
        last = elements[-1] if elements else None
        opening = self.thought_words[0].rstrip()
        if not (isinstance(last, TextElement) and last.spans and opening):
            return False
        if last.spans[-1].literal and last.spans[-1].text.strip():
            return False  # a user wrote it
        end = ""
        for span in reversed(last.spans):  # the end alone: a prompt may have millions of characters
            end = span.text + end if end else span.text.rstrip()
            if len(end) >= len(opening):
                break
        return end.endswith(opening)

    def begun_header(self, elements: Sequence[Element]) -> str:
        """What the prompt has written of the answer's first message after harmony's `<|start|>`.

        Literal text is left out: it is no part of a header.
        """
        written = ""
        for element in reversed(elements):
            if not isinstance(element, TextElement):
                continue
            for span in reversed(element.spans):
                if span.literal:
                    continue
                _, start, after = span.text.rpartition(START)
                written = after + written
                if start:
                    return written
        return written


def text_of_elements(elements: Sequence[Element]) -> Iterator[str]:
    """The text of each element, of which a single token has none."""
    return (one.text if isinstance(one, TextElement) else "" for one in elements)


def elements_after(elements: Sequence[Element], length: int) -> list[Element]:
    """The elements without the first `length` characters of their text."""
    left: list[Element] = []
    for element in elements:
        if not isinstance(element, TextElement):
            left += [element] if length <= 0 else []
            continue
        spans: list[Span] = []
        for span in element.spans:
            if length < len(span.text):
                spans.append(Span(span.text[max(length, 0) :], span.literal))
            length -= len(span.text)
        left += [TextElement(tuple(spans))] if spans else []
    return left


def elements_to_json(elements: Sequence[Element]) -> list[str | dict[str, Any]]:
    """Elements as the golden file has them: strings, `{"bos": true}`, `{"token": "..."}`."""
    return [_element_to_json(element) for element in elements]


def _element_to_json(element: Element) -> str | dict[str, Any]:
    if isinstance(element, TextElement):
        return element.text
    return {"token": element.text} if element.kind == "token" else {element.kind: True}


# --- what both kinds of template do with a message ---------------------------------------------


def continued_message(conversation: Conversation) -> Message:
    """The last message, which the answer is to continue.

    Raises:
        MessageError: it is none of the assistant's, or it ends with calls or media.
    """
    last = conversation.messages[-1] if conversation.messages else None
    if last is None or last.role != "assistant":
        raise MessageError(
            "continue_final_message needs an assistant's message at the end, which the answer "
            "continues."
        )
    if last.tool_calls:
        raise MessageError(
            "The last message ends with tool calls, which cannot be continued: give their results."
        )
    if last.media or last.has_control:
        raise MessageError("The last message holds media: only text can be continued.")
    return last


def mark_thought(text: str, thought_words: tuple[str, str], *, may_be_open: bool = False) -> Spans:
    """An assistant's text as spans: the words around a thought at its start are control tokens.

    The model wrote them as such. The thought and the rest are literal. A thought that
    `may_be_open` may go on to the text's end.
    """
    opening = thought_words[0].strip()
    if not opening or not text.lstrip().startswith(opening):
        return (Span(text, literal=True),)
    before, after = (re.escape(word.strip()) for word in thought_words)
    end = rf"{after}|\Z" if may_be_open else after
    match = re.match(rf"\s*({before})(.*?)({end})", text, re.DOTALL)
    if match is None:
        return (Span(text, literal=True),)
    return merge_spans(
        (
            Span(text[: match.end(1)]),
            Span(match[2], literal=True),
            Span(match[3]),
            Span(text[match.end() :], literal=True),
        )
    )


def message_spans(message: Message) -> Spans:
    """All of a message's text as spans: literal, but for what a media family wrote."""
    return merge_spans(
        tuple(
            Span(part.text, literal=not isinstance(part, Control))
            for part in message.parts
            if not isinstance(part, Media)
        )
    )


def refuse_media(message: Message, name: str) -> None:
    """Check that a message holds no media, all of which a family should have made text.

    Raises:
        MediaError: it holds some.
    """
    if message.media:
        kind = message.media[0].kind
        raise MediaError(f"The template {name!r} takes text alone; the messages hold {kind}.")
