"""RemoteEngine over fake servers: what it sends, what it returns, and how it fails."""

import asyncio
import gc
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from quire import errors
from quire.chat import ChatModel
from quire.demo import demo_model_path
from quire.engines.remote import client, server_pool
from quire.outputs import Usage
from tests.engines.remote.conftest import Connect, MakeServers, make_engine
from tests.engines.remote.fake_server import IDS, WORDS
from tests.forks import call_all, check_refused, in_fork
from tests.gguf.chat_files import write_chat
from tests.polling import wait_until

USER = [{"role": "user", "content": "Tell me a story."}]
TEXT = "".join(WORDS)


@contextmanager
def dead_address() -> Iterator[str]:
    """An address at which nobody listens or can start to, since a socket is bound to it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


# --- answers ---


@pytest.mark.parametrize("api", ["tokens", "chat"])
def test_answer_streamed_and_whole(servers: MakeServers, connect: Connect, api: str) -> None:
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
    cases: list[tuple[dict[str, Any], int]] = [({}, 3), ({"temperature": 0}, 1)]
    for options, asked in cases:
        deltas = list(model.stream(USER, n=3, **options))
        assert server.posts[-1].body["n"] == asked
        for index in range(3):
            mine = [delta for delta in deltas if delta.index == index]
            assert "".join(delta.text for delta in mine) == TEXT
            assert mine[-1].finish_reason == "stop"
            assert isinstance(mine[-1].usage, Usage)
        assert [one.index for one in model.chat(USER, n=3, **options)] == [0, 1, 2]


def test_model_name_and_request_id_are_sent(servers: MakeServers, connect: Connect) -> None:
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


def test_context_length_is_the_lower_of_server_and_vllm_maxlen(
    servers: MakeServers, connect: Connect
) -> None:
    (server,) = servers(max_model_len=300)
    assert connect(server).engine.info.context_length == 300
    assert connect(server, vllm_maxlen=100).engine.info.context_length == 100
    assert connect(server, remote_api="chat").engine.info.context_length == 300
    model = connect(server)
    model.chat(USER, max_new_tokens=10_000)
    body = server.posts[-1].body
    assert body["max_tokens"] == 300 - len(body["prompt"])


def test_chat_api_sends_messages_and_template_variables(
    servers: MakeServers, connect: Connect
) -> None:
    (server,) = servers()
    model = connect(server, model_name_or_path="some/model", default_system="Be kind.")
    model.chat(USER, enable_thinking=False)
    body = server.posts[-1].body
    assert body["messages"] == [{"role": "system", "content": "Be kind."}, *USER]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "temperature" not in body
    model.chat(USER, chat_template_kwargs={"date_string": "May"})
    assert server.posts[-1].body["chat_template_kwargs"] == {"date_string": "May"}
    model.chat(USER)
    assert "chat_template_kwargs" not in server.posts[-1].body
    model.chat(USER, system="Be brief.", temperature=0.5)
    assert server.posts[-1].body["messages"][0]["content"] == "Be brief."
    assert server.posts[-1].body["temperature"] == 0.5


def test_chat_api_retries_without_max_tokens(servers: MakeServers, connect: Connect) -> None:
    (server,) = servers()
    server.limit_refused = True
    model = connect(server, remote_api="chat")
    assert model.chat(USER)[0].response_text == TEXT
    assert ["max_tokens" in post.body for post in server.posts] == [True, False]
    server.mode, server.status, server.message = "refuse", 400, "maximum context length is 512"
    with pytest.raises(errors.PromptTooLongError):
        model.chat(USER)


def test_chat_api_tool_calls(servers: MakeServers, connect: Connect) -> None:
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


def test_refused_connection_moves_to_the_next_server(
    servers: MakeServers, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    (server,) = servers()
    with dead_address() as dead:
        model = connect(dead, server)
        assert dead in caplog.text
        for _ in range(3):
            assert model.chat(USER)[0].response_text == TEXT
    assert len(server.posts) == 3


def test_server_that_dies_is_skipped_until_it_recovers(
    servers: MakeServers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_pool, "_TICK_SECONDS", 0.05)
    monkeypatch.setattr(server_pool, "UNHEALTHY_PROBE_SECONDS", 0.1)
    one, two = servers(2)
    model = connect(one, two)
    one.stop()
    for _ in range(4):
        assert model.chat(USER)[0].response_text == TEXT
    assert len(two.posts) == 4
    states = model.engine.connection.client.pool.servers  # type: ignore[attr-defined]
    assert [state.healthy for state in states] == [False, True]
    one.start()
    wait_until(lambda: states[0].healthy)
    for _ in range(4):
        model.chat(USER)
    assert len(one.posts) == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_busy_server_is_skipped(servers: MakeServers, connect: Connect, status: int) -> None:
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
    ("mode", "message"),
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
def test_broken_stream_is_an_error_and_not_retried(
    servers: MakeServers, connect: Connect, mode: str, message: str, api: str
) -> None:
    one, two = servers(2)
    one.mode = two.mode = mode
    model = connect(one, two, remote_api=api)
    with pytest.raises(errors.GenerationError, match=message):
        list(model.stream(USER))
    assert len(one.posts) + len(two.posts) == 1
    one.mode = two.mode = "answer"
    assert model.chat(USER)[0].response_text == TEXT


def test_silent_stream_is_an_error(
    servers: MakeServers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server,) = servers()
    server.mode = "silent"
    model = connect(server)
    for seconds in (1, 30):  # a loaded server may need more than one for its first event
        monkeypatch.setattr(client, "SILENCE_SECONDS", seconds)
        with pytest.raises(errors.GenerationError) as caught:
            list(model.stream(USER))
        if "gave no answer" not in str(caught.value):
            break
    assert f"nothing for {seconds} s" in str(caught.value)
    wait_until(lambda: server.aborted == len(server.posts))


@pytest.mark.parametrize("api", ["tokens", "chat"])
@pytest.mark.parametrize("whole", [False, True])
def test_timeout_ends_a_request(
    servers: MakeServers, connect: Connect, api: str, whole: bool
) -> None:
    (server,) = servers()
    server.mode = "hold"
    model = connect(server, remote_api=api)
    for seconds in (1, 30):  # a loaded machine may need more than one until the server is asked
        with pytest.raises(errors.RequestTimeoutError, match=rf"timeout of {seconds} s"):
            if whole:
                model.chat(USER, timeout=seconds)
            else:
                list(model.stream(USER, timeout=seconds))
        if server.posts:
            break
    wait_until(lambda: server.aborted == len(server.posts) == 1 and not server.in_flight)


@pytest.mark.parametrize("api", ["tokens", "chat"])
def test_abandoned_stream_is_aborted_on_the_server(
    servers: MakeServers, connect: Connect, api: str
) -> None:
    (server,) = servers()
    server.mode = "hold"
    model = connect(server, remote_api=api)
    stream = model.stream(USER)
    assert next(stream).text == WORDS[0]
    assert server.in_flight == 1
    stream.close()
    wait_until(lambda: server.aborted == 1 and not server.in_flight)
    wait_until(lambda: not model.engine.connection.client.pool.servers[0].in_flight)  # type: ignore[attr-defined]


def test_bad_request_keeps_its_error_and_is_sent_once(
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


def test_requests_go_to_the_least_loaded_server(servers: MakeServers, connect: Connect) -> None:
    three = servers(3)
    for server in three:
        server.mode = "hold"
    model = connect(*three)

    async def ask_all() -> list[Any]:
        return await asyncio.gather(*(model.achat(USER) for _ in range(12)))

    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.extend(asyncio.run(ask_all())))
    asking.start()
    wait_until(lambda: sum(server.in_flight for server in three) == 12)
    assert [server.in_flight for server in three] == [4, 4, 4]
    three[1].resume.set()  # the second becomes idle, and gets the next requests
    wait_until(lambda: not three[1].in_flight)
    states = model.engine.connection.client.pool.servers  # type: ignore[attr-defined]
    wait_until(lambda: not states[1].in_flight)
    for _ in range(3):
        model.chat(USER)
    assert [len(server.posts) for server in three] == [4, 7, 4]
    for server in three:
        server.resume.set()
    asking.join(60)
    assert [answer[0].response_text for answer in answers] == [TEXT] * 12
    wait_until(lambda: [state.in_flight for state in states] == [0, 0, 0])


# --- start, health, close ---


def test_start_fails_without_any_server() -> None:
    with (
        dead_address() as one,
        dead_address() as two,
        pytest.raises(errors.EngineStartError) as caught,
    ):
        make_engine(one, two)
    assert one in str(caught.value)
    assert two in str(caught.value)


def test_start_fails_if_health_fails(servers: MakeServers) -> None:
    (server,) = servers()
    server.health = 503
    with pytest.raises(errors.EngineStartError, match="/health answers 503"):
        make_engine(server.address)


async def test_health(servers: MakeServers) -> None:
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


def test_close_ends_requests(servers: MakeServers) -> None:
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
    wait_until(lambda: server.in_flight == 1)
    model.close()
    asking.join(60)
    assert len(failures) == 1
    wait_until(lambda: not server.in_flight)


async def test_second_event_loop_is_refused(servers: MakeServers) -> None:
    (server,) = servers()
    engine = make_engine(server.address)
    assert engine.info.loop_bound
    await engine.health()

    def on_another_loop() -> None:
        asyncio.run(engine.health())

    with pytest.raises(errors.EngineError, match="one event loop"):
        await asyncio.to_thread(on_another_loop)
    await engine.close()


# --- the key ---


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_key_is_sent_and_never_logged(
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
    written = caplog.text + str(caught.value) + repr(model.engine.model_args)
    assert "httpcore" in caplog.text  # the loggers that see the headers were recorded
    assert "s3cret-key" not in written


def test_wrong_key_names_the_argument(
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


def test_environment_proxy_is_not_used(
    servers: MakeServers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = servers(2)
    monkeypatch.setenv("HTTP_PROXY", proxy.address)
    monkeypatch.setenv("http_proxy", proxy.address)
    assert connect(server).chat(USER)[0].response_text == TEXT
    assert not proxy.seen
    with httpx.Client() as other:  # the proxy does get what uses the environment
        other.get(f"{server.address}/health")
    assert proxy.seen


# --- arguments ---


@pytest.mark.parametrize(
    ("options", "message"),
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
def test_unsupported_arguments_are_refused_by_name(
    servers: MakeServers, options: dict[str, Any], message: str
) -> None:
    (server,) = servers()
    with pytest.raises(errors.ConfigError, match=message):
        make_engine(server.address, **options)


def test_auto_sends_tokens_if_the_folder_is_local(servers: MakeServers, connect: Connect) -> None:
    (server,) = servers()
    connect(server).chat(USER)
    connect(server, model_name_or_path="not/here").chat(USER)
    assert [post.path for post in server.posts] == ["/v1/completions", "/v1/chat/completions"]
    assert demo_model_path().is_dir()


def test_a_gguf_file_here_has_a_tokenizer(
    servers: MakeServers, connect: Connect, tmp_path: Path
) -> None:
    (server,) = servers()
    file = write_chat(tmp_path / "m-Q4_0.gguf")
    names = (str(file), str(tmp_path), f"{tmp_path}:Q4_0", f"{tmp_path}/m-Q8_0.gguf")
    for name in names:
        connect(server, model_name_or_path=name).chat([{"role": "user", "content": "ab"}])
    paths = [post.path for post in server.posts]
    assert paths == [*["/v1/completions"] * 3, "/v1/chat/completions"]
    with pytest.raises(errors.ConfigError, match="its folder or its GGUF file here"):
        make_engine(server.address, model_name_or_path=names[-1], remote_api="tokens")


def test_chat_mode_refuses_what_needs_a_tokenizer(servers: MakeServers, connect: Connect) -> None:
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


# --- life ---


@pytest.mark.parametrize("api", ["tokens", "chat"])
def test_a_forked_child_is_refused_and_the_parent_goes_on(
    servers: MakeServers, connect: Connect, api: str
) -> None:
    model = connect(*servers(), remote_api=api)
    assert model.chat(USER)
    check_refused(in_fork(lambda: call_all(model)))
    assert model.chat(USER)


@pytest.mark.parametrize("api", ["tokens", "chat"])
def test_a_forgotten_model_ends_its_thread(servers: MakeServers, api: str) -> None:
    (server,) = servers()
    before = set(threading.enumerate())
    model = ChatModel.from_engine(make_engine(server.address, remote_api=api))
    assert model.chat(USER)
    del model
    gc.collect()
    ours = set(threading.enumerate()) - before
    assert not [thread for thread in ours if thread.name.startswith("quire-")]
