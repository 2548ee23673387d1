"""Forced calls are written in the model's own form, as its schemas say, and a cut one is read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from quire.constraints.answer_form import AnswerForm, CallsForm, OfferedTool, ThoughtForm
from quire.messages import ToolCall
from quire.response_format import Constraint
from quire.tools.base import ToolFormat
from quire.tools.call_form import CallForm
from quire.tools.forced import JSON_LIST, ForcedCalls, cut_call, json_list_parser
from quire.tools.registry import get_tool_format, tool_format_names
from quire.tools.stream import ToolParser
from tests.constraints.accepting import added_tokens, token, tokenizer, verdict
from tests.constraints.call_forms import FORMS

WEATHER = OfferedTool(
    "get_weather",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"enum": ["C", "F"]},
            "days": {"type": "integer", "maximum": 9},
            "soft": {"type": ["boolean", "null"]},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}},
        },
        "required": ["city"],
        "$defs": {"Tag": {"type": "string"}},
    },
)
CLOCK = OfferedTool("get", {"properties": {"zone": {"type": "string"}}})
OPEN = OfferedTool("get_all", {"type": "object"})
TOOLS = (WEATHER, CLOCK, OPEN)
NAMES = [tool.name for tool in TOOLS]


def answer(form: CallForm, most: int | None = None, **parts: Any) -> AnswerForm:
    given = {"thought": None, "text": None, **parts}
    return AnswerForm(
        calls=CallsForm(form, TOOLS, most),
        tokens=added_tokens(),
        vocab_size=tokenizer().vocab_size,
        stops=(token("<|im_end|>"),),
        **given,
    )


RIGHT: dict[str, tuple[str, ...]] = {
    "hermes": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "New York", "days": 2}}\n</tool_call>',
        ('<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_all", "arguments": {"x":[1,{"y": null}]}}\n</tool_call>'),
    ),
    "llama3": ('{"name": "get_weather", "parameters": {"city": "Oslo", "tags": ["a", "b"]}}',),
    "mistral_list": (
        '[TOOL_CALLS][{"name": "get", "arguments": {"zone": "x"}, "id": "abcdef012"}]',
        ('[TOOL_CALLS][{"name": "get", "arguments": {}, "id": "a"}, '
        '{"name": "get_all", "arguments": {}, "id": "b"}]'),
    ),
    "text_arguments": (
        r'<tool_calls>[{"name": "get_weather", "arguments": "{\"city\": \"a\\\"b\\\\ \\n\", \"unit\": \"F\"}"}]</tool_calls>',
        r'<tool_calls>[{"name": "get_weather", "arguments": "{\"city\": \"Oslo\", \"soft\": null, \"tags\": [\"a\", \"b\"]}"}]</tool_calls>',
        r'<tool_calls>[{"name": "get", "arguments": "{}"}, {"name": "get_all", "arguments": "{\"a\": {\"b\": [1, \"x\"]}}"}]</tool_calls>',
    ),
    "indented": (
        ('<|tool_call|>[\n    {\n        "name": "get_weather",\n        "arguments": {\n'
        '            "city": "New York",\n            "days": 2,\n            "tags": [\n'
        '                "a",\n                "b"\n            ]\n        }\n    }\n]'),
        ('<|tool_call|>[\n    {\n        "name": "get",\n        "arguments": {}\n    },\n    {\n'
        '        "name": "get_all",\n        "arguments": {"a": 1}\n    }\n]'),
        ('<|tool_call|>[\n    {\n        "name": "get_weather",\n        "arguments": '
        '{"city": "Oslo", "days": 2}\n    }\n]'),
    ),
    "named_twice": (' to=get<|message|>{"call": "get", "with": {"zone": "x"}}',),
    "mistral": ('[TOOL_CALLS]get[ARGS]{"zone": "x"}[TOOL_CALLS]get_all[ARGS]{}',),
    "deepseek_v3": (
        ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n"
        '{"zone": "x"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'),
    ),
    "kimi_k2": (
        ("<|tool_calls_section_begin|><|tool_call_begin|>functions.get:0<|tool_call_argument_begin|>"
        '{"zone": "x"}<|tool_call_end|><|tool_call_begin|>functions.get_all:1'
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"),
    ),
    "qwen3_coder": (
        ("<tool_call>\n<function=get_weather>\n<parameter=city>\nNew\n\nYork\n</parameter>\n"
        "<parameter=unit>\nF\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "<parameter=soft>\nfalse\n</parameter>\n"
        '<parameter=tags>\n["a", "b"]\n</parameter>\n</function>\n</tool_call>'),
        "<tool_call>\n<function=get_all>\n<parameter=any>\nthing\n</parameter>\n</function>\n</tool_call>",
    ),
    "glm4": (
        ("<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>"),
    ),
    "deepseek_v32": (
        ('<function_calls>\n<invoke name="get_weather">\n<parameter name="city" string="true">Oslo'
        '</parameter>\n<parameter name="days" string="false">2</parameter>\n</invoke>\n'
        '<invoke name="get">\n\n</invoke>\n</function_calls>'),
    ),
    "pythonic": (
        '[get_weather(city="Oslo", days=2, soft=True, tags=["a"]), get()]',
        '[get_all(a=1, b={"c": "d"}, d=None)]',
    ),
    "pythonic_quotes": ("[get_weather(city='Oslo\\'s', unit='F')]",),
    "gemma4": (
        ('<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:2,tags:[<|"|>a<|"|>,<|"|>b<|"|>],'
        'unit:<|"|>C<|"|>}<tool_call|>'),
        '<|tool_call>call:get_all{a:{b:[1,<|"|>x<|"|>,null]}}<tool_call|>',
    ),
}  # fmt: skip
RIGHT["kimi_k2_split"] = RIGHT["kimi_k2"]
CALLS = [(name, text) for name, texts in RIGHT.items() for text in texts]


@pytest.mark.parametrize(("name", "text"), CALLS)
def test_the_models_own_form_is_taken(name: str, text: str) -> None:
    assert verdict(answer(FORMS[name]), text) == "whole"


@pytest.mark.parametrize(("name", "text"), CALLS)
def test_no_beginning_of_it_is_an_answer(name: str, text: str) -> None:
    """Each is cut where it is not between two calls."""
    for end in range(1, len(text) - 1, 3):
        if "}" not in text[:end] and ")" not in text[:end] and "</" not in text[:end]:
            assert verdict(answer(FORMS[name]), text[:end], plain=False) != "whole"


WRONG = {
    "an unknown tool": ("hermes", '<tool_call>\n{"name": "other"'),
    "an unknown key": ("hermes", '<tool_call>\n{"name": "get", "arguments": {"city"'),
    "a missing key": ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {}'),
    "a wrong type": (
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "x", "days": "two"',
    ),
    "text before": ("hermes", "I will call"),
    "endless white space": ("hermes", '<tool_call>\n{"name": "get", "arguments": {"zone":  "'),
    "a line between": ("hermes", '<tool_call>\n{"name": "get", "arguments": {\n'),
    "an enum's other value": (
        "qwen3_coder",
        (
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nx\n</parameter>\n"
            "<parameter=unit>\nK"
        ),
    ),
    "a number that is a text": (
        "qwen3_coder",
        (
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nx\n</parameter>\n"
            "<parameter=days>\ntwo"
        ),
    ),
    "an unknown parameter": ("glm4", "<tool_call>get\n<arg_key>city"),
    "an unknown key in a text": (
        "text_arguments",
        r'<tool_calls>[{"name": "get", "arguments": "{\"city',
    ),
    "a wrong type in a text": (
        "text_arguments",
        r'<tool_calls>[{"name": "get_weather", "arguments": "{\"city\": \"x\", \"days\": \"2',
    ),
    "a quote that ends the text": (
        "text_arguments",
        r'<tool_calls>[{"name": "get", "arguments": "{\"zone\": \"x"',
    ),
    "endless lines": (
        "indented",
        '<|tool_call|>[\n    {\n        "name": "get",\n        "arguments": {\n\n',
    ),
    "JSON in Python": ("pythonic", '[get_weather(city="Oslo", soft=true'),
    "an unknown member": ("gemma4", "<|tool_call>call:get{city"),
}


@pytest.mark.parametrize(("name", "text"), WRONG.values(), ids=WRONG.keys())
def test_what_is_not_taken(name: str, text: str) -> None:
    assert verdict(answer(FORMS[name]), text) == "never"


def test_one_call_where_more_are_not_allowed() -> None:
    one, two = RIGHT["hermes"][0], RIGHT["hermes"][1]
    assert verdict(answer(FORMS["hermes"], most=1), one) == "whole"
    assert verdict(answer(FORMS["hermes"], most=1), two) == "never"
    llama = RIGHT["llama3"][0]  # its template renders no more than one
    assert verdict(answer(FORMS["llama3"]), llama + llama) == "never"


JSON_ANSWER = Constraint("json", {"type": "object", "properties": {"q": {"type": "string"}}})


@pytest.mark.parametrize(("name", "text"), CALLS)
def test_a_call_or_an_answer_of_the_schema(name: str, text: str) -> None:
    form = answer(FORMS[name], text=JSON_ANSWER)
    assert verdict(form, text) == "whole"
    assert verdict(form, '{"q": "x"}') == "whole"
    assert verdict(form, "Hello") == "never"


THOUGHTS = {
    "of tokens": (ThoughtForm("<think>", "</think>", is_optional=True), "<think>\n", "</think>"),
    "begun": (ThoughtForm("", "</think>", is_optional=False), "", "</think>"),
    "of text": (ThoughtForm("[t]", "[/t]", is_optional=True), "[t] ", "[/t]"),
    "text, begun": (ThoughtForm("", "[/t]", is_optional=False), "", "[/t]"),
}


@pytest.mark.parametrize(("thought", "opens", "closes"), THOUGHTS.values(), ids=THOUGHTS.keys())
def test_a_thought_is_free(thought: ThoughtForm, opens: str, closes: str) -> None:
    form = answer(FORMS["hermes"], text=JSON_ANSWER, thought=thought)
    inner = 'Hm, {"q": 3} or a call? <'
    for end in ('{"q": "x"}', '\n{"q": "x"}', '\n\n{"q": "x"}', f"\n\n{RIGHT['hermes'][0]}"):
        assert verdict(form, opens + inner + closes + end) == "whole"
    assert verdict(form, opens + inner) == "part"
    assert verdict(form, opens + inner + closes + "Hello") == "never"
    assert verdict(form, '{"q": "x"}') == ("whole" if thought.is_optional else "part")


def test_a_thought_may_hold_control_tokens_but_does_not_end_the_answer() -> None:
    form = answer(FORMS["hermes"], thought=ThoughtForm("<think>", "</think>", is_optional=True))
    assert verdict(form, "<think>a <tool_call> b") == "part"
    assert verdict(form, "<think>a <|im_end|>") == "never"


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_a_budget_closes_the_thought(budget: int) -> None:
    thought = ThoughtForm("<think>", "</think>", is_optional=True, budget=budget)
    free = replace(answer(FORMS["hermes"], thought=thought), calls=None)
    within = "<think>" + "," * budget
    assert len(tokenizer().encode(within)) == budget + 1
    assert verdict(free, within) == "part"
    assert verdict(free, within + ",") == "never"
    assert verdict(free, within + "</think>\n\nAnything <tool_call> goes.<|im_end|>") == "whole"
    assert verdict(free, within + "</think>Again <think>") == "never"
    assert verdict(free, "No thought at all.") == "whole"


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (Constraint("regex", "[a-z]+/[0-9]"), "ab/3"),
        (Constraint("choice", ("yes", "no")), "no"),
        (Constraint("json_object"), '{"a": [1, 2]}'),
        (Constraint("grammar", 'start: "x" start?'), "xxx"),
        (Constraint("grammar", 'start: rule-0\nrule-0: "start"'), "start"),
        (Constraint("grammar", 'root ::= "x" root | "y"'), "xxy"),
        (Constraint("choice", ("a <think> b", "a <|im_end|>")), "a <|im_end|>"),
    ],
)
def test_every_kind_after_a_thought(constraint: Constraint, text: str) -> None:
    thought = ThoughtForm("<think>", "</think>", is_optional=True)
    form = replace(answer(FORMS["hermes"], thought=thought, text=constraint), calls=None)
    assert verdict(form, text, plain=True) == "whole"
    assert verdict(constraint, text, plain=True) == "whole"
    if "<" not in text:
        assert verdict(form, f"<think>hm</think>\n\n{text}") == "whole"


def test_marks_around_a_text() -> None:
    marks = {"before_text": ("<response>", "[R]"), "after_text": ("</response>",)}
    form = replace(answer(FORMS["hermes"], text=JSON_ANSWER), **marks)
    for text in ('{"q": "x"}', '<response>{"q": "x"}</response>', '[R]{"q": "x"}'):
        assert verdict(form, text) == "whole"
    assert verdict(form, RIGHT["hermes"][0]) == "whole"
    assert verdict(form, "<response>" + RIGHT["hermes"][0]) == "never"


# --- reading -------------------------------------------------------------------------------------

PARSED = {
    "hermes": get_tool_format("qwen"),
    "llama3": get_tool_format("llama3"),
    "mistral": get_tool_format("mistral"),
    "mistral_list": get_tool_format("mistral"),
    "qwen3_coder": get_tool_format("qwen3_5"),
    "glm4": get_tool_format("glm4_moe"),
    "gemma4": get_tool_format("gemma4"),
}


def parser_of(name: str) -> ToolParser:
    tools = [{"name": tool.name, "parameters": tool.parameters} for tool in TOOLS]
    return ForcedCalls(PARSED[name].parser(tools), FORMS[name], NAMES)


def read(parser: ToolParser, text: str) -> list[ToolCall]:
    pieces = [piece for char in text for piece in parser.add(char)] + parser.flush()
    assert all(isinstance(piece, ToolCall) for piece in pieces)
    return [piece for piece in pieces if isinstance(piece, ToolCall)]


@pytest.mark.parametrize(("name", "text"), [one for one in CALLS if one[0] in PARSED])
def test_the_formats_own_parser_reads_what_is_forced(name: str, text: str) -> None:
    calls = read(parser_of(name), text)
    assert [call.name for call in calls] == re.findall(r"\b(?:get_weather|get_all|get)\b", text)
    for call in calls:
        assert isinstance(json.loads(call.arguments), dict)


CUT = {
    "hermes": ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "New Yo', '{"city": "New Yo'),
    "llama3": ('{"name":"get_weather","parameters":{"city": "New Yo', '{"city": "New Yo'),
    "mistral": ('[TOOL_CALLS]get_weather[ARGS]{"city": "New Yo', '{"city": "New Yo'),
    "text_arguments": (
        r'<tool_calls>[{"name": "get_weather", "arguments": "{\"city\": \"New\\n Yo' + "\\",
        r'{"city": "New\n Yo',
    ),
    "named_twice": (
        ' to=get_weather<|message|>{"call": "get_weather", "with": {"city": "New Yo',
        '{"city": "New Yo',
    ),
    "deepseek_v3": (
        ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "New Yo'), '{"city": "New Yo'),
    "kimi_k2": (
        ("<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        '<|tool_call_argument_begin|>{"city": "New Yo'), '{"city": "New Yo'),
    "kimi_k2_split": (
        ("<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        '<|tool_call_argument_begin|>{"city": "New Yo'), '{"city": "New Yo'),
    "qwen3_coder": (
        "<tool_call>\n<function=get_weather>\n<parameter=days>\n2\n</parameter>\n<parameter=city>\nNew Yo",
        '{"days": 2, "city": "New Yo'),
    "glm4": (
        ("<tool_call>get_weather\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n"
        "<arg_key>city</arg_key>\n<arg_value>New Yo"), '{"days": 2, "city": "New Yo'),
    "deepseek_v32": (
        ('<function_calls>\n<invoke name="get_weather">\n<parameter name="days" string="false">2'
        '</parameter>\n<parameter name="city" string="true">New Yo'), '{"days": 2, "city": "New Yo'),
    "pythonic": ('[get_weather(soft=True, city="New Yo', '{"soft": true, "city": "New Yo'),
    "pythonic_quotes": ("[get_weather(soft=None, city='New Yo", '{"soft": null, "city": "New Yo'),
    "gemma4": ('<|tool_call>call:get_weather{days:2,city:<|"|>New Yo', '{"days": 2,"city": "New Yo'),
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "arguments"), [(n, *cut) for n, cut in CUT.items()])
def test_a_cut_call_is_its_part(name: str, text: str, arguments: str) -> None:
    call = cut_call(FORMS[name], text, NAMES)
    assert call is not None
    assert (call.name, call.arguments) == ("get_weather", arguments)


@pytest.mark.parametrize("name", [name for name in CUT if name in PARSED])
def test_a_cut_call_comes_after_whole_ones(name: str) -> None:
    text, arguments = CUT[name]
    whole = RIGHT[name][0] if name != "llama3" else ""
    between = FORMS[name].between
    *_, last = read(parser_of(name), f"{whole}{between}{text}" if whole else text)
    assert (last.name, last.arguments) == ("get_weather", arguments)


def test_what_is_cut_before_its_arguments_is_no_call() -> None:
    for form in FORMS.values():
        assert cut_call(form, form.begin + form.open, NAMES) is None
    assert read(parser_of("hermes"), '<tool_call>\n{"name": "get_') == []


def test_arguments_that_only_lack_their_end_are_whole() -> None:
    text = '<tool_call>\n{"name": "get", "arguments": {"zone": "x"}}\n</tool_'
    assert [call.arguments for call in read(parser_of("hermes"), text)] == ['{"zone": "x"}']


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400 + ".5"])
def test_a_number_that_is_too_large_stays_json(number: str) -> None:
    text = f'<tool_call>\n{{"name": "get", "arguments": {{"x": {number}}}}}\n</tool_call>'
    (call,) = read(parser_of("hermes"), text)
    assert number in call.arguments
    assert "Infinity" not in call.arguments


def test_the_general_form_where_a_models_own_is_not_known() -> None:
    text = (
        '[{"name": "get", "arguments": {}}, {"name": "get_weather", "arguments": {"city": "Oslo"}}]'
    )
    assert verdict(answer(JSON_LIST), text) == "whole"
    calls = read(ForcedCalls(json_list_parser(), JSON_LIST, NAMES), text)
    assert [(call.name, call.arguments) for call in calls] == [
        ("get", "{}"),
        ("get_weather", '{"city": "Oslo"}'),
    ]
    cut = text[: text.index("Oslo") + 2]
    *_, last = read(ForcedCalls(json_list_parser(), JSON_LIST, NAMES), cut)
    assert last.arguments == '{"city": "Os'


# --- forms that are learned ----------------------------------------------------------------------

LEARNED = [form for name in tool_format_names() if (form := get_tool_format(name)).form is not None]


@pytest.mark.parametrize("learned", LEARNED, ids=lambda learned: learned.name)
@pytest.mark.parametrize("count", [1, 2])
def test_what_a_format_writes_is_taken_and_read(learned: ToolFormat, count: int) -> None:
    form = learned.form
    assert form is not None
    if (form.most or count) < count:
        return
    calls = [
        ToolCall("get_weather", '{"city": "New York", "unit": "C", "days": 2, "tags": ["a"]}'),
        ToolCall("get", '{"zone": "x"}'),
    ][:count]
    text = "".join(span.text for span in learned.write_calls(calls))
    if not text.startswith(form.begin):
        return  # one call alone is written otherwise than several
    assert verdict(answer(form), text) == "whole", text
    tools = [{"name": tool.name, "parameters": tool.parameters} for tool in TOOLS]
    read_back = read(ForcedCalls(learned.parser(tools), form, NAMES), text)
    assert [(call.name, json.loads(call.arguments)) for call in read_back] == [
        (call.name, json.loads(call.arguments)) for call in calls
    ]


@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "glm4"])
def test_a_line_break_after_calls_is_no_beginning_of_another(name: str) -> None:
    text = RIGHT[name][0]
    assert verdict(answer(FORMS[name]), text + "\n") == "whole"
    assert verdict(answer(FORMS[name]), f"{text}\n{text}\n") == "whole"
    assert verdict(answer(FORMS[name]), f"\n{text}") == "never"
    begun = replace(FORMS[name], open="\n" + FORMS[name].open)
    assert verdict(answer(begun), f"\n{text}") == verdict(answer(begun), text) == "whole"


def test_white_space_around_calls_is_bounded() -> None:
    thought = ThoughtForm("<think>", "</think>", is_optional=True)
    text = RIGHT["hermes"][0]
    form = answer(FORMS["hermes"], thought=thought)
    for white in ("\n", "\n\n\n", " "):
        assert verdict(form, f"<think>hm</think>{white}{text}{white}") == "whole"
    assert verdict(form, f"<think>hm</think>{text}\n\n\n\n") == "never"
    assert verdict(form, f"<think>hm</think>\n\n\n\n{text}") == "never"
    spaced = replace(FORMS["hermes"], begin=" " * 10)
    assert verdict(answer(spaced), " " * 10 + text) == verdict(answer(spaced), text) == "whole"


def test_calls_in_a_message_of_their_own_after_a_thought() -> None:
    """As Solar's, whose texts and calls after a thought begin with the head of a message."""
    thought = ThoughtForm("<think>", "</think>", is_optional=True)
    marks = {"before_text": ("<|a|>", "<|m|>bot<|a|>"), "after_text": ("<|m|>bot", "<|end|>")}
    form = replace(answer(FORMS["hermes"], thought=thought), **marks)
    text = RIGHT["hermes"][0]
    for written in (text, f"<think>hm</think><|m|>bot{text}", f"<think>hm</think>{text}<|end|>"):
        assert verdict(form, written) == "whole"
    assert verdict(form, f"{text}<|m|>bot") == "never"
    called = replace(FORMS["named_twice"], between="<|m|>bot")
    form = replace(answer(called, thought=thought), **marks)
    text = RIGHT["named_twice"][0]
    for written in (text, f"<think>hm</think><|m|>bot{text}", f"{text}<|m|>bot{text}"):
        assert verdict(form, written) == "whole"


def test_calls_in_another_form_of_the_model() -> None:
    """gpt-oss's template writes the recipient before the channel; the model does as a rule after it."""
    form = answer(FORMS["mistral"])
    assert form.calls is not None
    other = replace(form, calls=replace(form.calls, others=(FORMS["named_twice"],)))
    for name in ("mistral", "named_twice"):
        assert verdict(other, RIGHT[name][0]) == "whole"
    assert verdict(form, RIGHT["named_twice"][0]) == "never"
