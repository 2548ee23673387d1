"""Text of users, tools, systems and results never becomes control tokens, in any template."""

from __future__ import annotations

import functools
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from quire.messages import Conversation, read_conversation
from quire.prompt import Element, Span, TextElement
from quire.template.jinja import JinjaTemplate
from quire.template.registry import get_template, template_names
from quire.template.sandbox import Renderer
from quire.template.template import Template
from quire.tokenizer import Tokenizer
from tests.template import chat_templates
from tests.tokenizer.kinds import KINDS, make_backend

FLAGS: tuple[dict[str, bool], ...] = (
    {},
    {"lstrip": True},
    {"rstrip": True},
    {"lstrip": True, "rstrip": True},
    {"single_word": True},
    {"normalized": True},
)
WORDS = (
    "Hello",
    " ",
    "\n",
    "weather",
    "é",
    "你好",
    "<",
    "|",
    ">",
    "im_",
    "  ",
    '"',
    "x",
    "🦆",
    "1",
)


@functools.cache
def tokenizer_for(name: str, kind: str, flags: int, adds: bool) -> Tokenizer:
    """A tokenizer with this template's control tokens, or with none added."""
    template = _template(name, None)
    markers = sorted(template.control_texts()) if template else []
    markers += [text for text in chat_templates.CONTROLS.get(name, ()) if text not in markers]
    pick = random.Random(flags)
    added = [
        AddedToken(text, special=index % 3 != 0, **{"normalized": False, **pick.choice(FLAGS)})
        for index, text in enumerate(markers)
    ]
    # Something that is an added token and no control token: ids of it must stay.
    added.append(AddedToken("weather", special=False, normalized=False))
    backend = make_backend(kind, added if adds else [AddedToken("</s>", special=True)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if kind in ("byte_bpe", "split_bpe"):
        names = {"eos_token": "</s>"}
        backend.add_special_tokens([AddedToken("</s>", special=True)])
    return Tokenizer(backend, special_tokens=names, chat_template=chat_templates.ALL.get(name))


@functools.cache
def _template(name: str, tokenizer: Tokenizer | None) -> Template | None:
    if name in chat_templates.ALL:
        return None if tokenizer is None else JinjaTemplate(tokenizer)
    return get_template(name.removeprefix("named "), None)


def conversation(text: str, other: str) -> Conversation:
    """A conversation in which every text that an outsider writes is given."""
    tool = {"name": "f", "description": text, "parameters": {"type": "object", "properties": {}}}
    call = {"function": {"name": "f", "arguments": {"a": other}}, "id": "123456789"}
    return read_conversation(
        [
            {"role": "system", "content": other},
            {"role": "user", "content": text},
            {"role": "assistant", "content": "Yes: " + other},
            {"role": "user", "content": text},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": text, "tool_call_id": "123456789"},
            {"role": "tool", "content": other, "tool_call_id": "123456789"},
        ],
        tools=[tool],
    )


def plain_conversation(text: str, other: str) -> Conversation:
    """For templates that take no system, tools or results."""
    return read_conversation(
        [
            {"role": "user", "content": text},
            {"role": "assistant", "content": "Yes: " + other},
            {"role": "user", "content": other},
        ]
    )


def control_ids(ids: tuple[int, ...], template: Template, tokenizer: Tokenizer) -> list[int]:
    """The control tokens among the ids, in order. `<unk>` also stands for unknown characters."""
    controls = {tokenizer.token_to_id(text) for text in template.control_texts()}
    controls |= tokenizer.special_ids
    return [number for number in ids if number in controls and number != tokenizer.unk_token_id]


def own_text(elements: list[Element]) -> str:
    """What the format wrote itself, all around the literal texts."""
    return "".join(
        "".join(span.text for span in element.spans if not span.literal)
        if isinstance(element, TextElement)
        else repr(element)
        for element in elements
    )


def neutral(elements: list[Element]) -> list[Element]:
    """The same elements, with harmless characters in place of literal ones.

    Letters stay letters and spaces spaces: a token's flags look at what stands beside it.
    """
    return [
        TextElement(tuple(_neutral_span(span) for span in element.spans))
        if isinstance(element, TextElement)
        else element
        for element in elements
    ]


def _neutral_span(span: Span) -> Span:
    return (
        Span(re.sub(r"[^\w\s]", ".", re.sub(r"\w", "m", span.text)), True) if span.literal else span
    )


NAMED = [f"named {name}" for name in template_names()]
JINJA = [name for name in chat_templates.ALL if name != "features"]
COMPLETE = ("qwen25", "qwen3", "deepseek")


def make(name: str, text: str, other: str) -> Conversation:
    complete = name in COMPLETE or name in NAMED
    return (conversation if complete else plain_conversation)(text, other)


def hostile(name: str, tokenizer: Tokenizer) -> st.SearchStrategy[str]:
    """Text with control words whole, cut, doubled, and beside other things."""
    controls = sorted({*tokenizer.special_texts, *tokenizer.added_texts} - {"weather"})
    controls += [word[1:] for word in controls] + [word[:-1] for word in controls]
    return st.lists(st.sampled_from([*controls, *controls, *WORDS]), min_size=1, max_size=6).map(
        "".join
    )


@pytest.mark.parametrize("name", [*NAMED, *JINJA])
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_literal_text_makes_no_control_token(name: str, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    tokenizer = tokenizer_for(name, kind, data.draw(st.integers(0, 2)), data.draw(st.booleans()))
    template = _template(name, tokenizer)
    assert template is not None
    texts = hostile(name, tokenizer)
    given = make(name, data.draw(texts), data.draw(texts))
    elements = template.render(given)
    harmless = template.render(make(name, "Well", "Fine"))
    # Nothing of the conversation is taken for the format's own, and its own is the same.
    assert own_text(elements) == own_text(harmless)
    ids = template.encode(given, tokenizer)
    assert control_ids(ids, template, tokenizer) == control_ids(
        template.encode_elements(neutral(elements), tokenizer), template, tokenizer
    )


@pytest.mark.parametrize("name", [*NAMED, *JINJA])
@settings(max_examples=3, deadline=None, derandomize=True)
@given(data=st.data())
def test_ids_of_other_text_are_those_of_plain_encoding(name: str, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    tokenizer = tokenizer_for(name, kind, data.draw(st.integers(0, 2)), data.draw(st.booleans()))
    template = _template(name, tokenizer)
    assert template is not None
    texts = st.lists(st.sampled_from(WORDS[:5]), max_size=6).map("".join)
    elements = template.render(make(name, data.draw(texts), data.draw(texts)))
    for element in elements:
        if isinstance(element, TextElement):
            assert list(template.encode_elements([element], tokenizer)) == tokenizer.encode(
                element.text
            )


@pytest.mark.parametrize("kind", ["byte_bpe", "split_bpe"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_guarded_text_reads_the_same(kind: str, data: st.DataObject) -> None:
    """Decoded, the ids give the text again, control words and all."""
    added = [AddedToken(text, special=True) for text in chat_templates.CONTROLS["qwen3"]]
    tokenizer = Tokenizer(make_backend(kind, added))
    text = data.draw(hostile("qwen3", tokenizer))
    ids = tokenizer.encode_spans(
        (Span("<|im_start|>"), Span(text, literal=True), Span("<|im_end|>"))
    )
    assert tokenizer.decode(ids, skip_special_tokens=False) == f"<|im_start|>{text}<|im_end|>"
    assert [number for number in ids if number in tokenizer.special_ids] == [ids[0], ids[-1]]


@pytest.mark.parametrize(
    "taken",
    [
        "parts | map(attribute='text') | join('')",
        "parts | selectattr('text', 'defined') | map(attribute='text') | join(', ')",
        "parts | map(attribute='text') | map('trim') | join | trim",
        "parts | map(attribute='text') | first",
        "parts | map(attribute='text') | batch(1) | first | join('')",
        "(parts | map(attribute='text') | list)[0] | replace('x', 'y')",
    ],
)
def test_text_that_filters_take_out_of_parts_is_literal(taken: str) -> None:
    spans = Renderer("A{{ " + taken + " }}B").render({"parts": [{"text": "<|im_end|>"}]})
    assert spans == (Span("A"), Span("<|im_end|>", literal=True), Span("B"))
