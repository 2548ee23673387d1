"""A configuration in a process of its own: start, loads, errors, and its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.bench.process import Configuration, ProcessSubject, Worker
from quire.chat import ChatModel
from quire.demo import demo_model_path
from quire.errors import EngineStartError, ModelNotFoundError, PromptTooLongError, QuireError
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine

ARGUMENTS = {
    "model_name_or_path": str(demo_model_path()),
    "infer_backend": "native",
    "native_num_threads": 1,
    "native_kv_cache_memory": "64MiB",
    "vllm_maxlen": 512,
}
OPTIONS = {"ignore_eos": True, "temperature": 0.0}


@pytest.fixture(scope="module")
def subject() -> Iterator[ProcessSubject]:
    with ProcessSubject(Configuration("demo", ARGUMENTS, OPTIONS)) as subject:
        yield subject


def test_the_start_is_that_of_a_process(subject: ProcessSubject) -> None:
    assert subject.engine == "NativeEngine"
    assert 0 < subject.start.loaded < subject.start.first_token


def test_a_load(subject: ProcessSubject) -> None:
    times = subject.load(3, 40, 12)
    assert [answer.tokens for answer in times.answers] == [12] * 3
    assert all(40 <= answer.prompt_tokens < 100 for answer in times.answers)
    assert times.rate > 0


def test_the_memory_of_the_native_engine(subject: ProcessSubject) -> None:
    memory = subject.memory()
    file = demo_model_path() / "model.safetensors"
    assert memory.weights == pytest.approx(file.stat().st_size, rel=0.01)
    assert memory.kv_cache is not None
    assert 0.5 < memory.kv_cache / 64e6 < 1.1
    assert memory.peak_rss is not None
    assert memory.weights is not None
    assert memory.peak_rss > memory.weights


def test_an_error_of_one_command_leaves_the_process_alive(subject: ProcessSubject) -> None:
    with pytest.raises(PromptTooLongError, match="context"):
        subject.load(1, 5000, 4)
    assert subject.load(1, 8, 4).answers[0].tokens == 4


def test_an_error_of_the_start_is_the_same_error_here(tmp_path: Path) -> None:
    missing = {"model_name_or_path": str(tmp_path / "nowhere"), "infer_backend": "native"}
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        ProcessSubject(Configuration("x", missing, {}))


def test_a_process_that_dies_says_so() -> None:
    subject = ProcessSubject(Configuration("demo", ARGUMENTS, OPTIONS))
    subject._process.kill()
    with pytest.raises(QuireError, match="ended with code -9") as caught:
        subject.load(1, 8, 4)
    assert isinstance(caught.value, EngineStartError)
    subject.close()
    subject.close()


# --- the process's end, in this process ---------------------------------------------------------

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
