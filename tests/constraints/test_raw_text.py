"""Texts that a notation writes without quotes, held to the restrictions of their schemas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quire.constraints.answer_form import AnswerForm, CallsForm, OfferedTool
from tests.constraints.accepting import verdict
from tests.constraints.call_forms import FORMS
from tests.constraints.test_call_grammar import answer

TAGGED = {
    "qwen3_coder": "<tool_call>\n<function=f>\n<parameter=x>\n{}\n</parameter>\n</function>\n</tool_call>",
    "glm4": "<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>",
    "gemma4": '<|tool_call>call:f{{x:<|"|>{}<|"|>}}<tool_call|>',
    "text_arguments": r'<tool_calls>[{{"name": "f", "arguments": "{{\"x\": \"{}\"}}"}}]</tool_calls>',
}
RAW = ("qwen3_coder", "glm4", "gemma4")
TEXTS: tuple[tuple[dict[str, Any], list[str], list[str]], ...] = (
    ({"pattern": "^[A-Z]{3}$"}, ["ABC"], ["AB", "ABCD", "abc"]),
    ({"pattern": "[0-9]{2}"}, ["12", "x12y\nz"], ["1x2", ""]),
    ({"pattern": "^a(b|/)+"}, ["ab", "a/b c"], ["b", "a"]),
    ({"minLength": 2, "maxLength": 4}, ["ab", "a\nbc"], ["a", "abcde"]),
    ({"minLength": 3}, ["abc", "a < b"], ["ab"]),
    ({"pattern": "^[a-z]+$", "maxLength": 3}, ["abc"], ["abcd", "a1"]),
    ({"const": "ab"}, ["ab"], ["a", "abc", "x"]),
    ({"enum": ["ab", "c"]}, ["ab", "c"], ["a", "x"]),
)
"""Schemas of a text, texts that match, and texts that do not."""


def with_text(name: str, schema: dict[str, Any]) -> AnswerForm:
    parameters = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    calls = CallsForm(FORMS[name], (OfferedTool("f", parameters),))
    return replace(answer(FORMS[name]), calls=calls)


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize(("schema", "right", "wrong"), TEXTS)
def test_texts_without_quotes_are_held_to_their_schemas(
    name: str, schema: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    form = with_text(name, {"type": "string", **schema})
    for text in right:
        assert verdict(form, TAGGED[name].format(text)) == "whole", text
    for text in wrong:
        assert verdict(form, TAGGED[name].format(text)) != "whole", text


def test_lengths_are_held_in_other_notations() -> None:
    form = with_text("text_arguments", {"type": "string", "minLength": 2, "maxLength": 3})
    for text, is_right in (("ab", True), (r"a\\n", True), ("a", False), ("abcd", False)):
        assert (verdict(form, TAGGED["text_arguments"].format(text)) == "whole") == is_right
    form = with_text("pythonic_quotes", {"type": "string", "minLength": 2, "maxLength": 3})
    for text, is_right in (("ab", True), (r"a\'b", True), ("a", False), ("abcd", False)):
        assert (verdict(form, f"[f(x='{text}')]") == "whole") == is_right
    items = {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}
    for text, is_right in (("[1]", True), ("[1,2]", True), ("[]", False), ("[1,2,3]", False)):
        written = f"<|tool_call>call:f{{x:{text}}}<tool_call|>"
        assert (verdict(with_text("gemma4", items), written) == "whole") == is_right


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": r"^(?=a)b"},
        {"pattern": r"\bword\b"},
        {"pattern": "^a$|^b$"},
        {"maxLength": 100_000},
        {"format": "date"},
    ],
)
def test_a_text_whose_restriction_cannot_be_written_is_free(
    name: str, schema: dict[str, Any]
) -> None:
    form = with_text(name, {"type": "string", **schema})
    assert verdict(form, TAGGED[name].format("anything < else")) == "whole"


def test_what_may_be_another_value_is_free() -> None:
    """Nothing tells a text from a number between tags, but where the tag says so."""
    schema = {"type": ["string", "integer"], "pattern": "^[a-z]+$"}
    for name in ("qwen3_coder", "glm4"):
        for text in ("12", "abc", "ABC"):
            assert verdict(with_text(name, schema), TAGGED[name].format(text)) == "whole"
    told = with_text("deepseek_v32", schema)
    written = (
        '<function_calls>\n<invoke name="f">\n<parameter name="x" string="{}">{}</parameter>\n'
        "</invoke>\n</function_calls>"
    )
    assert verdict(told, written.format("true", "abc")) == "whole"
    assert verdict(told, written.format("false", "12")) == "whole"
    assert verdict(told, written.format("true", "ABC")) == "never"


def test_objects_as_values_in_braces() -> None:
    form = with_text("gemma4", {"enum": [{"a": 1, "b": ["c"]}, 3]})
    written = "<|tool_call>call:f{{x:{}}}<tool_call|>"
    assert verdict(form, written.format('{a:1,b:[<|"|>c<|"|>]}')) == "whole"
    assert verdict(form, written.format("3")) == "whole"
    assert verdict(form, written.format("{a:2")) == "never"
