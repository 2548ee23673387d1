"""Harmony's messages as parts: as openai-harmony reads them, and however the text is cut."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.messages import ToolCall
from quire.outputs import AnswerPart, Delta, DeltaSum, TextPart, ThoughtPart
from quire.tools.harmony import MARKERS, MAX_HEADER, HarmonyReader
from quire.tools.registry import get_tool_format

TOOLS = ({"name": "get_weather", "parameters": {"type": "object", "properties": {}}},)
PARIS = ToolCall("get_weather", '{"city": "Paris"}')
JSON = '{"city": "Paris"}'


def read(
    pieces: Iterable[str], *, begun: str = "assistant", cut: bool = False, **how: Any
) -> tuple[AnswerPart, ...]:
    reader, total = HarmonyReader(begun, tools=("get_weather",), **how), DeltaSum()
    for piece in pieces:
        total.add(Delta(parts=tuple(reader.add(piece))))
    total.add(Delta(parts=tuple(reader.flush(cut=cut))))
    return total.parts


def thought(text: str) -> ThoughtPart:
    return ThoughtPart(text)


def text(content: str) -> TextPart:
    return TextPart(content)


FORMS: dict[str, tuple[str, Sequence[AnswerPart]]] = {
    "a thought and an answer": (
        (
            "<|channel|>analysis<|message|>Easy.<|end|>"
            "<|start|>assistant<|channel|>final<|message|>It is 4.<|return|>"
        ),
        [thought("Easy."), text("It is 4.")],
    ),
    "a thought and a call": (
        (
            "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary "
            f"to=functions.get_weather <|constrain|>json<|message|>{JSON}<|call|>"
        ),
        [thought("Look."), PARIS],
    ),
    "a recipient in the role": (
        f" to=functions.get_weather<|channel|>commentary json<|message|>{JSON}<|call|>",
        [PARIS],
    ),
    "a recipient in the role, and the type marked": (
        f" to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{JSON}<|call|>",
        [PARIS],
    ),
    "no space before the type": (
        f"<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>{JSON}<|call|>",
        [PARIS],
    ),
    "no type": (
        f"<|channel|>commentary to=functions.get_weather<|message|>{JSON}<|call|>",
        [PARIS],
    ),
    "a call in a thought's channel": (
        f"<|channel|>analysis to=functions.get_weather <|constrain|>json<|message|>{JSON}<|call|>",
        [PARIS],
    ),
    "a call in the answer's channel": (
        f"<|channel|>final to=functions.get_weather <|constrain|>json<|message|>{JSON}<|call|>",
        [PARIS],
    ),
    "a call that ends as a message does": (
        f"<|channel|>commentary to=functions.get_weather json<|message|>{JSON}<|end|>",
        [PARIS],
    ),
    "a preamble, and thoughts around it": (
        (
            "<|channel|>analysis<|message|>One.<|end|>"
            "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
            "<|start|>assistant<|channel|>analysis<|message|>Two.<|end|>"
            f"<|start|>assistant<|channel|>commentary to=functions.get_weather json<|message|>{JSON}<|call|>"
        ),
        [thought("One."), text("I look."), thought("Two."), PARIS],
    ),
    "several calls": (
        (
            f"<|channel|>commentary to=functions.get_weather json<|message|>{JSON}<|call|>"
            "<|start|>assistant<|channel|>commentary to=functions.f json<|message|>{}<|call|>"
        ),
        [PARIS, ToolCall("f", "{}")],
    ),
    "two thoughts in a row": (
        (
            "<|channel|>analysis<|message|>One.<|end|>"
            "<|start|>assistant<|channel|>analysis<|message|>Two.<|end|>"
        ),
        [thought("One.\nTwo.")],
    ),
    "a preamble and an answer": (
        (
            "<|channel|>commentary<|message|>One.<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Two.<|return|>"
        ),
        [text("One.\nTwo.")],
    ),
    "an empty thought": (
        "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>4",
        [text("4")],
    ),
    "a thought after the answer": (
        "<|channel|>final<|message|>4<|end|><|start|>assistant<|channel|>analysis<|message|>ok",
        [text("4"), thought("ok")],
    ),
    "the browser": (
        '<|channel|>analysis to=browser.search code<|message|>{"query": "cats"}<|call|>',
        [ToolCall("browser.search", '{"query": "cats"}')],
    ),
    "the interpreter, whose code is no JSON": (
        "<|channel|>analysis to=python code<|message|>print('hi')\n<|call|>",
        [ToolCall("python", json.dumps("print('hi')"))],
    ),
    "a function without its namespace": (
        f"<|channel|>commentary to=get_weather json<|message|>{JSON}<|call|>",
        [PARIS],
    ),
    "a function of a namespace": (
        "<|channel|>commentary to=functions.maps.find json<|message|>{}<|call|>",
        [ToolCall("maps.find", "{}")],
    ),
    "no arguments": (
        "<|channel|>commentary to=functions.f json<|message|><|call|>",
        [ToolCall("f", "{}")],
    ),
    "white space as the model likes": (
        f"<|channel|>commentary  to=functions.get_weather\n<|constrain|>json <|message|>\n{JSON}\n<|call|>",
        [PARIS],
    ),
    "spaces of an answer": (
        "<|channel|>final<|message|> \n4 \n<|return|>",
        [text(" \n4 \n")],
    ),
    "an answer with a type": (
        f"<|channel|>final <|constrain|>json<|message|>{JSON}<|return|>",
        [text(JSON)],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_reads_each_form_whole_and_streamed(form: str) -> None:
    written, expected = FORMS[form]
    assert read([written]) == tuple(expected)
    assert read(list(written)) == tuple(expected)


MISTAKES: dict[str, tuple[str, Sequence[AnswerPart]]] = {
    "no end of a thought": (
        "<|channel|>analysis<|message|>Easy.<|start|>assistant<|channel|>final<|message|>4",
        [thought("Easy."), text("4")],
    ),
    "no end and no start": (
        "<|channel|>analysis<|message|>Easy.<|channel|>final<|message|>4",
        [thought("Easy."), text("4")],
    ),
    "a call in a thought without an end": (
        (
            "<|channel|>analysis<|message|>Look.<|start|>assistant<|channel|>commentary "
            f"to=functions.get_weather json<|message|>{JSON}<|call|>"
        ),
        [thought("Look."), PARIS],
    ),
    "no start": (
        "<|channel|>analysis<|message|>a<|end|>assistant<|channel|>final<|message|>4",
        [thought("a"), text("4")],
    ),
    "no role": (
        "<|channel|>analysis<|message|>a<|end|><|start|><|channel|>final<|message|>4",
        [thought("a"), text("4")],
    ),
    "no channel": ("<|message|>4<|return|>", [text("4")]),
    "no marker of the channel": ("analysis<|message|>a<|end|>", [thought("a")]),
    "no channel, but a recipient": (
        f" to=functions.get_weather<|message|>{JSON}<|call|>",
        [PARIS],
    ),
    "an unknown channel": ("<|channel|>summary<|message|>4<|return|>", [text("4")]),
    "no marker at all": ("It is 4, as you know.", [text("It is 4, as you know.")]),
    "a word alone": ("Yes", [text("Yes")]),
    "a word that is a tool's name": ("python is nice", [text("python is nice")]),
    "a channel, and no message": (
        "<|channel|>final It is 4, as you know.<|return|>",
        [text("It is 4, as you know.")],
    ),
    "a thought, and no message": (
        "<|channel|>analysis Easy<|end|><|start|>assistant<|channel|>final<|message|>4",
        [thought("Easy"), text("4")],
    ),
    "a call, and no message": (
        f"<|channel|>commentary to=functions.get_weather json{JSON}<|call|>",
        [PARIS],
    ),
    "the role twice": (
        "<|start|>assistant<|channel|>final<|message|>4<|return|>",
        [text("4")],
    ),
    "the recipient twice": (
        (
            " to=functions.get_weather<|channel|>commentary to=functions.get_weather "
            f"<|constrain|>json<|message|>{JSON}<|call|>"
        ),
        [PARIS],
    ),
    "the channel twice": (
        f"<|channel|>commentary to=functions.get_weather<|channel|>json<|message|>{JSON}<|call|>",
        [PARIS],
    ),
    "a recipient without its sign": (
        f"<|channel|>commentary functions.get_weather json<|message|>{JSON}<|call|>",
        [PARIS],
    ),
    "a type, and no recipient": ("<|channel|>final json<|message|>{}", [text("{}")]),
    "nobody called": ("<|channel|>commentary to=user<|message|>4", [text("4")]),
    "a line between messages": (
        "<|channel|>analysis<|message|>a<|end|>\n<|start|>assistant<|channel|>final<|message|>4",
        [thought("a"), text("4")],
    ),
    "text between messages": (
        "<|channel|>analysis<|message|>a<|end|>So it is four then.",
        [thought("a"), text("So it is four then.")],
    ),
    "a result that the model made up": (
        (
            f"<|channel|>commentary to=functions.get_weather json<|message|>{JSON}<|call|>"
            "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>rain<|end|>"
            "<|start|>user<|message|>Thanks<|end|>"
            "<|start|>assistant<|channel|>final<|message|>It rains."
        ),
        [PARIS, text("It rains.")],
    ),
    "a brace too many": (
        f"<|channel|>commentary to=functions.get_weather json<|message|>{JSON}}}<|call|>",
        [PARIS],
    ),
    "JSON in a string": (
        "<|channel|>commentary to=functions.get_weather json<|message|>"
        + json.dumps(JSON)
        + "<|call|>",
        [PARIS],
    ),
    "a newline in a string": (
        '<|channel|>commentary to=functions.f json<|message|>{"a": "b\nc"}<|call|>',
        [ToolCall("f", r'{"a": "b\nc"}')],
    ),
    "no JSON": (
        "<|channel|>commentary to=functions.f json<|message|>{a: Infinity}<|call|>",
        [ToolCall("f", '"{a: Infinity}"')],
    ),
    "no number of JSON": (
        '<|channel|>commentary to=functions.f json<|message|>{"a": NaN}<|call|>',
        [ToolCall("f", json.dumps('{"a": NaN}'))],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_lose_nothing(mistake: str) -> None:
    written, expected = MISTAKES[mistake]
    assert read([written]) == tuple(expected)
    assert read(list(written)) == tuple(expected)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("<|channel|>analysis<|message|>Ea", [thought("Ea")]),
        ("<|channel|>final<|message|>It", [text("It")]),
        ("<|channel|>fin", []),
        ("<|channel|>commentary to=functions.get_wea", []),
        ("<|channel|>commentary to=functions.f json<|message|>", [ToolCall("f", "")]),
        (
            '<|channel|>commentary to=functions.f json<|message|>{"a": "b',
            [ToolCall("f", '{"a": "b')],
        ),
        ("<|channel|>commentary to=functions.f json<|message|>{}", [ToolCall("f", "{}")]),
    ],
)
def test_an_answer_that_is_cut_keeps_its_part(written: str, expected: Sequence[AnswerPart]) -> None:
    assert read([written], cut=True) == tuple(expected)
    assert read(list(written), cut=True) == tuple(expected)


@pytest.mark.parametrize(
    ("begun", "written", "expected"),
    [
        ("assistant<|channel|>final<|message|>", "4<|return|>", [text("4")]),
        ("assistant<|channel|>final<|message|>It is", " 4", [text(" 4")]),
        (
            "assistant<|channel|>analysis<|message|>",
            "a<|end|><|start|>assistant<|channel|>final<|message|>4",
            [thought("a"), text("4")],
        ),
        ("assistant<|channel|>", "analysis<|message|>a", [thought("a")]),
        (
            "assistant<|channel|>commentary to=functions.f",
            " json<|message|>{}",
            [ToolCall("f", "{}")],
        ),
        ("", "assistant<|channel|>final<|message|>4", [text("4")]),
        ("", "4", [text("4")]),
    ],
)
def test_continues_what_the_prompt_has_begun(
    begun: str, written: str, expected: Sequence[AnswerPart]
) -> None:
    assert read([written], begun=begun) == tuple(expected)
    assert read(list(written), begun=begun) == tuple(expected)


def test_text_comes_out_as_it_is_written() -> None:
    reader = HarmonyReader()
    assert reader.add("<|channel|>final<|message|>It") == [text("It")]
    assert reader.add(" is <") == [text(" is ")]
    assert reader.add("b>") == [text("<b>")]
    assert reader.add("<|en") == []
    assert reader.add("d|>") == []


def test_text_without_markers_is_held_back_no_longer_than_a_header() -> None:
    reader = HarmonyReader()
    assert reader.add("It is four") == []
    assert reader.add(", as") == [text("It is four, "), text("as")]
    reader = HarmonyReader()
    shown = reader.add("\n" * (MAX_HEADER + 1)) + reader.add("a")
    assert "".join(part.text for part in shown if isinstance(part, TextPart)).endswith("a")


def test_thoughts_have_offsets_in_the_text() -> None:
    written = (
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>commentary<|message|>"
        "x<|end|><|start|>assistant<|channel|>analysis<|message|>Two."
    )
    for pieces in ([written], list(written)):
        reader = HarmonyReader()
        for piece in pieces:
            reader.add(piece)
        reader.flush()
        assert [written[start:end] for start, end in reader.thoughts] == ["One.", "Two."]


def test_calls_of_another_format_are_found_in_the_text_of_messages() -> None:
    action = 'Action: get_weather\nAction Input: {"city": "Paris"}'
    written = (
        "<|channel|>analysis<|message|>Look.<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{action}<|return|>"
    )
    parser = get_tool_format("default").parser
    for pieces in ([written], list(written)):
        assert read(pieces, parser=lambda: parser(TOOLS)) == (thought("Look."), PARIS)


EXAMPLES = settings(max_examples=200, derandomize=True)
WORDS = [
    *MARKERS,
    *("assistant", "user", "analysis", "commentary", "final", " to=functions.f", "to=python"),
    *(" json", "{", "}", '"a"', ": 1", " ", "\n", "x", "<", "t", "functions.f to=assistant", "é"),
]


@EXAMPLES
@given(st.lists(st.sampled_from(WORDS), max_size=25), st.data())
def test_any_cut_gives_the_same_parts(words: list[str], data: st.DataObject) -> None:
    written = "".join(words)
    whole = read([written])
    assert read(list(written)) == whole
    at = data.draw(st.integers(0, len(written)))
    assert read([written[:at], written[at:]]) == whole


@EXAMPLES
@given(st.lists(st.sampled_from(WORDS), max_size=25))
def test_arguments_are_always_json(words: list[str]) -> None:
    for part in read(["".join(words)]):
        if isinstance(part, ToolCall):
            json.loads(part.arguments)


# --- beside openai-harmony ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library() -> Any:
    """openai-harmony's encoding."""
    harmony = pytest.importorskip("openai_harmony")
    return harmony.load_harmony_encoding(harmony.HarmonyEncodingName.HARMONY_GPT_OSS)


def of_library(library: Any, written: str) -> list[AnswerPart]:
    """What openai-harmony makes of an answer, one part a message."""
    import openai_harmony

    tokens = library.encode(written, allowed_special="all")
    role = openai_harmony.Role.ASSISTANT
    parts: list[AnswerPart] = []
    for message in library.parse_messages_from_completion_tokens(tokens, role):
        content = message.content[0].text
        if message.recipient:
            name = message.recipient.removeprefix("functions.")
            arguments = content.strip() or "{}"
            if name != "python":
                arguments = json.dumps(json.loads(arguments), ensure_ascii=False)
            parts.append(ToolCall(name, arguments))
        elif content:
            kind = ThoughtPart if message.channel == "analysis" else TextPart
            parts.append(kind(content))
    return parts


def split_rows(parts: Iterable[AnswerPart]) -> list[AnswerPart]:
    """The parts, with a message a part where several of one kind stand in a row."""
    split: list[AnswerPart] = []
    for part in parts:
        if isinstance(part, ToolCall):
            if part.name == "python":
                part = ToolCall("python", json.loads(part.arguments))
            split.append(part)
        else:
            split += [type(part)(line) for line in part.text.split("\n")]
    return split


lines = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20)
spaces = st.sampled_from(["", " "])
values = st.dictionaries(
    lines, st.one_of(lines, st.integers(), st.booleans(), st.none()), max_size=3
)


@st.composite
def messages(draw: st.DrawFn) -> str:
    """One message of an answer, with its header in any of the forms that the library takes."""
    channel = draw(st.sampled_from(["analysis", "commentary", "final"]))
    if draw(st.booleans()):
        return f"<|channel|>{channel}<|message|>{draw(lines)}<|end|>"
    name = draw(st.sampled_from(["functions.get_weather", "browser.open", "python", "get_weather"]))
    kind = draw(st.sampled_from(["", " json", " <|constrain|>json", "<|constrain|>json", " code"]))
    content = json.dumps(draw(values)) if name != "python" else "print(1)"
    space = draw(spaces)
    if draw(st.booleans()):
        return f"<|channel|>{channel} to={name}{kind}{space}<|message|>{content}<|call|>"
    return f" to={name}<|channel|>{channel}{kind}{space}<|message|>{content}<|call|>"


@EXAMPLES
@given(st.lists(messages(), min_size=1, max_size=4))
def test_well_formed_answers_are_read_as_openai_harmony_reads_them(
    library: Any, written: list[str]
) -> None:
    answer = "<|start|>assistant".join(written)
    assert split_rows(read([answer])) == of_library(library, answer)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "spaces of an answer"])
def test_openai_harmony_reads_the_same_of_each_form(library: Any, form: str) -> None:
    written, expected = FORMS[form]
    if form == "an answer with a type":  # which the library takes for a recipient
        written = written.replace(" <|constrain|>json", "")
    assert split_rows(expected) == of_library(library, written)
