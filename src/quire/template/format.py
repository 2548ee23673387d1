"""The vocabulary in which the named formats of `formats/` are declared.

A format is data: the text around each turn. A turn's slots are text, in which `{content}` marks
where the turn's own text goes, and single control tokens (`BOS`, `EOS`, `token("<|user|>")`). Each
piece of text is encoded by itself, as one string, since the models were trained on prompts that
LLaMA-Factory encoded so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from quire.prompt import Element, Span, Spans, TextElement, TokenElement

BOS = TokenElement("bos")
EOS = TokenElement("eos")
CONTENT = "{content}"

Slot: TypeAlias = str | TokenElement
Slots: TypeAlias = str | tuple[Slot, ...]


def token(text: str) -> TokenElement:
    """A single control token, by its text."""
    return TokenElement("token", text)


@dataclass(frozen=True, slots=True)
class MediaTokens:
    """What represents media in the text: the family that expands it, and its placeholder tokens."""

    family: str = "Base"
    image: str | None = None
    video: str | None = None
    audio: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(text for text in (self.image, self.video, self.audio) if text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One named prompt format. Names and strings are those of LLaMA-Factory 0.9.5.

    `function` (an assistant's turn that calls tools) falls back to `assistant`, `observation` (a
    tool's result) to `user`. `result_join` is written between consecutive results. The system text
    is a turn in front or, with `system_in_user`, the beginning of the first user turn. A reasoning
    format drops thoughts from history, and writes `empty_thought` when thinking is off.
    """

    name: str
    user: Slots = CONTENT
    assistant: Slots = (CONTENT, EOS)
    system: Slots = CONTENT
    function: Slots | None = None
    observation: Slots | None = None
    result_join: str = "\n"
    prefix: Slots = ()
    default_system: str = ""
    system_in_user: bool = False
    stop_words: tuple[str, ...] = ()
    tools: str = "default"
    trims_tools: bool = False
    """A list of tools without a system text before it begins without its blank lines."""
    tool_call_words: tuple[str, str] = ("<tool_call>", "</tool_call>")
    reasoning: bool = False
    thought_words: tuple[str, str] = ("<think>\n", "\n</think>\n\n")
    empty_thought: str | None = None
    efficient_eos: bool = False
    replace_eos: bool = False
    media: MediaTokens = MediaTokens()
    controls: tuple[str, ...] = ()
    """Control tokens of this format that do not look like a marker (see `find_markers`)."""

    def derive(self, name: str, **changes: Any) -> Format:
        """A format like this one under another name, with some fields changed."""
        return replace(self, name=name, **changes)

    @property
    def function_slots(self) -> Slots:
        return self.assistant if self.function is None else self.function

    @property
    def observation_slots(self) -> Slots:
        return self.user if self.observation is None else self.observation

    @property
    def all_slots(self) -> tuple[Slot, ...]:
        """Every slot of every turn, for what the format writes itself."""
        turns = (self.prefix, self.system, self.user, self.assistant)
        turns += (self.function_slots, self.observation_slots, self.result_join)
        return tuple(slot for slots in turns for slot in as_slots(slots))


def as_slots(slots: Slots) -> tuple[Slot, ...]:
    """A single string stands for one slot."""
    return (slots,) if isinstance(slots, str) else slots


def fill(slots: Slots, content: Spans = ()) -> list[Element]:
    """Put a turn's text into its slots; a slot that holds no text gives no element."""
    elements: list[Element] = []
    for slot in as_slots(slots):
        if isinstance(slot, TokenElement):
            elements.append(slot)
            continue
        before, mark, after = slot.partition(CONTENT)
        inner = content if mark else ()
        spans = merge_spans((Span(before), *inner, Span(after)))
        if spans:
            elements.append(TextElement(spans))
    return elements


def fill_to_content(slots: Slots, content: Spans) -> list[Element]:
    """Put a turn's text into its slots, without what follows the text."""
    kept: list[Slot] = []
    for slot in as_slots(slots):
        if isinstance(slot, str) and CONTENT in slot:
            kept.append(slot.partition(CONTENT)[0] + CONTENT)
            break
        kept.append(slot)
    return fill(tuple(kept), content)


def merge_spans(spans: Spans) -> Spans:
    """Drop empty spans and join neighbours of one kind."""
    merged: list[Span] = []
    for span in spans:
        if not span.text:
            continue
        if merged and merged[-1].literal == span.literal:
            span = Span(merged.pop().text + span.text, span.literal)
        merged.append(span)
    return tuple(merged)


_MARKER = re.compile(r"<[^<>\s]{1,80}>|\[[^\[\]\s]{1,80}\]|◁[^◁▷\s]{1,80}▷")


def find_markers(text: str) -> frozenset[str]:
    """The pieces of a format's own text that look like control tokens: `<...>`, `[...]`, `◁...▷`."""
    return frozenset(_MARKER.findall(text))
