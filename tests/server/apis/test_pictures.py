"""Pictures by each API's own words: the same prompt, and nothing that a client may not name."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from aiohttp import web

from quire.chat import ChatModel
from quire.media.policy import MediaPolicy
from tests.chat.test_media_chat import add_media_tokens, png
from tests.engines.native.media.random_media_models import make_media_model
from tests.media.servers import OPEN_HOST
from tests.media.servers import serving as files_served
from tests.server.apis.clients import claude
from tests.server.conftest import client_of
from tests.server.serving import Served, serving

DATA = base64.b64encode(png()).decode()
URL = f"data:image/png;base64,{DATA}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    folder = tmp_path_factory.mktemp("qwen2_vl")
    make_media_model(folder, "qwen2_vl")
    add_media_tokens(folder)
    arguments = {
        "model_name_or_path": str(folder),
        "template": "qwen2_vl",
        "vllm_maxlen": 512,
        "native_num_threads": 1,
    }
    with ChatModel(arguments) as model:
        yield model


@pytest.fixture(scope="module")
def seeing(model: ChatModel) -> Iterator[Served]:
    with serving(model) as served:
        yield served


def count(served: Served, *content: Any) -> int:
    """Tokens of a prompt, as Anthropic's API counts them."""
    messages: Any = [{"role": "user", "content": list(content)}]
    return claude(served).messages.count_tokens(model="demo", messages=messages).input_tokens


def test_one_picture_in_three_dialects(seeing: Served) -> None:
    gpt = client_of(seeing)
    in_chat = gpt.chat.completions.create(
        model="demo",
        max_tokens=2,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": URL}},
                    {"type": "text", "text": "What is this?"},
                ],
            }
        ],
    )
    in_responses = gpt.responses.create(
        model="demo",
        max_output_tokens=2,
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": URL, "detail": "auto"},
                    {"type": "input_text", "text": "What is this?"},
                ],
            }
        ],
    )
    source = {"type": "base64", "media_type": "image/png", "data": DATA}
    picture = {"type": "image", "source": source}
    question = {"type": "text", "text": "What is this?"}
    found = count(seeing, picture, question)
    assert in_chat.usage is not None
    assert in_responses.usage is not None
    assert in_chat.usage.prompt_tokens == in_responses.usage.input_tokens == found
    assert found > count(seeing, question) + 3
    messages: Any = [{"role": "user", "content": [picture, question]}]
    message = claude(seeing).messages.create(model="demo", max_tokens=2, messages=messages)
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == found


def test_a_tool_may_give_a_picture(seeing: Served) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": DATA}

    def prompt(*content: Any) -> int:
        messages: Any = [
            {"role": "user", "content": "Look!"},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "a", "name": "look", "input": {}}],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "a", "content": list(content)}],
            },
        ]
        return claude(seeing).messages.count_tokens(model="demo", messages=messages).input_tokens

    text = {"type": "text", "text": "Here."}
    assert prompt(text, {"type": "image", "source": source}) > prompt(text) + 3


@pytest.mark.parametrize("with_picture", [False, True])
@pytest.mark.parametrize("mark", ["<image>", "<video>", "<audio>"])
def test_text_that_looks_like_a_placeholder_is_text(
    seeing: Served, mark: str, with_picture: bool
) -> None:
    """In questions, answers, tools' results and instructions, on each API, to the same prompt."""
    function = {"name": "look", "arguments": "{}"}
    source = {"type": "base64", "media_type": "image/png", "data": DATA}
    asked = [{"type": "text", "text": f"How do I use {mark}?"}]
    in_chat: list[Any] = [
        {"role": "system", "content": f"Know {mark}."},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}, *asked]},
        {
            "role": "assistant",
            "content": f"A {mark}",
            "tool_calls": [{"id": "a", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "a", "content": f"it is {mark}"},
    ]
    in_responses: list[Any] = [
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": URL},
                {"type": "input_text", "text": asked[0]["text"]},
            ],
        },
        {"role": "assistant", "content": f"A {mark}"},
        {"type": "function_call", "call_id": "a", **function},
        {"type": "function_call_output", "call_id": "a", "output": f"it is {mark}"},
    ]
    called = {"type": "tool_use", "id": "a", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": f"it is {mark}"}
    in_messages: list[Any] = [
        {"role": "user", "content": [{"type": "image", "source": source}, *asked]},
        {"role": "assistant", "content": [{"type": "text", "text": f"A {mark}"}, called]},
        {"role": "user", "content": [result]},
    ]
    if not with_picture:
        in_chat[1]["content"] = asked[0]["text"]
        for turns in (in_responses, in_messages):
            del turns[0]["content"][0]
    gpt = client_of(seeing)
    chat = gpt.chat.completions.create(
        model="demo", max_tokens=1, messages=in_chat, extra_body={"return_token_ids": True}
    )
    responses = gpt.responses.create(
        model="demo", max_output_tokens=1, instructions=f"Know {mark}.", input=in_responses
    )
    counted = claude(seeing).messages.count_tokens(
        model="demo", system=f"Know {mark}.", messages=in_messages
    )
    assert chat.usage is not None
    assert responses.usage is not None
    assert chat.usage.prompt_tokens == responses.usage.input_tokens == counted.input_tokens
    ids: Any = getattr(chat, "prompt_token_ids")  # noqa: B009
    assert seeing.engine.tokenizer.decode(ids).count(mark) == 4


async def send_picture(request: web.Request) -> web.Response:
    return web.Response(body=png(), content_type="image/png")


@pytest.mark.parametrize("detail", ["auto", "low", "high"])
def test_llama_factorys_example_of_pictures(model: ChatModel, detail: str) -> None:
    """Two turns with pictures at addresses, for a `model` that nobody serves."""
    media = model.engine.tokens.preparation.media
    with serving(model, any_model=True, media_urls=True) as served:
        media.restrict(MediaPolicy(local_files=False, urls=True, networks=(f"{OPEN_HOST}/32",)))
        try:
            asyncio.run(two_turns(served.url, detail))
        finally:
            media.restrict(MediaPolicy.for_server())


async def two_turns(url: str, detail: str) -> None:
    async with (
        files_served({"/boxes.png": send_picture}) as site,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="0", max_retries=0) as client,
    ):
        messages: list[Any] = []
        for question in ("What is on it?", "And on this?"):
            image = {"url": f"{site}/boxes.png", "detail": detail}
            parts = [{"type": "text", "text": question}, {"type": "image_url", "image_url": image}]
            messages.append({"role": "user", "content": parts})
            result = await client.chat.completions.create(
                messages=messages, model="test", max_tokens=2
            )
            messages.append(result.choices[0].message)
            assert result.model == "test"


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/a.png", "file:///etc/passwd", "/etc/passwd"]
)
def test_what_a_client_may_not_name_is_refused(seeing: Served, address: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        count(seeing, {"type": "image", "source": {"type": "url", "url": address}})
    body: Any = refused.value.body
    assert body["error"]["type"] == "invalid_request_error"
    part: Any = {"type": "input_image", "image_url": address}
    with pytest.raises(openai.BadRequestError):
        client_of(seeing).responses.create(
            model="demo", input=[{"role": "user", "content": [part]}]
        )


@pytest.mark.parametrize("data", ["AAAA", "???"])
def test_a_broken_picture_is_refused(seeing: Served, data: str) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": data}
    with pytest.raises(anthropic.BadRequestError):
        count(seeing, {"type": "image", "source": source})
