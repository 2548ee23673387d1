"""Chat over a token engine: a request is prepared, its prompt completed, and the answer read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from quire.chat.answer_reader import AnswerReader
from quire.chat.preparation import SHORT, Preparation
from quire.engines.seam import (
    ChatEngine,
    EngineState,
    TokenEngine,
    in_time,
    raise_failed,
)
from quire.options import read_option
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.request import ChatRequest
from quire.sampling import SamplingParams


class TokenChat(ChatEngine):
    """The upper seam over the lower one. It owns both of its parts."""

    def __init__(self, preparation: Preparation, engine: TokenEngine) -> None:
        self.preparation, self.engine = preparation, engine
        self.info = engine.info

    def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Answer a conversation; see ChatEngine."""
        return in_time(self._stream(request), read_option(request.options, "timeout"))

    async def _stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        prepared = await self.preparation.prepare(request)
        prompt = prepared.prompt
        known = None if prompt.media and self.info.expands_media else len(prompt)
        readers: dict[int, AnswerReader] = {}
        async with aclosing(self.engine.generate(prompt, prepared.params)) as deltas:
            async for delta in deltas:
                if delta.finish_reason == "error":
                    raise_failed(delta)
                reader = readers.get(delta.index)
                if reader is None:
                    reader = readers[delta.index] = self.preparation.reader(prepared)
                    delta.prompt_tokens = known
                if len(delta.text) <= SHORT:
                    yield reader.read(delta)
                else:  # a whole answer: reading calls out of it takes a while
                    yield await asyncio.to_thread(reader.read, delta)

    def complete(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Complete a prompt as it is, with no template; raises as `stream` does."""
        return in_time(self._complete(prompt, params), params.timeout)

    async def _complete(
        self, prompt: Prompt, params: SamplingParams
    ) -> AsyncGenerator[Delta, None]:
        async with aclosing(self.engine.generate(prompt, params)) as deltas:
            async for delta in deltas:
                raise_failed(delta)
                yield delta

    async def count(self, request: ChatRequest) -> int:
        """The tokens of a request's prompt, where the engine does not expand media in it."""
        return len((await self.preparation.prepare(request)).prompt)

    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError when the engine cannot serve."""
        await self.engine.health()

    async def close(self) -> None:
        """Free all memory and end all threads and processes."""
        self.preparation.close()
        await self.engine.close()

    @property
    def state(self) -> EngineState:
        """How the engine is at this moment."""
        return self.engine.state
