"""`quire serve`: runs a server that listens while its engine loads."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import APIRouter, FastAPI

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

if TYPE_CHECKING:
    from quire.server.batches.manager import BatchManager

logger = logging.getLogger("quire")

_MANY_FILES = 65536
_OTHER_FILES = 256  # that the engine, the log and spare connections need
_CLOSING = 5  # seconds for connections to send their buffers, once all requests are over


def serve(
    values: Mapping[str, Any],
    arguments: ServerArguments,
    *,
    sockets: list[socket.socket] | None = None,
) -> None:
    """Load the model and serve it until a signal ends the server.

    Args:
        values: the engine's arguments, as `get_infer_args` takes them.
        arguments: the server's own arguments.
        sockets: listening sockets, instead of host and port.

    Raises:
        ConfigError: the arguments are wrong.
        ModelError, EngineError: the model could not be loaded, or its engine died too often.
    """
    with _logged(arguments) as log:
        run(engine_maker(values, arguments), arguments, log, sockets=sockets)


def engine_maker(values: Mapping[str, Any], arguments: ServerArguments) -> Callable[[], BaseEngine]:
    """What makes the engine of a server.

    Raises:
        ConfigError: the arguments are wrong.
        EngineStartError: a library of the engine cannot be loaded.
    """
    model_args, *others = get_infer_args({"media_dir": arguments.media_root, **values})
    engine_class: Any = engine_class_for(model_args)
    if engine_class.__name__ == "VllmEngine" and "vllm_max_restarts" not in model_args.explicit():
        model_args = model_args.replace(vllm_max_restarts=arguments.max_restarts)
    return lambda: engine_class(model_args, *others)


def run(
    make_engine: Callable[[], BaseEngine],
    arguments: ServerArguments,
    log: EventLog,
    *,
    sockets: list[socket.socket] | None = None,
) -> None:
    """Serve the engine that `make_engine` makes; see `serve`."""
    ring = KeyRing.of(arguments)
    arguments = _within_open_files(arguments)
    listening = sockets or [listen(arguments.host, arguments.port)]
    try:
        _run(make_engine, arguments, ring, log, listening)
    finally:
        for one in listening:
            one.close()


@contextmanager
def _logged(arguments: ServerArguments) -> Generator[EventLog]:
    """The server's log, which takes over quire's and uvicorn's logging during the block."""
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
    def stop() -> None:
        server.should_exit = True

    served = ServedApp(make_engine, arguments, ring, log, stop, address(listening[0]))
    server = DrainingServer(config(served.app, arguments), served.drain)
    server.run(sockets=listening)
    if served.lifecycle.failure is not None:
        raise served.lifecycle.failure


class ServedApp:
    """The application of one engine, with all that is around it but the connections.

    Its lifespan loads the engine and closes it.
    """

    def __init__(
        self,
        make_engine: Callable[[], BaseEngine],
        arguments: ServerArguments,
        ring: KeyRing | None,
        log: EventLog,
        stop: Callable[[], None],
        address: str = "",
        *,
        when_loaded: bool = False,
    ) -> None:
        """Make the application.

        Args:
            ring: the keys of those who may use it; None lets everybody.
            stop: ends the server; called after a drain or a failure.
            address: the server's address, for the log.
            when_loaded: whether the lifespan begins only once the engine is loaded.
        """
        self._make_engine, self.arguments, self._log = make_engine, arguments, log
        self._when_loaded = when_loaded
        self._address = address
        self.admission = Admission(1, arguments.max_waiting, arguments.queue_timeout)
        metrics = RequestMetrics()
        self._tracer = _tracer(arguments, self._name)
        self.service = Service(arguments, self.admission, RequestObserver(metrics, self._tracer))
        self.lifecycle = Lifecycle(self.service, self.admission, self._make, log, stop, address)
        gauges = ServerGauges(self.lifecycle, self.admission, log)
        traced = self._tracer is not None
        collector = ServerCollector(metrics, gauges, self._name)
        self._batches: BatchManager | None = None
        routers: tuple[APIRouter, ...] = ()
        if arguments.batches_dir is not None:
            # What a server without batches does not wait for: 0.1 s of imports.
            from quire.server.batches.routes import batch_routers, open_batches

            self._batches = open_batches(self.service, ring)
            routers = batch_routers(self._batches)
        self.app = make_app(
            self.service,
            routers=(metrics_router(collector), *routers),
            middleware=middleware_stack(arguments, ring, self.admission, log, traced=traced),
            lifespan=self._lifespan,
        )

    def _name(self) -> str:
        return _model_name(self.service)

    def _make(self) -> BaseEngine:
        engine = self._make_engine()
        restrict_media(engine, self.arguments)
        # The loaded objects stay alive; scanning them in each collection would delay every stream.
        gc.collect()
        gc.freeze()
        return engine

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncGenerator[None]:
        self.lifecycle.start()
        if self._batches is not None:
            self._batches.start()
        if self._address:
            self._log.event("listening", address=self._address)
        try:
            if self._when_loaded:
                await self.lifecycle.loaded()
            yield
        finally:
            if self._batches is not None:
                await self._batches.close()
            await self.lifecycle.close()
            if self._tracer is not None:
                await asyncio.to_thread(self._tracer.close)

    def drain(self) -> None:
        """Begin no more requests, and end the server once those in flight have ended."""
        if self._batches is not None:
            self._batches.drain()
        self.lifecycle.drain()


class ServerGauges:
    """The current state of a server; see `metrics.GaugeSource`."""

    def __init__(self, lifecycle: Lifecycle, admission: Admission, log: EventLog) -> None:
        self._lifecycle, self._admission, self._log = lifecycle, admission, log

    def load(self) -> EngineLoad | None:
        """The engine's own figures; None without an engine that has any."""
        return self._lifecycle.engine_load()

    def state(self) -> str:
        """The server's state."""
        return self._lifecycle.state

    def counts(self) -> dict[str, float]:
        """Counts of admission, the log and the lifecycle."""
        return {
            "running": self._admission.running_completions,
            "background": self._admission.background_completions,
            "waiting": self._admission.waiting,
            "refused": self._admission.refused,
            "dropped": self._log.dropped,
            "restarts": self._lifecycle.restarts,
        }


class DrainingServer(uvicorn.Server):
    """uvicorn's server; a signal drains it, and a second one ends it at once."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal, which may interrupt the main thread anywhere."""
        asyncio.get_running_loop().call_soon_threadsafe(self._drain)


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
            max_connections=arguments.max_connections,
        ),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_CLOSING,
        backlog=4096,
    )


def _within_open_files(arguments: ServerArguments) -> ServerArguments:
    """Raise the limit of open files, since each connection is one; or lower `max_connections` to it.

    Without a free file the system accepts no connection, not even a probe's.
    """
    files = _allow_many_files()
    most = max(files // 2, files - _OTHER_FILES)
    if arguments.max_connections <= most:
        return arguments
    logger.warning(
        "max_connections is %d here, since this process may have no more than %d files open (ulimit -n).",
        most,
        files,
    )
    return arguments.replace(max_connections=most)


def _allow_many_files() -> int:
    """Raise the limit of open files where it is low; returns the limit."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return _MANY_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft == resource.RLIM_INFINITY:
        return _MANY_FILES
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return max(soft, limit)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, opened before anything is loaded.

    Raises:
        ConfigError: the address is not usable.
    """
    try:
        family, _, _, _, bound = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(bound[:2], family=family, backlog=4096)
    except OSError as error:
        number = error.errno or 0  # negative if the name cannot be resolved
        reason = os.strerror(number) if number > 0 else str(error)
        raise ConfigError(f"Cannot listen at {host}, port {port}: {reason}.") from None


def address(listening: socket.socket) -> str:
    """The base address that clients use."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def restrict_media(engine: BaseEngine, arguments: ServerArguments) -> None:
    """Restrict the media that clients may name to the server's policy."""
    if engine.has_tokens:
        policy = MediaPolicy.for_server(arguments.media_root, urls=arguments.media_urls)
        engine.tokens.preparation.media.restrict(policy)


def _model_name(service: Service) -> str:
    if service.is_attached:
        return service.models.name
    return service.arguments.served_model_name or "loading"


def _tracer(arguments: ServerArguments, model: Callable[[], str]) -> Any:
    """The tracer, if an endpoint is configured."""
    if not (arguments.otlp_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        return None
    try:
        from quire.server.observability.tracing import Tracer
    except ImportError as error:
        raise ConfigError(
            f"Traces need a package that is not installed ({error}): pip install 'quire-llm[otel]'."
        ) from error
    return Tracer.to(arguments.otlp_endpoint, model)
