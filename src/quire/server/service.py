"""The engine as all APIs use it: admission, deadlines and observation stand here once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeAlias

from starlette.requests import Request

from quire.chat.base_engine import BaseEngine
from quire.chat.preparation import SHORT
from quire.errors import RequestTimeoutError
from quire.options import check_option_names
from quire.outputs import AnswerSum, Delta, Embedding, Response
from quire.prompt import Prompt
from quire.server.admission import Admission
from quire.server.arguments import ServerArguments
from quire.server.call import (
    Call,
    Caller,
    check_call,
    check_options,
    check_texts,
    completions_of,
)
from quire.server.errors import BadRequest, NotAllowed, NotReady
from quire.server.served_models import ServedModels
from quire.server.streams import together
from quire.server.token_texts import TokenIdTexts, TokenTexts
from quire.server.tool_choice import ToolChooser
from quire.tokenizer import Tokenizer

Kind: TypeAlias = Literal["chat", "completion", "embedding", "score"]


class Observation(Protocol):
    """What watches one request: for metrics, the log, a trace. All calls are cheap."""

    def admitted(self) -> None:
        """It has left the queue."""
        ...

    def delta(self, delta: Delta) -> None:
        """Something was written."""
        ...

    def end(self, error: BaseException | None) -> None:
        """It is over; `error` is a cancellation where the client went away."""
        ...


Observe: TypeAlias = Callable[[Kind, Caller, int], Observation]
"""Begins to watch a request of a kind, a caller, and so many completions."""


def service_of(request: Request) -> Service:
    """The service of the application that a request came to."""
    return request.app.state.service


class Service:
    """One engine, served. `attach` gives it the engine once that is loaded."""

    def __init__(
        self,
        arguments: ServerArguments,
        gate: Admission,
        observe: Observe,
        engine: BaseEngine | None = None,
    ) -> None:
        self.arguments, self.gate, self.observe = arguments, gate, observe
        self._engine: BaseEngine | None = None
        self._models: ServedModels | None = None
        self._texts: dict[type[TokenTexts], TokenTexts] = {}
        if engine is not None:
            self.attach(engine)

    def attach(self, engine: BaseEngine) -> None:
        """Serve this engine from now on, in place of one before."""
        self._engine = engine
        self._models = ServedModels(engine, self.arguments.served_model_name)
        self._texts = {}

    def detach(self) -> None:
        """Serve none: requests are refused with NotReady until the next `attach`."""
        self._engine = self._models = None
        self._texts = {}

    @property
    def is_attached(self) -> bool:
        """Whether there is an engine."""
        return self._engine is not None

    @property
    def engine(self) -> BaseEngine:
        """The engine.

        Raises:
            NotReady: there is none.
        """
        if self._engine is None:
            raise NotReady("The model is not loaded: try again soon.", retry_after=5.0)
        return self._engine

    @property
    def models(self) -> ServedModels:
        """The names served; raises as `engine` does."""
        if self._models is None:
            raise NotReady("The model is not loaded: try again soon.", retry_after=5.0)
        return self._models

    @property
    def _generator(self) -> BaseEngine:
        """The engine, if it writes text; raises NotAllowed too."""
        if not self.engine.can_generate:
            raise NotAllowed("This model was loaded for scores or embeddings, and writes no text.")
        return self.engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            NotReady: there is no engine.
            UnsupportedOptionError: the engine's servers keep the tokenizer to themselves.
        """
        return self.engine.tokenizer

    async def token_texts(self, *, as_ids: bool = False) -> TokenTexts:
        """The texts of the model's tokens, or `token_id:7`; raises as `engine` does."""
        kind = TokenIdTexts if as_ids else TokenTexts
        found = self._texts.get(kind)
        if found is None:
            found = self._texts[kind] = await kind.of(self.tokenizer)
        return found

    async def stream(self, call: Call, caller: Caller) -> AsyncGenerator[Delta, None]:
        """Answer as deltas; closing it aborts the request, wherever it is.

        Raises:
            ServerError: refused by the server.
            RequestError: the request is wrong.
            EngineError: the engine could not do it.
        """
        engine, adapter = self._generator, self.models.resolve(call.model)
        check_call(call, self.arguments)
        chooser = ToolChooser.of(call) if call.chooses_tools else None
        entered = self.entered("chat", caller, call.options, adapter, call.completions)
        async with entered as (options, watching):
            if chooser is None:
                answer = engine.stream_request(call.request(None, options))
            else:
                request = call.request(chooser.tools, chooser.options(options))
                answer = chooser.read(engine.stream_request(request))
            async with aclosing(answer) as deltas:
                async for delta in deltas:
                    watching.delta(delta)
                    yield delta

    async def answer(self, call: Call, caller: Caller) -> list[Response]:
        """Answer whole: exactly as many responses as were asked for, in order; see `stream`."""
        answers = AnswerSum()
        async with aclosing(self.stream(call, caller)) as deltas:
            async for delta in deltas:
                answers.add(delta)
        return answers.responses()

    def complete(
        self,
        prompt: list[int] | str,
        options: Mapping[str, Any],
        caller: Caller,
        *,
        model: str | None = None,
        streamed: bool = False,
    ) -> AsyncGenerator[Delta, None]:
        """Complete a prompt as it is, with no template; see `stream`."""
        return self.complete_all([prompt], options, caller, model=model, streamed=streamed)

    async def complete_all(
        self,
        prompts: Sequence[list[int] | str],
        options: Mapping[str, Any],
        caller: Caller,
        *,
        model: str | None = None,
        streamed: bool = False,
        special: bool = True,
    ) -> AsyncGenerator[Delta, None]:
        """Complete several prompts at once; those of the prompt i have the indices i * n and up.

        `special`: whether a text gets the tokens that the tokenizer puts around one.
        """
        engine, adapter = self._generator, self.models.resolve(model)
        check_option_names(options)
        check_options(options, self.arguments, prompts=len(prompts))
        count = completions_of(options)
        entered = self.entered("completion", caller, options, adapter, count * len(prompts))
        async with entered as (ready, watching):
            ids = await _token_ids(self.tokenizer, prompts, special)
            streams = [_completion(engine, one, ready, streamed=streamed) for one in ids]
            async with aclosing(together(streams)) as deltas:
                async for place, delta in deltas:
                    if place:
                        delta = replace(delta, index=place * count + delta.index)
                    watching.delta(delta)
                    yield delta

    # --- without an answer -----------------------------------------------------------------------

    async def prompt(self, call: Call) -> Prompt:
        """The prompt that an answer to this call would begin from; the engine computes nothing.

        Raises:
            ServerError: the model is not served, or the tool choice is wrong.
            RequestError: the request is wrong.
            UnsupportedOptionError: prompts are made elsewhere.
        """
        self.models.resolve(call.model)
        chooser = ToolChooser.of(call)
        request = call.request(chooser.tools, chooser.options(call.options))
        return (await self.engine.tokens.preparation.prepare(request)).prompt

    async def embed(
        self,
        texts: Sequence[str | Sequence[int]],
        options: Mapping[str, Any],
        caller: Caller,
        *,
        model: str | None = None,
    ) -> list[Embedding]:
        """Texts, or their token ids, as vectors; `options` are those of `BaseEngine.embed`.

        Raises what `stream` does.
        """
        check_texts(texts, self.arguments)
        adapter = self.models.resolve(model)
        async with self.entered("embedding", caller, options, adapter) as (ready, _):
            return await self.engine.embed(texts, **ready)

    async def score(
        self,
        texts: Sequence[str],
        options: Mapping[str, Any],
        caller: Caller,
        *,
        model: str | None = None,
    ) -> list[Embedding]:
        """A reward model's scores of texts, one number each; `options` are those of `get_scores`.

        Raises what `stream` does.
        """
        check_texts(texts, self.arguments)
        if self.models.resolve(model) is not None:
            raise BadRequest(
                "Texts are scored by the model itself, and by no adapter.", param="model"
            )
        async with self.entered("score", caller, options, None) as (ready, _):
            try:
                return await self.engine.score(texts, **ready)
            except NotImplementedError:
                raise NotAllowed("This model scores no texts: that needs a reward model.") from None

    # --- admission and observation ---------------------------------------------------------------

    @asynccontextmanager
    async def entered(
        self,
        kind: Kind,
        caller: Caller,
        options: Mapping[str, Any],
        adapter: str | None,
        count: int = 1,
    ) -> AsyncGenerator[tuple[dict[str, Any], Observation], None]:
        """Wait for admission, and watch what is done then; gives the options, made ready.

        `count`: its completions. Texts of one request count as one: the engine takes them as it has
        room.
        """
        watching = self.observe(kind, caller, count)
        deadline = self._deadline(options)
        try:
            async with self._enter(count, options, deadline):
                watching.admitted()
                yield self._options(options, adapter, caller, deadline), watching
        except BaseException as error:
            watching.end(error)
            raise
        watching.end(None)

    def _enter(
        self, cost: int, options: Mapping[str, Any], deadline: float | None
    ) -> AbstractAsyncContextManager[Any]:
        """A place at the gate; a priority that is no number is refused later."""
        priority = options.get("priority")
        return self.gate.enter(cost, priority if isinstance(priority, int) else 0, deadline)

    def _deadline(self, options: Mapping[str, Any]) -> float | None:
        """When the request must be over, by the monotonic clock; waiting counts."""
        limits = [self.arguments.request_timeout, options.get("timeout")]
        seconds = [limit for limit in limits if isinstance(limit, (int, float))]
        return time.monotonic() + min(seconds) if seconds else None

    def _options(
        self,
        options: Mapping[str, Any],
        adapter: str | None,
        caller: Caller,
        deadline: float | None,
    ) -> dict[str, Any]:
        ready = dict(options)
        if adapter is not None:
            ready["adapter"] = adapter
        salt = salted(caller, options.get("cache_salt"))
        if salt is not None:
            ready["cache_salt"] = salt
        if deadline is not None:
            ready["timeout"] = deadline - time.monotonic()
            if ready["timeout"] <= 0:
                raise RequestTimeoutError("The request's time passed while it waited.")
        return ready


def salted(caller: Caller, own: Any = None) -> str | None:
    """The salt of a caller's requests, and of those that it tells apart by its own."""
    if own is not None and not isinstance(own, str):
        return own  # to be refused with the other options
    return f"{caller.salt}/{own or ''}" if caller.salt or own else None


async def _token_ids(
    tokenizer: Tokenizer, prompts: Sequence[list[int] | str], special: bool
) -> Sequence[Sequence[int]]:
    """The prompts' tokens; many characters are tokenised off the event loop."""

    def read() -> list[list[int]]:
        encode = tokenizer.encode_whole if special else tokenizer.encode
        return [encode(one) if isinstance(one, str) else one for one in prompts]

    if sum(len(one) for one in prompts if isinstance(one, str)) <= SHORT:
        return read()
    return await asyncio.to_thread(read)


def _completion(
    engine: BaseEngine, ids: Sequence[int], options: Mapping[str, Any], *, streamed: bool
) -> AsyncGenerator[Delta, None]:
    """The deltas of one prompt."""
    params = engine.tokens.preparation.params(options, len(ids), streamed=streamed)
    return engine.tokens.complete(Prompt(tuple(ids)), params)
