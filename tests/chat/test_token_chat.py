"""Chat over a token engine: time limits, identities, and what happens beside one request."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from quire import ChatModel
from quire.arguments import get_infer_args
from quire.chat import vllm_engine
from quire.chat.base_engine import BaseEngine
from quire.chat.native_engine import NativeEngine
from quire.demo import demo_model_path
from quire.engines.native.token_engine import MediaFeatureEncoder
from quire.engines.seam import EngineInfo, RequestIds
from quire.errors import (
    EngineClosedError,
    RequestError,
    RequestTimeoutError,
    SamplingError,
)
from quire.messages import Media
from quire.outputs import Delta
from quire.prompt import MediaItem, Prompt
from quire.request import ChatRequest
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
LONG: dict[str, Any] = {"max_new_tokens": 400, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def native() -> Iterator[ChatModel]:
    arguments = {"model_name_or_path": str(demo_model_path()), "native_kv_cache_memory": "32MiB"}
    with ChatModel(arguments) as model:
        yield model


async def read(stream: AsyncGenerator[Delta, None]) -> list[Delta]:
    return [delta async for delta in stream]


# --- the time limit ------------------------------------------------------------------------------


async def test_the_time_limit_counts_preparation(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EchoEngine(tokenizer)
    release = threading.Event()
    begin = engine.tokens.preparation._read

    def slow(request: ChatRequest, *more: Any) -> Any:
        release.wait(30)
        return begin(request, *more)

    monkeypatch.setattr(engine.tokens.preparation, "_read", slow)
    long = [{"role": "user", "content": "Hello " * 2000}]
    for answer in (
        engine.chat(long, timeout=0.05),
        read(engine.stream(long, timeout=0.05)),
        engine.chat(HELLO, tools=[{"name": "f"}], timeout=0.05),
    ):
        with pytest.raises(RequestTimeoutError):
            await answer
    release.set()
    assert engine.open_requests == 0
    assert len(await engine.chat(long, timeout=30, max_new_tokens=1)) == 1


async def test_the_time_limit_counts_the_fetching_of_media(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EchoEngine(tokenizer)
    media = engine.tokens.preparation.media

    async def never(items: Any) -> Any:
        await asyncio.sleep(60)

    image = Media("image", "x.png")
    monkeypatch.setattr(media, "place", lambda conversation, lists: (conversation, (image,)))
    monkeypatch.setattr(media, "load", never)
    with pytest.raises(RequestTimeoutError):
        await engine.chat(HELLO, images=["x.png"], timeout=0.05)


async def test_a_wrong_time_limit_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(SamplingError, match="timeout must be above 0"):
        await EchoEngine(tokenizer).chat(HELLO, timeout=0)


# --- identities ----------------------------------------------------------------------------------


def test_our_identities_are_never_a_callers() -> None:
    ids = RequestIds()
    with ids.claim(None) as ours, ids.claim(ours) as named, ids.claim("request-1") as other:
        assert len({ours, named, other}) == 3
        with pytest.raises(RequestError, match="in use"), ids.claim(ours):
            raise AssertionError("claimed twice")
        with ids.claim(None) as next_one:
            assert next_one not in (ours, named, other)
    with ids.claim("request-1"):
        pass  # free again


async def test_an_identity_in_use_is_refused_and_its_owner_goes_on(native: ChatModel) -> None:
    engine = native.engine
    async with aclosing(engine.stream(HELLO, request_id="mine", **LONG)) as first:
        begun = await anext(first)
        with pytest.raises(RequestError, match="'mine' is in use"):
            await engine.chat(HELLO, request_id="mine", max_new_tokens=3)
        # A reader that gives up before its refusal comes must not take the first request with it.
        for _ in range(20):
            task = asyncio.ensure_future(engine.chat(HELLO, request_id="mine", max_new_tokens=3))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for number in range(5):  # nor may a name that looks like one of ours
            await engine.chat(HELLO, request_id=f"request-{number}", max_new_tokens=2)
        rest = await asyncio.wait_for(read(first), 60)
    assert 1 + sum(len(delta.token_ids) for delta in rest) == LONG["max_new_tokens"]
    assert begun.finish_reason is None
    assert rest[-1].finish_reason == "length"
    answers = await engine.chat(HELLO, request_id="mine", max_new_tokens=2)
    assert answers[0].response_length == 2


# --- the end of a stream, and of an engine -------------------------------------------------------


async def test_closing_a_stream_aborts_before_it_returns(
    native: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = native.engine
    assert isinstance(engine, NativeEngine)
    aborted: list[object] = []
    thread = engine.token_engine._thread
    abort, step = thread.abort, thread._engine.step

    def note(submission: Any) -> None:
        aborted.append(submission)
        abort(submission)

    def step_slowly() -> Any:
        time.sleep(0.02)  # so that no answer ends before its stream is closed
        return step()

    monkeypatch.setattr(thread, "abort", note)
    monkeypatch.setattr(thread._engine, "step", step_slowly)
    params = SamplingParams(max_tokens=400, ignore_eos=True)
    streams = [
        engine.stream(HELLO, **LONG),
        engine.stream_chat(HELLO, **LONG),
        engine.generate(Prompt((5, 6, 7)), params),
    ]
    for number, stream in enumerate(streams, start=1):
        await anext(stream)
        await stream.aclose()
        assert len(aborted) == number


async def test_a_request_in_preparation_is_told_that_the_engine_was_closed(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    engine = EchoEngine(tokenizer)
    media = engine.tokens.preparation.media
    image = Media("image", "x.png")
    monkeypatch.setattr(media, "place", lambda conversation, lists: (conversation, (image,)))
    asking = asyncio.ensure_future(engine.chat(HELLO, images=["x.png"]))
    await engine.close()
    with pytest.raises(EngineClosedError):
        await asking
    with pytest.raises(EngineClosedError):
        await media.load([image])
    names = [thread.name for thread in set(threading.enumerate()) - before]
    assert not any("media" in name for name in names), names


# --- nobody waits for what another waits for -----------------------------------------------------


async def test_media_that_wait_for_a_tower_hold_up_no_other_request(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "quire.engines.native.token_engine.media_kinds", lambda folder: frozenset({"image"})
    )
    encoder = MediaFeatureEncoder(demo_model_path())
    release = threading.Event()

    def blocked(prompt: Prompt) -> Prompt:
        release.wait(60)
        return prompt

    monkeypatch.setattr(encoder, "_encode", blocked)
    picture = Prompt((1,), (MediaItem("image", None, "hash", 0, 1),))
    waiting = [asyncio.ensure_future(encoder.encode(picture)) for _ in range(64)]
    await asyncio.sleep(0)
    try:
        # What goes to the loop's own threads comes back, however many pictures wait.
        engine = EchoEngine(tokenizer)
        asked = engine.chat(HELLO, tools=[{"name": "f"}])
        assert (await asyncio.wait_for(asked, 30))[0].finish_reason == "stop"
    finally:
        release.set()
    assert await asyncio.gather(*waiting) == [picture] * 64
    encoder.close()
    with pytest.raises(EngineClosedError):
        await encoder.encode(picture)


async def test_a_long_rendering_holds_up_neither_the_loop_nor_a_short_one(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EchoEngine(tokenizer)
    template = engine.tokens.preparation.template
    inside, release = threading.Event(), threading.Event()
    render = template.render
    in_loop = threading.get_ident()

    def watched(conversation: Any, **options: Any) -> Any:
        if len(conversation.messages[0].text) > 4000:
            assert threading.get_ident() != in_loop, "a long rendering on the event loop"
            inside.set()
            assert release.wait(60)
        return render(conversation, **options)

    monkeypatch.setattr(template, "render", watched)
    long = asyncio.ensure_future(engine.chat([{"role": "user", "content": "word " * 1000}]))
    await asyncio.to_thread(inside.wait, 60)
    answers = await asyncio.wait_for(engine.chat(HELLO), 30)
    assert answers[0].finish_reason == "stop"
    release.set()
    await long


MANY_WORDS = "word " * 1000
CALL = {
    "id": "a",
    "type": "function",
    "function": {"name": "f", "arguments": f'{{"x": "{MANY_WORDS}"}}'},
}


@pytest.mark.parametrize(
    ("long", "options"),
    [
        ([], {"system": MANY_WORDS}),
        ([{"role": "assistant", "content": "Hi.", "reasoning_content": MANY_WORDS}, *HELLO], {}),
        (
            [
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "tool", "content": "1", "tool_call_id": "a"},
            ],
            {},
        ),
    ],
    ids=["system", "thought", "call"],
)
async def test_what_is_long_is_prepared_off_the_loop(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, long: Any, options: Any
) -> None:
    engine = EchoEngine(tokenizer, context_length=10**6)
    threads: list[int] = []
    template = engine.tokens.preparation.template
    render = template.render

    def note(conversation: Any, **given: Any) -> Any:
        threads.append(threading.get_ident())
        return render(conversation, **given)

    monkeypatch.setattr(template, "render", note)
    await engine.chat([*HELLO, *long], max_new_tokens=1, **options)
    await engine.chat(HELLO, max_new_tokens=1)
    here = threading.get_ident()
    assert [thread == here for thread in threads] == [False, True]


# --- starting ------------------------------------------------------------------------------------


def test_what_fails_after_vllms_start_ends_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    engine = SimpleNamespace(info=EngineInfo("VllmEngine", 100), end=lambda: ended.append(True))
    monkeypatch.setattr(vllm_engine, "VllmTokenEngine", lambda *args: engine)
    monkeypatch.setattr(vllm_engine, "Preparation", lambda *args: 1 / 0)
    arguments = get_infer_args({"model_name_or_path": str(demo_model_path())})
    with pytest.raises(ZeroDivisionError):
        vllm_engine.VllmEngine(*arguments)
    assert ended == [True]


def test_an_engine_says_what_it_can_do_in_one_value(native: ChatModel) -> None:
    engine: BaseEngine = native.engine
    assert engine.info.purposes == {"generate", "embed"}
    assert engine.info.max_sequences == 256
    assert engine.info.memory is not None
    assert engine.state.load is not None
    with pytest.raises(AttributeError):
        engine.info.name = "other"  # type: ignore[misc]
