"""vLLM's own API server over the engine of a ChatModel: what clients meet in a cluster."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

from quire.chat import ChatModel
from quire.chat.vllm_engine import VllmEngine

MODEL_NAME = "demo"


@contextmanager
def serve(model: ChatModel) -> Iterator[str]:
    """Serve on a free port of the loopback; yields the base address."""
    listening = socket.create_server(("127.0.0.1", 0))
    loop = model._loop._loop
    ready = threading.Event()
    server: dict[str, Any] = {}
    done = asyncio.run_coroutine_threadsafe(_serve(model, listening, ready, server), loop)
    done.add_done_callback(lambda _: ready.set())
    assert ready.wait(60)
    _raise_failure(done)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server["uvicorn"].should_exit = True
        with suppress(TimeoutError):
            done.result(10)
        listening.close()


def _raise_failure(done: Future[None]) -> None:
    if done.done():
        done.result()


async def _serve(
    model: ChatModel, listening: socket.socket, ready: threading.Event, server: dict[str, Any]
) -> None:
    import uvicorn
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    engine = model.engine
    assert isinstance(engine, VllmEngine)
    client: Any = engine.token_engine._running().engine
    parser = make_arg_parser(FlexibleArgumentParser())
    folder = client.model_config.model
    args: Any = parser.parse_args(["--model", folder, "--served-model-name", MODEL_NAME])
    tasks = await client.get_supported_tasks()
    app = build_app(args, tasks, client.model_config)
    await init_app_state(client, app.state, args, tasks)
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    uvicorn_server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    server["uvicorn"] = uvicorn_server
    ready.set()
    await uvicorn_server.serve(sockets=[listening])
