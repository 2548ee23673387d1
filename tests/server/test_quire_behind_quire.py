"""RemoteEngine over quire's own server: the answers are those of the engine behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from quire.chat import ChatModel
from quire.demo import demo_model_path
from tests.engines.remote.conftest import make_engine
from tests.server.serving import serving

ASKED: Any = [{"role": "user", "content": "What is 17 + 25?"}]
OPTIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0, "max_new_tokens": 40},
    {"temperature": 0, "logprobs": 3},
    {"temperature": 0, "stop": ["42"]},
    {"temperature": 1.5, "top_p": 1.0, "top_k": 0, "seed": 3, "n": 2, "max_new_tokens": 30},
    {"temperature": 0, "response_format": {"type": "regex", "regex": "[a-c]{4}"}},
    {"temperature": 0, "cache_salt": "mine", "priority": 2, "min_tokens": 30},
)


@pytest.fixture(scope="module")
def native() -> Iterator[ChatModel]:
    settings = {
        "model_name_or_path": str(demo_model_path()),
        "infer_backend": "native",
        "native_kv_cache_memory": "16MiB",
    }
    with ChatModel(settings) as model:
        yield model


@pytest.fixture(scope="module", params=["tokens", "chat"])
def remote(request: pytest.FixtureRequest, native: ChatModel) -> Iterator[ChatModel]:
    with serving(native) as served:
        engine = make_engine(served.url, remote_api=request.param)
        with ChatModel.from_engine(engine) as model:
            yield model


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_answers_are_the_same(
    options: dict[str, Any], remote: ChatModel, native: ChatModel
) -> None:
    for own, far in zip(native.chat(ASKED, **options), remote.chat(ASKED, **options), strict=True):
        assert far.response_text.endswith(own.content)
        assert (far.content, far.reasoning) == (own.content, own.reasoning)
        assert (far.token_ids, far.finish_reason) == (own.token_ids, own.finish_reason)
        if own.logprobs is not None:
            assert far.logprobs is not None
            if remote.engine.has_tokens:
                assert len(far.logprobs) == len(own.logprobs)
            left = iter(own.logprobs)  # the chat API has none of markers and of the turn's end
            for other in far.logprobs:
                one = next(one for one in left if one.token_id == other.token_id)
                assert other.logprob == pytest.approx(one.logprob, abs=1e-4)
                assert list(other.top) == list(one.top)
            assert len(far.logprobs) >= len(own.logprobs) - 6


def test_the_prompts_own_logprobs(remote: ChatModel, native: ChatModel) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 1, "prompt_logprobs": 2}
    (own,), (far,) = native.chat(ASKED, **options), remote.chat(ASKED, **options)
    assert own.prompt_logprobs is not None
    assert far.prompt_logprobs is not None
    for one, other in zip(own.prompt_logprobs, far.prompt_logprobs, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert other.logprob == pytest.approx(one.logprob, abs=1e-4)


@pytest.mark.parametrize("configured", [None, False])
def test_what_can_be_chosen_of_thoughts_is_what_the_server_says(
    native: ChatModel, configured: bool | None
) -> None:
    own = native.engine.thinking_choices
    assert own is not None
    assert (own.switch, own.default) == (True, True)
    with serving(native) as served:
        engine = make_engine(served.url, remote_api="chat", enable_thinking=configured)
        with ChatModel.from_engine(engine) as model, serving(model) as front:
            default = own.default if configured is None else configured
            assert model.engine.thinking_choices == replace(own, default=default)
            (card,) = httpx.get(f"{front.url}/v1/models").json()["data"]
            assert card["thinking"] == {"switch": True, "default": default, "efforts": []}
