"""Models that actors make: their processes import this module."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from quire.chat import ChatModel
from quire.errors import ModelNotFoundError
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer
from tests.batch.sources import make_tokenizer
from tests.chat.echo_engine import EchoEngine, EchoTokens

DEADLY = "Question 20:"


class DeadlyTokens(EchoTokens):
    """Repeats prompts; its process is killed, as by a lack of memory, by a prompt that says `DEADLY`."""

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        if DEADLY in self.tokenizer.decode(list(prompt.token_ids)):
            await asyncio.sleep(0.05)  # others are in flight by then
            os.kill(os.getpid(), signal.SIGKILL)
        async for delta in super().generate(prompt, params):
            yield delta


class DeadlyEngine(EchoEngine):
    def make_tokens(self, tokenizer: Tokenizer, **options: object) -> EchoTokens:
        return DeadlyTokens(tokenizer, **options)  # type: ignore[arg-type]


def make_deadly(arguments: Mapping[str, Any]) -> ChatModel:
    return ChatModel.from_engine(DeadlyEngine(make_tokenizer(), delay=0.002))


def make_echo(folder: Path, delay: float, arguments: Mapping[str, Any]) -> ChatModel:
    """A model that repeats prompts; it leaves a file with the name of its process."""
    model = ChatModel.from_engine(EchoEngine(make_tokenizer(), delay=delay))
    (folder / str(os.getpid())).touch()
    return model


def make_demo(folder: Path, arguments: Mapping[str, Any]) -> ChatModel:
    """The real model; it leaves a file with the name of its process."""
    model = ChatModel(arguments)
    (folder / str(os.getpid())).touch()
    return model


def make_none(arguments: Mapping[str, Any]) -> ChatModel:
    raise ModelNotFoundError("There is no such model on this node.")
