"""`quire serve`: the engine loaded beside a server that listens already."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from quire.arguments import get_infer_args
from quire.chat.base_engine import BaseEngine
from quire.chat.chat_model import engine_class_for
from quire.media.policy import MediaPolicy
from quire.server.app import make_app
from quire.server.arguments import ServerArguments
from quire.server.connection import Connection
from quire.server.service import Service

logger = logging.getLogger("quire")


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
        ModelError, EngineError: the model could not be loaded.
    """
    infer_args = get_infer_args({"media_dir": arguments.media_root, **values})
    engine_class = engine_class_for(infer_args[0])
    run(lambda: engine_class(*infer_args), arguments, sockets=sockets)


def run(
    make_engine: Callable[[], BaseEngine],
    arguments: ServerArguments,
    *,
    sockets: list[socket.socket] | None = None,
) -> None:
    """Serve the engine that `make_engine` makes; see `serve`."""
    service = Service(arguments)
    failures: list[BaseException] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        loading = asyncio.ensure_future(_load(service, make_engine))
        loading.add_done_callback(loaded)
        try:
            yield
        finally:
            await _close(service, loading)

    def loaded(loading: asyncio.Future[None]) -> None:
        error = None if loading.cancelled() else loading.exception()
        if error is not None:
            failures.append(error)
            server.should_exit = True

    server = uvicorn.Server(config(make_app(service, lifespan=lifespan), arguments))
    server.run(sockets=sockets)
    if failures:
        raise failures[0]


def config(app: FastAPI, arguments: ServerArguments) -> uvicorn.Config:
    """uvicorn's settings."""
    return uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        http=Connection.giving_up_after(arguments.reader_timeout),
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        backlog=4096,
    )


async def _load(service: Service, make_engine: Callable[[], BaseEngine]) -> None:
    engine = await asyncio.to_thread(make_engine)
    restrict_media(engine, service.arguments)
    service.attach(engine)
    host, port = service.arguments.host, service.arguments.port
    shown = f"[{host}]" if ":" in host else host
    logger.info("Serving %s at http://%s:%d/v1.", service.models.name, shown, port)


def restrict_media(engine: BaseEngine, arguments: ServerArguments) -> None:
    """Hold the media that clients name to what a server allows."""
    policy = MediaPolicy.for_server(arguments.media_root, urls=arguments.media_urls)
    engine.media_prompts.restrict(policy)


async def _close(service: Service, loading: asyncio.Future[None]) -> None:
    """Free the engine; one that is being loaded cannot be stopped, and is freed when it is there."""
    await asyncio.wait([loading])
    if service.is_attached:
        engine = service.engine
        service.detach()
        await engine.close()
