"""`quire serve`: the engine loaded beside a server that listens already."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from quire.arguments import get_infer_args
from quire.chat.base_engine import BaseEngine
from quire.chat.chat_model import engine_class_for
from quire.engines.seam import EngineLoad
from quire.errors import ConfigError
from quire.media.policy import MediaPolicy
from quire.server.admission import Admission
from quire.server.app import make_app
from quire.server.arguments import ServerArguments
from quire.server.lifecycle.connection import Connection
from quire.server.lifecycle.lifecycle import Lifecycle
from quire.server.middleware.keys import KeyRing
from quire.server.middleware.stack import middleware_stack
from quire.server.observability.log import EventLog, take_over
from quire.server.observability.metrics import (
    RequestMetrics,
    ServerCollector,
    metrics_router,
)
from quire.server.observability.observer import RequestObserver
from quire.server.service import Service

_CLOSING = 5  # seconds that connections have to send what was written, when all requests are over


def serve(
    values: Mapping[str, Any],
    arguments: ServerArguments,
    *,
    sockets: list[socket.socket] | None = None,
) -> None:
    """Load the model and serve it until a signal ends the server.

    Args:
        values: the engine's arguments, as `get_infer_args` takes them.
        arguments: the server's own.
        sockets: where to listen, in place of host and port.

    Raises:
        ConfigError: the arguments are wrong.
        ModelError, EngineError: the model could not be loaded, or died too often.
    """
    with _logged(arguments) as log:
        model_args, *others = get_infer_args({"media_dir": arguments.media_root, **values})
        engine_class: Any = engine_class_for(model_args)
        if (
            engine_class.__name__ == "VllmEngine"
            and "vllm_max_restarts" not in model_args.explicit()
        ):
            model_args = model_args.replace(vllm_max_restarts=arguments.max_restarts)
        run(lambda: engine_class(model_args, *others), arguments, log, sockets=sockets)


def run(
    make_engine: Callable[[], BaseEngine],
    arguments: ServerArguments,
    log: EventLog,
    *,
    sockets: list[socket.socket] | None = None,
) -> None:
    """Serve the engine that `make_engine` makes; see `serve`."""
    ring = KeyRing.of(arguments)
    _allow_many_files()
    listening = sockets or [listen(arguments.host, arguments.port)]
    try:
        _run(make_engine, arguments, ring, log, listening)
    finally:
        for one in listening:
            one.close()


@contextmanager
def _logged(arguments: ServerArguments) -> Generator[EventLog]:
    """The server's log, which is quire's and uvicorn's meanwhile."""
    log = EventLog.opened(arguments.log_file, arguments.log_format)
    try:
        with take_over(log):
            yield log
    finally:
        log.close()


def _run(
    make_engine: Callable[[], BaseEngine],
    arguments: ServerArguments,
    ring: KeyRing | None,
    log: EventLog,
    listening: list[socket.socket],
) -> None:
    gate = Admission(1, arguments.max_waiting, arguments.queue_timeout)
    figures = RequestMetrics()
    tracer = _tracer(arguments, lambda: _model_name(service))
    watcher = RequestObserver(figures, tracer)
    service = Service(arguments, gate=gate, observe=watcher)

    def make() -> BaseEngine:
        engine = make_engine()
        restrict_media(engine, arguments)
        # What is there now stays: collections that looked through it would hold up every stream.
        gc.collect()
        gc.freeze()
        return engine

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        life.start()
        log.event("listening", address=address(listening[0]))
        try:
            yield
        finally:
            await life.close()
            if tracer is not None:
                await asyncio.to_thread(tracer.close)

    def stop() -> None:
        server.should_exit = True

    life = Lifecycle(service, gate, make, log, stop, address(listening[0]))
    collector = ServerCollector(
        figures, ServerGauges(life, gate, log), lambda: _model_name(service)
    )
    app = make_app(
        service,
        routers=(metrics_router(collector),),
        middleware=middleware_stack(arguments, ring, gate, log, traced=tracer is not None),
        lifespan=lifespan,
    )
    server = DrainingServer(config(app, arguments), life)
    server.run(sockets=listening)
    if life.failure is not None:
        raise life.failure


class ServerGauges:
    """The state of a server at this moment; see `metrics.GaugeSource`."""

    def __init__(self, life: Lifecycle, gate: Admission, log: EventLog) -> None:
        self._life, self._gate, self._log = life, gate, log

    def load(self) -> EngineLoad | None:
        """What the engine knows of itself."""
        return self._life.engine_load()

    def state(self) -> str:
        """The server's state."""
        return self._life.state

    def counts(self) -> dict[str, float]:
        """Counts of the gate, the log and the engine's life."""
        return {
            "running": self._gate.running_completions,
            "waiting": self._gate.waiting,
            "refused": self._gate.refused,
            "dropped": self._log.dropped,
            "restarts": self._life.restarts,
        }


class DrainingServer(uvicorn.Server):
    """uvicorn's server; a signal drains it, and a second one ends it at once."""

    def __init__(self, config: uvicorn.Config, life: Lifecycle) -> None:
        super().__init__(config)
        self._life = life

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come, at any point of the main thread's work."""
        asyncio.get_running_loop().call_soon_threadsafe(self._life.drain)


def config(app: FastAPI, arguments: ServerArguments) -> uvicorn.Config:
    """uvicorn's settings."""
    return uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        http=Connection.of(
            reader_timeout=arguments.reader_timeout,
            head_timeout=arguments.read_timeout,
            head_limit=2 * arguments.max_header_bytes,
        ),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_CLOSING,
        limit_concurrency=arguments.max_connections,
        backlog=4096,
    )


def _allow_many_files() -> None:
    """Each connection is an open file, of which a process may have few unless it asks for more."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before anything is loaded.

    Raises:
        ConfigError: the address cannot be listened at.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(place[:2], family=family, backlog=4096)
    except OSError as error:
        number = error.errno or 0  # names that cannot be resolved have negative ones
        reason = os.strerror(number) if number > 0 else str(error)
        raise ConfigError(f"Cannot listen at {host}, port {port}: {reason}.") from None


def address(listening: socket.socket) -> str:
    """The base address that clients use."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def restrict_media(engine: BaseEngine, arguments: ServerArguments) -> None:
    """Hold the media that clients name to what a server allows."""
    if engine.has_tokens:
        policy = MediaPolicy.for_server(arguments.media_root, urls=arguments.media_urls)
        engine.tokens.preparation.media.restrict(policy)


def _model_name(service: Service) -> str:
    if service.is_attached:
        return service.models.name
    return service.arguments.served_model_name or "loading"


def _tracer(arguments: ServerArguments, model: Callable[[], str]) -> Any:
    """The tracer, where traces are wanted."""
    wanted = arguments.otlp_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not wanted:
        return None
    try:
        from quire.server.observability.tracing import Tracer
    except ImportError as error:
        raise ConfigError(
            f"Traces need a package that is not here ({error}): pip install 'quire-llm[otel]'."
        ) from error
    return Tracer.to(arguments.otlp_endpoint, model)
