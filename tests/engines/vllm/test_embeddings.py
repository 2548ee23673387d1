"""Embeddings on real vLLM: an engine of its own, beside which the native one is the oracle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from openai import APIStatusError, BadRequestError, OpenAI

from quire.chat import ChatModel
from quire.chat.vllm_engine import VllmEngine
from quire.demo import demo_adapter_path, demo_model_path
from quire.errors import (
    EngineError,
    PromptTooLongError,
    RequestError,
    RequestTimeoutError,
    SamplingError,
    UnknownAdapterError,
    UnsupportedOptionError,
)
from tests.polling import eventually, wait_until
from tests.server.conftest import client_of
from tests.server.serving import serving

pytestmark = pytest.mark.vllm
TEXTS = ["Hello!", "What is 17 + 25?", "A longer text about ships. " * 30]
ARGUMENTS: dict[str, Any] = {
    "model_name_or_path": str(demo_model_path()),
    "infer_dtype": "float32",
    "vllm_maxlen": 512,
    "adapter_name_or_path": str(demo_adapter_path("pirate")),
}


@pytest.fixture(scope="module")
def model(forked_vllm: None) -> Iterator[ChatModel]:
    own = {"infer_backend": "vllm", "vllm_enforce_eager": True}
    with ChatModel({**ARGUMENTS, **own, "vllm_config": {"runner": "pooling"}}) as model:
        yield model


@pytest.fixture(scope="module")
def native() -> Iterator[ChatModel]:
    with ChatModel({**ARGUMENTS, "infer_backend": "native"}) as model:
        yield model


@pytest.mark.parametrize("adapter", ["base", "adapter", None])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_the_native_engines(
    model: ChatModel, native: ChatModel, adapter: str | None, normalize: bool
) -> None:
    options: dict[str, Any] = {"adapter": adapter, "normalize": normalize}
    found = np.array(model.get_embeddings(TEXTS, **options))
    expected = np.array(native.get_embeddings(TEXTS, **options))
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs((found - expected) / lengths).max() < 2e-4
    assert found.shape == (3, 256)
    if normalize:
        assert np.linalg.norm(found, axis=1) == pytest.approx(1)


def test_token_ids_lengths_and_usage(model: ChatModel) -> None:
    ids = model.engine.tokenizer.encode_whole(TEXTS[1])  # type: ignore[attr-defined]
    (of_ids,), (of_text,) = model.get_embeddings([ids]), model.get_embeddings([TEXTS[1]])
    assert of_ids == pytest.approx(of_text, abs=1e-5)
    (cut,) = model.get_embeddings([ids[:3]], add_special_tokens=False)
    (shortened,) = model.get_embeddings([TEXTS[1]], max_length=3, add_special_tokens=False)
    assert cut == pytest.approx(shortened, abs=1e-5)

    async def embed() -> list[int]:
        options: dict[str, Any] = {"cache_salt": "a", "priority": -3, "timeout": 60}
        found = await model.engine.embed([TEXTS[1], TEXTS[1]], **options)
        return [one.usage.prompt_tokens for one in found]

    assert model._loop.run(embed()) == [len(ids)] * 2


@pytest.mark.parametrize(
    ("texts", "options", "error", "told"),
    [
        (TEXTS, {"pooling": "mean"}, UnsupportedOptionError, "started with last, not mean"),
        (TEXTS, {"dimensions": 3}, UnsupportedOptionError, "'dimensions'"),
        (TEXTS, {"adapter": "butler"}, UnknownAdapterError, "butler"),
        (TEXTS, {"pooling": "max"}, SamplingError, "pooling must be"),
        (TEXTS, {"timeout": 1e-9}, RequestTimeoutError, "timeout"),
        (["x " * 2000], {}, PromptTooLongError, "Text 0 has"),
        (["fine", ""], {"add_special_tokens": False}, RequestError, "Text 1 is empty"),
        ([[10**9]], {}, RequestError, "vocab"),
    ],
)
def test_what_is_wrong_is_refused(
    model: ChatModel, texts: Any, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        model.get_embeddings(texts, **options)
    assert len(model.get_embeddings(["still there"])[0]) == 256


def test_it_writes_no_text_and_has_no_scores(model: ChatModel) -> None:
    with pytest.raises(EngineError, match="writes no text"):
        model.chat([{"role": "user", "content": "Hello!"}])
    with pytest.raises(NotImplementedError, match="stage: rm"):
        model.get_scores(["a text"])


def test_a_cancelled_call_leaves_nothing(model: ChatModel) -> None:
    assert isinstance(model.engine, VllmEngine)
    running = model.engine.token_engine._supervisor.current()

    async def cancelled() -> None:
        call = asyncio.ensure_future(model.engine.embed([TEXTS[2]] * 50))
        await eventually(running.engine.output_processor.has_unfinished_requests)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    model._loop.run(cancelled())
    wait_until(lambda: not running.engine.output_processor.has_unfinished_requests())
    (again,) = model.get_embeddings([TEXTS[0]])
    assert len(again) == 256


def test_over_http(model: ChatModel) -> None:
    with serving(model) as server, client_of(server) as client:
        found = client.embeddings.create(model="demo", input=TEXTS[:2])
        assert [one.embedding for one in found.data] == [
            pytest.approx(vector, abs=1e-4) for vector in model.get_embeddings(TEXTS[:2])
        ]
        assert found.usage.total_tokens > 5
        with pytest.raises(BadRequestError, match="started with last"):
            client.embeddings.create(model="demo", input="x", extra_body={"pooling": "mean"})
        refuses_chats(client)


def refuses_chats(client: OpenAI) -> None:
    with pytest.raises(APIStatusError, match="writes no text") as refused:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Hi"}])
    assert refused.value.status_code == 405


def test_an_engine_that_writes_text_says_what_to_do(vllm_model: ChatModel) -> None:
    with pytest.raises(UnsupportedOptionError, match=r'{"runner": "pooling"}'):
        vllm_model.get_embeddings(["a text"])
