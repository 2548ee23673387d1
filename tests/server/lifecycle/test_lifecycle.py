"""The life of a served engine: loading, death, new starts, draining. Times are promises of the server."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from quire.arguments import get_infer_args
from quire.chat.base_engine import BaseEngine
from quire.chat.native_engine import NativeEngine
from quire.demo import demo_adapter_path, demo_model_path
from quire.engines.seam import EngineState
from quire.errors import EngineDeadError, EngineError, ModelError, QuireError
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.server.admission import Admission
from quire.server.app import make_app
from quire.server.arguments import ServerArguments
from quire.server.call import ANONYMOUS, Call
from quire.server.lifecycle.lifecycle import Lifecycle
from quire.server.observability.log import EventLog
from quire.server.observability.metrics import RequestMetrics
from quire.server.observability.observer import RequestObserver
from quire.server.service import Service
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine, EchoTokens
from tests.polling import eventually

ASKED = Call([{"role": "user", "content": "Hi"}], streamed=True)


class MortalTokens(EchoTokens):
    """Answers one token and then nothing until it dies; `deaf` requests do not learn of that."""

    def __init__(self, tokenizer: Tokenizer, *, deaf: bool = False, itself: bool = False) -> None:
        super().__init__(tokenizer)
        self.dead = asyncio.Event()
        self.deaf, self.itself = deaf, itself

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        self.open_requests += 1
        try:
            yield Delta(0, "so", (1,))
            await (asyncio.sleep(60) if self.deaf else self.dead.wait())
            raise EngineDeadError("it died")
        finally:
            self.open_requests -= 1

    async def health(self) -> None:
        if self.dead.is_set():
            raise EngineDeadError("it died")

    @property
    def state(self) -> EngineState:
        return EngineState(recovers=self.itself)


class Mortal(EchoEngine):
    def make_tokens(self, tokenizer: Tokenizer, **options: Any) -> MortalTokens:
        self.mortal = MortalTokens(tokenizer, **options)
        return self.mortal

    @property
    def dead(self) -> asyncio.Event:
        return self.mortal.dead


class Living:
    """A life under test: what it logged, whether it stopped."""

    def __init__(self, make: Callable[[], BaseEngine], **settings: Any) -> None:
        settings = {"served_model_name": "echo", "drain_timeout": 0.2, **settings}
        self.gate = Admission(1, 100, 60.0)
        self.service = Service(
            ServerArguments(**settings), self.gate, RequestObserver(RequestMetrics())
        )
        self.written = io.BytesIO()
        self.log = EventLog(self.written)
        self.stopped = asyncio.Event()
        self.life = Lifecycle(self.service, self.gate, make, self.log, self.stopped.set)

    async def until(self, state: str) -> None:
        def is_reached() -> bool:
            assert self.life.failure is None or state == "failed", repr(self.life.failure)
            return self.life.state == state

        await eventually(is_reached)

    async def until_asked(self, running: int, waiting: int) -> None:
        await eventually(lambda: (self.gate.running, self.gate.waiting) == (running, waiting))

    async def ready(self) -> int:
        transport = httpx.ASGITransport(make_app(self.service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return (await client.get("/ready")).status_code

    def ask(self) -> asyncio.Task[list[str]]:
        """One request: the task gives its texts, or raises what ended it."""
        return asyncio.ensure_future(self._read())

    async def _read(self) -> list[str]:
        return [delta.text async for delta in self.service.stream(ASKED, ANONYMOUS)]

    def events(self) -> list[str]:
        self.log.close()
        return [json.loads(line)["event"] for line in self.written.getvalue().splitlines()]


@asynccontextmanager
async def living(make: Callable[[], BaseEngine], **settings: Any) -> AsyncIterator[Living]:
    one = Living(make, **settings)
    one.log._output = None  # pyright: ignore[reportPrivateUsage]
    one.log._write = one.written.write  # type: ignore[method-assign]
    one.life.start()
    try:
        yield one
    finally:
        await one.life.close()
        one.log.close()


async def ended(task: asyncio.Task[Any]) -> BaseException | None:
    """What ended a task."""
    await asyncio.wait([task], timeout=60)
    assert task.done(), "the request hangs"
    return task.exception()


async def test_while_it_loads_all_is_refused(tokenizer: Tokenizer) -> None:
    go = asyncio.Event()
    loop = asyncio.get_running_loop()

    def make() -> BaseEngine:
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(60)
        return EchoEngine(tokenizer)

    async with living(make) as one:
        assert await one.ready() == 503
        assert (await ended(one.ask())).__class__.__name__ == "NotReady"
        go.set()
        await one.until("ready")
        assert await one.ready() == 200
        assert one.gate.capacity == 288
        assert await one.ask()
    assert one.events() == ["loading", "ready", "stopped"]


async def test_a_model_that_cannot_be_loaded_ends_the_server(tokenizer: Tokenizer) -> None:
    def make() -> BaseEngine:
        raise ModelError("no such model")

    async with living(make) as one:
        await asyncio.wait_for(one.stopped.wait(), 60)
        assert isinstance(one.life.failure, ModelError)
        assert one.life.state == "failed"


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_death_is_told_and_a_new_engine_serves(
    tokenizer: Tokenizer, deaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = [Mortal(tokenizer, deaf=deaf), EchoEngine(tokenizer, reply="again")]
    async with living(iter(engines).__next__, max_running=2) as one:
        await one.until("ready")
        tasks = [one.ask() for _ in range(5)]
        await one.until_asked(2, 3)
        engines[0].dead.set()  # type: ignore[attr-defined]
        await one.until("restarting")
        assert await one.ready() == 503
        for task in tasks:
            assert isinstance(await ended(task), EngineDeadError)
        await one.until("ready")
        assert engines[0].closed
        assert engines[0].open_requests == 0
        assert one.life.restarts == 1
        assert "".join(await one.ask()) == "again"
    assert one.events() == [
        "loading",
        "ready",
        "restarting",
        "restart",
        "loading",
        "ready",
        "stopped",
    ]


async def test_after_too_many_deaths_the_server_ends(tokenizer: Tokenizer) -> None:
    first = Mortal(tokenizer)
    made = 0

    def make() -> BaseEngine:
        nonlocal made
        made += 1
        if made > 1:
            raise EngineError("it does not start")
        return first

    async with living(make, max_restarts=1) as one:
        await one.until("ready")
        first.dead.set()
        await asyncio.wait_for(one.stopped.wait(), 60)
        assert isinstance(one.life.failure, EngineDeadError)
        assert "it died" in str(one.life.failure)
        assert made == 2
        assert (await ended(one.ask())).__class__.__name__ == "NotReady"


async def test_an_engine_that_comes_back_by_itself_is_waited_for(tokenizer: Tokenizer) -> None:
    engine = Mortal(tokenizer, itself=True)
    async with living(lambda: engine) as one:
        await one.until("ready")
        engine.dead.set()
        await one.until("restarting")
        engine.dead.clear()
        await one.until("ready")
        assert not engine.closed
        engine.dead.set()
        await one.until("restarting")
        engine.mortal.itself = False  # it gave up: a new one is made, which is this one again
        await eventually(lambda: engine.closed)
        engine.dead.clear()
        await one.until("ready")


async def test_a_drain_lets_those_who_are_in_end(tokenizer: Tokenizer) -> None:
    engine = EchoEngine(tokenizer, reply="one two three four", delay=0.02)
    async with living(lambda: engine, drain_timeout=10, max_running=1) as one:
        await one.until("ready")
        tasks = [one.ask() for _ in range(3)]
        await one.until_asked(1, 2)
        one.life.drain()
        assert await one.ready() == 503
        assert (await ended(one.ask())).__class__.__name__ == "NotReady"
        assert ["".join(text) for text in await asyncio.gather(*tasks)] == [engine.echo.reply] * 3
        await asyncio.wait_for(one.stopped.wait(), 60)


@pytest.mark.parametrize("again", [False, True])
async def test_what_does_not_end_in_time_is_ended(tokenizer: Tokenizer, again: bool) -> None:
    engine = Mortal(tokenizer)
    async with living(lambda: engine, drain_timeout=60 if again else 0.1, max_running=1) as one:
        await one.until("ready")
        tasks = [one.ask() for _ in range(3)]
        await one.until_asked(1, 2)
        one.life.drain()
        if again:
            await eventually(lambda: one.life.state == "draining")
            assert not one.stopped.is_set()
            one.life.drain()
        await asyncio.wait_for(one.stopped.wait(), 60)
        for task in tasks:
            error = await ended(task)
            assert isinstance(error, QuireError)
            assert "shut down" in str(error)
        assert engine.open_requests == 0


async def test_a_drain_while_it_loads_is_over_at_once(tokenizer: Tokenizer) -> None:
    begun, go = threading.Event(), threading.Event()

    def make() -> BaseEngine:
        begun.set()
        go.wait(60)
        return EchoEngine(tokenizer)

    async with living(make, drain_timeout=60) as one:
        await eventually(begun.is_set)
        one.life.drain()
        await asyncio.wait_for(one.stopped.wait(), 60)
        assert not go.is_set()
        go.set()


async def test_a_native_engine_that_dies_is_replaced_with_its_adapters() -> None:
    """Its thread dies of what is no ordinary exception; requests under way are told."""
    arguments = get_infer_args(
        {
            "model_name_or_path": str(demo_model_path()),
            "infer_backend": "native",
            "native_kv_cache_memory": "16MiB",
        }
    )
    engines: list[NativeEngine] = []

    def make() -> BaseEngine:
        engines.append(NativeEngine(*arguments))
        return engines[-1]

    def fail() -> Any:
        raise SystemExit("a made-up death")

    async with living(make) as one:
        await one.until("ready")
        await engines[0].load_adapter(demo_adapter_path("pirate"), "pirate")
        engine = engines[0].token_engine._thread._engine  # pyright: ignore[reportPrivateUsage]
        tasks = [one.ask() for _ in range(3)]
        engine.step = fail  # type: ignore[method-assign]
        for task in tasks:
            assert isinstance(await ended(task), EngineDeadError)
        await one.until("restarting")
        await one.until("ready")
        assert len(engines) == 2
        assert [adapter.name for adapter in engines[1].adapters] == ["pirate"]
        assert await one.ask()


async def test_a_request_that_is_ended_closes_its_generator(tokenizer: Tokenizer) -> None:
    engine = Mortal(tokenizer, deaf=True)
    async with living(lambda: engine) as one:
        await one.until("ready")
        task = one.ask()
        await eventually(lambda: engine.mortal.open_requests)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert engine.open_requests == 0
        assert one.gate.running == 0
