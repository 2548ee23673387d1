"""A ChatModel for the command line's tests: answers are scripted, and nothing is loaded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from quire.arguments import get_infer_args
from quire.engines.seam import EngineInfo, EngineState
from quire.errors import QuireError
from quire.messages import read_conversation
from quire.options import may_end_with_answer
from quire.outputs import AnswerSum, ChatDelta, Delta, Response, Usage
from tests.chat.deltas import gained

Script = Callable[
    [list[dict[str, Any]], dict[str, Any]], Iterable[ChatDelta | QuireError | BaseException]
]


def words(text: str, *, finish: str = "stop", **last: Any) -> list[Any]:
    """Deltas of a few characters each that together say `text`."""
    pieces = [text[start : start + 3] for start in range(0, len(text), 3)] or [""]
    deltas: list[Any] = [Delta(text=p, token_ids=(i,)) for i, p in enumerate(pieces)]
    usage = Usage(prompt_tokens=7, completion_tokens=len(pieces))
    return [*deltas, gained(finish_reason=finish, usage=usage, **last)]


def echo(messages: list[dict[str, Any]], options: dict[str, Any]) -> list[Any]:
    return words(f"You said: {messages[-1]['content']}")


class FakeChatModel:
    """Has what the command line uses of ChatModel. `requests` holds all that was asked.

    `delay` is the seconds before each delta, so that an endless answer does not take a whole core.
    """

    def __init__(
        self, arguments: Mapping[str, Any] | None = None, script: Script = echo, delay: float = 0.0
    ) -> None:
        self.arguments = dict(arguments or {"model_name_or_path": "fake"})
        groups = get_infer_args(self.arguments)
        self.engine = SimpleNamespace(
            name="FakeEngine",
            info=EngineInfo("FakeEngine", 4096),
            state=EngineState(),
            has_tokens=True,
            tokens=SimpleNamespace(
                preparation=SimpleNamespace(
                    generation_config={"temperature": 0.6},
                    tokenizer=SimpleNamespace(encode=str.split),
                )
            ),
            model_args=groups[0],
            generating_args=groups[3],
        )
        self.script, self.delay = script, delay
        self.requests: list[dict[str, Any]] = []
        self.abandoned = 0
        self.closed = False

    def stream(
        self,
        messages: list[dict[str, Any]],
        system: str | None = None,
        tools: Any = None,
        **options: Any,
    ) -> Iterator[ChatDelta]:
        read_conversation(messages, system, tools, may_end_with_answer=may_end_with_answer(options))
        self.requests.append({"messages": messages, "system": system, "tools": tools, **options})
        finished = False
        try:
            for item in self.script(messages, options):
                if isinstance(item, BaseException):
                    raise item
                time.sleep(self.delay)
                yield item
            finished = True
        finally:
            self.abandoned += not finished

    def stream_chat(self, messages: list[dict[str, Any]], **options: Any) -> Iterator[str]:
        yield from (delta.text for delta in self.stream(messages, **options))

    def chat(self, messages: list[dict[str, Any]], **options: Any) -> list[Response]:
        answers = AnswerSum()
        for delta in self.stream(messages, **options):
            answers.add(delta)
        return answers.responses()

    async def achat(self, messages: list[dict[str, Any]], **options: Any) -> list[Response]:
        return self.chat(messages, **options)

    async def astream(
        self, messages: list[dict[str, Any]], *args: Any, **options: Any
    ) -> AsyncGenerator[ChatDelta, None]:
        for delta in self.stream(messages, *args, **options):
            await asyncio.sleep(0)
            yield delta

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
