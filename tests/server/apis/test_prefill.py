"""Answers that continue the last message, and variables of chat templates, in each API's own fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.server.serving import Served

Echo = Callable[..., Served]
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
HELLO = {"role": "user", "content": "Hello! Who are you?"}
SUM = {"role": "user", "content": "What is 17 + 25?"}
GREEDY: dict[str, Any] = {"model": "base", "temperature": 0}
CONTINUING = {"continue_final_message": True, "add_generation_prompt": False}


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def chat(http: httpx.Client, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    (choice,) = post(http, CHAT, {**GREEDY, "messages": messages, **more})["choices"]
    return choice["message"]


def deltas(http: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    with http.stream("POST", CHAT, json={**body, "stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if "{" in line]
    return [json.loads(line)["choices"][0]["delta"] for line in lines]


@pytest.mark.parametrize("cut", [3, 8])
def test_a_text_is_continued(http: httpx.Client, cut: int) -> None:
    """The parts together are the answer, and the prompt ends with the part that is there."""
    whole = chat(http, HELLO)["content"]
    part = chat(http, HELLO, max_tokens=cut)
    for last, more in (
        (part, CONTINUING),
        (part, {"continue_final_message": True}),
        ({"role": "assistant", "content": part["content"], "prefix": True}, {}),
        ({"role": "assistant", "content": part["content"], "partial": True}, {}),
    ):
        assert part["content"] + chat(http, HELLO, last, **more)["content"] == whole
    messages = [HELLO, part]
    found = post(http, "/tokenize", {"messages": messages, **CONTINUING})["tokens"]
    text = post(http, "/detokenize", {"tokens": found})["prompt"]
    assert text.endswith(f"assistant\n{part['content']}")


@pytest.mark.parametrize("cut", [3, 8, 20])
def test_a_thought_is_continued(http: httpx.Client, cut: int) -> None:
    whole = chat(http, SUM)
    part = chat(http, SUM, max_tokens=cut)
    rest = chat(http, SUM, part, **CONTINUING)
    assert part["content"] == ""
    assert part["reasoning_content"] + rest["reasoning_content"] == whole["reasoning_content"]
    assert rest["content"] == whole["content"]


def test_the_message_is_repeated_where_that_is_wanted(http: httpx.Client) -> None:
    whole = chat(http, HELLO)["content"]
    last = {"role": "assistant", "content": whole[:10]}
    body = {**GREEDY, "messages": [HELLO, last], **CONTINUING, "echo": True}
    assert post(http, CHAT, body)["choices"][0]["message"]["content"] == whole
    assert "".join(one.get("content", "") for one in deltas(http, body)) == whole
    body["echo"] = False
    assert "".join(one.get("content", "") for one in deltas(http, body)) == whole[10:]


def test_stops_and_constraints_hold_for_the_continuation(http: httpx.Client) -> None:
    last = {"role": "assistant", "content": "I am"}
    form = {"type": "regex", "regex": " [a-z]{4} and [a-z]{5}"}
    found = chat(http, HELLO, last, **CONTINUING, response_format=form)["content"]
    assert found.startswith(" ")
    assert found[5:10] == " and "
    whole = chat(http, HELLO)["content"]
    assert whole.startswith("I am")
    stopped = chat(http, HELLO, last, **CONTINUING, stop=["model"])["content"]
    assert stopped == whole[4:].partition("model")[0]


def test_anthropics_last_message_of_the_assistant_is_continued(http: httpx.Client) -> None:
    whole = chat(http, HELLO)["content"]
    body = {**GREEDY, "max_tokens": 100}
    for content in (whole[:10], [{"type": "text", "text": whole[:10]}]):
        messages = [HELLO, {"role": "assistant", "content": content}]
        (block,) = post(http, MESSAGES, {**body, "messages": messages})["content"]
        assert block["text"] == whole[10:]
    thought = chat(http, SUM)["reasoning_content"]
    opened = [{"type": "thinking", "thinking": thought[:12], "signature": ""}]
    messages = [SUM, {"role": "assistant", "content": opened}]
    blocks = post(http, MESSAGES, {**body, "messages": messages})["content"]
    assert [block["type"] for block in blocks] == ["thinking", "text"]
    assert blocks[0]["thinking"] == thought[12:]
    counted = post(http, f"{MESSAGES}/count_tokens", {"model": "base", "messages": messages})
    assert counted["input_tokens"] > 0


def test_an_unfinished_item_of_a_response_is_continued(http: httpx.Client) -> None:
    whole = post(http, RESPONSES, {**GREEDY, "input": HELLO["content"]})["output"][0]
    text = whole["content"][0]["text"]
    cut = post(http, RESPONSES, {**GREEDY, "input": HELLO["content"], "max_output_tokens": 3})
    assert cut["status"] == "incomplete"
    rest = post(http, RESPONSES, {**GREEDY, "input": [HELLO, *cut["output"]]})
    assert cut["output"][0]["content"][0]["text"] + rest["output"][0]["content"][0]["text"] == text
    done = [{**item, "status": "completed"} for item in cut["output"]]
    assert http.post(RESPONSES, json={**GREEDY, "input": [HELLO, *done]}).status_code == 400


@pytest.mark.parametrize(
    ("messages", "more", "says"),
    [
        ([HELLO, {"role": "assistant", "content": "I"}], {}, "continue_final_message"),
        ([HELLO], CONTINUING, "assistant's message at the end"),
        (
            [HELLO, {"role": "assistant", "content": "I", "prefix": True}, HELLO],
            {},
            "Only the last message",
        ),
        (
            [HELLO, {"role": "assistant", "content": "I"}],
            {"continue_final_message": True, "add_generation_prompt": True},
            "give one of them",
        ),
    ],
)
def test_what_cannot_be_continued(
    http: httpx.Client, messages: list[Any], more: dict[str, Any], says: str
) -> None:
    answer = http.post(CHAT, json={**GREEDY, "messages": messages, **more})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_a_last_answer_that_is_whole(http: httpx.Client) -> None:
    """Clients that write out vLLM's defaults get another answer after it, as there."""
    said = {"role": "assistant", "content": "I am."}
    defaults = {"continue_final_message": False, "add_generation_prompt": True}
    body = {"messages": [HELLO, said], **defaults}
    text = post(http, "/detokenize", {"tokens": post(http, "/tokenize", body)["tokens"]})["prompt"]
    assert "I am." in text
    assert text.endswith("assistant\n")


# --- variables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [HELLO]}),
        (RESPONSES, {"input": "Hello"}),
        (MESSAGES, {"messages": [HELLO], "max_tokens": 5}),
        (f"{MESSAGES}/count_tokens", {"messages": [HELLO]}),
        ("/tokenize", {"messages": [HELLO]}),
    ],
)
def test_a_variable_that_the_template_never_reads_is_refused_by_name(
    http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    body = {"model": "base", **body, "chat_template_kwargs": {"xml_tools": True}}
    answer = http.post(path, json=body)
    assert answer.status_code == 400
    assert "'xml_tools'" in answer.text
    body["chat_template_kwargs"] = {"enable_thinking": False}
    assert http.post(path, json=body).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [SUM], "reasoning_effort": "none"}),
        (CHAT, {"messages": [SUM], "chat_template_kwargs": {"thinking": False}}),
        (RESPONSES, {"input": SUM["content"], "reasoning": {"effort": "none"}}),
        (MESSAGES, {"messages": [SUM], "max_tokens": 99, "thinking": {"type": "disabled"}}),
        (
            MESSAGES,
            {
                "messages": [SUM],
                "max_tokens": 99,
                "thinking": {"type": "disabled"},
                "output_config": {"effort": "high"},
            },
        ),
    ],
)
def test_thinking_is_turned_off(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    answer = post(http, path, {**GREEDY, **body})
    assert "reasoning_content" not in json.dumps(answer)
    assert '"type": "thinking"' not in json.dumps(answer)
    assert '"type": "reasoning"' not in json.dumps(answer)


def test_documents_for_a_template_that_writes_none(http: httpx.Client) -> None:
    body = {**GREEDY, "messages": [HELLO], "max_tokens": 2}
    for documents in ([], None):
        post(http, CHAT, {**body, "documents": documents})
    answer = http.post(CHAT, json={**body, "documents": [{"title": "a", "text": "b"}]})
    assert answer.status_code == 400
    assert "'documents'" in answer.json()["error"]["message"]


def test_a_named_template_reads_no_variables(echo: Echo) -> None:
    with httpx.Client(base_url=echo(reply="text", template="qwen3").url, timeout=60) as http:
        body = {"messages": [HELLO], "chat_template_kwargs": {"date_string": "May"}}
        answer = http.post(CHAT, json=body)
        assert answer.status_code == 400
        assert "'date_string'" in answer.json()["error"]["message"]
        body["chat_template_kwargs"] = {"enable_thinking": False}
        assert http.post(CHAT, json=body).status_code == 200
