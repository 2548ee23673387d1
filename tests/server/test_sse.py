"""Event streams at the client's pace: nothing lost, merged while it does not read, kept alive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import GenerationError, RequestError
from quire.messages import ToolCall
from quire.outputs import ChatDelta, Delta, TextPart, Usage
from quire.server.apis.anthropic.writer import MessageWriter
from quire.server.apis.openai.chat import ChatEncoder
from quire.server.apis.openai.responses.writer import ResponseWriter
from quire.server.apis.openai.writing import Extras
from quire.server.sse import EventStream
from tests.chat.deltas import gained
from tests.polling import eventually


class Client:
    """The other end of one request: reads when it is told to, and may go away."""

    def __init__(self, pauses: list[int] | None = None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.pauses = list(pauses or [])
        self.gone = asyncio.Event()
        self.most_waiting = 0

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        for _ in range(self.pauses.pop(0) if self.pauses else 0):
            await asyncio.sleep(0)
        self.messages.append(message)

    @property
    def body(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages).decode()

    def events(self) -> list[dict[str, Any]]:
        lines = [line[6:] for line in self.body.split("\n\n") if line.startswith("data: {")]
        return [json.loads(line) for line in lines]

    def text(self, index: int, key: str = "content") -> str:
        found = [
            choice["delta"].get(key) or ""
            for event in self.events()
            for choice in event.get("choices", [])
            if choice["index"] == index
        ]
        return "".join(found)


def written(count: int, n: int) -> list[ChatDelta]:
    """Deltas of n completions, each of `count` tokens, in turns."""
    found: list[ChatDelta] = []
    for step in range(count):
        for index in range(n):
            last = step + 1 == count
            word = f"{index}.{step} "
            found.append(
                Delta(
                    index,
                    word,
                    (step,),
                    finish_reason="stop" if last else None,
                    usage=Usage(3, count) if last else None,
                )
            )
    return found


async def given_out(deltas: list[ChatDelta], pauses: list[int]) -> AsyncGenerator[ChatDelta, None]:
    for delta in deltas:
        for _ in range(pauses.pop(0) if pauses else 0):
            await asyncio.sleep(0)
        yield delta


def stream(deltas: AsyncGenerator[ChatDelta, None], **options: Any) -> EventStream:
    return EventStream(deltas, ChatEncoder("m", None, Extras(usage=True)), **options)


async def run(response: EventStream, client: Client) -> None:
    await response({"type": "http"}, client.receive, client.send)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 12),
    n=st.integers(1, 3),
    slow=st.lists(st.integers(0, 9), max_size=30),
    fast=st.lists(st.integers(0, 3), max_size=40),
)
async def test_nothing_is_lost_at_any_pace(
    count: int, n: int, slow: list[int], fast: list[int]
) -> None:
    client = Client(slow)
    await run(stream(given_out(written(count, n), list(fast))), client)
    for index in range(n):
        assert client.text(index) == "".join(f"{index}.{step} " for step in range(count))
    assert client.body.endswith("data: [DONE]\n\n")
    assert client.events()[-1]["usage"]["completion_tokens"] == count * n
    assert [message.get("more_body") for message in client.messages[1:]].count(False) == 1
    assert client.messages[-1]["more_body"] is False


async def test_what_a_slow_reader_missed_comes_as_one_event() -> None:
    """While one write waits for 50 turns of the loop, 40 deltas become one event."""
    client = Client([0, 50])
    await run(stream(given_out(written(40, 1), [])), client)
    told = [event for event in client.events() if event["choices"]]
    assert len(told) < 6
    assert client.text(0) == "".join(f"0.{step} " for step in range(40))


async def test_silence_is_filled_with_comments() -> None:
    async def quiet() -> AsyncGenerator[ChatDelta, None]:
        await eventually(lambda: client.body.count(": still here") >= 2)
        for delta in written(1, 1):
            yield delta

    client = Client()
    await run(stream(quiet(), keep_alive=0.05), client)
    assert client.body.count(": still here\n\n") >= 2
    assert client.body.index(": still here") < client.body.index("data: ")
    assert client.text(0) == "0.0 "


async def test_an_error_before_the_first_word_has_its_status() -> None:
    async def wrong() -> AsyncGenerator[ChatDelta, None]:
        raise RequestError("No.")
        yield gained()

    client = Client()
    with pytest.raises(RequestError, match="No"):
        await run(stream(wrong()), client)
    assert client.messages == []


async def test_an_error_later_is_an_event() -> None:
    async def breaking() -> AsyncGenerator[ChatDelta, None]:
        yield gained(content="half")
        raise GenerationError("a made-up fault")

    client = Client()
    await run(stream(breaking()), client)
    assert client.text(0) == "half"
    assert client.events()[-1]["error"]["message"] == "a made-up fault"
    assert client.body.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("pauses", [[], [0, 10**6]], ids=["reading", "standing still"])
async def test_a_client_that_goes_away_ends_the_deltas(pauses: list[int]) -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncGenerator[ChatDelta, None]:
        try:
            while True:
                await asyncio.sleep(0)
                begun.set()
                yield gained(content="x")
        finally:
            closed.set()

    client = Client(pauses)
    task = asyncio.ensure_future(run(stream(endless()), client))
    await begun.wait()
    client.gone.set()
    await asyncio.wait_for(task, 60)
    assert closed.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def endless() -> AsyncGenerator[ChatDelta, None]:
        begun.set()
        await asyncio.sleep(60)
        yield gained()

    begun = asyncio.Event()
    task = asyncio.ensure_future(run(stream(endless()), Client()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


CALL = ToolCall("f", "{}", "call_1")
MIXED = [
    Delta(0, "a", (1,), parts=(TextPart("a"),), prompt_tokens=7),
    Delta(0, "<call>", (2,), parts=(CALL,)),
    Delta(0, "b", (3,)),
    Delta(0, "", (4,), finish_reason="tool_calls", usage=Usage(7, 4), parts=()),
]
"""Text, a call, and text again, as the model wrote them."""


def _blocks_of_messages(body: str) -> tuple[list[str], int]:
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
    starts = [one["content_block"]["type"] for one in events if "content_block" in one]
    return starts, events[0]["message"]["usage"]["input_tokens"]


def _items_of_responses(body: str) -> tuple[list[str], int]:
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
    items = [one["item"]["type"] for one in events if one["type"] == "response.output_item.added"]
    return items, events[-1]["response"]["usage"]["input_tokens"]


@pytest.mark.parametrize("slow", [[], [50], [0, 50], [0, 0, 50], [3, 3, 3, 3]])
async def test_a_slow_reader_gets_parts_in_order_and_the_prompts_count(slow: list[int]) -> None:
    for encoder, kinds, found in (
        (MessageWriter("m"), ["text", "tool_use", "text"], _blocks_of_messages),
        (ResponseWriter({}), ["message", "function_call", "message"], _items_of_responses),
    ):
        client = Client(list(slow))
        await run(EventStream(given_out(MIXED, []), encoder), client)
        assert found(client.body) == (kinds, 7)
