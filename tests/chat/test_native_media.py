"""NativeEngine with prompts that hold decoded media: many at once as each alone, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quire import ChatModel
from quire.chat.base_engine import BaseEngine
from quire.chat.native_engine import NativeEngine
from quire.errors import MediaError, QuireError
from quire.media.values import Medium
from quire.prompt import MediaItem, Prompt
from quire.sampling import SamplingParams
from tests.chat.model_folders import add_tokenizer, make_model_folder
from tests.engines.native.media.random_media_models import (
    IMAGE,
    VIDEO,
    clip,
    make_media_model,
    picture,
    sound,
)

GREEDY = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)


def chat_model(folder: Path) -> ChatModel:
    return ChatModel(
        {
            "model_name_or_path": str(folder),
            "vllm_maxlen": 256,
            "native_num_threads": 1,
            "native_max_sequences": 16,
            "native_max_batch_tokens": 32,
        }
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    folder = tmp_path_factory.mktemp("qwen2_vl")
    make_media_model(folder, "qwen2_vl")
    add_tokenizer(folder)
    with chat_model(folder) as made:
        yield made


def prompt(seed: int, *media: Medium) -> Prompt:
    """Some text, and media of 24 x 24 pixels or frames of them: 9 tokens for each or for two."""
    generator = np.random.default_rng(seed)
    ids: list[int] = []
    items: list[MediaItem] = []
    for medium in media:
        ids += generator.integers(3, 250, 4).tolist()
        count = 9 * (-(-len(getattr(medium, "frames", [0])) // 2))
        kind = medium.kind
        items.append(MediaItem(kind, medium, medium.content_hash, len(ids), count))
        ids += [VIDEO if kind == "video" else IMAGE] * count
    ids += generator.integers(3, 250, 6 + seed).tolist()
    return Prompt(tuple(ids), tuple(items))


async def complete(engine: BaseEngine, prompt: Prompt) -> tuple[int, ...]:
    found = [delta async for delta in engine.generate(prompt, GREEDY)]
    return tuple(token for delta in found for token in delta.token_ids)


def test_twenty_at_once_are_each_as_alone(model: ChatModel) -> None:
    engine = model.engine
    prompts: list[Prompt] = []
    for seed in range(5):
        one = picture(24, 24, seed)
        prompts += [
            prompt(seed),
            prompt(seed, one),
            prompt(seed, *[picture(24, 24, seed + n) for n in range(4)]),
            prompt(seed, clip(4, 24, 24, seed), one),
        ]

    async def at_once() -> list[tuple[int, ...]]:
        return await asyncio.gather(*[complete(engine, one) for one in prompts])

    alone = [asyncio.run(complete(engine, one)) for one in prompts]
    assert len(set(alone)) > 10
    before = engine.state.load
    assert asyncio.run(at_once()) == alone
    now = engine.state.load
    assert before is not None
    assert now is not None
    again = sum(len(one.media) for one in prompts)
    assert now.media_queries - before.media_queries == again == 35
    assert now.media_hits - before.media_hits == again


@pytest.mark.parametrize("wrong", ["kind", "count", "narrow"])
def test_bad_media_are_their_requests_own_error(model: ChatModel, wrong: str) -> None:
    engine = model.engine
    fine = prompt(1, picture(24, 24))
    if wrong == "kind":
        heard = sound(4_000)
        item, text = MediaItem("audio", heard, heard.content_hash, 2, 9), "no audio input"
    elif wrong == "count":
        seen = picture(40, 40)
        item, text = MediaItem("image", seen, seen.content_hash, 2, 9), r"features \(25, 64\)"
    else:
        seen = picture(8, 2400)
        item, text = MediaItem("image", seen, seen.content_hash, 2, 9), "too narrow"

    async def both() -> tuple[object, object]:
        runs = complete(engine, Prompt((5,) * 20, (item,))), complete(engine, fine)
        return await asyncio.gather(*runs, return_exceptions=True)

    refused, answered = asyncio.run(both())
    assert isinstance(refused, MediaError)
    with pytest.raises(QuireError, match=text):
        raise refused
    assert answered == asyncio.run(complete(engine, fine))


def test_a_model_of_text_alone(tmp_path: Path) -> None:
    with (
        chat_model(make_model_folder(tmp_path / "model")) as model,
        pytest.raises(MediaError, match="text alone"),
    ):
        asyncio.run(complete(model.engine, prompt(1, picture(24, 24))))


def test_the_tower_is_loaded_with_the_first_medium(tmp_path: Path) -> None:
    make_media_model(tmp_path, "qwen2_vl")
    add_tokenizer(tmp_path)
    with chat_model(tmp_path) as model:
        engine = model.engine
        assert isinstance(engine, NativeEngine)
        assert engine.token_engine.media.kinds == {"image", "video"}
        asyncio.run(complete(engine, prompt(1)))
        assert engine.token_engine.media._encoder is None
        asyncio.run(complete(engine, prompt(1, picture(24, 24))))
        assert engine.token_engine.media._encoder is not None
