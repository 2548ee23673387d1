"""What a forked child makes of its parent's model: each way to call it, and what came of it."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Mapping
from typing import Any

from quire.chat import ChatModel

HELLO = [{"role": "user", "content": "Hello"}]

CALLS: Mapping[str, Callable[[ChatModel], object]] = {
    "chat": lambda model: model.chat(HELLO),
    "chat with a timeout": lambda model: model.chat(HELLO, timeout=0.5),
    "stream": lambda model: list(model.stream(HELLO)),
    "stream_chat": lambda model: list(model.stream_chat(HELLO)),
    "achat": lambda model: asyncio.run(model.achat(HELLO)),
    "achat with a timeout": lambda model: asyncio.run(model.achat(HELLO, timeout=0.5)),
    "astream": lambda model: asyncio.run(_all_of(model)),
    "scores": lambda model: model.get_scores(["Hello"]),
    "embeddings": lambda model: model.get_embeddings(["Hello"]),
    "an adapter": lambda model: model.load_adapter("nowhere"),
    "the engine's own": lambda model: asyncio.run(model.engine.chat(HELLO)),
    "health": lambda model: asyncio.run(model.engine.health()),
}


async def _all_of(model: ChatModel) -> list[object]:
    return [delta async for delta in model.astream(HELLO)]


def call_all(model: ChatModel) -> dict[str, tuple[str, str]]:
    """For each call the name of the error's class, and its text; then the model is closed."""
    return {name: _outcome(call, model) for name, call in CALLS.items()} | {
        "close": _outcome(ChatModel.close, model),
        "the engine's close": _outcome(lambda one: asyncio.run(one.engine.close()), model),
    }


def _outcome(call: Callable[[ChatModel], object], model: ChatModel) -> tuple[str, str]:
    try:
        call(model)
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def in_fork(work: Callable[[], Any]) -> Any:
    """What `work` returns in a forked child."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(work()))
    child.start()
    theirs.close()
    try:
        assert ours.poll(60), "the child hangs"
        return ours.recv()
    finally:
        child.kill()
        child.join()


def check_refused(outcomes: Mapping[str, tuple[str, str]]) -> None:
    """Every call is our error that says what to do, and closing does nothing."""
    for name, (kind, text) in outcomes.items():
        if "close" in name:
            assert (kind, text) == ("", ""), name
        else:
            assert kind == "EngineError", (name, kind, text)
            assert "make the model in the worker" in text, name
