"""A real server on a free port of the loopback, in the loop that its engine serves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from quire.chat import ChatModel
from quire.chat.base_engine import BaseEngine
from quire.server.admission import Admission
from quire.server.app import make_app
from quire.server.arguments import ServerArguments
from quire.server.lifecycle.run import config, restrict_media
from quire.server.observability.metrics import RequestMetrics
from quire.server.observability.observer import RequestObserver
from quire.server.service import Service


@dataclass(frozen=True)
class Served:
    """A server under test."""

    url: str
    engine: BaseEngine
    service: Service


def service_over(engine: BaseEngine | None, settings: ServerArguments) -> Service:
    """A service with a gate that is open."""
    gate = Admission(1024, settings.max_waiting, settings.queue_timeout)
    return Service(settings, gate, RequestObserver(RequestMetrics()), engine)


@contextmanager
def serving(model: ChatModel, **arguments: object) -> Iterator[Served]:
    """Serve a ChatModel's engine."""
    settings = ServerArguments(**{"served_model_name": "demo", **arguments})
    service = service_over(model.engine, settings)
    restrict_media(model.engine, settings)
    with running(make_app(service), settings, model._loop._loop) as url:
        yield Served(url, model.engine, service)


@contextmanager
def running(
    app: FastAPI,
    settings: ServerArguments,
    loop: asyncio.AbstractEventLoop,
    **changes: object,
) -> Iterator[str]:
    """Run an application in a loop of another thread; yields its address.

    `changes` are made to uvicorn's settings.
    """
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    configuration = config(app, settings)
    for name, value in changes.items():
        setattr(configuration, name, value)
    configuration.lifespan = "off"  # the app has none, and a forced exit leaves its task pending
    server = uvicorn.Server(configuration)
    done: Future[None] = asyncio.run_coroutine_threadsafe(server.serve(sockets=[listening]), loop)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        with suppress(TimeoutError):
            done.result(10)
        listening.close()
