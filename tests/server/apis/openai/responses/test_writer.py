"""Events of the Responses API, held against the official client's types and its accumulator."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from quire.outputs import TokenLogprob
from quire.server.apis.openai.responses.request import echo
from quire.server.apis.openai.responses.schema import ResponsesRequest
from quire.server.apis.openai.responses.writer import ResponseWriter
from quire.server.errors import Problem
from tests.chat.deltas import gained
from tests.server.apis.streams import ANSWERS, CALL, Answer

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ECHO = echo(ResponsesRequest(input="hello"), "demo")


def writer() -> ResponseWriter:
    return ResponseWriter(ECHO)


def events_of(answer: Answer, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    made = writer()
    events = [event for delta in answer.cut(random.Random(seed)) for event in made.events(delta)]
    return json.loads(json.dumps(events)), made.response


def without_names(value: Any) -> Any:
    """Ids and times taken out: they differ from answer to answer."""
    if isinstance(value, dict):
        return {
            key: without_names(item)
            for key, item in value.items()
            if key not in ("id", "call_id", "created_at", "completed_at", "item_id")
        }
    return [without_names(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_every_event_is_one_of_the_official_clients(answer: Answer) -> None:
    events, response = events_of(answer, 1)
    for event in events:
        read = EVENT.validate_python(event)
        assert read.type == event["type"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    read = Response.model_validate(response)
    assert read.status == ("incomplete" if answer.finish_reason == "length" else "completed")
    assert read.usage is not None
    assert (read.usage.input_tokens, read.usage.total_tokens) == (20, 30)
    assert read.usage.input_tokens_details.cached_tokens == 16
    assert read.output_text == (answer.text if answer.text.strip() or not answer.calls else "")


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
@pytest.mark.parametrize("seed", range(5))
def test_a_stream_adds_up_to_the_whole_answer(answer: Answer, seed: int) -> None:
    events, response = events_of(answer, seed)
    made = writer()
    for delta in answer.whole():
        made.events(delta)
    assert without_names(response) == without_names(made.response)
    assert events[-1]["response"] == json.loads(json.dumps(response))
    assert accumulated(events) == events[-1]["response"]["output"]


def accumulated(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items that are done, in order; the official client's stream takes every event."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(EVENT.validate_python(event))
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in done] == list(range(len(done)))
    return [event["item"] for event in done]


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_items_begin_and_end_in_order(answer: Answer) -> None:
    """Each item is added, filled and done before the next; deltas join to what is done."""
    events, _ = events_of(answer, 3)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"]
    assert kinds[-1] in ("completed", "incomplete")
    open_index, texts = None, {"text": "", "arguments": ""}
    for event, kind in zip(events[2:-1], kinds[2:-1], strict=True):
        if kind == "output_item.added":
            assert open_index is None
            open_index, texts = event["output_index"], {"text": "", "arguments": ""}
        assert event["output_index"] == open_index
        if kind.endswith(".delta"):
            key = "arguments" if "arguments" in kind else "text"
            texts[key] += event["delta"]
        if kind.endswith(("text.done", "arguments.done")):
            key = "arguments" if "arguments" in kind else "text"
            assert event[key] == texts[key]
        if kind == "output_item.done":
            open_index = None
    assert open_index is None


def test_an_error_ends_a_stream_as_a_failed_response() -> None:
    made = writer()
    made.events(Answer(text="It is").cut(random.Random(0))[0])
    events = made.failed(Problem(500, "The engine failed.", "server_error"))
    assert [event["type"] for event in events] == ["response.failed"]
    failed = EVENT.validate_python(events[0]).response
    assert failed.status == "failed"
    assert failed.error.code == "server_error"
    assert failed.error.message == "The engine failed."
    assert failed.output[0].content[0].text


def test_an_error_before_all_begins_the_response_too() -> None:
    events = writer().failed(Problem(429, "Come again.", "rate_limit_error"))
    kinds = [event["type"] for event in events]
    assert kinds == ["response.created", "response.in_progress", "response.failed"]
    assert events[-1]["response"]["error"]["code"] == "rate_limit_exceeded"


def test_what_is_sent_is_server_sent_events() -> None:
    made = writer()
    sent = b"".join(map(made.encode, Answer(text="ü\n", calls=(CALL,)).whole())) + made.end()
    for block in sent.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
@pytest.mark.parametrize("seed", range(5))
def test_what_is_sent_are_the_events(answer: Answer, seed: int) -> None:
    """The common event is written by hand: it says the same."""
    events, whole = events_of(answer, seed)
    made = writer()
    sent = b"".join(map(made.encode, answer.cut(random.Random(seed)))).decode("utf-8")
    data = [json.loads(line[6:]) for line in sent.splitlines() if line.startswith("data: ")]
    names = [line[7:] for line in sent.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in data]
    assert [without_names(event) for event in data] == [without_names(event) for event in events]
    assert without_names(made.response) == without_names(whole)


TOKENS = ["hm", "</think>", "\n\n", "4", "2", ".", "<end>"]


@pytest.mark.parametrize(
    "cuts",
    [
        [("hm", "", 1), ("", "", 3), ("", "4", 4), ("", "2", 5), ("", ".", 6), ("", "", 7)],
        [("hm", "", 2), ("", "42", 5), ("", ".", 7)],  # as a slow reader gets them
        [("hm", "42.", 7)],
        [("hm", "", 1), ("", "4", 5), ("", "2.", 7)],  # the engine held something back
        [("hm", "", 1), ("", "4", 6), ("", "2.", 6), ("", "", 7)],
    ],
    ids=repr,
)
def test_logprobs_are_of_the_text_however_many_tokens_come_at_once(
    cuts: list[tuple[str, str, int]],
) -> None:
    def describe(logprobs: tuple[TokenLogprob, ...]) -> list[dict[str, Any]]:
        return [{"token": TOKENS[one.token_id]} for one in logprobs]

    made = ResponseWriter(ECHO, describe=describe)
    begun, events = 0, []
    for reasoning, content, end in cuts:
        logprobs = tuple(TokenLogprob(place, -1.0, {}) for place in range(begun, end))
        finish = "stop" if end == len(TOKENS) else None
        delta = gained(
            reasoning=reasoning, content=content, logprobs=logprobs, finish_reason=finish
        )
        events += made.events(delta)
        begun = end
    part = made.response["output"][-1]["content"][0]
    assert part["text"] == "42."
    assert [one["token"] for one in part["logprobs"]] == ["4", "2", "."]
    streamed = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [one for event in streamed for one in event["logprobs"]] == part["logprobs"]
