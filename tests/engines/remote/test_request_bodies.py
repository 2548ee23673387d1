"""Every setting of a request reaches the server's API, or is refused by name."""

import dataclasses
from typing import Any

import pytest

from quire.constraints.answer_form import AnswerForm, ThoughtForm
from quire.engines.remote.chat_engine import chat_body
from quire.engines.remote.token_engine import completion_body
from quire.errors import MediaError, SamplingError, ToolError, UnsupportedOptionError
from quire.messages import Conversation, read_conversation
from quire.prompt import MediaItem, Prompt
from quire.response_format import Constraint
from quire.sampling import SamplingParams, structured_outputs

PROMPT = Prompt((1, 2, 3))
CONVERSATION = Conversation(read_conversation([{"role": "user", "content": "Hi"}]).messages)
PLAIN = SamplingParams(max_tokens=64)
ALL_CHOSEN = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}

CHANGES: dict[str, Any] = {
    "max_tokens": 7,
    "n": 3,
    "min_tokens": 4,
    "temperature": 0.3,
    "top_p": 0.4,
    "top_k": 5,
    "min_p": 0.2,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "seed": 11,
    "stop": ("END",),
    "include_stop_str_in_output": True,
    "stop_token_ids": (9,),
    "eos_token_ids": (2,),
    "ignore_eos": True,
    "logit_bias": {5: -3.0},
    "bad_words": ("bad",),
    "logprobs": 2,
    "prompt_logprobs": 0,
    "response_format": Constraint("regex", "[0-9]+"),
    "skip_special_tokens": False,
    "priority": -3,
    "cache_salt": "mine",
    "streamed": False,
}
NOT_IN_THE_BODY = {"timeout", "adapter", "request_id", "continues"}
"""The chat layer applies the timeout; two become the model name and a header; how a text is decoded that
continues another is the server's affair."""


def tokens(params: SamplingParams) -> dict[str, Any]:
    return completion_body(PROMPT, params, "m")


def chat(params: SamplingParams, chosen: Any = ALL_CHOSEN) -> dict[str, Any]:
    return chat_body(CONVERSATION, params, dict.fromkeys(chosen, 1), "m", template_variables={})


def test_every_field_is_covered() -> None:
    names = {field.name for field in dataclasses.fields(SamplingParams)}
    assert names == set(CHANGES) | NOT_IN_THE_BODY


@pytest.mark.parametrize("name", CHANGES)
def test_each_field_changes_both_requests(name: str) -> None:
    changed = dataclasses.replace(PLAIN, **{name: CHANGES[name]})
    assert tokens(changed) != tokens(PLAIN)
    assert chat(changed) != chat(PLAIN)


def test_eos_is_sent_as_a_stop_token_unless_ignored() -> None:
    params = SamplingParams(max_tokens=9, stop_token_ids=(7, 2), eos_token_ids=(2, 3))
    assert tokens(params)["stop_token_ids"] == [7, 2, 3]
    ignoring = dataclasses.replace(params, ignore_eos=True)
    assert tokens(ignoring)["stop_token_ids"] == [7, 2]
    assert tokens(ignoring)["ignore_eos"] is True


def test_one_greedy_completion_is_requested_for_several() -> None:
    body = tokens(SamplingParams(max_tokens=9, n=4, temperature=0.0))
    assert (body["n"], body["temperature"]) == (1, 0.0)
    assert tokens(SamplingParams(max_tokens=9, n=4, temperature=1e-7))["n"] == 1
    assert tokens(SamplingParams(max_tokens=9, n=4, temperature=0.1))["n"] == 4


def test_min_tokens_is_cut_to_max_tokens() -> None:
    assert tokens(SamplingParams(max_tokens=3, min_tokens=9))["min_tokens"] == 3


def test_value_that_vllm_does_not_take_is_refused() -> None:
    for params, name in (
        (SamplingParams(max_tokens=1, temperature=2.5), "temperature"),
        (SamplingParams(max_tokens=1, seed=2**63), "seed"),
    ):
        for body in (tokens, chat):
            with pytest.raises(SamplingError, match=f"{name} must be at most .*vLLM"):
                body(params)
    media = Prompt((1,), (MediaItem("image", None, "x", 0, 1),))
    with pytest.raises(MediaError):
        completion_body(media, PLAIN, "m")


def test_prompt_logprobs_turn_streaming_off() -> None:
    body = tokens(SamplingParams(max_tokens=1, prompt_logprobs=2))
    assert body["stream"] is False
    assert "stream_options" not in body
    assert tokens(PLAIN)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("constraint", "field"),
    [
        (Constraint("json", {"type": "object"}), {"json": {"type": "object"}}),
        (Constraint("json_object"), {"json_object": True}),
        (Constraint("regex", "a+"), {"regex": "a+"}),
        (Constraint("choice", ("yes", "no")), {"choice": ["yes", "no"]}),
        (Constraint("grammar", "root ::= x"), {"grammar": "root ::= x"}),
    ],
)
def test_constraints_in_vllms_form(constraint: Constraint, field: dict[str, Any]) -> None:
    assert structured_outputs(constraint) == field
    assert (
        tokens(SamplingParams(max_tokens=1, response_format=constraint))["structured_outputs"]
        == field
    )


def test_chat_api_uses_openai_form_for_json() -> None:
    body = chat(
        SamplingParams(max_tokens=1, response_format=Constraint("json", {"type": "object"}))
    )
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    body = chat(SamplingParams(max_tokens=1, response_format=Constraint("json_object")))
    assert body["response_format"] == {"type": "json_object"}


def test_chat_api_leaves_unset_options_to_the_server() -> None:
    assert not ALL_CHOSEN & set(chat(PLAIN, ()))
    assert chat(PLAIN, ("top_p",))["top_p"] == 1.0
    greedy = dataclasses.replace(PLAIN, temperature=0.0)  # do_sample: false
    assert chat(greedy, ("do_sample",))["temperature"] == 0.0


def test_chat_api_refuses_max_length() -> None:
    with pytest.raises(UnsupportedOptionError, match="max_new_tokens"):
        chat(PLAIN, ("max_length",))
    assert chat(PLAIN, ("max_length", "max_new_tokens"))["max_tokens"] == 64


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
WITH_TOOLS = dataclasses.replace(CONVERSATION, tools=(TOOL,))


def with_tools(**chosen: Any) -> dict[str, Any]:
    return chat_body(WITH_TOOLS, PLAIN, chosen, "m", template_variables={})


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choices_are_sent(choice: Any, sent: Any) -> None:
    body = with_tools(tool_choice=choice, parallel_tool_calls=False)
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (sent, False)
    assert body["tools"] == [TOOL]


def test_no_tools_are_sent_where_none_may_be_called() -> None:
    assert not {"tools", "tool_choice"} & with_tools(tool_choice="none").keys()
    with pytest.raises(ToolError, match="needs tools"):
        chat_body(CONVERSATION, PLAIN, {"tool_choice": "required"}, "m", template_variables={})


def test_a_forced_call_drops_the_format() -> None:
    params = dataclasses.replace(PLAIN, response_format=Constraint("json_object"))
    for choice, is_sent in (("auto", True), ("required", False)):
        body = chat_body(WITH_TOOLS, params, {"tool_choice": choice}, "m", template_variables={})
        assert ("response_format" in body) == is_sent


def test_a_budget_for_thoughts_is_sent_under_vllms_name() -> None:
    assert with_tools(thinking_budget=7)["thinking_token_budget"] == 7


def test_a_grammar_of_a_whole_answer_is_sent_as_text() -> None:
    thought = ThoughtForm("", "</think>", is_optional=False)
    answer = AnswerForm(thought, None, Constraint("choice", ("yes",)), {"</think>": 9}, 20, (3,))
    params = dataclasses.replace(PLAIN, response_format=Constraint("answer", answer))
    grammar = tokens(params)["structured_outputs"]["grammar"]
    assert "<[0-2,4-8,10-19]>* <[9]>" in grammar
    assert '"yes"' in grammar
