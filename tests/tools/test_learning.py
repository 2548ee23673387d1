"""A form of calls is learned from what writes known ones, and then reads and writes any others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.messages import ToolCall
from quire.tools.call_form import (
    BraceArguments,
    JsonArguments,
    PythonArguments,
    Slot,
    TagArguments,
)
from quire.tools.learned import LearnedFormat
from quire.tools.learning import FIRST, SECOND, learn_form
from quire.tools.registry import get_tool_format, tool_format_names
from quire.tools.stream import CharStream


def _values(call: ToolCall) -> dict[str, Any]:
    return json.loads(call.arguments)


def _tags(
    call: ToolCall, parameter: Callable[[str, Any], str], head: str, tail: str, line: str = "\n"
) -> str:
    return head + line.join(parameter(*item) for item in _values(call).items()) + tail


def _raw(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _python(call: ToolCall) -> str:
    arguments = ", ".join(f"{key}={value!r}" for key, value in _values(call).items())
    return f"{call.name}({arguments})"


def _braces(value: Any) -> str:
    if isinstance(value, str):
        return f"<escape>{value}<escape>"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_braces(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_braces, value)) + "]"
    return json.dumps(value)


def hermes(calls: Sequence[ToolCall]) -> str:
    return "\n".join(
        f'<tool_call>\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n</tool_call>'
        for call in calls
    )


def listed_with_ids(calls: Sequence[ToolCall]) -> str:
    items = [
        f'{{"name": "{call.name}", "arguments": {call.arguments}, "id": "{call.id}"}}'
        for call in calls
    ]
    return f"[TOOL_CALLS] [{', '.join(items)}]"


def numbered(calls: Sequence[ToolCall]) -> str:
    items = [
        f'    {{"tool_call_id": "{index}", "tool_name": "{call.name}", "parameters": {call.arguments}}}'
        for index, call in enumerate(calls)
    ]
    return "<|START_ACTION|>[\n" + ",\n".join(items) + "\n]<|END_ACTION|>"


def sections(calls: Sequence[ToolCall]) -> str:
    items = [
        f"<|call|>function<|sep|>{call.name}\n```json\n{call.arguments}\n```<|end_call|>"
        for call in calls
    ]
    return "<|calls|>" + "\n".join(items) + "<|end_calls|>"


def ids_with_names(calls: Sequence[ToolCall]) -> str:
    items = [
        f"<|call_begin|>functions.{call.name}:{index}<|argument_begin|>{call.arguments}<|call_end|>"
        for index, call in enumerate(calls)
    ]
    return "<|section_begin|>" + "".join(items) + "<|section_end|>"


def ids_before_names(calls: Sequence[ToolCall]) -> str:
    return "".join(
        f"<|begin|>{call.id}<|name|>{call.name}<|args|>{call.arguments}<|end|>" for call in calls
    )


def name_as_key(calls: Sequence[ToolCall]) -> str:
    items = [f'{{"{call.name}": {call.arguments}}}' for call in calls]
    return f"<|prefix|>[{', '.join(items)}]<|suffix|>"


def text_arguments(calls: Sequence[ToolCall]) -> str:
    return "".join(
        f'<call>{{"name": "{call.name}", "arguments": {json.dumps(call.arguments)}}}</call>'
        for call in calls
    )


def parameters(calls: Sequence[ToolCall]) -> str:
    return "\n".join(
        _tags(
            call,
            lambda key, value: f"<parameter={key}>\n{_raw(value)}\n</parameter>",
            f"<tool_call>\n<function={call.name}>\n",
            "\n</function>\n</tool_call>",
        )
        for call in calls
    )


def pairs(calls: Sequence[ToolCall]) -> str:
    return "\n".join(
        _tags(
            call,
            lambda key, value: f"<arg_key>{key}</arg_key>\n<arg_value>{_raw(value)}</arg_value>",
            f"<tool_call>{call.name}\n",
            "\n</tool_call>",
        )
        for call in calls
    )


def typed(calls: Sequence[ToolCall]) -> str:
    def parameter(key: str, value: Any) -> str:
        word = "true" if isinstance(value, str) else "false"
        return f'<｜P｜ name="{key}" string="{word}">{_raw(value)}</｜P｜>'

    written = [
        _tags(call, parameter, f'<｜I｜ name="{call.name}">\n', "\n</｜I｜>") for call in calls
    ]
    return "<｜calls｜>\n" + "\n".join(written) + "\n</｜calls｜>"


def keyed_tags(calls: Sequence[ToolCall]) -> str:
    def parameter(key: str, value: Any) -> str:
        return f"]m[<{key}>{_raw(value)}]m[</{key}>"

    written = [
        _tags(call, parameter, f']m[<invoke name="{call.name}">', "]m[</invoke>", "")
        for call in calls
    ]
    return "]m[<tool_call>\n" + "\n".join(written) + "\n]m[</tool_call>"


def pythonic(calls: Sequence[ToolCall]) -> str:
    return f"<|start|>[{', '.join(map(_python, calls))}]<|stop|>"


def python_lines(calls: Sequence[ToolCall]) -> str:
    return "<function_calls>" + "\n".join(map(_python, calls)) + "</function_calls>"


def braces(calls: Sequence[ToolCall]) -> str:
    return "".join(f"<call>call:{call.name}{_braces(_values(call))}</call>" for call in calls)


WRITERS = [
    hermes, listed_with_ids, numbered, sections, ids_with_names, ids_before_names, name_as_key,
    text_arguments, parameters, pairs, typed, keyed_tags, pythonic, python_lines, braces,
]  # fmt: skip
TOOLS = [
    {"name": name, "parameters": {"type": "object", "properties": properties}}
    for name, properties in (
        ("find", {"text": {"type": "string"}, "most": {"type": "integer"}, "deep": {"type": "object"}}),
        ("ping", {}),
    )
]  # fmt: skip
CALLS = (
    ToolCall("find", '{"text": "sea, \\"salt\\"", "most": 3}', "abcde0001"),
    ToolCall("ping", "{}", "abcde0002"),
    ToolCall("find", '{"deep": {"a": [1, 2.5], "b": "c"}, "text": "12"}', "abcde0003"),
)


def learned(write: Callable[[Sequence[ToolCall]], str]) -> LearnedFormat:
    form = learn_form(write)
    assert form is not None
    return LearnedFormat(form)


def read(tool_format: LearnedFormat, text: str) -> tuple[str, list[tuple[str, Any]]]:
    whole, calls = tool_format.parse(text, TOOLS)
    parser = tool_format.parser(TOOLS)
    pieces = [piece for char in text for piece in parser.add(char)] + parser.flush()
    cut = [piece for piece in pieces if isinstance(piece, ToolCall)]
    assert [(one.name, one.arguments) for one in cut] == [
        (one.name, one.arguments) for one in calls
    ]
    return whole, [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_calls_are_read_as_they_are_written(write: Any, count: int) -> None:
    calls = CALLS[:count]
    text, found = read(learned(write), f"I look.\n{write(calls)}")
    assert found == [(call.name, _values(call)) for call in calls]
    assert text.strip() == "I look."


@pytest.mark.parametrize("write", WRITERS)
def test_what_it_writes_it_reads(write: Any) -> None:
    tool_format = learned(write)
    written = "".join(span.text for span in tool_format.write_calls(CALLS))
    assert read(tool_format, written) == ("", [(call.name, _values(call)) for call in CALLS])


@pytest.mark.parametrize("write", WRITERS)
def test_it_writes_as_what_it_was_learned_from(write: Any) -> None:
    tool_format = learned(write)
    written = "".join(span.text for span in tool_format.write_calls(CALLS[:1]))
    assert written.split() == write(CALLS[:1]).split()


@pytest.mark.parametrize(
    ("write", "kind", "call"),
    [
        (hermes, JsonArguments(), ('{"name": "', Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, "}")),
        (ids_with_names, JsonArguments(), (Slot.NAME, ":", Slot.INDEX, "<|argument_begin|>", Slot.ARGUMENTS)),
        (ids_before_names, JsonArguments(), (Slot.ID, "<|name|>", Slot.NAME, "<|args|>", Slot.ARGUMENTS)),
        (text_arguments, JsonArguments(as_text=True), None),
        (parameters, TagArguments("<parameter=", ">\n", "\n</parameter>", "\n"), None),
        (pythonic, PythonArguments(quote="'"), (Slot.NAME, "(", Slot.ARGUMENTS, ")")),
        (braces, BraceArguments("<escape>"), None),
    ],
)  # fmt: skip
def test_what_is_learned(write: Any, kind: Any, call: Any) -> None:
    form = learn_form(write)
    assert form is not None
    assert form.arguments == kind
    assert call is None or form.call == call


def test_one_call_alone() -> None:
    form = learn_form(lambda calls: hermes(calls) if len(calls) == 1 else None)
    assert form is not None
    assert form.most == 1


@pytest.mark.parametrize("text", [None, "", "no call", "find_harbour"])
def test_what_shows_no_call(text: str | None) -> None:
    assert learn_form(lambda calls: text) is None


_FRAGMENTS = (
    *("find_harbour", "ring_lantern", "callx0001", "callx0002", "port_name", "berth_count"),
    *("flag_colour", "wick_size", "flame_count", "glass_tint", "zanzibar", "4711", "magenta"),
    *("quokka", "2903", "viridian", "<a>", "</a>", "<a=", "(", ")", "[", "]", "{", "}", '"', ": "),
    *("=", ", ", "\n", "9" * 12, "\0", "\1", "\4", "<|x|>", hermes((FIRST,)), hermes((SECOND,))),
)


@given(
    st.lists(st.sampled_from(_FRAGMENTS), max_size=25),
    st.lists(st.sampled_from(_FRAGMENTS), max_size=40),
)
def test_whatever_is_written_something_is_learned_or_nothing(
    one: list[str], two: list[str]
) -> None:
    form = learn_form(lambda calls: "".join(one if len(calls) == 1 else two), ["<|x|>"])
    if form is not None:
        tool_format = LearnedFormat(form)
        assert isinstance(tool_format.openings, tuple)
        tool_format.write_calls(CALLS)
        tool_format.parse("".join(two), TOOLS)


@pytest.mark.parametrize("name", sorted(set(tool_format_names()) - {"default", "glm4"}))
def test_formats_written_by_hand_have_a_form(name: str) -> None:
    tool_format = get_tool_format(name)
    assert tool_format.form is not None
    assert tool_format.form.arguments is not None


@pytest.mark.parametrize(
    ("write", "text", "arguments"),
    [
        (parameters, "<tool_call>\n<function=find>\n<parameter=text>\nsea\n<parameter=most>\n3\n</parameter>\n</function>\n</tool_call>", {"text": "sea", "most": 3}),
        (parameters, "<function=find>\n<parameter=most>\nNone\n</parameter>\n</function>", {"most": "None"}),
        (parameters, "<function=find>\n<parameter=deep>\n{'a': True}\n</parameter>\n</function>", {"deep": {"a": True}}),
        (pythonic, '<|start|>[find(text="""a "b"\nc""", most=2)]<|stop|>', {"text": 'a "b"\nc', "most": 2}),
        (pythonic, "<|start|>[find(text=blue sea, most=2)]<|stop|>", {"text": "blue sea", "most": 2}),
        (braces, "<call>call:find{text:<escape>a<escape>,deep:None}</call>", {"text": "a", "deep": None}),
        (keyed_tags, ']m[<tool_call>\n]m[<invoke name="find">]m[<deep>]m[<a>]m[<item>1]m[</item>]m[</a>]m[</deep>]m[</invoke>\n]m[</tool_call>', {"deep": {"a": [1]}}),
        (parameters, "<function=find>\n<parameter=text>\n<![CDATA[a <b>]]>\n</parameter>\n</function>", {"text": "a <b>"}),
    ],
)  # fmt: skip
def test_what_models_write_otherwise(write: Any, text: str, arguments: dict[str, Any]) -> None:
    assert read(learned(write), text) == ("", [("find", arguments)])


@pytest.mark.parametrize("write", WRITERS)
@given(text=st.text(st.sampled_from("<|>[]{}()\"' \nfind:=tool_call/name")))
def test_any_text_comes_out_or_is_a_call(write: Any, text: str) -> None:
    tool_format = learned(write)
    whole, calls = tool_format.parse(text, TOOLS)
    assert calls or whole.split() == text.split()


@pytest.mark.parametrize("filler", ["<", "</", "\n", "\n<", "]", "x", ","])
@pytest.mark.parametrize("write", WRITERS)
def test_a_value_without_an_end_is_copied_a_bounded_number_of_times(
    write: Any, filler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = 0
    since = CharStream.since

    def counted(self: CharStream, start: int) -> str:
        nonlocal copied
        text = since(self, start)
        copied += len(text)
        return text

    monkeypatch.setattr(CharStream, "since", counted)
    whole = write(CALLS[:2])
    opened = whole[: whole.index("sea")]
    amounts: list[int] = []
    for length in (500, 2000):
        copied = 0
        parser = learned(write).parser(TOOLS)
        for char in opened + filler * (length // len(filler)):
            parser.add(char)
        parser.flush()
        amounts.append(copied)
    assert amounts[1] < 5 * amounts[0] + 5000
