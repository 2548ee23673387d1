"""RemoteEngine over fake servers: what it sends, what it gives back, and every way to fail."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from quire import errors
from quire.chat import ChatModel
from quire.demo import demo_model_path
from quire.engines.remote import client
from quire.engines.remote import servers as pool_module
from quire.outputs import Usage
from tests.engines.remote.conftest import Connect, MakeServers, make_engine
from tests.engines.remote.fake_server import IDS, WORDS

USER = [{"role": "user", "content": "Tell me a story."}]
TEXT = "".join(WORDS)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen in 10 s")


@contextmanager
def dead_address() -> Iterator[str]:
    """An address where nobody listens, nor can begin to: the port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


# --- answers ---


@pytest.mark.parametrize("api", ["tokens", "chat"])
def test_an_answer_comes_streamed_and_whole(
    servers: MakeServers, connect: Connect, api: str
) -> None:
    (server,) = servers()
    server.cached = 4
    model = connect(server, remote_api=api)
    assert "".join(model.stream_chat(USER)) == TEXT
    deltas = list(model.stream(USER))
    assert [token for delta in deltas for token in delta.token_ids] == list(IDS)
    assert deltas[-1].finish_reason == "stop"
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    (response,) = model.chat(USER)
    assert (response.response_text, response.token_ids) == (TEXT, IDS)
    assert response.usage is not None
    assert (response.usage.completion_tokens, response.usage.cached_tokens) == (4, 4)
    assert [post.body["stream"] for post in server.posts] == [True, True, False]


def test_several_completions_and_copies_of_a_greedy_one(
    servers: MakeServers, connect: Connect
) -> None:
    (server,) = servers()
    model = connect(server)
    for options, asked in (({}, 3), ({"temperature": 0}, 1)):
        deltas = list(model.stream(USER, n=3, **options))
        assert server.posts[-1].body["n"] == asked
        for index in range(3):
            mine = [delta for delta in deltas if delta.index == index]
            assert "".join(delta.text for delta in mine) == TEXT
            assert mine[-1].finish_reason == "stop"
            assert isinstance(mine[-1].usage, Usage)
        assert [one.index for one in model.chat(USER, n=3, **options)] == [0, 1, 2]


def test_names_of_models_and_identities_are_sent(servers: MakeServers, connect: Connect) -> None:
    (server,) = servers(models=("first", "second"))
    model = connect(server)
    model.chat(USER, request_id="r-1")
    model.chat(USER, adapter="pirate")
    model.chat(USER, adapter="base")
    assert [post.body["model"] for post in server.posts] == ["first", "pirate", "first"]
    assert server.posts[0].headers["x-request-id"] == "r-1"
    assert "x-request-id" not in server.posts[1].headers
    assert connect(server, remote_model="second").chat(USER)
    assert server.posts[-1].body["model"] == "second"
    with pytest.raises(errors.RequestError, match="request_id"):
        model.chat(USER, request_id="a\r\nAuthorization: x")


def test_the_context_is_the_servers_or_a_lower_wish(servers: MakeServers, connect: Connect) -> None:
    (server,) = servers(max_model_len=300)
    assert connect(server).engine.info.context_length == 300
    assert connect(server, vllm_maxlen=100).engine.info.context_length == 100
    assert connect(server, remote_api="chat").engine.info.context_length == 300
    model = connect(server)
    model.chat(USER, max_new_tokens=10_000)
    body = server.posts[-1].body
    assert body["max_tokens"] == 300 - len(body["prompt"])


def test_the_chat_api_sends_messages_and_variables(servers: MakeServers, connect: Connect) -> None:
    (server,) = servers()
    model = connect(server, model_name_or_path="some/model", default_system="Be kind.")
    model.chat(USER, enable_thinking=False)
    body = server.posts[-1].body
    assert body["messages"] == [{"role": "system", "content": "Be kind."}, *USER]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "temperature" not in body
    model.chat(USER, system="Be brief.", temperature=0.5)
    assert server.posts[-1].body["messages"][0]["content"] == "Be brief."
    assert server.posts[-1].body["temperature"] == 0.5


def test_the_chat_api_lets_the_server_cut_the_answer(
    servers: MakeServers, connect: Connect
) -> None:
    (server,) = servers()
    server.limit_refused = True
    model = connect(server, remote_api="chat")
    assert model.chat(USER)[0].response_text == TEXT
    assert ["max_tokens" in post.body for post in server.posts] == [True, False]
    server.mode, server.status, server.message = "refuse", 400, "maximum context length is 512"
    with pytest.raises(errors.PromptTooLongError):
        model.chat(USER)


def test_calls_of_the_chat_api_become_tool_calls(servers: MakeServers, connect: Connect) -> None:
    (server,) = servers()
    call = {"index": 0, "id": "c", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    server.chat_deltas = [{"reasoning": "Hm."}, {"tool_calls": [call]}, {}]
    model = connect(server, remote_api="chat")
    tools = [{"name": "weather", "parameters": {}}]
    deltas = list(model.stream(USER, tools=tools))
    assert "".join(delta.reasoning for delta in deltas) == "Hm."
    assert deltas[-1].tool_calls[0].name == "weather"
    assert deltas[-1].finish_reason == "tool_calls"


# --- failures ---


def test_a_refused_connection_goes_to_the_next_server(
    servers: MakeServers, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    (server,) = servers()
    with dead_address() as dead:
        model = connect(dead, server)
        assert dead in caplog.text
        for _ in range(3):
            assert model.chat(USER)[0].response_text == TEXT
    assert len(server.posts) == 3


def test_a_server_that_dies_later_is_left_out_and_comes_back(
    servers: MakeServers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_TICK_SECONDS", 0.05)
    monkeypatch.setattr(pool_module, "UNHEALTHY_PROBE_SECONDS", 0.1)
    one, two = servers(2)
    model = connect(one, two)
    one.stop()
    for _ in range(4):
        assert model.chat(USER)[0].response_text == TEXT
    assert len(two.posts) == 4
    states = model.engine.connection.client.pool.servers  # type: ignore[attr-defined]
    assert [state.healthy for state in states] == [False, True]
    one.start()
    until(lambda: states[0].healthy)
    for _ in range(4):
        model.chat(USER)
    assert len(one.posts) == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_takes_no_request_is_passed_over(
    servers: MakeServers, connect: Connect, status: int
) -> None:
    one, two = servers(2)
    one.mode, one.status = "refuse", status
    model = connect(one, two)
    assert model.chat(USER)[0].response_text == TEXT
    assert (len(one.posts), len(two.posts)) == (1, 1)
    two.mode, two.status = "refuse", status
    with pytest.raises(errors.EngineError, match=f"{status} not now") as caught:
        model.chat(USER)
    assert one.address in str(caught.value)
    assert two.address in str(caught.value)
    assert len(one.posts) + len(two.posts) == 4  # each once more
    assert ("busy" in str(caught.value)) == (status == 429)


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("die", "broke in the middle"),
        ("cut", "ended with 0 of 1"),
        ("garbage", "no JSON object"),
        ("strange", "form"),
        ("error event", "a step failed"),
        ("endless line", "16,777,216"),
        ("hang up", "gave no answer"),
    ],
)
@pytest.mark.parametrize("api", ["tokens", "chat"])
def test_a_stream_that_breaks_is_a_fault_and_is_not_tried_again(
    servers: MakeServers, connect: Connect, mode: str, told: str, api: str
) -> None:
    one, two = servers(2)
    one.mode = two.mode = mode
    model = connect(one, two, remote_api=api)
    with pytest.raises(errors.GenerationError, match=told):
        list(model.stream(USER))
    assert len(one.posts) + len(two.posts) == 1
    one.mode = two.mode = "answer"
    assert model.chat(USER)[0].response_text == TEXT


def test_a_silent_stream_is_given_up(
    servers: MakeServers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.3)
    (server,) = servers()
    server.mode = "silent"
    model = connect(server)
    with pytest.raises(errors.GenerationError, match=r"nothing for 0\.3 s"):
        list(model.stream(USER))
    until(lambda: server.aborted == 1)


@pytest.mark.parametrize("api", ["tokens", "chat"])
@pytest.mark.parametrize("whole", [False, True])
def test_the_requests_own_limit_ends_it(
    servers: MakeServers, connect: Connect, api: str, whole: bool
) -> None:
    (server,) = servers()
    server.mode = "hold"
    model = connect(server, remote_api=api)
    with pytest.raises(errors.RequestTimeoutError, match=r"0\.3 s"):
        if whole:
            model.chat(USER, timeout=0.3)
        else:
            list(model.stream(USER, timeout=0.3))
    until(lambda: server.aborted == 1 and not server.under_way)


@pytest.mark.parametrize("api", ["tokens", "chat"])
def test_an_abandoned_stream_is_aborted_at_the_server(
    servers: MakeServers, connect: Connect, api: str
) -> None:
    (server,) = servers()
    server.mode = "hold"
    model = connect(server, remote_api=api)
    stream = model.stream(USER)
    assert next(stream).text == WORDS[0]
    assert server.under_way == 1
    stream.close()
    until(lambda: server.aborted == 1 and not server.under_way)
    until(lambda: not model.engine.connection.client.pool.servers[0].under_way)  # type: ignore[attr-defined]


def test_a_bad_request_keeps_its_kind_and_is_sent_once(
    servers: MakeServers, connect: Connect
) -> None:
    one, two = servers(2)
    model = connect(one, two)
    for status, message, param, adapter, kind in (
        (400, "maximum context length is 512", "", None, errors.PromptTooLongError),
        (400, "logprobs too many", "logprobs", None, errors.SamplingError),
        (404, "The model `x` does not exist.", "model", "x", errors.UnknownAdapterError),
        (500, "boom", "", None, errors.GenerationError),
        (307, "elsewhere", "", None, errors.EngineError),
    ):
        for server in (one, two):
            server.mode, server.status, server.message, server.param = (
                "refuse",
                status,
                message,
                param,
            )
        before = len(one.posts) + len(two.posts)
        with pytest.raises(kind) as caught:
            model.chat(USER, adapter=adapter)
        assert type(caught.value) is kind
        assert len(one.posts) + len(two.posts) == before + 1


# --- balance ---


def test_requests_spread_over_three_servers(servers: MakeServers, connect: Connect) -> None:
    three = servers(3)
    for server in three:
        server.mode = "hold"
    model = connect(*three)

    async def ask_all() -> list[Any]:
        return await asyncio.gather(*(model.achat(USER) for _ in range(12)))

    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.extend(asyncio.run(ask_all())))
    asking.start()
    until(lambda: sum(server.under_way for server in three) == 12)
    assert [server.under_way for server in three] == [4, 4, 4]
    three[1].resume.set()  # the second gets free, and then gets what comes
    until(lambda: not three[1].under_way)
    states = model.engine.connection.client.pool.servers  # type: ignore[attr-defined]
    until(lambda: not states[1].under_way)
    for _ in range(3):
        model.chat(USER)
    assert [len(server.posts) for server in three] == [4, 7, 4]
    for server in three:
        server.resume.set()
    asking.join(20)
    assert [answer[0].response_text for answer in answers] == [TEXT] * 12
    until(lambda: [state.under_way for state in states] == [0, 0, 0])


# --- start, health, close ---


def test_no_server_at_all_is_an_error_of_the_start() -> None:
    with (
        dead_address() as one,
        dead_address() as two,
        pytest.raises(errors.EngineStartError) as caught,
    ):
        make_engine(one, two)
    assert one in str(caught.value)
    assert two in str(caught.value)


def test_a_server_that_is_dead_inside_does_not_count(servers: MakeServers) -> None:
    (server,) = servers()
    server.health = 503
    with pytest.raises(errors.EngineStartError, match="/health answers 503"):
        make_engine(server.address)


async def test_health_follows_the_servers(servers: MakeServers) -> None:
    one, two = servers(2)
    engine = make_engine(one.address, two.address)
    states = engine.connection.client.pool.servers  # type: ignore[attr-defined]
    await engine.health()
    one.stop()
    two.health = 500
    for state in states:
        state.checked = float("-inf")
    with pytest.raises(errors.EngineDeadError, match=two.address):
        await engine.health()
    two.health = 200
    for state in states:
        state.checked = float("-inf")
    await engine.health()
    await engine.close()
    await engine.close()
    with pytest.raises(errors.EngineClosedError):
        await engine.health()
    assert len(asyncio.all_tasks()) == 1


def test_a_closed_model_ends_its_requests(servers: MakeServers) -> None:
    (server,) = servers()
    server.mode = "hold"
    model = ChatModel.from_engine(make_engine(server.address))
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            list(model.stream(USER))
        except errors.EngineError as error:
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: server.under_way == 1)
    model.close()
    asking.join(10)
    assert len(failures) == 1
    until(lambda: not server.under_way)


async def test_one_event_loop_is_required(servers: MakeServers) -> None:
    (server,) = servers()
    engine = make_engine(server.address)
    assert engine.info.loop_bound
    await engine.health()

    def elsewhere() -> None:
        asyncio.run(engine.health())

    with pytest.raises(errors.EngineError, match="one event loop"):
        await asyncio.to_thread(elsewhere)
    await engine.close()


# --- the key ---


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_the_key_goes_to_the_server_and_into_no_log(
    servers: MakeServers,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    source: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    (server,) = servers()
    server.key = "s3cret-key"
    options: dict[str, Any] = {}
    if source == "argument":
        options["remote_api_key"] = "s3cret-key"
    else:
        monkeypatch.setenv("QUIRE_REMOTE_API_KEY", "s3cret-key")
    model = connect(server, **options)
    model.chat(USER)
    server.mode, server.status, server.message = "refuse", 500, "your key is s3cret-key"
    with pytest.raises(errors.GenerationError) as caught:
        model.chat(USER)
    assert all(post.headers["authorization"] == "Bearer s3cret-key" for post in server.posts)
    told = caplog.text + str(caught.value) + repr(model.engine.model_args)
    assert "httpcore" in caplog.text  # the loggers that could tell it were listening
    assert "s3cret-key" not in told


def test_a_wrong_key_names_the_argument(
    servers: MakeServers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server,) = servers()
    model = connect(server)
    server.key = "right"
    with pytest.raises(errors.EngineError, match="remote_api_key"):
        model.chat(USER)
    with pytest.raises(errors.EngineStartError, match="remote_api_key"):
        make_engine(server.address, remote_api_key="wrong-key")
    with pytest.raises(errors.ConfigError, match="remote_api_key"):
        make_engine(server.address, remote_api_key="a\nb")


def test_no_proxy_of_the_environment_gets_the_request(
    servers: MakeServers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = servers(2)
    monkeypatch.setenv("HTTP_PROXY", proxy.address)
    monkeypatch.setenv("http_proxy", proxy.address)
    assert connect(server).chat(USER)[0].response_text == TEXT
    assert not proxy.seen
    with httpx.Client() as other:  # which would have
        other.get(f"{server.address}/health")
    assert proxy.seen


# --- arguments ---


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"remote_base_url": None}, "remote_base_url"),
        ({"adapter_name_or_path": "some/adapter"}, "adapter_name_or_path"),
        ({"quantization_bit": 8}, "quantization_bit"),
        ({"infer_dtype": "float16"}, "infer_dtype"),
        ({"rope_scaling": "yarn"}, "rope_scaling"),
        ({"stage": "rm"}, "stage rm"),
        ({"remote_api": "tokens", "model_name_or_path": "some/model"}, "remote_api: chat"),
        ({"remote_api": "chat", "template": "qwen3"}, "template"),
        ({"remote_api": "chat", "vllm_maxlen": 64}, "vllm_maxlen"),
        ({"remote_api": "chat", "max_length": 64}, "max_length"),
        ({"remote_api": "chat", "add_tokens": "<x>"}, "add_tokens"),
    ],
)
def test_arguments_that_cannot_be_honoured_are_refused_by_name(
    servers: MakeServers, options: dict[str, Any], told: str
) -> None:
    (server,) = servers()
    with pytest.raises(errors.ConfigError, match=told):
        make_engine(server.address, **options)


def test_auto_takes_tokens_where_the_folder_is_here(servers: MakeServers, connect: Connect) -> None:
    (server,) = servers()
    connect(server).chat(USER)
    connect(server, model_name_or_path="not/here").chat(USER)
    assert [post.path for post in server.posts] == ["/v1/completions", "/v1/chat/completions"]
    assert demo_model_path().is_dir()


def test_what_needs_a_tokenizer_is_refused_in_chat_mode(
    servers: MakeServers, connect: Connect
) -> None:
    (server,) = servers()
    model = connect(server, remote_api="chat")
    with pytest.raises(errors.UnsupportedOptionError, match="max_new_tokens"):
        model.chat(USER, max_length=100)
    with pytest.raises(errors.UnsupportedOptionError, match="Unknown request option"):
        model.chat(USER, temprature=1)
    with pytest.raises(errors.MediaError):
        model.chat(USER, images=["x.png"])
    with pytest.raises(errors.UnsupportedOptionError, match="remote_api"):
        _ = model.engine.tokens
    with pytest.raises(NotImplementedError):
        model.get_scores(["text"])
