"""What a request's options constrain an answer to, on engines with and without whole grammars."""

from __future__ import annotations

from copy import copy
from functools import cache
from typing import Any

import jsonschema
import pytest

from quire.arguments import get_infer_args
from quire.chat.answer_forms import AnswerForms, PlainForms
from quire.chat.preparation import ChatFormat, Preparation
from quire.constraints.answer_form import AnswerForm
from quire.demo import demo_model_path
from quire.engines.seam import EngineInfo
from quire.errors import ConfigError, SamplingError, ToolError, UnsupportedOptionError
from quire.request import ChatRequest
from quire.response_format import Constraint
from quire.template.registry import get_template
from quire.template.template import Template
from quire.tokenizer import Tokenizer
from quire.tools.forced import JSON_LIST

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
TOOLS: list[dict[str, Any]] = [
    {"name": "one", "parameters": {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}},
    {"name": "two", "parameters": {"properties": {"a": {"type": "integer"}}, "required": ["a"]}},
    {"name": "hard", "parameters": {"not": {}}},
]
CHOICE = {"type": "choice", "choice": ["yes", "no"]}
TWO = {"type": "function", "function": {"name": "two"}}


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(demo_model_path())


@cache
def template() -> Template:
    return get_template(None, tokenizer())


def make(kind: type[AnswerForms] = AnswerForms, own: Template | None = None) -> AnswerForms:
    return kind(own or template(), tokenizer(), stops=(2041,), context_length=4096)


def form(
    forms: AnswerForms,
    options: dict[str, Any],
    tools: list[dict[str, Any]] | None = None,
    *,
    inside: bool = False,
    may_think: bool = True,
) -> Constraint | None:
    return forms.form(options, tools or [], starts_in_thought=inside, may_think=may_think)


def whole(found: Constraint | None) -> AnswerForm:
    assert found is not None
    assert found.kind == "answer"
    return found.value


def test_what_is_not_asked_for_is_free() -> None:
    for options in ({}, {"temperature": 0}, {"tool_choice": "auto"}, {"tool_choice": "none"}):
        assert form(make(), options, TOOLS) is None
    assert form(make(), {"thinking_budget": 4096}) is None
    assert form(make(), {"thinking_budget": 5}, may_think=False) is None


def test_a_format_alone_is_itself() -> None:
    found = form(make(), {"response_format": CHOICE}, may_think=False)
    assert found == Constraint("choice", ("yes", "no"))


def test_thoughts() -> None:
    optional = whole(form(make(), {"response_format": CHOICE})).thought
    assert optional is not None
    assert (optional.opener, optional.closer, optional.is_optional) == ("<think>", "</think>", True)
    begun = whole(form(make(), {"thinking_budget": 7}, inside=True, may_think=False)).thought
    assert begun is not None
    assert (begun.opener, begun.is_optional, begun.budget) == ("", False, 7)


def test_what_an_answer_settles_to() -> None:
    found = whole(form(make(), {"response_format": CHOICE, "thinking_budget": 7}))
    assert found.settled(thinks=False) == Constraint("choice", ("yes", "no"))
    settled = whole(found.settled(thinks=True)).thought
    assert settled is not None
    assert not settled.is_optional
    assert whole(form(make(), {"thinking_budget": 7})).settled(thinks=False) is None


def test_calls() -> None:
    required = whole(form(make(), {"tool_choice": "required", "response_format": CHOICE}, TOOLS))
    assert required.text is None
    assert required.calls is not None
    assert [tool.name for tool in required.calls.tools] == ["one", "two", "hard"]
    assert required.calls.most is None
    one = {"tool_choice": "required", "parallel_tool_calls": False}
    for options in (one, {"tool_choice": TWO}):
        calls = whole(form(make(), options, TOOLS)).calls
        assert calls is not None
        assert calls.most == 1
    either = whole(form(make(), {"response_format": CHOICE}, TOOLS))
    assert either.calls is not None
    assert either.text == Constraint("choice", ("yes", "no"))


@pytest.mark.parametrize("kind", [AnswerForms, PlainForms])
def test_wrong_choices(kind: type[AnswerForms]) -> None:
    with pytest.raises(ToolError, match="needs tools"):
        form(make(kind), {"tool_choice": "required"})
    with pytest.raises(SamplingError, match="'two', which is none of the tools"):
        form(make(kind), {"tool_choice": TWO}, TOOLS[:1])


def test_thoughts_that_end_with_text_cannot_be_counted() -> None:
    own = copy(get_template("qwen3", tokenizer()))  # which others share
    own.thought_words = ("[thought]", "[/thought]")
    assert whole(form(make(own=own), {"response_format": CHOICE})).thought is not None
    with pytest.raises(UnsupportedOptionError, match=r"'\[/thought\]', which is no token"):
        form(make(own=own), {"thinking_budget": 5})
    own.thought_words = ("", "")
    assert form(make(own=own), {"thinking_budget": 5}) is None


@pytest.mark.parametrize(
    ("words", "composes", "says"),
    [
        (("<think>", "</think>"), True, None),
        (("", ""), True, None),  # without thoughts each budget is kept
        (("[thought]", "[/thought]"), True, r"'\[/thought\]', which is no token"),
        (("<think>", "</think>"), False, "this engine takes no grammars"),
    ],
)
def test_a_budget_of_the_configuration(
    words: tuple[str, str], composes: bool, says: str | None
) -> None:
    own = copy(get_template("qwen3", tokenizer()))  # which others share
    own.thought_words = words
    arguments = get_infer_args({"model_name_or_path": "none", "thinking_budget": 5})
    info = EngineInfo("stand-in", 4096, composes_grammars=composes)
    chat_format = ChatFormat(tokenizer(), own, {}, ())
    if says is not None:
        with pytest.raises(ConfigError, match=f"thinking_budget: .*{says}"):
            Preparation(chat_format, arguments, info)
        return
    preparation = Preparation(chat_format, arguments, info)
    budgets: list[int | None] = []
    for options in ({}, {"thinking_budget": 7}, {"thinking_budget": 4096}, {"temperature": 0}):
        request = ChatRequest([{"role": "user", "content": "Hello!"}], options=options)
        constraint = preparation.prepare_text(request).params.response_format
        thought = None if constraint is None else whole(constraint).thought
        budgets.append(None if thought is None else thought.budget)
    assert budgets == ([5, 7, None, 5] if words[1] else [None] * 4)


# --- without whole grammars ----------------------------------------------------------------------


def test_forced_calls_are_a_list() -> None:
    forms = make(PlainForms)
    assert forms.call_form is JSON_LIST
    found = form(forms, {"tool_choice": "required"}, TOOLS)
    assert found is not None
    assert found.kind == "json"
    check = jsonschema.Draft202012Validator(found.value)
    check.validate([{"name": "one", "arguments": {"next": {"next": {}}}}])
    check.validate(
        [{"name": "two", "arguments": {"a": 1}}, {"name": "hard", "arguments": {"x": 1}}]
    )
    for wrong in (
        [],
        [{"name": "one", "arguments": {"next": 1}}],
        [{"name": "two", "arguments": {}}],
    ):
        assert not check.is_valid(wrong)
    found = form(forms, {"tool_choice": TWO}, TOOLS)
    assert found is not None
    check = jsonschema.Draft202012Validator(found.value)
    assert not check.is_valid([{"name": "two", "arguments": {"a": 1}}] * 2)
    assert not check.is_valid([{"name": "one", "arguments": {}}])


def test_nothing_goes_with_a_thought() -> None:
    forms = make(PlainForms)
    for options in ({"response_format": CHOICE}, {"tool_choice": "required"}):
        assert forms.thinks(options, None, configured=True) is False
        with pytest.raises(UnsupportedOptionError, match="enable_thinking"):
            forms.thinks(options, True, configured=None)
        with pytest.raises(UnsupportedOptionError, match="always begins with a thought"):
            form(forms, options, TOOLS if "tool_choice" in options else [], inside=True)
    assert forms.thinks({}, None, configured=True) is True
    assert forms.thinks({"tool_choice": "auto"}, True, configured=None) is True


def test_what_needs_whole_grammars_is_refused() -> None:
    with pytest.raises(UnsupportedOptionError, match="thinking_budget"):
        form(make(PlainForms), {"thinking_budget": 5})
    with pytest.raises(UnsupportedOptionError, match="response_format beside tools"):
        form(make(PlainForms), {"response_format": CHOICE}, TOOLS)
    assert form(make(PlainForms), {"response_format": CHOICE}) == Constraint(
        "choice", ("yes", "no")
    )
