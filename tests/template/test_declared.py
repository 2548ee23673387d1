"""What a folder declares of its model's answers: `response_template`, and the older `response_schema`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_parsing import parse_response

from quire.messages import ToolCall
from quire.template.jinja import JinjaTemplate
from quire.template.registry import get_template
from quire.tokenizer import Tokenizer
from quire.tools.call_form import Slot
from quire.tools.patterns import SPACE, UnreadPatternError, pieces, read_pattern
from tests.chat.model_folders import add_tokenizer
from tests.template.real.templates import make_backend
from tests.tools.cases import read

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
]
CALL = {"city": "Paris", "days": 2}
OTHER = {"city": "Rome"}
SHOWS_TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A chat template that does not show how its model calls tools."""
IN_FUNCTION = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
AS_FUNCTION = {"type": "function", "function": "{content}"}
PARAMETER = r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"
VALUES = {"name": "json", "args": {"allow_non_json": True}}


def calls_field(**fields: Any) -> dict[str, Any]:
    return {"repeats": True, "content": "json", "transform": IN_FUNCTION, **fields}


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "an object between tags": (
        calls_field(open="<call>", close="</call>", transform=AS_FUNCTION),
        (
            '<call>{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}</call>\n'
            '<call>{"name": "get_weather", "arguments": {"city": "Rome"}}</call>'
        ),
    ),
    "one list for all": (
        {
            "open": "<|ACTION|>",
            "close": "<|END_ACTION|>",
            "content": "json",
            "transform_each": True,
            "transform": {"function": {"name": "{tool_name}", "arguments": "{parameters}"}},
        },
        (
            '<|ACTION|>[\n  {"tool_call_id": "0", "tool_name": "get_weather", "parameters": '
            '{"city": "Paris", "days": 2}},\n  {"tool_call_id": "1", "tool_name": "get_weather", '
            '"parameters": {"city": "Rome"}}\n]<|END_ACTION|>'
        ),
    ),
    "keys of its own": (
        calls_field(
            open_pattern=r"(?:<\|message\|>)?[^<]*<\|tool_json\|>",
            close="<|end_message|>",
            transform={"function": {"name": "{content.fn}", "arguments": "{content.args}"}},
        ),
        (
            '<|tool_json|>{"fn": "get_weather", "args": {"city": "Paris", "days": 2}}<|end_message|>'
            '<|tool_json|>{"fn": "get_weather", "args": {"city": "Rome"}}<|end_message|>'
        ),
    ),
    "a name before JSON": (
        calls_field(
            open_pattern=r"to=functions\.(?P<name>\S+?)<\|args\|>", close_pattern=r"<\|done\|>\s*"
        ),
        (
            'to=functions.get_weather<|args|>{"city": "Paris", "days": 2}<|done|>\n'
            'to=functions.get_weather<|args|>{"city": "Rome"}<|done|>'
        ),
    ),
    "a name in the pattern of an object": (
        calls_field(
            open_pattern=r'\{"name":\s*"(?P<name>[^"]+)",\s*"parameters":\s*',
            close_pattern=r"\}<\|end\|>\s*",
        ),
        '{"name": "get_weather", "parameters": {"city": "Paris", "days": 2}}<|end|>',
    ),
    "tags": (
        calls_field(
            open_pattern=r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
            close_pattern=r"</tool_call>\s*",
            content="xml-inline",
            content_args={"tag_pattern": PARAMETER, "value_parser": VALUES},
        ),
        (
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
            "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n"
            "<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"
        ),
    ),
    "keys and values in tags": (
        calls_field(
            open_pattern=r"<tool_call>(?P<name>\S+)\n?",
            close="</tool_call>",
            content="xml-inline",
            content_args={
                "tag_pattern": r"<arg_key>(?P<key>[^<]+)</arg_key>\s*\n"
                r"<arg_value>(?P<value>.*?)</arg_value>",
                "value_parser": VALUES,
            },
        ),
        (
            "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
            "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n"
            "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>"
        ),
    ),
    "braces": (
        calls_field(
            open_pattern=r"<\|tool_call>call:(?P<name>\w+)",
            close="<tool_call|>",
            content_args={"unquoted_keys": True, "string_delims": [["<|q|>", "<|q|>"]]},
        ),
        (
            "<|tool_call>call:get_weather{city:<|q|>Paris<|q|>,days:2}<tool_call|>"
            "<|tool_call>call:get_weather{city:<|q|>Rome<|q|>}<tool_call|>"
        ),
    ),
    "keyword arguments": (
        calls_field(
            open_pattern=r"(?:<\|calls\|>\[|,\s*)(?P<name>\w+)\(",
            close_pattern=r"\)(?:\]<\|no_calls\|>)?\s*",
            content="xml-inline",
            content_args={
                "tag_pattern": r"(?P<key>\w+)=(?P<value>'[^']*'|[^,)]*)",
                "value_parser": {
                    "name": "json",
                    "args": {"string_delims": [["'", "'"]], "allow_non_json": True},
                },
            },
        ),
        "<|calls|>[get_weather(city='Paris', days=2), get_weather(city='Rome')]<|no_calls|>",
    ),
}


def load(
    declared: Any, *, key: str = "response_template", source: str = SHOWS_TOOLS
) -> JinjaTemplate:
    """The chat template of a folder that declares this."""
    tokenizer = Tokenizer(
        make_backend(source),
        special_tokens={"eos_token": "<|end|>"},
        chat_template=source,
        declarations={key: declared},
    )
    template = get_template(None, tokenizer)
    assert isinstance(template, JinjaTemplate)
    return template


def response_template(**fields: Any) -> dict[str, Any]:
    return {"defaults": {"role": "assistant"}, "start_anchor": "<|assistant|>", "fields": fields}


def arguments_of(calls: list[ToolCall] | tuple[ToolCall, ...]) -> list[Any]:
    return [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize("name", FIELDS)
def test_calls_are_read_as_transformers_reads_them(name: str):
    field, text = FIELDS[name]
    declared = response_template(tool_calls=field)
    theirs = parse_response(text, declared, prefix="", tools=cast("Any", TOOLS))["tool_calls"]
    wanted = [(one["function"]["name"], one["function"]["arguments"]) for one in theirs]
    assert wanted[0] == ("get_weather", CALL)
    template = load(declared)
    assert template.warning() is None
    assert template.tool_format is not None
    rest, calls = template.tool_format.parse(text, TOOLS)
    assert arguments_of(calls) == wanted
    assert rest.strip() in ("", "<|end|>")  # the token that ends a turn is not read
    pieces_ = read(template.tool_format, text, TOOLS, step=1)
    assert arguments_of([one for one in pieces_ if isinstance(one, ToolCall)]) == wanted


@pytest.mark.parametrize("name", FIELDS)
def test_a_declared_form_is_that_of_forced_calls(name: str):
    form = load(response_template(tool_calls=FIELDS[name][0])).tool_format.form  # pyright: ignore
    assert form is not None
    assert Slot.NAME in form.call
    assert "<|end|>" not in form.close


HERMES = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}\n<call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</call>{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_where_the_template_writes_the_same_its_white_space_counts():
    declared = response_template(
        thinking={"open": "<think>", "close": "</think>"},
        tool_calls=FIELDS["an object between tags"][0],
        content={"close": "<|end|>"},
    )
    plain, template = load(None, source=HERMES), load(declared, source=HERMES)
    assert template.learned == plain.learned
    assert template.thought_words == ("<think>\n", "\n</think>\n\n")


def test_a_declaration_counts_where_the_template_writes_another_form():
    template = load(response_template(tool_calls=FIELDS["tags"][0]), source=HERMES)
    assert template.tool_format is not None
    assert (
        template.tool_format.form
        == load(response_template(tool_calls=FIELDS["tags"][0])).learned.form
    )
    for text in (FIELDS["tags"][1], FIELDS["an object between tags"][1]):
        _, calls = template.tool_format.parse(text, TOOLS)
        assert arguments_of(calls) == [("get_weather", CALL), ("get_weather", OTHER)]


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"open": "<think>", "close": "</think>"}, ("<think>", "</think>")),
        ({"open": "[A]", "close": ["[B]", "[C]"]}, ("[A]", "[B]")),
        ({"open_pattern": r"(?:^|<think>\s*)", "close": "</think>"}, ("<think>", "</think>")),
        (
            {"open_pattern": r"(?=[\s\S]*?</think>)", "close_pattern": r"</think>\s*"},
            ("<think>", "</think>"),
        ),
        (
            {"open": "<|channel>thought\n", "close_pattern": r"<channel\|>\s*"},
            ("<|channel>thought\n", "<channel|>"),
        ),
    ],
)
@pytest.mark.parametrize("name", ["thinking", "reasoning_content", "reasoning"])
def test_thoughts(name: str, field: dict[str, Any], words: tuple[str, str]):
    template = load(response_template(**{name: field}))
    assert template.reasoning
    assert template.thought_words == words
    assert template.warning() is None or "tool_format" in str(template.warning())


def test_marks_around_a_text():
    declared = response_template(
        content={"open": "<|RESPONSE|>", "close_pattern": r"\n?<\|END_RESPONSE\|>"}
    )
    template = load(declared)
    assert template.before_text == ("<|RESPONSE|>",)
    assert template.after_text == ("<|END_RESPONSE|>",)


SCHEMA_OF_FUNCTION = {"type": "object", "properties": {"name": {}, "arguments": {}}}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (
            {
                "x-regex-iterator": r"<call>\s*(.+?)\s*</call>",
                "items": {
                    "x-parser": "json",
                    "x-parser-args": {"transform": "{type: 'function', function: @}"},
                },
            },
            FIELDS["an object between tags"][1],
        ),
        (
            {
                "x-regex": r"<\|ACTION\|>(.*?)(?:<\|END_ACTION\|>|$)",
                "x-parser": "json",
                "x-parser-args": {
                    "transform": "[*].{function: {name: tool_name, arguments: parameters}}"
                },
            },
            FIELDS["one list for all"][1],
        ),
        (
            {
                "x-regex-iterator": r"<tool_call>\s*(.+?)\s*</tool_call>",
                "items": {
                    "properties": {
                        "function": {
                            "properties": {
                                "name": {"x-regex": r"<function=([^\n>]+)>"},
                                "arguments": {
                                    "x-regex-key-value": r"<parameter=(?P<key>[^>\n]+)>\n"
                                    r"(?P<value>.*?)\n</parameter>",
                                    "additionalProperties": {
                                        "x-parser": "json",
                                        "x-parser-args": {"allow_non_json": True},
                                    },
                                },
                            }
                        }
                    }
                },
            },
            FIELDS["tags"][1],
        ),
        (
            {
                "x-regex-iterator": r"<\|tool_call>(.*?)<tool_call\|>",
                "items": {
                    "properties": {
                        "function": {
                            "x-regex": r"call\:(?P<name>\w+)(?P<arguments>\{.*\})",
                            "properties": {
                                "name": {},
                                "arguments": {"x-parser": "gemma4-tool-call"},
                            },
                        }
                    }
                },
            },
            FIELDS["braces"][1].replace("<|q|>", '<|"|>'),
        ),
    ],
)
def test_the_older_declaration(schema: dict[str, Any], text: str):
    whole = (
        r"^(?:<think>\n?(?:(?P<reasoning_content>.*?\S.*?)\n?|[\s]*)</think>\s*)?"
        r"(?P<content>(?:(?!<call>)[\s\S])*?)(?P<tool_calls>(?:<call>.+</call>)+)?\s*(?:<\|end\|>|$)"
    )
    properties = {"content": {}, "reasoning_content": {}, "tool_calls": schema}
    declared = {"type": "object", "x-regex": whole, "properties": properties}
    template = load(declared, key="response_schema")
    assert template.warning() is None
    assert template.thought_words == ("<think>", "</think>")
    assert template.tool_format is not None
    _, calls = template.tool_format.parse(text, TOOLS)
    assert arguments_of(calls) == [("get_weather", CALL), ("get_weather", OTHER)]


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ("text", "no object"),
        ({"version": 2, "fields": {"content": {}}}, "version is 2"),
        ({"fields": {}}, "no fields"),
        (response_template(tool_calls="json"), "tool_calls: "),
        (response_template(tool_calls={"open": 3}), "open is no text"),
        (response_template(tool_calls=calls_field(open_pattern="(?P<name>")), "its pattern"),
        (response_template(tool_calls=calls_field(open_pattern=r"a(?P<x>.)b")), "where the name"),
        (
            response_template(tool_calls=calls_field(open="<a>", content="kv-lines")),
            "where the name",
        ),
        (
            response_template(
                tool_calls=calls_field(open_pattern=r"<(?P<name>\w+)>.*?<b>", close="</b>")
            ),
            "neither text nor",
        ),
        (
            response_template(
                tool_calls=calls_field(open_pattern=r"<(?P<name>\w+)>", content="kv-lines")
            ),
            "kv-lines",
        ),
        (response_template(thinking={"open": "<a>"}), "nothing closes a thought"),
        (response_template(thinking={"close": "[END]"}), "nothing opens the thought"),
    ],
)
def test_what_cannot_be_followed_is_told_and_learned(declared: Any, reason: str):
    template = load(declared, source=HERMES)
    warning = template.warning()
    assert warning is not None
    assert "response_template" in warning
    assert reason in warning
    assert template.learned == load(None, source=HERMES).learned


def test_a_folder_is_told_of_at_load(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    from quire.arguments import get_infer_args
    from quire.chat.preparation import ChatFormat

    add_tokenizer(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["response_template"] = {"version": 9}
    path.write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    arguments = get_infer_args({"model_name_or_path": str(tmp_path)})
    with caplog.at_level(logging.WARNING, "quire"):
        ChatFormat.of_folder(tmp_path, arguments)
    assert "response_template is not followed in all: its version is 9" in caplog.text


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (r"<\|a\|>\s*b", [f"<|a|>{SPACE}b"]),
        (r"a\s+b\nc", ["a b\nc"]),
        (r"\n?a(?:b|c)?$", [f"{SPACE}a"]),
        (r"(?:^|x)", ["x"]),
        (r"(?s)[a][|]\.", ["a|."]),
        (r"(?=y)a(?!z)\b", ["a"]),
    ],
)
def test_texts_of_patterns(pattern: str, found: list[str]):
    assert pieces(read_pattern(pattern)) == found


@given(st.text("()[]{}|?*+\\<>^$.:=!Pns1,a", max_size=30))
def test_any_pattern_is_read_or_refused(pattern: str):
    try:
        pieces(read_pattern(pattern))
    except UnreadPatternError:
        return
