"""The two seams, and what engines on either side of them share.

A `TokenEngine` completes prompts of token ids. A `ChatEngine` answers conversations: `TokenChat`
(quire.chat.token_chat) does it over a token engine, a server's chat API does it by itself. Everything
above knows these two, and is tested against tiny deterministic ones.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from quire.adapters.folder import Adapter
from quire.errors import (
    GenerationError,
    RequestError,
    RequestTimeoutError,
    UnsupportedOptionError,
)
from quire.media.placement import Kind
from quire.outputs import Delta, Embedding
from quire.prompt import PoolingKind, Prompt
from quire.request import ChatRequest
from quire.sampling import SamplingParams

T = TypeVar("T")

Purpose: TypeAlias = Literal["generate", "embed", "score"]
"""What an engine makes of a prompt: text, a vector, or the scores of a reward model."""

GENERATES: frozenset[Purpose] = frozenset({"generate"})


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes that an engine in this process took for the model's weights and for its KV cache."""

    weights: int
    kv_cache: int


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine can do, and its limits. It stays the same as long as the engine lives."""

    name: str
    context_length: int
    """Tokens that a sequence may have, prompt and answer together."""
    purposes: frozenset[Purpose] = GENERATES
    media: frozenset[Kind] = frozenset()
    """The kinds of media that the engine and its model take."""
    expands_media: bool = False
    """Whether the engine itself turns a medium's one placeholder into its tokens, so that a prompt's
    length is known with the answer alone."""
    max_sequences: int | None = None
    """Completions that run at once; None where that is not known."""
    memory: EngineMemory | None = None
    """None where the engine lives in other processes or on other machines."""
    loop_bound: bool = False
    """Whether the engine answers one event loop alone, that of its first request."""
    elsewhere: bool = False
    """Whether the engine runs on servers of its own, so that looking at its health asks them."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine does at this moment, and what it counted since it was made."""

    running: int
    """Completions that are computed."""
    waiting: int
    """Completions that wait in the engine."""
    kv_cache_usage: float | None = None
    """Part of the KV cache in use, 0 to 1."""
    prefix_queries: int = 0
    """Tokens of prompts that were looked up in the prefix cache."""
    prefix_hits: int = 0
    """Of these, those that were there."""
    media_queries: int = 0
    """Media that were looked up among those processed before."""
    media_hits: int = 0
    """Of these, those that were there."""
    preemptions: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class EngineState:
    """How an engine is at this moment."""

    load: EngineLoad | None = None
    """None where the engine does not tell it."""
    restarts: int = 0
    """How often the engine has started itself again."""
    recovers: bool = False
    """Whether it comes back by itself where `health` says that it is dead."""


@dataclass(frozen=True, slots=True)
class PoolingParams:
    """How a prompt becomes a vector.

    `score` asks for a reward model's head, whose numbers are given as they are; otherwise hidden
    states are pooled by `kind` (None is the engine's own way), and the vector gets the length 1 where
    it is to be normalised. The other fields are those of `SamplingParams`.
    """

    score: bool = False
    kind: PoolingKind | None = None
    normalize: bool = False
    adapter: str | None = None
    priority: int = 0
    cache_salt: str | None = None


class TokenEngine(ABC):
    """The lower seam: prompts in, deltas out."""

    info: EngineInfo

    @abstractmethod
    def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Complete one prompt. Closing the iterator, or cancelling its task, aborts the request.

        Raises:
            RequestError: the request is wrong; no other is harmed.
            EngineError: the engine could not do it.
        """

    @abstractmethod
    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError when the engine cannot serve."""

    @abstractmethod
    async def close(self) -> None:
        """Free all memory and end all threads and processes. May be called twice."""

    async def pool(self, prompt: Prompt, params: PoolingParams) -> Embedding:
        """Make one prompt a vector; cancelling the call aborts the request. Raises as `generate`."""
        raise UnsupportedOptionError(f"{self.info.name} makes no vectors.")

    @property
    def state(self) -> EngineState:
        """How the engine is at this moment."""
        return EngineState(recovers=self.info.elsewhere)

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The LoRA adapters that requests may name; "base" is the model without one."""
        return ()

    async def load_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Check an adapter's folder and serve it from now on, by default under the folder's name.

        Raises:
            AdapterError: it is broken, or does not fit the model.
            UnsupportedOptionError: this engine serves no adapters.
        """
        raise UnsupportedOptionError(f"{self.info.name} does not serve adapters.")

    async def drop_adapter(self, name: str) -> Adapter:
        """Serve an adapter no more.

        Raises:
            UnknownAdapterError: there is none of this name.
            UnsupportedOptionError: this engine serves no adapters.
        """
        raise UnsupportedOptionError(f"{self.info.name} does not serve adapters.")


class ChatEngine(ABC):
    """The upper seam: a conversation in, the answer's deltas out."""

    info: EngineInfo

    @abstractmethod
    def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Answer a conversation. Closing the iterator, or cancelling its task, aborts the request.

        The request's `timeout` counts from the first item that is asked for, and holds for all of it:
        preparation, the fetching of media, and the answer.

        Raises:
            RequestError: the request is wrong; no other is harmed.
            EngineError: the engine could not do it.
        """

    @abstractmethod
    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError when the engine cannot serve."""

    @abstractmethod
    async def close(self) -> None:
        """Free all memory and end all threads and processes. May be called twice."""

    @property
    @abstractmethod
    def state(self) -> EngineState:
        """How the engine is at this moment."""


class RequestIds:
    """The identities of one engine's requests in flight.

    A caller's own name and a number of ours live in namespaces of their own, so that neither can be
    taken for the other, whatever a caller's name looks like.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._in_flight: dict[str, object] = {}

    @contextmanager
    def claim(self, name: str | None) -> Generator[str]:
        """Hold an identity as long as a request is in flight.

        Raises:
            RequestError: another request of this name is in flight; it is not harmed.
        """
        if name is None:
            yield f"quire:{next(self._numbers)}"
            return
        claim = object()
        # One step for look and entry: callers may be in different threads.
        if self._in_flight.setdefault(name, claim) is not claim:
            raise RequestError(
                f"The request_id {name!r} is in use by a request in flight: give another, or none."
            )
        try:
            yield f"caller:{name}"
        finally:
            del self._in_flight[name]


def raise_failed(delta: Delta) -> None:
    """Raise GenerationError where a fault in a step ended the request."""
    if delta.finish_reason == "error":
        raise GenerationError(delta.error or "The engine failed in a step of this request.")


def in_time(items: AsyncGenerator[T, None], timeout: float | None) -> AsyncGenerator[T, None]:
    """The same items, until `timeout` seconds have passed since the first was asked for.

    Raises:
        RequestTimeoutError: they have; the items' generator is closed.
    """
    return items if timeout is None else _until(items, timeout)


async def _until(items: AsyncGenerator[T, None], timeout: float) -> AsyncGenerator[T, None]:
    deadline = time.monotonic() + timeout
    async with aclosing(items):
        while True:
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise out_of_time(timeout) from None
            yield item


def out_of_time(timeout: float) -> RequestTimeoutError:
    """The error of a request whose time has passed."""
    return RequestTimeoutError(f"The request's timeout of {timeout:g} s passed.")
