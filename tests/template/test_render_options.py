"""Variables of chat templates and switches for thoughts: requests' over the configuration's."""

from __future__ import annotations

from typing import Any

import pytest

from quire.arguments import DataArguments
from quire.errors import ConfigError, RequestError, SamplingError, UnsupportedOptionError
from quire.messages import read_conversation
from quire.options import ThinkingChoices
from quire.prompt import TextElement
from quire.template.jinja import JinjaTemplate
from quire.template.registry import get_template
from quire.template.render_options import RenderOptionResolver
from quire.template.template import Template
from quire.tokenizer import Tokenizer
from tests.tokenizer.kinds import make_backend

SOURCE = (
    "{{ enable_thinking }} {{ reasoning_effort }} {{ date_string }} {{ documents | tojson }}"
    "{% if xml_tools %} {{ xml_tools.sep }}{% endif %}"
)
ASK = read_conversation([{"role": "user", "content": "Hi"}])


def own(source: str = SOURCE) -> Template:
    return JinjaTemplate(Tokenizer(make_backend("byte_bpe"), chat_template=source))


def rendered(options: dict[str, Any], template: Template | None = None, **data: Any) -> str:
    template = template or own()
    resolver = RenderOptionResolver(template, DataArguments(**data))
    wanted = resolver.wants_thinking(options)
    thinking = resolver.enable_thinking if wanted is None else wanted
    elements = template.render(ASK, **resolver.resolve(options, thinking))
    return "".join(one.text for one in elements if isinstance(one, TextElement))


@pytest.mark.parametrize(
    ("options", "data", "text"),
    [
        ({}, {}, "   null"),
        ({}, {"enable_thinking": None}, "   null"),
        ({}, {"enable_thinking": False}, "False   null"),
        ({"enable_thinking": True}, {"enable_thinking": False}, "True   null"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {}, "False   null"),
        ({"chat_template_kwargs": {"thinking": True}}, {"enable_thinking": False}, "True   null"),
        ({"chat_template_kwargs": {"date_string": "May"}}, {}, "  May null"),
        (
            {"chat_template_kwargs": {"date_string": "May"}},
            {"chat_template_kwargs": {"date_string": "June", "reasoning_effort": "low"}},
            " low May null",
        ),
        ({}, {"chat_template_kwargs": '{"enable_thinking": false}'}, "False   null"),
        ({"chat_template_kwargs": {"xml_tools": {"sep": "|"}}}, {}, "   null |"),
        ({"reasoning_effort": "high"}, {}, "True high  null"),
        ({"reasoning_effort": "none"}, {"enable_thinking": True}, "False none  null"),
        ({"reasoning_effort": "low", "enable_thinking": False}, {}, "False low  null"),
        ({"documents": [{"title": "a"}]}, {}, '   [{"title": "a"}]'),
        ({"chat_template_kwargs": {"documents": [1]}}, {}, "   [1]"),
    ],
)
def test_what_a_template_is_given(options: dict[str, Any], data: Any, text: str) -> None:
    assert rendered(options, **data) == text


def test_a_variable_is_literal_text() -> None:
    """No client's variable becomes a control token."""
    template = own("<|im_end|>{{ date_string }}")
    resolver = RenderOptionResolver(template, DataArguments())
    how = resolver.resolve({"chat_template_kwargs": {"date_string": "<|im_end|>"}}, None)
    (element,) = template.render(ASK, **how)
    assert isinstance(element, TextElement)
    assert [(span.text, span.literal) for span in element.spans] == [
        ("<|im_end|>", False),
        ("<|im_end|>", True),
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"chat_template_kwargs": {"date_strin": "x"}}, "'date_strin'; did you mean 'date_string'"),
        ({"chat_template_kwargs": {"nothing": None}}, "It reads: date_string, documents, enable"),
        ({"chat_template_kwargs": {"add_generation_prompt": True}}, "beside chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, "beside chat_template_kwargs"),
        ({"chat_template_kwargs": [1]}, "must map names to values"),
        ({"chat_template_kwargs": {"a b": 1}}, "no variable's name"),
        ({"chat_template_kwargs": {"date_string": object()}}, "value of JSON"),
        ({"chat_template_kwargs": {"preserve_thinking": 1}}, "true or false"),
        (
            {"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": False},
            "contradict",
        ),
        ({"documents": "x"}, "list of dictionaries"),
        ({"documents": ["x"]}, r"documents\[0\]"),
        ({"reasoning_effort": ""}, "not empty"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "one of them"),
    ],
)
def test_what_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        rendered(options)


def test_a_value_that_is_nested_too_deeply() -> None:
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(SamplingError, match="nested deeper"):
        rendered({"chat_template_kwargs": {"date_string": deep}})


def test_documents_for_a_template_that_writes_none() -> None:
    with pytest.raises(UnsupportedOptionError, match="'documents'"):
        rendered({"documents": [{"text": "x"}]}, own("{{ messages[0].content }}"))
    assert rendered({"documents": []}, own("{{ messages[0].content }}")) == "Hi"


def test_a_budget_is_told_to_a_template_that_reads_it() -> None:
    template = own("{{ thinking_budget | default('free') }}")
    assert rendered({}, template) == "free"
    assert rendered({"thinking_budget": 512}, template) == "512"
    assert rendered({"thinking_budget": 512}) == "   null"


def test_an_effort_is_a_hint() -> None:
    """Clients send one by default, to whatever model."""
    assert rendered({"reasoning_effort": "high"}, own("{{ messages[0].content }}")) == "Hi"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"chat_template_kwargs": {"nothing": 1}}, "'nothing'"),
        ({"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": False}, "contrad"),
    ],
)
def test_the_configuration_is_checked_at_once(data: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RenderOptionResolver(own(), DataArguments(**data))


def test_a_named_template_has_the_switches_alone() -> None:
    """Its rule is LLaMA-Factory's: the model thinks, unless it is told not to."""
    named = get_template("qwen3", None)
    off = "<think>\n\n</think>\n\n"
    assert not rendered({}, named).endswith(off)
    assert rendered({}, named, enable_thinking=False).endswith(off)
    assert rendered({}, named, enable_thinking=None).endswith(off)  # as the reference reads null
    assert rendered({"chat_template_kwargs": {"enable_thinking": False}}, named).endswith(off)
    assert rendered({"reasoning_effort": "none"}, named).endswith(off)
    for given in ({"chat_template_kwargs": {"date_string": "x"}}, {"documents": [{"text": "x"}]}):
        with pytest.raises(
            UnsupportedOptionError, match="named template 'qwen3' reads no variables"
        ):
            rendered(given, named)
    with pytest.raises(ConfigError, match="'date_string'"):
        RenderOptionResolver(named, DataArguments(chat_template_kwargs={"date_string": "x"}))


ON_BY_DEFAULT = (
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
OFF_BY_DEFAULT = "{% if thinking %}<think>{% else %}</think>{% endif %}"
LEFT_TO_THE_MODEL = "{% if enable_thinking is defined %}{{ '<think>' if enable_thinking else '</think>' }}{% endif %}"
EFFORTS = (
    "{% set effort = reasoning_effort or 'no' %}"
    "{% if effort not in ('no', 'low', 'high') %}{{ raise_exception('effort') }}{% endif %}"
    "{{ effort }}"
)
NO_EFFORT = "{{ 'briefly' if reasoning_effort == 'none' else 'at length' }}"


@pytest.mark.parametrize(
    ("source", "data", "choices"),
    [
        (ON_BY_DEFAULT, {}, ThinkingChoices(True, True, ())),
        (ON_BY_DEFAULT, {"enable_thinking": False}, ThinkingChoices(True, False, ())),
        (OFF_BY_DEFAULT, {}, ThinkingChoices(True, False, ())),
        (LEFT_TO_THE_MODEL, {}, ThinkingChoices(True, None, ())),
        (EFFORTS, {}, ThinkingChoices(False, None, ("low", "high"))),
        (OFF_BY_DEFAULT + EFFORTS, {}, ThinkingChoices(True, False, ("low", "high"))),
        (NO_EFFORT, {}, None),
        ("{% if false and enable_thinking %}<think>{% endif %}", {}, None),
        ("Hello", {}, None),
    ],
)
def test_what_a_template_obeys_is_seen_in_its_prompts(
    source: str, data: dict[str, Any], choices: ThinkingChoices | None
) -> None:
    assert RenderOptionResolver(own(source), DataArguments(**data)).thinking_choices() == choices


@pytest.mark.parametrize(
    ("name", "data", "choices"),
    [
        ("qwen3", {}, ThinkingChoices(True, True, ())),
        ("qwen3", {"enable_thinking": False}, ThinkingChoices(True, False, ())),
        ("qwen", {}, None),
    ],
)
def test_a_named_template_has_a_switch_where_its_model_thinks(
    name: str, data: dict[str, Any], choices: ThinkingChoices | None
) -> None:
    template = get_template(name, None)
    assert RenderOptionResolver(template, DataArguments(**data)).thinking_choices() == choices
