"""Perplexity through the engine's scores of prompts, against transformers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from quire import ChatModel
from quire.arguments import get_infer_args
from quire.bench.quality import WINDOW, run_quality, windows_of
from quire.bench.text import Passage, own_page, own_passages
from quire.chat.base_engine import BaseEngine
from quire.demo import demo_model_path
from quire.errors import ConfigError, PromptTooLongError, UnsupportedOptionError
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine, WordChat


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


def plain_logprobs(ids: tuple[int, ...], start: int) -> list[float]:
    """The same by transformers, one prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    peer = AutoModelForCausalLM.from_pretrained(demo_model_path(), dtype=torch.float32).eval()
    row = torch.tensor([ids])
    with torch.inference_mode():
        scores = peer(row).logits[0].log_softmax(-1)
    return [float(scores[place - 1, ids[place]]) for place in range(start, len(ids))]


def test_scores_are_those_of_transformers(model: ChatModel) -> None:
    passages = (own_passages()[0], Passage(own_page()[:2400]))
    found = run_quality(model, passages)
    wanted = [
        value
        for passage in passages
        for window in windows_of(model, passage)
        for value in plain_logprobs(window.ids, window.start)
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


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(demo_model_path())


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
