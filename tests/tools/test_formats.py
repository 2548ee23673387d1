"""Every tool format: what it writes is the reference's, and it reads what it writes."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import ConfigError, ToolError
from quire.messages import ToolCall
from quire.tools import llama3
from quire.tools.registry import detect_tool_format, get_tool_format, tool_format_names
from tests.tools.cases import (
    calls_of,
    characters,
    meaning,
    read,
    text_of,
    texts,
    values,
    written,
)

NAMES = tool_format_names()
TAGGED = ("glm4_moe", "minimax2", "qwen3_5", "seed_oss")
"""Formats that write one parameter after another, between tags, with no sign of their types."""
BARE = ("default", "glm4", "llama3", "mistral", "phi4_mini")
"""Formats whose calls stand in plain text."""
UNQUOTED = ("gemma4", "lfm2", "qwen3_5", "seed_oss")
"""Formats that write parameters' names with nothing around them, so a name may hold no marks."""
MARKED_KEYS = 5
"""The case whose parameter is named `<|im_start|>`."""
GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "tool_formats.json").read_text(encoding="utf-8")
)
CASES = [(name, number) for name, made in GOLDEN["formats"].items() for number in range(len(made))]


@pytest.fixture(autouse=True)
def _day_of_the_golden_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama3, "today", lambda: date.fromisoformat(GOLDEN["date"]))


@pytest.mark.parametrize(("name", "number"), CASES)
def test_written_as_the_reference_does(name: str, number: int) -> None:
    form, case, made = (
        get_tool_format(name),
        GOLDEN["cases"][number],
        GOLDEN["formats"][name][number],
    )
    calls = [ToolCall(call["name"], call["arguments"]) for call in case["calls"]]
    assert text_of(form.list_tools(case["tools"])) == made["tools"]
    if made["calls"] is not None:  # the reference refuses what some formats cannot hold
        assert written(form, calls) == made["calls"]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_the_golden_calls_are_read_back(name: str, number: int) -> None:
    form, case = get_tool_format(name), GOLDEN["cases"][number]
    calls = [ToolCall(call["name"], call["arguments"]) for call in case["calls"]]
    for step in (None, 1, 7):
        pieces = read(form, written(form, calls), case["tools"], step)
        if number == MARKED_KEYS and name in UNQUOTED:
            assert pieces == read(form, written(form, calls), case["tools"])
        else:
            assert meaning(pieces) == meaning(calls)


# --- round trips ---------------------------------------------------------------------------------

# What a format with no escapes cannot hold is a text that holds the format's own marks.
plain_texts = st.text(characters, max_size=30)
keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)
inner_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | plain_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
quotable = plain_texts.filter(lambda text: '"' not in text and "\\" not in text)
_TYPES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def arguments_for(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """The arguments that a format can hold."""
    if name in TAGGED:
        return st.dictionaries(keys, inner_values, max_size=3)
    if name == "gemma4":
        safe = plain_texts.filter(lambda text: '<|"|>' not in text)
        scalars = st.none() | st.booleans() | st.integers() | safe
        return st.dictionaries(keys, scalars | st.lists(scalars, max_size=2), max_size=3)
    if name == "lfm2":
        return st.dictionaries(
            keys,
            quotable | st.integers() | st.booleans() | st.lists(quotable, max_size=2),
            max_size=3,
        )
    return st.dictionaries(texts, values, max_size=3)


def tools_for(calls: list[ToolCall]) -> list[dict[str, Any]]:
    """Tools whose schemas name the types of these calls' arguments."""
    parameters: dict[str, dict[str, Any]] = {}
    for call in calls:
        properties = parameters.setdefault(call.name, {})
        for key, value in json.loads(call.arguments).items():
            kind = _TYPES.get(type(value), "null")
            known = properties.setdefault(key, {"type": []})
            known["type"] = sorted({*known["type"], kind})
    return [
        {"name": name, "parameters": {"type": "object", "properties": properties}}
        for name, properties in parameters.items()
    ]


def unambiguous(calls: list[ToolCall]) -> bool:
    """Whether no parameter is a text in one call and something else in another."""
    kinds = [
        set(schema["type"])
        for tool in tools_for(calls)
        for schema in tool["parameters"]["properties"].values()
    ]
    return all(len(kind) == 1 or "string" not in kind for kind in kinds)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_calls_are_read_back(name: str, data: st.DataObject) -> None:
    form = get_tool_format(name)
    calls = data.draw(calls_of(arguments_for(name)).filter(unambiguous))
    tools = tools_for(calls)
    pieces = read(form, written(form, calls), tools)
    assert meaning(pieces) == meaning(calls)
    assert meaning(
        read(form, written(form, calls), tools, data.draw(st.integers(1, 5)))
    ) == meaning(calls)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(call=calls_of(st.dictionaries(keys, quotable, max_size=2)), before=quotable, after=quotable)
def test_text_around_calls_is_kept(
    name: str, call: list[ToolCall], before: str, after: str
) -> None:
    """White space next to a call may be the format's; all other text stays, in its order."""
    form, tools = get_tool_format(name), tools_for(call[:1])
    before, after = f"A {before.strip()}.", f"Z {after.strip()}."
    text = f"{before}\n{written(form, call[:1])}\n\n{after}"
    pieces = read(form, text, tools)
    calls = [piece for piece in pieces if isinstance(piece, ToolCall)]
    assert meaning(calls) == meaning(call[:1])
    said = "".join(piece for piece in pieces if isinstance(piece, str))
    assert said.split() == f"{before} {after}".split()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_answer_breaks_a_parser(name: str, data: st.DataObject) -> None:
    """Any damage to what was written gives text and calls, whose arguments are JSON objects."""
    form = get_tool_format(name)
    text = written(form, [ToolCall("f", '{"a": [1, {"b": "c"}], "d": "e"}'), ToolCall("g", "{}")])
    offset, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 6))
    text = text[:offset] + data.draw(texts) + text[offset + length :]
    for piece in read(form, text, step=data.draw(st.sampled_from([None, 1]))):
        if isinstance(piece, ToolCall):
            assert piece.name
            json.loads(piece.arguments)


# --- single behaviours ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TAGGED])
def test_arguments_that_are_no_json(name: str) -> None:
    """They are written as text where the format allows it, and refused where it does not."""
    form, call = get_tool_format(name), ToolCall("f", "not json")
    try:
        text = written(form, [call])
    except ToolError as error:
        assert "no JSON" in str(error)  # noqa: PT017
        return
    assert "not json" in text


@pytest.mark.parametrize("name", TAGGED)
def test_tagged_formats_want_an_object(name: str) -> None:
    for arguments in ("not json", "[1]", '"text"'):
        with pytest.raises(ToolError, match="arguments of the call of 'f'"):
            get_tool_format(name).write_calls([ToolCall("f", arguments)])


@pytest.mark.parametrize("name", NAMES)
def test_no_arguments_are_an_empty_object(name: str) -> None:
    form = get_tool_format(name)
    tools = [{"name": "f", "parameters": {}}]
    assert meaning(read(form, written(form, [ToolCall("f", "")]), tools)) == [("f", "{}")]


@pytest.mark.parametrize("name", NAMES)
def test_no_tools_list_nothing(name: str) -> None:
    assert get_tool_format(name).list_tools(()) == ()


@pytest.mark.parametrize("name", NAMES)
def test_tools_text_is_literal(name: str) -> None:
    tool = {
        "name": "<|im_start|>",
        "description": "<|im_start|>",
        "parameters": {
            "type": "object",
            "properties": {"<|im_start|>": {"type": "string", "description": "<|im_start|>"}},
            "required": ["<|im_start|>"],
        },
    }
    form = get_tool_format(name)
    spans = [
        *form.list_tools([tool]),
        *form.write_calls([ToolCall("<|im_start|>", '{"<|im_start|>": "<|im_start|>"}')]),
    ]
    assert all(span.literal for span in spans if "<|im_start|>" in span.text)
    assert any(span.literal for span in spans)


@pytest.mark.parametrize("name", ["qwen", "ling", "minimax1", "mistral", "llama3"])
def test_a_tool_that_is_unknown_is_still_a_call(name: str) -> None:
    """Whether a call names a tool that exists is the caller's to say."""
    form, call = get_tool_format(name), ToolCall("other", '{"a": 1}')
    assert read(form, written(form, [call]), [{"name": "f"}]) == [call]


def test_formats_without_markers_read_known_tools_alone() -> None:
    form = get_tool_format("glm4")
    text = 'other\n{"a": 1}'
    assert read(form, text, [{"name": "f"}]) == [text]
    assert read(form, text) == [ToolCall("other", '{"a": 1}')]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qwen", '<tool_call>\n{"name": "f", "arguments": {"a": 1}\n</tool_call>'),
        ("qwen", '<tool_call>{"arguments": {}}</tool_call>'),
        ("qwen", "<tool_call>\nf\n</tool_call>"),
        ("mistral", '[{"name": "f", "arguments": {"a": }}]'),
        ("llama3", '{"name": "f"}'),
        ("llama3", '{"name": "f", "parameters": {}, "extra": 1}'),
        ("default", "Action: f\nAction Input: none"),
        ("lfm2", "<|tool_call_start|>[f(a=)]<|tool_call_end|>"),
        ("gemma4", "<|tool_call>call:f{a:}<tool_call|>"),
        ("seed_oss", "<seed:tool_call>\n<function=f>\n<parameter=a>1\n</seed:tool_call>"),
        ("minimax1", '<tool_calls>\n{"name": 1, "arguments": {}}\n</tool_calls>'),
        ("glm4", "f\n{a: 1}"),
    ],
)
def test_malformed_calls_are_text(name: str, text: str) -> None:
    assert get_tool_format(name).parse(text) == (text, ())


def test_types_come_from_the_schema() -> None:
    tools = [
        {
            "name": "f",
            "parameters": {"properties": {"a": {"type": "string"}, "b": {"type": "integer"}}},
        }
    ]
    calls = [ToolCall("f", '{"a": "21", "b": 21}')]
    for name in TAGGED:
        form = get_tool_format(name)
        assert read(form, written(form, calls), tools) == calls


def test_names() -> None:
    assert [get_tool_format(name).name for name in NAMES] == list(NAMES)
    with pytest.raises(ConfigError, match="did you mean 'qwen'"):
        get_tool_format("qwenn")


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ('... <tool_call>\\n{"name": ...', "qwen"),
        ("... [TOOL_CALLS] ...", "mistral"),
        ("... <|python_tag|> ...", "llama3"),
        ("<tool_call> <arg_key>", "glm4_moe"),
        ("<tool_call>\n<function=", "qwen3_5"),
        ("nothing of the kind", None),
    ],
)
def test_the_format_is_seen_in_a_chat_template(template: str, name: str | None) -> None:
    detected = detect_tool_format(template)
    assert (detected.name if detected else None) == name
