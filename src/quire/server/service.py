"""The engine as all APIs use it, with admission, deadlines and observation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from starlette.requests import Request

from quire.adapters.folder import Adapter
from quire.chat.base_engine import BaseEngine
from quire.chat.preparation import MAX_CONTEXTS, SHORT, check_length
from quire.engines.seam import time_limit
from quire.errors import RequestTimeoutError
from quire.options import check_option_names
from quire.outputs import Delta, Embedding
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
    tool_options,
)
from quire.server.errors import BadRequest, NotAllowed, NotReady
from quire.server.served_models import ServedModels
from quire.server.streams import merge
from quire.server.token_texts import TokenIdTexts, TokenTexts
from quire.tokenizer import Tokenizer

T = TypeVar("T")

Kind: TypeAlias = Literal["chat", "completion", "embedding", "score"]

BACKGROUND = 2**20
"""The engine's `priority` of requests in the background; lower numbers are served first."""


class Observation(Protocol):
    """Records one request for metrics, the log and traces. All calls are cheap."""

    def admitted(self) -> None:
        """The request has left the queue."""
        ...

    def delta(self, delta: Delta) -> None:
        """The engine has sent a delta."""
        ...

    def end(self, error: BaseException | None) -> None:
        """The request is over; `error` is a cancellation if the client disconnected."""
        ...


Observe: TypeAlias = Callable[[Kind, Caller, int], Observation]
"""Begins the observation of a request, from its kind, caller and number of completions."""


class AdapterPeers(Protocol):
    """Other servers of the same model, whose adapters are to be the same."""

    async def loaded(self, adapter: Adapter) -> None:
        """This server has loaded an adapter."""
        ...

    async def dropped(self, name: str) -> None:
        """This server has dropped an adapter."""
        ...


def service_of(request: Request) -> Service:
    """The service of a request's application."""
    return request.app.state.service


class Service:
    """One served engine, which `attach` sets once it is loaded."""

    def __init__(
        self,
        arguments: ServerArguments,
        admission: Admission,
        observe: Observe,
        engine: BaseEngine | None = None,
    ) -> None:
        self.arguments, self.admission, self.observe = arguments, admission, observe
        self._engine: BaseEngine | None = None
        self._models: ServedModels | None = None
        self._texts: dict[type[TokenTexts], TokenTexts] = {}
        self.peers: AdapterPeers | None = None
        if engine is not None:
            self.attach(engine)

    def attach(self, engine: BaseEngine) -> None:
        """Serve this engine instead of any earlier one."""
        self._engine = engine
        arguments = self.arguments
        self._models = ServedModels(
            engine, arguments.served_model_name, any_name=arguments.any_model
        )
        self._texts = {}

    def detach(self) -> None:
        """Serve no engine: requests are refused with NotReady until the next `attach`."""
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
        """The served names; raises as `engine` does."""
        if self._models is None:
            raise NotReady("The model is not loaded: try again soon.", retry_after=5.0)
        return self._models

    async def load_adapter(self, path: str, name: str | None) -> Adapter:
        """Load an adapter, here and wherever the model is served; see BaseEngine.load_adapter.

        Raises:
            EngineError: another server could not load it.
        """
        adapter = await self.engine.load_adapter(path, name)
        if self.peers is not None:
            await self.peers.loaded(adapter)
        return adapter

    async def drop_adapter(self, name: str) -> Adapter:
        """Drop an adapter, here and wherever the model is served; raises as `load_adapter`."""
        adapter = await self.engine.drop_adapter(name)
        if self.peers is not None:
            await self.peers.dropped(adapter.name)
        return adapter

    @property
    def _generator(self) -> BaseEngine:
        """The engine, if it generates text; raises NotAllowed too."""
        if not self.engine.can_generate:
            raise NotAllowed("This model was loaded for scores or embeddings, and writes no text.")
        return self.engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            NotReady: there is no engine.
            UnsupportedOptionError: the engine is a remote server, whose tokenizer is not known.
        """
        return self.engine.tokenizer

    async def token_texts(self, *, as_ids: bool = False) -> TokenTexts:
        """The texts of the model's tokens, or `token_id:7`; raises as `engine` does."""
        kind = TokenIdTexts if as_ids else TokenTexts
        texts = self._texts.get(kind)
        if texts is None:
            texts = self._texts[kind] = await kind.of(self.tokenizer)
        return texts

    async def stream(self, call: Call, caller: Caller) -> AsyncGenerator[Delta, None]:
        """Answer as deltas; closing the generator aborts the request.

        Raises:
            ServerError: the server refused the request.
            RequestError: the request is wrong.
            EngineError: the engine failed.
        """
        engine, adapter = self._generator, self.models.resolve(call.model)
        check_call(call, self.arguments)
        choice = tool_options(call)
        admitted = self.admitted("chat", caller, call.options, adapter, call.completions)
        async with admitted as (options, observation):
            request = call.request({**options, **choice})
            async with aclosing(engine.stream_request(request)) as deltas:
                async for delta in deltas:
                    observation.delta(delta)
                    yield delta

    async def complete(
        self,
        prompts: Sequence[list[int] | str],
        options: Mapping[str, Any],
        caller: Caller,
        *,
        model: str | None = None,
        streamed: bool = False,
        special: bool = True,
    ) -> AsyncGenerator[Delta, None]:
        """Complete prompts without a template; prompt i has the indices i * n and up. See `stream`.

        `special`: whether texts get the special tokens that the tokenizer adds, such as BOS.
        """
        engine, adapter = self._generator, self.models.resolve(model)
        check_option_names(options)
        check_options(options, self.arguments, prompts=len(prompts))
        count = completions_of(options)
        admitted = self.admitted("completion", caller, options, adapter, count * len(prompts))
        async with admitted as (ready, observation):
            began = time.monotonic()
            async with time_limit(ready.get("timeout")):
                ids = await self._token_ids(prompts, special, ready)
            if "timeout" in ready:
                ready["timeout"] = max(ready["timeout"] - (time.monotonic() - began), 1e-3)
            streams = [_completion(engine, one, ready, streamed=streamed) for one in ids]
            async with aclosing(merge(streams)) as deltas:
                async for index, delta in deltas:
                    if index:
                        delta = replace(delta, index=index * count + delta.index)
                    observation.delta(delta)
                    yield delta

    async def _token_ids(
        self, prompts: Sequence[list[int] | str], special: bool, options: Mapping[str, Any]
    ) -> list[Sequence[int]]:
        """The prompts' tokens; long prompts are tokenised off the event loop."""
        most = self.engine.tokens.preparation.most_tokens(options)
        work = partial(_token_ids, self.tokenizer, prompts, special, most)
        return await in_thread_if_long(prompts, work)

    # --- without generation ----------------------------------------------------------------------

    async def prompt(self, call: Call) -> Prompt:
        """The prompt that this call makes; the engine computes nothing.

        Raises:
            ServerError: the model is not served, or the tool choice is wrong.
            RequestError: the request is wrong.
            UnsupportedOptionError: the engine is a remote server, which makes its own prompts.
        """
        self.models.resolve(call.model)
        check_call(call, self.arguments)
        request = call.request({**call.options, **tool_options(call)})
        async with time_limit(self.arguments.request_timeout):
            return (await self.engine.tokens.preparation.prepare(request)).prompt

    async def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """The token ids of a text; `special` as in `complete`.

        Raises:
            ServerError: there is no engine.
            RequestError: the text cannot be tokenised, or is many times as long as the context.
            UnsupportedOptionError: see `tokenizer`.
        """
        most = MAX_CONTEXTS * self.engine.info.context_length
        async with time_limit(self.arguments.request_timeout):
            (ids,) = await in_thread_if_long(
                [text], partial(_token_ids, self.tokenizer, [text], special, most)
            )
        return list(ids)

    async def embed(
        self,
        texts: Sequence[str | Sequence[int]],
        options: Mapping[str, Any],
        caller: Caller,
        *,
        model: str | None = None,
    ) -> list[Embedding]:
        """Embed texts or token ids; `options` are those of `BaseEngine.embed`.

        Raises what `stream` does.
        """
        check_texts(texts, self.arguments)
        adapter = self.models.resolve(model)
        async with self.admitted("embedding", caller, options, adapter) as (ready, _):
            return await self.engine.embed(texts, **ready)

    async def score(
        self,
        texts: Sequence[str],
        options: Mapping[str, Any],
        caller: Caller,
        *,
        model: str | None = None,
    ) -> list[Embedding]:
        """A reward model's score for each text; `options` are those of `get_scores`.

        Raises what `stream` does.
        """
        check_texts(texts, self.arguments)
        if self.models.resolve(model) is not None:
            raise BadRequest(
                "Texts are scored by the model itself, and by no adapter.", param="model"
            )
        async with self.admitted("score", caller, options, None) as (ready, _):
            try:
                return await self.engine.score(texts, **ready)
            except NotImplementedError:
                raise NotAllowed("This model scores no texts: that needs a reward model.") from None

    # --- admission and observation ---------------------------------------------------------------

    @asynccontextmanager
    async def admitted(
        self,
        kind: Kind,
        caller: Caller,
        options: Mapping[str, Any],
        adapter: str | None,
        count: int = 1,
    ) -> AsyncGenerator[tuple[dict[str, Any], Observation], None]:
        """Wait for admission and observe the block; gives the engine's options.

        `count`: its completions. All texts of one request to embed or score count as one, since the
        engine schedules them itself.
        """
        observation = self.observe(kind, caller, count)
        background = caller.background
        deadline = None if background else self._deadline(options)
        priority = options.get("priority")
        if not isinstance(priority, int):  # refused later, with the other options
            priority = 0
        try:
            ticket = self.admission.enter(count, priority, deadline, background=background)
            async with ticket:
                observation.admitted()
                if background:  # it may have waited for long, and nobody waits for it
                    deadline = self._deadline(options)
                yield self._options(options, adapter, caller, deadline), observation
        except BaseException as error:
            observation.end(error)
            raise
        observation.end(None)

    def _deadline(self, options: Mapping[str, Any]) -> float | None:
        """When the request must be over, by the monotonic clock; queueing counts."""
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
        salt = _salted(caller, options.get("cache_salt"))
        if salt is not None:
            ready["cache_salt"] = salt
        if caller.background and not self.engine.info.is_remote:
            ready["priority"] = BACKGROUND
        if deadline is not None:
            ready["timeout"] = deadline - time.monotonic()
            if ready["timeout"] <= 0:
                raise RequestTimeoutError("The request timed out while it waited in the queue.")
        return ready


def _salted(caller: Caller, own: Any) -> str | None:
    """The caller's cache salt joined with the request's own."""
    if own is not None and not isinstance(own, str):
        return own  # refused later, with the other options
    return f"{caller.salt}/{own or ''}" if caller.salt or own else None


def _token_ids(
    tokenizer: Tokenizer, prompts: Sequence[list[int] | str], special: bool, most: int
) -> list[Sequence[int]]:
    """The prompts' tokens.

    Raises:
        RequestError: a text cannot be tokenised.
        PromptTooLongError: a text certainly has more than `most` tokens.
    """
    encode = tokenizer.encode_whole if special else tokenizer.encode
    ids: list[Sequence[int]] = []
    for prompt in prompts:
        if isinstance(prompt, str):
            check_length(tokenizer, [prompt], most)
            ids.append(encode(prompt))
        else:
            ids.append(prompt)
    return ids


async def in_thread_if_long(texts: Sequence[Any], work: Callable[[], T]) -> T:
    """Do what takes time in proportion to the texts; for long ones not on the event loop."""
    if sum(len(text) for text in texts if isinstance(text, str)) <= SHORT:
        return work()
    return await asyncio.to_thread(work)


def _completion(
    engine: BaseEngine, ids: Sequence[int], options: Mapping[str, Any], *, streamed: bool
) -> AsyncGenerator[Delta, None]:
    """The deltas of one prompt."""
    preparation = engine.tokens.preparation
    ids = preparation.truncated(ids, options)
    params = preparation.params(options, len(ids), streamed=streamed)
    return engine.tokens.complete(Prompt(ids), params)
