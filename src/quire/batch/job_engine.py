"""What answers the rows of a job: a model, or whatever else makes an `Answerer`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from quire.batch.answering import Answerer
from quire.chat.chat_model import ChatModel
from quire.errors import EngineError

MakeModel: TypeAlias = Callable[[Mapping[str, Any]], ChatModel]

HEALTH_PAUSE = 1.0  # seconds between two looks at an engine that recovers by itself
_SEQUENCES = 32  # where an engine does not say how many it runs


class JobEngine(Protocol):
    """Answers the rows of one run of a job."""

    @property
    def at_once(self) -> int:
        """Requests in flight that keep it full."""
        ...

    def answerer(self) -> Answerer:
        """What makes records of rows on it."""
        ...

    async def restart(self) -> Answerer:
        """Bring it back after its death.

        Raises:
            EngineError, ModelError: it cannot be brought back.
        """
        ...

    def close(self) -> None:
        """Give back what the run alone has used."""
        ...


class ModelEngine:
    """A `JobEngine` of one model, which is made anew where it dies."""

    def __init__(
        self,
        model: ChatModel,
        make: MakeModel | None,
        arguments: Mapping[str, Any],
        make_answerer: Callable[[ChatModel], Answerer],
    ) -> None:
        """Make it.

        Args:
            make: makes another model; None where the model is the caller's, and stays open.
            arguments: what `make` takes.
        """
        self._model, self._make, self._arguments = model, make, arguments
        self._make_answerer = make_answerer

    @property
    def at_once(self) -> int:
        # Twice what runs at once: what waits at the engine costs nothing, and it never runs short.
        return 2 * (self._model.engine.info.max_sequences or _SEQUENCES)

    def answerer(self) -> Answerer:
        return self._make_answerer(self._model)

    async def restart(self) -> Answerer:
        engine = self._model.engine
        while engine.state.recovers:
            try:
                await self._model.on_home_loop(engine.health())
                return self.answerer()
            except EngineError:
                await asyncio.sleep(HEALTH_PAUSE)
        if self._make is None:
            await self._model.on_home_loop(engine.health())  # says what it died of
            return self.answerer()
        await asyncio.to_thread(self._model.close)
        self._model = await asyncio.to_thread(self._make, self._arguments)
        return self.answerer()

    def close(self) -> None:
        if self._make is not None:
            self._model.close()
