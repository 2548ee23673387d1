"""One load over an echoing engine: times, counts, and the requests that are made."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, cast

import pytest

from quire.bench.figures import LoadTimes
from quire.bench.load import run_load
from quire.bench.text import Questions, own_page
from quire.bench.worker import Worker
from quire.chat import ChatDelta, ChatModel
from quire.demo import demo_model_path
from quire.errors import GenerationError, PromptTooLongError
from quire.outputs import Usage
from quire.tokenizer import Tokenizer
from tests.chat.deltas import gained
from tests.chat.echo_engine import EchoEngine

MakeEcho = Callable[..., ChatModel]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(demo_model_path())


@pytest.fixture
def echo(tokenizer: Tokenizer) -> Iterator[MakeEcho]:
    made: list[ChatModel] = []

    def make(**options: Any) -> ChatModel:
        made.append(ChatModel.from_engine(EchoEngine(tokenizer, **options)))
        return made[-1]

    yield make
    for model in made:
        model.close()


def test_times_are_those_of_the_tokens(echo: MakeEcho) -> None:
    model = echo(reply="12 characters" * 2, delay=0.02)
    times = run_load(model, ["a", "b", "c"], {"max_new_tokens": 5})
    assert len(times.answers) == 3
    for answer in times.answers:
        assert answer.tokens == 5
        assert len(answer.gaps) == 4
        assert 0.02 <= answer.first < answer.last
        assert min(answer.gaps) > 0.01
        assert sum(answer.gaps) == pytest.approx(answer.last - answer.first)
    # All at once: far less than the three one after another.
    assert 0.1 <= times.seconds < 0.25


def test_an_error_of_one_request_is_the_loads(echo: MakeEcho) -> None:
    with pytest.raises(GenerationError, match="a made-up fault"):
        run_load(echo(reply="some words", fail_at=1), ["a", "b"], {})


class _Stub:
    """A model that streams given deltas."""

    def __init__(self, *deltas: ChatDelta) -> None:
        self.deltas = deltas

    async def astream(self, messages: object, **options: object) -> AsyncGenerator[ChatDelta]:
        for delta in self.deltas:
            yield delta


def load_of(*deltas: ChatDelta) -> LoadTimes:
    return run_load(cast(ChatModel, _Stub(*deltas)), ["a"], {})


def test_tokens_that_come_together_share_their_gap() -> None:
    usage = Usage(7, 4)
    (answer,) = load_of(
        gained(token_ids=(1,)), gained(token_ids=(2, 3, 4)), gained(usage=usage)
    ).answers
    assert len(answer.gaps) == 3
    assert len(set(answer.gaps)) == 1
    assert (answer.tokens, answer.prompt_tokens) == (4, 7)


def test_text_without_token_ids_counts_by_pieces() -> None:
    (answer,) = load_of(gained(text="a"), gained(), gained(text="b")).answers
    assert (answer.tokens, len(answer.gaps)) == (2, 1)


def test_an_answer_of_nothing_is_an_error() -> None:
    with pytest.raises(GenerationError, match="no token at all"):
        load_of(gained(usage=Usage(3, 0)))


def test_questions_differ_from_their_first_words_on(tokenizer: Tokenizer) -> None:
    questions = Questions(own_page(), 4.0)
    made = [questions.make(100) for _ in range(50)]
    assert len({text[:12] for text in made}) == 50
    assert all(350 < len(text) < 450 for text in made)


def test_a_worker_asks_for_about_the_tokens_that_are_wanted(echo: MakeEcho) -> None:
    model = echo()
    worker = Worker(model, {"ignore_eos": True})
    found = worker.answer({"kind": "load", "streams": 8, "prompt_tokens": 200, "new_tokens": 6})
    prompts = [answer["prompt_tokens"] for answer in found["answers"]]
    assert all(150 < tokens < 320 for tokens in prompts)
    engine = model.engine
    assert isinstance(engine, EchoEngine)
    assert engine.last_params is not None
    assert engine.last_params.ignore_eos
    assert engine.last_params.max_tokens == 6
    assert [answer["tokens"] for answer in found["answers"]] == [6] * 8


def test_a_prompt_beyond_the_context_is_said(echo: MakeEcho) -> None:
    worker = Worker(echo(context_length=64), {})
    with pytest.raises(PromptTooLongError):
        worker.answer({"kind": "load", "streams": 1, "prompt_tokens": 500, "new_tokens": 6})


def test_memory_of_an_engine_that_does_not_say(echo: MakeEcho) -> None:
    found = Worker(echo(), {}).answer({"kind": "memory"})
    assert found["peak_rss"] > 10_000_000
    assert found["weights"] is found["kv_cache"] is None


def test_questions_go_on_for_ever() -> None:
    questions = Questions("one two", 1.0)
    assert all(itertools.islice((questions.make(5) for _ in itertools.count()), 20))
