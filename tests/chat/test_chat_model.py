"""ChatModel and BaseEngine over the echoing engine: everything above the seam, in milliseconds."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from quire.chat import ChatModel, Response
from quire.errors import (
    ConfigError,
    EngineClosedError,
    GenerationError,
    MediaError,
    MessageError,
    PromptTooLongError,
    RequestTimeoutError,
    SamplingError,
    UnsupportedOptionError,
)
from quire.messages import ToolCall
from tests.chat.echo_engine import EchoEngine
from tests.polling import eventually, wait_until

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
Echo = Callable[..., ChatModel]


def echoing(model: ChatModel) -> EchoEngine:
    assert isinstance(model.engine, EchoEngine)
    return model.engine


def test_chat_gives_responses(echo: Echo) -> None:
    (response,) = echo(reply="A whole answer.").chat(HELLO)
    assert response.response_text == response.content == "A whole answer."
    assert (response.response_length, response.finish_reason) == (4, "stop")
    assert response.prompt_length > 3


def test_a_response_has_llamafactorys_four_fields() -> None:
    response = Response("text", 1, 2, "stop")
    assert (response.response_text, response.response_length) == ("text", 1)
    assert (response.prompt_length, response.finish_reason) == (2, "stop")


def test_the_prompt_is_the_templates(echo: Echo) -> None:
    (response,) = echo().chat(HELLO, system="Be brief.", skip_special_tokens=False)
    assert "Be brief." in response.response_text
    assert "Hello" in response.response_text


def test_exactly_n_in_order(echo: Echo) -> None:
    responses = echo(reply="abc def").chat(HELLO, num_return_sequences=3)
    assert [response.index for response in responses] == [0, 1, 2]
    assert {response.response_text for response in responses} == {"abc def"}


def test_stream_chat_is_text_as_it_comes(echo: Echo) -> None:
    assert list(echo(reply="one two three").stream_chat(HELLO)) == ["one ", "two ", "thre", "e"]


def test_stream_chat_of_several_is_refused(echo: Echo) -> None:
    with pytest.raises(UnsupportedOptionError, match="several"):
        list(echo().stream_chat(HELLO, n=2))


def test_the_richer_stream(echo: Echo) -> None:
    deltas = list(echo(reply="<think>\nso\n</think>\n\nyes it is").stream(HELLO, n=2))
    for index in (0, 1):
        own = [delta for delta in deltas if delta.index == index]
        assert "".join(delta.reasoning for delta in own) == "so"
        assert "".join(delta.content for delta in own) == "yes it is"
        assert [delta.finish_reason for delta in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason == "stop"
        assert own[-1].usage is not None
        assert own[-1].usage.completion_tokens == sum(len(delta.token_ids) for delta in own)


def test_tool_calls_are_read_only_where_tools_were_offered(echo: Echo) -> None:
    model = echo(
        reply='Look: <tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    )
    (response,) = model.chat(HELLO, tools=[TOOL])
    assert response.tool_calls == (ToolCall("get_weather", '{"city": "Oslo"}'),)
    assert response.finish_reason == "tool_calls"
    assert response.content.strip() == "Look:"
    assert "<tool_call>" in response.response_text
    (plain,) = model.chat(HELLO)
    assert (plain.tool_calls, plain.finish_reason) == ((), "stop")


def test_a_call_cut_off_is_text(echo: Echo) -> None:
    text = '<tool_call>\n{"name": "get_weather", "argu'
    (response,) = echo(reply=text).chat(HELLO, tools=[TOOL])
    assert response.tool_calls == ()
    assert response.content == text


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"temperature": -1}, SamplingError),
        ({"n": 0}, SamplingError),
        ({"top_p": 2}, SamplingError),
        ({"temperatur": 1}, UnsupportedOptionError),
        ({"images": ["x.png"]}, MediaError),
    ],
)
def test_a_wrong_request_is_refused_and_the_engine_lives_on(
    echo: Echo, options: dict, error: type[Exception]
) -> None:
    model = echo(reply="fine")
    with pytest.raises(error):
        model.chat(HELLO, **options)
    with pytest.raises(MessageError):
        model.chat([])
    assert model.chat(HELLO)[0].response_text == "fine"


def test_media_in_a_message_are_refused(echo: Echo) -> None:
    part = {"type": "image_url", "image_url": {"url": "x.png"}}
    with pytest.raises(MediaError, match="image"):
        echo().chat([{"role": "user", "content": [part]}])


def test_a_prompt_longer_than_the_context_is_refused(echo: Echo) -> None:
    with pytest.raises(PromptTooLongError):
        echo(context_length=16).chat([{"role": "user", "content": "word " * 100}])


def test_max_tokens_ends_with_length(echo: Echo) -> None:
    (response,) = echo(reply="a long answer here").chat(HELLO, max_new_tokens=2)
    assert (response.response_text, response.finish_reason) == ("a long a", "length")


def test_a_fault_in_the_engine_is_an_error_and_not_a_hang(echo: Echo) -> None:
    model = echo(reply="abcdefgh", fail_at=1)
    with pytest.raises(GenerationError, match="made-up fault"):
        model.chat(HELLO)


def test_timeout(echo: Echo) -> None:
    model = echo(reply="a" * 400, delay=3)
    for seconds in (1, 30):  # a loaded machine may need more than one until the engine is asked
        with pytest.raises(RequestTimeoutError, match=f"timeout of {seconds} s"):
            model.chat(HELLO, timeout=seconds)
        wait_until(lambda: echoing(model).open_requests == 0)
        if echoing(model).aborted:
            break
    assert echoing(model).aborted == 1


def test_an_abandoned_stream_is_aborted(echo: Echo) -> None:
    model = echo(reply="a" * 400, delay=0.3)
    stream = model.stream_chat(HELLO)
    assert next(stream) == "aaaa"
    stream.close()
    wait_until(lambda: echoing(model).aborted == 1)


def test_many_threads_at_once(echo: Echo) -> None:
    model = echo(reply="the same for all", delay=0.001)
    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(lambda _: model.chat(HELLO)[0].response_text, range(64)))
    assert texts == ["the same for all"] * 64


async def test_async_from_the_callers_loop(echo: Echo) -> None:
    model = echo(reply="one two")
    answers = await asyncio.gather(*(model.achat(HELLO) for _ in range(8)))
    assert [answer[0].response_text for answer in answers] == ["one two"] * 8
    assert [text async for text in model.astream_chat(HELLO)] == ["one ", "two"]
    assert [delta.text async for delta in model.astream(HELLO)] == ["one ", "two"]


async def test_cancelling_achat_aborts(echo: Echo) -> None:
    model = echo(reply="a" * 400, delay=0.3)
    task = asyncio.create_task(model.achat(HELLO))
    await eventually(lambda: echoing(model).open_requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_until, lambda: echoing(model).aborted == 1)


def test_loops_in_several_threads(echo: Echo) -> None:
    model = echo(reply="one two")
    results: list[str] = []

    def run() -> None:
        results.append(asyncio.run(model.achat(HELLO))[0].response_text)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["one two"] * 4


def test_close_ends_everything(tokenizer, echo: Echo) -> None:
    before = threading.active_count()
    model = echo(reply="a" * 400, delay=0.3)
    failures: list[BaseException] = []

    def read() -> None:
        try:
            model.chat(HELLO)
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: echoing(model).open_requests)
    model.close()
    model.close()
    reader.join(60)
    assert not reader.is_alive()
    assert len(failures) == 1
    with pytest.raises(EngineClosedError):
        model.chat(HELLO)
    assert threading.active_count() <= before


def test_the_callers_arguments_are_never_changed(echo: Echo) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    tools = [copy.deepcopy(TOOL)]
    before = copy.deepcopy((messages, tools))
    echo().chat(messages, tools=tools)
    assert (messages, tools) == before


def test_arguments_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="model_name_or_path"):
        ChatModel({"template": "llama2"})
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        ChatModel({"model_name_or_path": "x", "temprature": 1})


def test_context_manager(echo: Echo) -> None:
    with echo(reply="hi") as model:
        assert model.chat(HELLO)[0].response_text == "hi"
    with pytest.raises(EngineClosedError):
        model.chat(HELLO)


def test_the_parser_knows_the_tools_that_were_offered(echo: Echo) -> None:
    """This format writes no types: a parser takes them from the tool's schema."""
    tool = {
        "name": "count",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    }
    call = "<tool_call>count\n<arg_key>text</arg_key>\n<arg_value>12</arg_value>\n</tool_call>"
    (response,) = echo("glm4_moe", reply=call).chat(HELLO, tools=[tool])
    assert [(c.name, c.arguments) for c in response.tool_calls] == [("count", '{"text": "12"}')]
