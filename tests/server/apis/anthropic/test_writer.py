"""Anthropic's events, held against the official client's types and its accumulator."""

from __future__ import annotations

import json
import random
from typing import Any, cast

import pytest
from anthropic import NOT_GIVEN
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from quire.messages import ToolCall
from quire.outputs import Usage
from quire.server.apis.anthropic.writer import MessageWriter
from quire.server.errors import Problem
from tests.chat.deltas import gained
from tests.server.apis.streams import ANSWERS, Answer

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def writer(**options: Any) -> MessageWriter:
    return MessageWriter("demo", stop_sequences=[" three"], **options)


def events_of(answer: Answer, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    made = writer()
    events = [event for delta in answer.cut(random.Random(seed)) for event in made.events(delta)]
    return json.loads(json.dumps(events)), made.message


def without_names(value: Any) -> Any:
    """Ids taken out: they differ from answer to answer."""
    if isinstance(value, dict):
        return {key: without_names(item) for key, item in value.items() if key != "id"}
    return [without_names(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
@pytest.mark.parametrize("seed", range(5))
def test_the_official_client_adds_the_events_up_to_the_message(answer: Answer, seed: int) -> None:
    events, message = events_of(answer, seed)
    snapshot, buffers = None, cast("dict[int, bytes]", {})
    for event in events:
        if event["type"] != "ping":
            snapshot = accumulate_event(
                event=EVENT.validate_python(event),
                current_snapshot=cast("Any", snapshot),
                json_bufs=buffers,
                output_format=cast("Any", NOT_GIVEN),
            )
    assert snapshot is not None
    found = snapshot.to_dict()
    assert Message.model_validate(message).to_dict() == {key: found[key] for key in message}
    made = writer()
    for delta in answer.whole():
        made.events(delta)
    assert without_names(made.message) == without_names(message)


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_why_it_ended_and_what_it_took(answer: Answer) -> None:
    _, message = events_of(answer, 2)
    stopped = answer.stop_reason is not None
    reason = "stop_sequence" if stopped else REASONS[answer.finish_reason]
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, answer.stop_reason)
    usage = message["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (4, 16)
    assert usage["output_tokens"] == 10
    thinking = len(answer.thought.split())
    assert usage["output_tokens_details"] == {"thinking_tokens": thinking}


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_blocks_begin_and_end_in_order(answer: Answer) -> None:
    events, message = events_of(answer, 4)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    open_index, begun = None, 0
    for event in events[2:-2]:
        if event["type"] == "content_block_start":
            assert open_index is None
            assert event["index"] == begun
            open_index, begun = event["index"], begun + 1
        assert event["index"] == open_index
        if event["type"] == "content_block_stop":
            open_index = None
    assert open_index is None
    assert begun == len(message["content"])


def test_the_prompt_is_counted_from_the_start() -> None:
    made = writer()
    start = made.events(gained(content="a", prompt_tokens=20))[0]
    assert start["message"]["usage"]["input_tokens"] == 20
    assert start["message"]["usage"]["output_tokens"] == 0
    (*_, end, _) = made.events(gained(finish_reason="stop", usage=Usage(20, 1, 16)))
    assert (end["usage"]["input_tokens"], end["usage"]["cache_read_input_tokens"]) == (4, 16)
    unknown = writer().events(gained(content="a"))[0]
    assert unknown["message"]["usage"]["input_tokens"] == 0
    whole = writer().events(gained(finish_reason="stop", usage=Usage(20, 1, 16)))[0]
    assert whole["message"]["usage"]["input_tokens"] == 4


def test_a_stop_word_of_the_template_is_no_stop_sequence() -> None:
    _, message = events_of(Answer(text="a", stop_reason="<|im_end|>"), 0)
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)


def test_thoughts_can_be_left_out() -> None:
    made = writer(omit_thoughts=True)
    events = [
        event for delta in Answer("deep thought", "yes").whole() for event in made.events(delta)
    ]
    assert "deep" not in json.dumps(events) + json.dumps(made.message)
    assert [block["type"] for block in made.message["content"]] == ["thinking", "text"]
    assert made.message["usage"]["output_tokens_details"] == {"thinking_tokens": 2}


@pytest.mark.parametrize("arguments", ["", "[1]", "{broken", '"text"', "{}"])
def test_arguments_are_always_an_object(arguments: str) -> None:
    _, message = events_of(Answer(calls=(ToolCall("f", arguments),)), 0)
    kept = {} if arguments in ("", "{}") else {"arguments": arguments}
    assert message["content"][0]["input"] == kept


def test_an_error_is_an_event() -> None:
    sent = writer().failure(Problem(503, "The engine died.", "server_error"))
    name, data = sent.decode().strip().split("\n")
    assert name == "event: error"
    error = {"type": "overloaded_error", "message": "The engine died."}
    assert json.loads(data.removeprefix("data: ")) == {"type": "error", "error": error}


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
    assert without_names(made.message) == without_names(whole)
