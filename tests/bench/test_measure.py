"""What is measured of a model: times on a clock of the test's own, perplexity beside transformers, memory."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from quire import ChatModel
from quire.arguments import get_infer_args
from quire.bench.figures import LoadTimes
from quire.bench.measure import WINDOW, peak_rss, run_load, run_quality, windows_of
from quire.bench.text import Passage, Questions, own_page, own_passages
from quire.chat.base_engine import BaseEngine
from quire.demo import demo_model_path
from quire.errors import (
    ConfigError,
    GenerationError,
    PromptTooLongError,
    UnsupportedOptionError,
)
from quire.outputs import ChatDelta, Usage
from quire.tokenizer import Tokenizer
from tests.chat.deltas import gained
from tests.chat.echo_engine import EchoEngine, WordChat


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(demo_model_path())


# --- one turn of one load ----------------------------------------------------------------------


class Rounds:
    """A model and a clock: streams that run together get a token each at the same second."""

    def __init__(self, streams: int, tokens: int) -> None:
        self._barrier, self._tokens = asyncio.Barrier(streams), tokens
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    async def astream(self, messages: object, **options: object) -> AsyncGenerator[ChatDelta]:
        for number in range(self._tokens):
            if await self._barrier.wait() == 0:
                self.now += 1.0
            await self._barrier.wait()
            yield gained("a", token_ids=(number,))


def test_all_are_asked_at_once_and_timed_token_by_token() -> None:
    model = Rounds(streams=3, tokens=5)
    times = run_load(cast(ChatModel, model), ["a", "b", "c"], {}, model.clock)
    # At once, or the barrier would wait for ever: all three take the time of one.
    assert times.seconds == 5.0
    for answer in times.answers:
        assert (answer.first, answer.last, answer.tokens) == (1.0, 5.0, 5)
        assert answer.gaps == (1.0,) * 4


def test_an_error_of_one_request_is_the_loads(tokenizer: Tokenizer) -> None:
    with (
        ChatModel.from_engine(EchoEngine(tokenizer, reply="some words", fail_at=1)) as model,
        pytest.raises(GenerationError, match="a made-up fault"),
    ):
        run_load(model, ["a", "b"], {})


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


def test_questions_go_on_for_ever() -> None:
    questions = Questions("one two", 1.0)
    assert all(itertools.islice((questions.make(5) for _ in itertools.count()), 20))


# --- perplexity --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Iterator[ChatModel]:
    arguments = {
        "model_name_or_path": str(demo_model_path()),
        "infer_backend": "native",
        "infer_dtype": "float32",
        "native_num_threads": 1,
        "native_kv_cache_memory": "256MiB",
    }
    with ChatModel(arguments) as model:
        yield model


def plain_logprobs(peer: Any, ids: tuple[int, ...], start: int) -> list[float]:
    """The same by transformers, one prompt at a time."""
    import torch

    row = torch.tensor([ids])
    with torch.inference_mode():
        scores = peer(row).logits[0].log_softmax(-1)
    return [float(scores[i - 1, ids[i]]) for i in range(start, len(ids))]


def test_scores_are_those_of_transformers(model: ChatModel) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    peer = AutoModelForCausalLM.from_pretrained(demo_model_path(), dtype=torch.float32).eval()
    passages = (own_passages()[0], Passage(own_page()[:2400]))
    found = run_quality(model, passages)
    wanted = [
        value
        for passage in passages
        for window in windows_of(model, passage)
        for value in plain_logprobs(peer, window.ids, window.start)
    ]
    assert len(found) > 500
    assert len(found) == len(wanted)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_the_models_own_page_is_foretold_well(model: ChatModel) -> None:
    """The demo model has learned its FAQ by heart: a broken prompt or a shifted score would show."""
    found = run_quality(model, own_passages()[:4])
    assert np.exp(-np.mean(found)) < 1.05


def test_bare_text_is_cut_into_windows(model: ChatModel) -> None:
    text = own_page()
    ids = model.engine.tokenizer.encode_literal(text)
    windows = list(windows_of(model, Passage(text)))
    assert [token for window in windows for token in window.ids] == list(ids)
    assert {len(window.ids) for window in windows[:-1]} == {WINDOW}
    assert {window.start for window in windows} == {1}


def test_a_short_context_cuts_an_answer(tokenizer: Tokenizer) -> None:
    with ChatModel.from_engine(EchoEngine(tokenizer, context_length=40)) as model:
        (window,) = windows_of(model, Passage("word " * 100, "Why?"))
        assert len(window.ids) == 39
        with pytest.raises(PromptTooLongError):
            list(windows_of(model, Passage("word", "Why? " * 40)))


def test_too_little_text_is_refused(model: ChatModel) -> None:
    with pytest.raises(ConfigError, match="fewer than two tokens"):
        run_quality(model, [Passage("a")])


def test_an_engine_that_scores_no_prompts_is_named(tokenizer: Tokenizer) -> None:
    with (
        ChatModel.from_engine(EchoEngine(tokenizer)) as model,
        pytest.raises(UnsupportedOptionError, match="no log-probabilities of a prompt"),
    ):
        run_quality(model, [Passage("some words of text")])


def test_an_engine_without_a_tokenizer_is_named() -> None:
    engine = BaseEngine(get_infer_args({"model_name_or_path": "word"}), WordChat())
    with (
        ChatModel.from_engine(engine) as model,
        pytest.raises(UnsupportedOptionError, match="tokenizer"),
    ):
        run_quality(model, [Passage("some words of text")])


def test_the_page_has_questions_and_answers() -> None:
    passages = own_passages()
    assert len(passages) > 10
    assert all(passage.question and passage.text for passage in passages)
    assert not any("\n## " in passage.text or "###" in passage.text for passage in passages)


# --- memory ------------------------------------------------------------------------------------

ALLOCATE = "import sys; data = bytearray(60_000_000); print('ready', flush=True); sys.stdin.read()"


def process(root: Path, number: int, parent: int, kibibytes: int | None) -> None:
    folder = root / str(number)
    folder.mkdir()
    peak = "" if kibibytes is None else f"VmHWM:\t {kibibytes} kB\n"
    (folder / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n{peak}")


def test_a_process_and_all_below_it_are_summed(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, 100)
    process(tmp_path, 11, 10, 20)
    process(tmp_path, 12, 11, 3)
    process(tmp_path, 13, 1, 4000)  # another's
    process(tmp_path, 14, 10, None)  # a zombie has no memory
    assert peak_rss(10, tmp_path) == 123 * 1024


def test_what_the_system_does_not_tell_is_none(tmp_path: Path) -> None:
    assert peak_rss(10, tmp_path) is None


def test_a_real_child_counts() -> None:
    before = peak_rss()
    if before is None:
        pytest.fail("this system has no /proc")
    command = [sys.executable, "-c", ALLOCATE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        after = peak_rss()
        assert after is not None
        assert after - before > 60_000_000
        child.communicate()
