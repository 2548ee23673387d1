"""What runs in an actor of Ray: one engine, and the answers to the rows that the driver sends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from quire.batch.answering import Answerer, error_of
from quire.batch.journal import Record
from quire.batch.rows import Row
from quire.chat.chat_model import ChatModel
from quire.errors import EngineError, QuireError
from quire.machine.cpus import default_threads

Outcome: TypeAlias = Record | QuireError
"""What came of a row: its record, or an error that the driver decides about."""


@dataclass(frozen=True, slots=True)
class ActorOrder:
    """What an actor needs to know; it goes to other machines, and is pickled by Ray."""

    arguments: Mapping[str, Any]
    """The arguments of the `ChatModel`."""
    make_model: Callable[[Mapping[str, Any]], ChatModel]
    make_answerer: Callable[[ChatModel], Answerer]
    folder: str
    """The driver's working folder, from which relative paths count."""
    threads: int | None = None
    """CPUs that the actor has; None where the engine is not the native one."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An actor whose engine is ready."""

    max_sequences: int | None
    """Most completions that run at once; None where that is not known."""


class ModelActor:
    """One engine. All methods run in one event loop, and any number of rows at once.

    Errors that quire raises on purpose are returned and not raised: Ray would wrap them, with a
    traceback of this process.
    """

    def __init__(self, order: ActorOrder) -> None:
        self._order = order
        self._model: ChatModel | None = None
        self._answerer: Answerer | None = None

    async def place(self) -> str:
        """The id of the node on which the actor is."""
        import ray

        return ray.get_runtime_context().get_node_id()

    async def load(self) -> Loaded | QuireError:
        """Load the model."""
        order = self._order
        with suppress(OSError):  # a node need not have the folder, where no path is relative
            os.chdir(order.folder)
        arguments = dict(order.arguments)
        if order.threads is not None:
            arguments.setdefault("native_num_threads", min(order.threads, default_threads()))
        try:
            self._model = await asyncio.to_thread(order.make_model, arguments)
            self._answerer = order.make_answerer(self._model)
        except QuireError as error:
            return error
        return Loaded(self._model.engine.info.max_sequences)

    async def answer(self, row: Row) -> Outcome:
        """Prepare a row and answer it."""
        return await self._outcome(row, None)

    async def answer_streamed(self, row: Row) -> AsyncGenerator[Outcome | None, None]:
        """As `answer`, after None once the prompt has been computed."""
        started = asyncio.Event()
        outcome = asyncio.ensure_future(self._outcome(row, started.set))
        begun = asyncio.ensure_future(started.wait())
        try:
            await asyncio.wait([outcome, begun], return_when=asyncio.FIRST_COMPLETED)
            if not outcome.done():
                yield None
            yield await outcome
        finally:
            begun.cancel()
            outcome.cancel()

    async def _outcome(self, row: Row, started: Callable[[], None] | None) -> Outcome:
        answerer = self._answerer
        assert answerer is not None, "the model is loaded first"
        try:
            prepared = await answerer.prepare(row)
        except EngineError as error:
            return error
        except QuireError as error:
            return answerer.failed(row, error_of(error, "prepare"))
        try:
            return await answerer.answer(prepared, started)
        except QuireError as error:
            return error

    async def live(self) -> None:
        """Never return: whoever waits for it learns that the actor has died."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """End the engine, with all its processes."""
        if self._model is not None:
            await self._model.aclose()
