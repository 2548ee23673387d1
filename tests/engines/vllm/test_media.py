"""Media on real vLLM, with the demo models that see and hear: two engines, started once each.

The native engine and transformers are the oracles.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quire.chat import ChatModel, Response
from quire.chat.vllm_engine import VllmEngine
from quire.demo import demo_hear_path, demo_see_path
from quire.errors import MediaError, PromptTooLongError
from tools.demo_models.media_exam import KINDS, Item, answers, items
from tools.demo_models.pictures import draw, draw_clip
from tools.demo_models.sounds import RATE, play

pytestmark = pytest.mark.vllm
GREEDY: dict[str, Any] = {"do_sample": False}
MARKS = {"images": "<image>", "videos": "<video>", "audios": "<audio>"}


def start(folder: Path, backend: str) -> ChatModel:
    arguments = {
        "model_name_or_path": str(folder),
        "infer_backend": backend,
        "infer_dtype": "float32",
        "vllm_enforce_eager": True,
        "vllm_maxlen": 512,
    }
    return ChatModel(arguments)


@pytest.fixture(scope="module")
def seeing(forked_vllm: None) -> Iterator[ChatModel]:
    with start(demo_see_path(), "vllm") as model:
        yield model


@pytest.fixture(scope="module")
def native_seeing() -> Iterator[ChatModel]:
    with start(demo_see_path(), "native") as model:
        yield model


@pytest.fixture(scope="module")
def hearing(forked_vllm: None) -> Iterator[ChatModel]:
    with start(demo_hear_path(), "vllm") as model:
        yield model


@pytest.fixture(scope="module")
def native_hearing() -> Iterator[ChatModel]:
    with start(demo_hear_path(), "native") as model:
        yield model


def call_of(item: Item) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """An exam's question as a call: its messages and its lists of media."""
    media: dict[str, list[Any]] = {}
    if item.sound is not None:
        media["audios"] = [(play(item.sound), RATE)]
    elif item.clip:
        media["videos"] = [list(draw_clip(item.clip))]
    else:
        media["images"] = [draw(drawing) for drawing in item.pictures]
    marks = "".join(MARKS[name] * len(found) for name, found in media.items())
    return [{"role": "user", "content": marks + item.question}], media


def answer(model: ChatModel, item: Item) -> Response:
    messages, media = call_of(item)
    return model.chat(messages, **media, **GREEDY)[0]


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image_of(color: int) -> Any:
    return np.full((112, 112, 3), color, np.uint8)


@pytest.mark.parametrize("part", ["see", "hear"])
def test_the_tokens_are_the_native_engines_and_the_words_transformers(
    part: str, request: pytest.FixtureRequest
) -> None:
    name, folder = {"see": ("seeing", demo_see_path()), "hear": ("hearing", demo_hear_path())}[part]
    vllm: ChatModel = request.getfixturevalue(name)
    native: ChatModel = request.getfixturevalue(f"native_{name}")
    asked = [item for kind in KINDS[part] for item in islice(items(part, kind), 5)]
    found = [answer(vllm, item) for item in asked]
    assert [one.token_ids for one in found] == [answer(native, item).token_ids for item in asked]
    assert [one.response_text.strip() for one in found] == answers(folder, asked)


def test_a_mixed_crowd_is_each_as_alone(seeing: ChatModel) -> None:
    asked = [item for kind in KINDS["see"] for item in islice(items("see", kind), 4)]
    calls = [call_of(item) for item in asked]
    calls += [([{"role": "user", "content": text}], {}) for text in ("Hello!", "Who are you?")] * 2

    async def ask(messages: Any, media: Any) -> str:
        return (await seeing.achat(messages, **media, **GREEDY))[0].response_text

    async def crowd() -> list[str]:
        return list(await asyncio.gather(*(ask(*call) for call in calls)))

    assert len(calls) == 20
    assert asyncio.run(crowd()) == [asyncio.run(ask(*call)) for call in calls]


def test_sounds_of_many_at_once(hearing: ChatModel) -> None:
    asked = [item for kind in KINDS["hear"] for item in islice(items("hear", kind), 4)]

    async def crowd() -> list[str]:
        found = await asyncio.gather(
            *(hearing.achat(call_of(item)[0], **call_of(item)[1], **GREEDY) for item in asked)
        )
        return [responses[0].response_text.strip() for responses in found]

    assert asyncio.run(crowd()) == answers(demo_hear_path(), asked)


def test_lengths_count_the_expanded_prompt(seeing: ChatModel, native_seeing: ChatModel) -> None:
    item = next(items("see", "several"))
    mine, other = answer(seeing, item), answer(native_seeing, item)
    assert mine.prompt_length == other.prompt_length > 30
    assert mine.usage is not None
    assert mine.usage.prompt_tokens == mine.prompt_length


def test_the_same_picture_is_processed_once(seeing: ChatModel) -> None:
    def asked(picture: Any) -> tuple[int, int]:
        """vLLM's own count of what its cache of processed media was asked for, and had."""
        before = seeing.engine.state.load
        question = [{"role": "user", "content": "<image>What is this?"}]
        # Of more than one token: a step's figures come after its tokens.
        (answer,) = seeing.chat(question, images=[picture], **GREEDY)
        assert answer.response_length > 1
        after = seeing.engine.state.load
        assert before is not None
        assert after is not None
        return after.media_queries - before.media_queries, after.media_hits - before.media_hits

    pixels = draw(next(items("see", "name")).pictures[0])
    assert asked(255 - pixels) == (1, 0)
    assert asked(255 - pixels) == (1, 1)
    assert asked(png(255 - pixels)) == (1, 1)
    assert asked(254 - pixels) == (1, 0)


def test_own_outputs_of_vllm(seeing: ChatModel) -> None:
    item = next(items("see", "name"))
    messages, media = call_of(item)
    engine = seeing.engine
    assert isinstance(engine, VllmEngine)

    async def read() -> str:
        outputs = await engine._generate(messages, **media, **GREEDY)  # type: ignore[misc]
        return [output async for output in outputs][-1].outputs[0].text

    assert seeing._loop.run(read()).strip() == answers(demo_see_path(), [item])[0]


def test_text_of_a_placeholder_token_is_text(seeing: ChatModel) -> None:
    text = "<image>What is this? <|image_pad|><|vision_start|>"
    picture = draw(next(items("see", "name")).pictures[0])
    (one,) = seeing.chat([{"role": "user", "content": text}], images=[picture], **GREEDY)
    (plain,) = seeing.chat(
        [{"role": "user", "content": "<image>What is this?"}], images=[picture], **GREEDY
    )
    assert one.prompt_length > plain.prompt_length + 4


@pytest.mark.parametrize(
    ("text", "media", "reason"),
    [
        ("<image>", {"images": [png(image_of(9))[:-40]]}, "cut off|truncated|incomplete"),
        ("<image>" * 5, {"images": [image_of(n) for n in range(5)]}, "at most 4"),
        ("<video>", {"videos": [[]]}, "frame"),
        ("<audio>", {"audios": [np.zeros(1600, np.float32)]}, "no audio"),
        ("<image>", {"images": ["../nothing.png"]}, "nothing.png"),
    ],
)
def test_what_is_wrong_with_media_harms_that_request_alone(
    seeing: ChatModel, text: str, media: dict[str, Any], reason: str
) -> None:
    with pytest.raises(MediaError, match=reason):
        seeing.chat([{"role": "user", "content": text + "What is this?"}], **media)
    assert seeing.chat([{"role": "user", "content": "Hello!"}], **GREEDY)[0].response_text


def test_a_sound_longer_than_the_context(hearing: ChatModel) -> None:
    sound = np.zeros(16000 * 29, np.float32)
    with pytest.raises(PromptTooLongError, match="with its media"):
        hearing.chat([{"role": "user", "content": "<audio>What?"}], audios=[sound])
    assert hearing.chat([{"role": "user", "content": "Hello!"}], **GREEDY)[0].response_text


def test_media_for_a_model_of_text(vllm_model: ChatModel) -> None:
    with pytest.raises(MediaError, match="text alone"):
        vllm_model.chat([{"role": "user", "content": "What?"}], images=[image_of(0)])
