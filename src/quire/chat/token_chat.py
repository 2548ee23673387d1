"""Chat over a token engine: a request is prepared, its prompt completed, and its answer read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from quire.chat.answer_reader import AnswerReader
from quire.chat.answer_stops import AnswerStops
from quire.chat.preparation import SHORT, Preparation, PreparedRequest
from quire.constraints.answer_form import AnswerForm
from quire.engines.seam import (
    ChatEngine,
    EngineState,
    TokenEngine,
    first_calls,
    raise_failed,
    with_timeout,
)
from quire.options import ThinkingChoices, read_option
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.request import ChatRequest
from quire.sampling import SamplingParams

_LINE_BREAKS = 1  # tokens of them that may come before a thought


class TokenChat(ChatEngine):
    """A `ChatEngine` over a `TokenEngine`. It closes the engine and the preparation with itself."""

    def __init__(self, preparation: Preparation, engine: TokenEngine) -> None:
        self.preparation, self.engine = preparation, engine
        self.info = engine.info

    def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Answer a conversation; see ChatEngine."""
        return self._with_options(self._stream(request), request.options)

    def stream_prepared(
        self, prepared: PreparedRequest, options: Mapping[str, Any]
    ) -> AsyncGenerator[Delta, None]:
        """Answer a conversation that was prepared before, with its request's options."""
        return self._with_options(self._stream(prepared), options)

    def _with_options(
        self, deltas: AsyncGenerator[Delta, None], options: Mapping[str, Any]
    ) -> AsyncGenerator[Delta, None]:
        timeout = read_option(options, "timeout")
        if not read_option(options, "parallel_tool_calls"):
            deltas = first_calls(deltas)
        return deltas if timeout is None else with_timeout(deltas, timeout)

    async def _stream(self, request: ChatRequest | PreparedRequest) -> AsyncGenerator[Delta, None]:
        if isinstance(request, PreparedRequest):
            prepared = request
        else:
            prepared = await self.preparation.prepare(request)
        prompt = prepared.prompt
        params = await self._settled(prompt, prepared.params)
        prompt_ids = None if prompt.media and self.info.expands_media else tuple(prompt.token_ids)
        readers: dict[int, AnswerReader] = {}
        stops: dict[int, AnswerStops] = {}
        if prepared.answer_stops or prepared.ends_in_text:
            stops = {index: _stops(prepared) for index in range(params.n)}
        # `aclosing`, since `async for` does not close a generator that is left early: the engine's
        # would be closed, and the request aborted, only when the garbage collector finds it.
        async with aclosing(self.engine.generate(prompt, params)) as deltas:
            async for delta in deltas:
                if delta.finish_reason == "error":
                    raise_failed(delta)
                if stops and stops[delta.index].ended:
                    continue
                reader = readers.get(delta.index)
                if reader is None:
                    reader = readers[delta.index] = self.preparation.reader(prepared)
                    _set_prompt(delta, prompt_ids)
                if len(delta.text) <= SHORT:
                    read = reader.read(delta)
                else:  # a whole answer, whose tool calls take milliseconds to find
                    read = await asyncio.to_thread(reader.read, delta)
                if not stops:
                    yield read
                    continue
                yield stops[delta.index].read(read, reader.reasoning_tokens)
                if all(one.ended for one in stops.values()):
                    return

    async def _settled(self, prompt: Prompt, params: SamplingParams) -> SamplingParams:
        """The settings of a request whose answer may begin with a thought or without one.

        The model is asked for its first tokens, without the constraint: it begins a thought where it
        would by itself. Under the constraint one that has nothing to think about would begin one too,
        since that is the only way to write what it likes. The prompt is in the prefix cache then.
        """
        constraint = params.response_format
        if constraint is None or constraint.kind != "answer":
            return params
        answer: AnswerForm = constraint.value
        if answer.thought is None or not answer.thought.is_optional:
            return params
        opener = answer.thought.opener
        first = replace(
            params,
            response_format=None,
            max_tokens=len(self.preparation.tokenizer.encode(opener)) + _LINE_BREAKS,
            min_tokens=0,
            n=1,
            temperature=0.0,
            logprobs=None,
            prompt_logprobs=None,
            skip_special_tokens=False,
            streamed=False,
            request_id=None,
        )
        text = ""
        async with aclosing(self.engine.generate(prompt, first)) as deltas:
            async for delta in deltas:
                raise_failed(delta)
                text += delta.text
        begun = text.lstrip().startswith((opener, answer.thought.closer))
        settled = answer.settled(thinks=begun)
        return replace(params, response_format=settled)

    def complete(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Complete a prompt without a template.

        Raises:
            RequestError, RequestTimeoutError, EngineError: see `ChatEngine.stream`.
        """
        deltas = self._complete(prompt, params)
        return deltas if params.timeout is None else with_timeout(deltas, params.timeout)

    async def _complete(
        self, prompt: Prompt, params: SamplingParams
    ) -> AsyncGenerator[Delta, None]:
        begun: set[int] = set()
        async with aclosing(self.engine.generate(prompt, params)) as deltas:
            async for delta in deltas:
                raise_failed(delta)
                if delta.index not in begun:
                    begun.add(delta.index)
                    _set_prompt(delta, tuple(prompt.token_ids))
                yield delta

    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError if the engine cannot serve."""
        await self.engine.health()

    async def close(self) -> None:
        """Free all memory and end all threads and processes."""
        self.preparation.close()
        await self.engine.close()

    @property
    def state(self) -> EngineState:
        """The engine's current state."""
        return self.engine.state

    @property
    def thinking_choices(self) -> ThinkingChoices | None:
        """What the template makes of it; see ChatEngine."""
        return self.preparation.thinking_choices


def _stops(prepared: PreparedRequest) -> AnswerStops:
    params = prepared.params
    return AnswerStops(
        prepared.answer_stops,
        len(prepared.prompt.token_ids),
        keep=params.include_stop_str_in_output,
        min_tokens=params.min_tokens,
    )


def _set_prompt(delta: Delta, token_ids: tuple[int, ...] | None) -> None:
    """Tell, in a completion's first delta, the prompt that its engine was given."""
    if token_ids is not None:
        delta.prompt_tokens, delta.prompt_token_ids = len(token_ids), token_ids
