"""RemoteEngine against vLLM's own server, with quire's native engine as the oracle."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from quire.chat import ChatModel
from quire.demo import demo_model_path
from quire.errors import PromptTooLongError, RequestError, SamplingError, UnknownAdapterError
from quire.outputs import TokenLogprob
from tests.engines.remote.conftest import make_engine
from tests.polling import wait_until

PROMPTS = [
    "Hello! Who are you?",
    "What is PagedAttention?",
    "What is 17 + 25?",
    "Give me a JSON object with name Ada and age 36.",
]
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 40}


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def native() -> Iterator[ChatModel]:
    settings = {
        "model_name_or_path": str(demo_model_path()),
        "infer_backend": "native",
        "infer_dtype": "float32",
        "vllm_maxlen": 1024,
        "native_num_threads": 1,
    }
    with ChatModel(settings) as model:
        yield model


@pytest.fixture(scope="module")
def remote(vllm_server_url: str) -> Iterator[ChatModel]:
    with ChatModel.from_engine(make_engine(vllm_server_url, remote_api="tokens")) as model:
        yield model


@pytest.fixture(scope="module")
def remote_chat(vllm_server_url: str) -> Iterator[ChatModel]:
    with ChatModel.from_engine(make_engine(vllm_server_url, remote_api="chat")) as model:
        yield model


def ids(model: ChatModel, text: str, **options: Any) -> tuple[int, ...]:
    return model.chat(ask(text), **options)[0].token_ids


@pytest.mark.parametrize("text", PROMPTS)
def test_greedy_answers_match_the_native_engine(
    remote: ChatModel, native: ChatModel, text: str
) -> None:
    (expected,) = native.chat(ask(text), **GREEDY)
    (whole,) = remote.chat(ask(text), **GREEDY)
    for name in ("token_ids", "response_text", "content", "reasoning", "finish_reason"):
        assert getattr(whole, name) == getattr(expected, name)
    assert (whole.prompt_length, whole.response_length) == (
        expected.prompt_length,
        expected.response_length,
    )
    deltas = list(remote.stream(ask(text), **GREEDY))
    assert len(deltas) > 1  # vLLM joins what a slow reader has not taken yet
    assert tuple(token for delta in deltas for token in delta.token_ids) == expected.token_ids
    assert "".join(delta.text for delta in deltas) == expected.response_text
    last = list(native.stream(ask(text), **GREEDY))[-1]
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == (
        last.finish_reason,
        last.stop_reason,
    )


def test_several_completions(remote: ChatModel, native: ChatModel) -> None:
    sampled = remote.chat(ask(PROMPTS[0]), n=3, temperature=2.0, top_p=1.0, top_k=0, seed=5)
    assert [one.index for one in sampled] == [0, 1, 2]
    assert len({one.token_ids for one in sampled}) > 1
    assert all(one.finish_reason and one.usage for one in sampled)
    again = remote.chat(ask(PROMPTS[0]), n=3, temperature=2.0, top_p=1.0, top_k=0, seed=5)
    assert [one.token_ids for one in again] == [one.token_ids for one in sampled]
    greedy = remote.chat(ask(PROMPTS[0]), n=3, **GREEDY)
    assert [one.token_ids for one in greedy] == [ids(native, PROMPTS[0], **GREEDY)] * 3
    streamed = list(remote.stream(ask(PROMPTS[0]), n=3, temperature=1.5, seed=5, max_new_tokens=9))
    assert {delta.index for delta in streamed} == {0, 1, 2}
    for index in range(3):
        mine = [delta for delta in streamed if delta.index == index]
        assert mine[-1].finish_reason is not None
        assert mine[-1].usage is not None
        assert mine[-1].usage.completion_tokens == sum(len(delta.token_ids) for delta in mine)


@pytest.mark.parametrize("place", ["answer", "thought", "neither"])
def test_stop_strings(remote: ChatModel, native: ChatModel, place: str) -> None:
    """They hold for the answer alone, where a thought comes before it."""
    (whole,) = native.chat(ask(PROMPTS[2]), **GREEDY)
    assert whole.reasoning
    stops = {"answer": whole.content[-3:-1], "thought": whole.reasoning[:12], "neither": "zebra"}
    options = {**GREEDY, "stop": [stops[place], "a second one"]}
    mine = list(remote.stream(ask(PROMPTS[2]), **options))
    other = list(native.stream(ask(PROMPTS[2]), **options))
    assert "".join(delta.text for delta in mine) == "".join(delta.text for delta in other)
    assert mine[-1].stop_reason == other[-1].stop_reason
    found = "".join(delta.content for delta in mine)
    if stops[place] in whole.content:
        assert mine[-1].stop_reason == stops[place]
        assert found == whole.content.partition(stops[place])[0]
    else:
        assert found == whole.content
    assert remote.chat(ask(PROMPTS[2]), **options)[0].response_text == "".join(
        delta.text for delta in other
    )


@pytest.mark.parametrize(
    "options",
    [
        {"ignore_eos": True, "max_new_tokens": 60},
        {"min_tokens": 30},
        {"min_tokens": 20, "max_new_tokens": 20},
        {"logit_bias": {2046: -100}},
        {"repetition_penalty": 1.3},
        {"presence_penalty": 1.5, "frequency_penalty": 0.5},
        {"skip_special_tokens": False},
        {"enable_thinking": False},
        {"priority": 3},
    ],
)
def test_options_match_the_native_engine(
    remote: ChatModel, native: ChatModel, options: dict[str, Any]
) -> None:
    given = {**GREEDY, **options}
    (mine,), (other,) = remote.chat(ask(PROMPTS[2]), **given), native.chat(ask(PROMPTS[2]), **given)
    assert (mine.token_ids, mine.response_text) == (other.token_ids, other.response_text)
    assert mine.finish_reason == other.finish_reason


def test_bad_words(remote: ChatModel) -> None:
    plain = remote.chat(ask(PROMPTS[2]), **GREEDY)[0].response_text
    assert "Units" in plain
    assert (
        "Units" not in remote.chat(ask(PROMPTS[2]), bad_words=["Units"], **GREEDY)[0].response_text
    )


def close_to(mine: TokenLogprob | None, other: TokenLogprob | None) -> bool:
    if mine is None or other is None:
        return mine is other
    return (
        mine.token_id == other.token_id
        and math.isclose(mine.logprob, other.logprob, abs_tol=1e-3)
        and mine.rank in (0, other.rank)
        and len(mine.top) == len(other.top)
        and all(
            math.isclose(one, two, abs_tol=1e-3)
            for one, two in zip(mine.top.values(), other.top.values(), strict=True)
        )
        and next(iter(mine.top), None) == next(iter(other.top), None)
    )


def test_logprobs_match_the_native_engine(remote: ChatModel, native: ChatModel) -> None:
    for top in (0, 3):
        options = {**GREEDY, "logprobs": top, "prompt_logprobs": top}
        (mine,), (other,) = (model.chat(ask(PROMPTS[1]), **options) for model in (remote, native))
        for one, two in (
            (mine.logprobs, other.logprobs),
            (mine.prompt_logprobs, other.prompt_logprobs),
        ):
            assert one is not None
            assert two is not None
            assert len(one) == len(two) > 5
            assert all(map(close_to, one, two))


def test_unlikely_sampled_token_keeps_the_top_logprobs(remote: ChatModel) -> None:
    options = {"temperature": 2.0, "top_p": 1.0, "top_k": 0, "seed": 3, "max_new_tokens": 60}
    (response,) = remote.chat(ask(PROMPTS[0]), logprobs=2, **options)
    assert response.logprobs is not None
    assert [entry.token_id for entry in response.logprobs] == list(response.token_ids)
    assert all(len(entry.top) == 2 for entry in response.logprobs)
    unlikely = [entry for entry in response.logprobs if entry.token_id not in entry.top]
    assert unlikely
    assert all(min(entry.top.values()) >= entry.logprob for entry in unlikely)


def test_constraints(remote: ChatModel, remote_chat: ChatModel) -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "maximum": 150}},
        "required": ["age"],
        "additionalProperties": False,
    }
    for model in (remote, remote_chat):
        options = {**GREEDY, "enable_thinking": False}
        choice = {"type": "choice", "choice": ["zebra", "giraffe"]}
        (response,) = model.chat(ask("Hello!"), response_format=choice, **options)
        assert response.content.strip() in ("zebra", "giraffe")
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        (response,) = model.chat(ask(PROMPTS[3]), response_format=form, **options)
        assert isinstance(json.loads(response.content)["age"], int)


def test_abandoned_stream_is_aborted_in_vllm(remote: ChatModel, vllm_model: ChatModel) -> None:
    async def find() -> Any:
        return vllm_model.engine.token_engine._running().engine.output_processor  # type: ignore[attr-defined]

    served = vllm_model._loop.run(find())
    stream = remote.stream(ask(PROMPTS[0]), ignore_eos=True, max_new_tokens=900)
    for _ in range(3):
        next(stream)
    state = remote.engine.connection.client.pool.servers[0]  # type: ignore[attr-defined]
    assert state.in_flight == served.get_num_unfinished_requests() == 1
    stream.close()
    wait_until(lambda: not state.in_flight and not served.has_unfinished_requests())


async def test_many_requests_at_once(remote: ChatModel, native: ChatModel) -> None:
    expected = [ids(native, text, **GREEDY) for text in PROMPTS]
    answers = await asyncio.gather(
        *(remote.achat(ask(PROMPTS[number % 4]), **GREEDY) for number in range(16))
    )
    assert [answer[0].token_ids for answer in answers] == expected * 4


def test_refused_requests(remote: ChatModel, remote_chat: ChatModel) -> None:
    for model in (remote, remote_chat):
        with pytest.raises(UnknownAdapterError, match="'parrot'"):
            model.chat(ask("Hello"), adapter="parrot", **GREEDY)
        with pytest.raises(RequestError, match=r"(?i)vocab"):
            model.chat(ask("Hello"), logit_bias={10**6: 1.0}, **GREEDY)
        with pytest.raises(SamplingError, match="temperature"):
            model.chat(ask("Hello"), temperature=3.0)
        with pytest.raises(PromptTooLongError):
            model.chat(ask("Hello there, you. " * 600), **GREEDY)


async def test_health(remote: ChatModel) -> None:
    await asyncio.to_thread(lambda: remote._loop.run(remote.engine.health()))


@pytest.mark.parametrize("text", PROMPTS)
def test_chat_api_answers_match(remote_chat: ChatModel, native: ChatModel, text: str) -> None:
    (expected,) = native.chat(ask(text), **GREEDY)
    (whole,) = remote_chat.chat(ask(text), **GREEDY)
    assert whole.token_ids == expected.token_ids
    assert whole.response_text == expected.response_text
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == expected.prompt_length
    deltas = list(remote_chat.stream(ask(text), **GREEDY))
    assert "".join(delta.text for delta in deltas) == expected.response_text
    assert deltas[-1].finish_reason == expected.finish_reason


def test_chat_api_logprobs(remote_chat: ChatModel, native: ChatModel) -> None:
    options = {**GREEDY, "logprobs": 3}
    (mine,), (other,) = (model.chat(ask(PROMPTS[1]), **options) for model in (remote_chat, native))
    assert mine.logprobs is not None
    assert other.logprobs is not None
    assert all(map(close_to, mine.logprobs, other.logprobs))
    (mine,) = remote_chat.chat(ask(PROMPTS[1]), prompt_logprobs=1, **GREEDY)
    (other,) = native.chat(ask(PROMPTS[1]), prompt_logprobs=1, **GREEDY)
    assert mine.prompt_logprobs is not None
    assert other.prompt_logprobs is not None
    assert all(map(close_to, mine.prompt_logprobs, other.prompt_logprobs))
