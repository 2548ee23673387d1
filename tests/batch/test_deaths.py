"""Engines that die under a batch: rows in flight are asked again, and the one that kills is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from quire.batch.job import BatchJob
from quire.chat import ChatModel
from quire.errors import EngineDeadError
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer
from tests.batch.sources import Questions, batch_args, lines_of, run_job
from tests.chat.echo_engine import EchoEngine, EchoTokens

MakeEcho = Callable[..., ChatModel]


class MortalTokens(EchoTokens):
    """Dies of each prompt that `kills` says, and with it all requests in flight."""

    kills: Callable[[str], bool]
    dead: asyncio.Event | None = None

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        self.dead = self.dead or asyncio.Event()
        text = self.tokenizer.decode(list(prompt.token_ids))
        if self.kills(text):
            await asyncio.sleep(0.01)  # others are in flight by then
            self.dead.set()
        async for delta in super().generate(prompt, params):
            if self.dead.is_set():
                raise EngineDeadError("The engine died: a made-up death.")
            yield delta

    async def health(self) -> None:
        if self.dead is not None and self.dead.is_set():
            raise EngineDeadError("The engine died: a made-up death.")
        await super().health()


class MortalEngine(EchoEngine):
    def make_tokens(self, tokenizer: Tokenizer, **options: Any) -> EchoTokens:
        kills = options.pop("kills")
        tokens = MortalTokens(tokenizer, delay=0.002, **options)
        tokens.kills = kills
        return tokens


class Graveyard:
    """Makes engines that die of certain questions, and counts them."""

    def __init__(self, tokenizer: Tokenizer, kills: Callable[[str], bool]) -> None:
        self.tokenizer, self.kills, self.made = tokenizer, kills, 0

    def __call__(self, arguments: Mapping[str, Any]) -> ChatModel:
        self.made += 1
        return ChatModel.from_engine(MortalEngine(self.tokenizer, kills=self.kills))


def test_rows_in_flight_are_asked_again(folder: Path, echo: MakeEcho, tokenizer: Tokenizer) -> None:
    died: list[str] = []

    def once(text: str) -> bool:
        if "Question 20:" in text and not died:
            died.append(text)
            return True
        return False

    graves = Graveyard(tokenizer, once)
    source = Questions(60)
    result = BatchJob(batch_args(folder, max_in_flight=16), source, make_model=graves).run()
    assert graves.made == 2
    whole = run_job(folder.with_name("whole"), source, echo())
    assert result.files.answers.read_bytes() == whole.files.answers.read_bytes()


def test_a_row_that_kills_is_set_aside_and_no_other(
    folder: Path, echo: MakeEcho, tokenizer: Tokenizer
) -> None:
    graves = Graveyard(tokenizer, lambda text: "Question 20:" in text)
    args = batch_args(folder, max_in_flight=16)
    result = BatchJob(args, Questions(60), make_model=graves).run()
    (error,) = lines_of(result.files.errors)
    assert (error["index"], error["stage"], error["code"]) == (20, "engine", "engine_died")
    assert [one["index"] for one in lines_of(result.files.answers)] == [
        index for index in range(60) if index != 20
    ]
    assert graves.made <= 6


def test_two_rows_that_kill_are_both_found(folder: Path, tokenizer: Tokenizer) -> None:
    graves = Graveyard(tokenizer, lambda text: "Question 20:" in text or "Question 22:" in text)
    args = batch_args(folder, max_in_flight=16)
    result = BatchJob(args, Questions(40), make_model=graves).run()
    assert [one["index"] for one in lines_of(result.files.errors)] == [20, 22]
    assert result.counts.rows == 40


def test_an_engine_that_dies_too_often_ends_the_batch_and_nothing_is_lost(
    folder: Path, echo: MakeEcho, tokenizer: Tokenizer
) -> None:
    graves = Graveyard(tokenizer, lambda text: "Question 3" in text)
    args = batch_args(folder, max_in_flight=4, max_engine_restarts=2)
    with pytest.raises(EngineDeadError, match="a made-up death"):
        BatchJob(args, Questions(60), make_model=graves).run()
    assert graves.made == 3
    source = Questions(60)
    result = run_job(folder, source, echo(), {"retry_failed": True})
    whole = run_job(folder.with_name("whole"), source, echo())
    assert result.files.answers.read_bytes() == whole.files.answers.read_bytes()


def test_the_callers_own_engine_is_not_made_anew(folder: Path, tokenizer: Tokenizer) -> None:
    graves = Graveyard(tokenizer, lambda text: "Question 3:" in text)
    with graves({}) as model, pytest.raises(EngineDeadError):
        BatchJob(batch_args(folder), Questions(9), model=model).run()
