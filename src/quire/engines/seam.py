"""The two engine interfaces, and what their implementations share.

A `TokenEngine` completes prompts of token ids. A `ChatEngine` answers conversations: `TokenChat`
(quire.chat.token_chat) does so over a token engine, `RemoteChatEngine` over a server's chat API. The
code above knows nothing else of an engine, and its tests use small deterministic ones.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from quire.adapters.folder import Adapter
from quire.errors import (
    GenerationError,
    RequestError,
    RequestTimeoutError,
    SamplingError,
    UnsupportedOptionError,
)
from quire.media.placement import Kind
from quire.messages import ToolCall
from quire.options import ThinkingChoices
from quire.outputs import Delta, Embedding
from quire.prompt import PoolingKind, Prompt
from quire.request import ChatRequest
from quire.sampling import SamplingParams

T = TypeVar("T")

Purpose: TypeAlias = Literal["generate", "embed", "score"]
"""What an engine computes from a prompt: text, an embedding, or a reward model's score."""

GENERATES: frozenset[Purpose] = frozenset({"generate"})


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes that an engine in this process took for the model's weights and for its KV cache."""

    weights: int
    kv_cache: int


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine can do, and its limits. It does not change while the engine lives."""

    name: str
    context_length: int
    """Most tokens of a sequence, prompt and answer together."""
    purposes: frozenset[Purpose] = GENERATES
    media: frozenset[Kind] = frozenset()
    """The kinds of media that the engine and its model accept."""
    expands_media: bool = False
    """Whether the engine itself expands a medium's single placeholder into its tokens. The length of
    such a prompt is known only with the answer's usage."""
    max_sequences: int | None = None
    """Most completions that run at once; None where that is not known."""
    memory: EngineMemory | None = None
    """None where the engine runs in other processes or on other machines."""
    composes_grammars: bool = True
    """Whether a constraint may have a thought in it, and calls in the model's own form."""
    loop_bound: bool = False
    """Whether the engine serves only one event loop, that of its first request."""
    is_remote: bool = False
    """Whether the engine runs on servers, so that each health check is an HTTP request."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """An engine's current load, and its counters since it was made."""

    running: int
    """Completions in the running batch."""
    waiting: int
    """Completions in the engine's queue."""
    prefilling: int = 0
    """Tokens of the prompts that are being computed now; 0 where the engine does not say."""
    prefilled: int = 0
    """Those of them that are computed, or came from the prefix cache."""
    kv_cache_usage: float | None = None
    """Fraction of the KV cache in use, 0 to 1."""
    prefix_queries: int = 0
    """Prompt tokens that were looked up in the prefix cache."""
    prefix_hits: int = 0
    """Those of them that were cached."""
    media_queries: int = 0
    """Media that were looked up in the cache of processed media."""
    media_hits: int = 0
    """Those of them that were cached."""
    preemptions: int = 0
    """How often a sequence was preempted."""
    drafted: int = 0
    """Tokens drafted by speculation."""
    accepted: int = 0
    """Those of them that were accepted."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """An engine's current state."""

    load: EngineLoad | None = None
    """None where the engine does not report it."""
    restarts: int = 0
    """How often the engine has restarted itself."""
    recovers: bool = False
    """Whether the engine may recover by itself when `health` raises EngineDeadError."""


@dataclass(frozen=True, slots=True)
class PoolingParams:
    """How a prompt is pooled into a vector. The fields without a comment are those of `SamplingParams`."""

    score: bool = False
    """Whether the vector is the raw output of a reward model's head; the next two then do not matter."""
    kind: PoolingKind | None = None
    """How hidden states are pooled; None is the engine's default."""
    normalize: bool = False
    """Whether the vector is scaled to length 1."""
    adapter: str | None = None
    priority: int = 0
    cache_salt: str | None = None


class TokenEngine(ABC):
    """The lower interface: prompts of token ids in, deltas out."""

    info: EngineInfo

    @abstractmethod
    def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Complete one prompt. Closing the iterator, or cancelling its task, aborts the request.

        Raises:
            RequestError: the request is wrong. Others are not affected.
            EngineError: the engine failed at the request, or cannot serve any.
        """

    @abstractmethod
    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError if the engine cannot serve."""

    @abstractmethod
    async def close(self) -> None:
        """Free all memory and end all threads and processes. May be called twice."""

    async def pool(self, prompt: Prompt, params: PoolingParams) -> Embedding:
        """Pool one prompt into a vector. Cancelling the call aborts the request.

        Raises:
            UnsupportedOptionError: this engine does not pool.
            RequestError, EngineError: see `generate`.
        """
        raise UnsupportedOptionError(f"{self.info.name} makes no vectors.")

    @property
    def state(self) -> EngineState:
        """The engine's current state."""
        return EngineState(recovers=self.info.is_remote)

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The LoRA adapters that requests may name; "base" is the model without one."""
        return ()

    async def load_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Check an adapter's folder and serve it from now on, by default under the folder's name.

        Raises:
            AdapterError: the adapter is broken, or does not fit the model.
            UnsupportedOptionError: this engine serves no adapters.
        """
        raise UnsupportedOptionError(f"{self.info.name} does not serve adapters.")

    async def drop_adapter(self, name: str) -> Adapter:
        """Stop serving an adapter. Requests in flight with it finish normally.

        Raises:
            UnknownAdapterError: no adapter has this name.
            UnsupportedOptionError: this engine serves no adapters.
        """
        raise UnsupportedOptionError(f"{self.info.name} does not serve adapters.")


class ChatEngine(ABC):
    """The upper interface: a conversation in, the answer's deltas out."""

    info: EngineInfo

    @abstractmethod
    def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Answer a conversation. Closing the iterator, or cancelling its task, aborts the request.

        The request's `timeout` starts when the first item is asked for, and covers everything:
        fetching media, preparation, and the answer.

        Raises:
            RequestError: the request is wrong. Others are not affected.
            RequestTimeoutError: the request's `timeout` has passed.
            EngineError: the engine failed at the request, or cannot serve any.
        """

    @abstractmethod
    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError if the engine cannot serve."""

    @abstractmethod
    async def close(self) -> None:
        """Free all memory and end all threads and processes. May be called twice."""

    @property
    @abstractmethod
    def state(self) -> EngineState:
        """The engine's current state."""

    @property
    def thinking_choices(self) -> ThinkingChoices | None:
        """What a request can choose of the thought; None where that is nothing, or not known."""
        return None


class RequestIds:
    """The ids of one engine's requests in flight. Its methods may be called from any thread.

    Ids that callers choose and ids made here have different prefixes, so that neither can collide with
    the other, whatever a caller chooses.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._in_flight: dict[str, object] = {}

    @contextmanager
    def claim(self, name: str | None) -> Generator[str]:
        """Reserve an id while a request is in flight.

        Args:
            name: the caller's `request_id`; None makes a new id.

        Raises:
            RequestError: a request with this name is in flight already. It is not affected.
        """
        if name is None:
            yield f"quire:{next(self._numbers)}"
            return
        claim = object()
        # `setdefault` checks and inserts in one step: two threads may claim a name at the same time.
        if self._in_flight.setdefault(name, claim) is not claim:
            raise RequestError(
                f"The request_id {name!r} is in use by a request in flight: give another, or none."
            )
        try:
            yield f"caller:{name}"
        finally:
            del self._in_flight[name]


def raise_failed(delta: Delta) -> None:
    """Raise the error that ended the completion, if one did.

    Raises:
        SamplingError: it was the request's fault.
        GenerationError: it was the engine's.
    """
    if delta.finish_reason == "error":
        kind = SamplingError if delta.refused else GenerationError
        raise kind(delta.error or "The engine failed in a step of this request.")


async def first_calls(deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    """Pass an answer on up to its first tool call: `parallel_tool_calls` is false.

    The model is not stopped, so that usage stays true; the rest of its text is dropped.
    """
    called: set[int] = set()
    async with aclosing(deltas):
        async for delta in deltas:
            if delta.index in called:
                delta = replace(delta, text="", parts=())
            elif delta.tool_calls:
                called.add(delta.index)
                parts = delta.all_parts()
                first = next(i for i, part in enumerate(parts) if isinstance(part, ToolCall))
                delta = replace(delta, parts=parts[: first + 1])
            yield delta


async def with_timeout(items: AsyncGenerator[T, None], timeout: float) -> AsyncGenerator[T, None]:
    """Pass the items on until `timeout` seconds after the first was asked for.

    Raises:
        RequestTimeoutError: the time has passed. `items` is closed then.
    """
    deadline = time.monotonic() + timeout
    async with aclosing(items):
        while True:
            # One `asyncio.timeout` around the whole loop would also cancel the consumer's task while
            # it handles an item that was yielded.
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise timeout_error(timeout) from None
            yield item


@asynccontextmanager
async def time_limit(timeout: float | None) -> AsyncGenerator[None]:
    """End the block after `timeout` seconds; None is no limit.

    Raises:
        RequestTimeoutError: the time has passed.
    """
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError:
        if timeout is None:
            raise
        raise timeout_error(timeout) from None


def timeout_error(timeout: float) -> RequestTimeoutError:
    """The error of a request whose `timeout` in seconds has passed."""
    shown = round(timeout, 2) or timeout  # a server's is what its queue has left of it
    return RequestTimeoutError(f"The request's timeout of {shown:g} s passed.")
