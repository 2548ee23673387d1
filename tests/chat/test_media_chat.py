"""Media in a call, from a file's bytes to tokens: ChatModel on a random Qwen2-VL."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tokenizers import AddedToken, Tokenizer
from transformers import AutoImageProcessor, Qwen2VLForConditionalGeneration

from quire import ChatModel
from quire.cli.chat.terminal_chat import TerminalChat
from quire.errors import MediaError
from quire.request import ChatRequest, MediaLists
from tests.chat.model_folders import add_tokenizer, make_model_folder
from tests.cli.chat.test_terminal_chat import Lines
from tests.engines.native.media.random_media_models import IMAGE, VIDEO, make_media_model

OPTIONS: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "ignore_eos": True}
ASK = [{"role": "user", "content": "<image>What is this?"}]
PIXELS = np.random.default_rng(3).integers(0, 256, (48, 40, 3), np.uint8)


def add_media_tokens(folder: Path) -> None:
    """The special tokens of Qwen2-VL, with the ids that the random model has for them."""
    add_tokenizer(folder)
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    names = {
        288: "<|vision_start|>",
        289: "<|vision_end|>",
        IMAGE: "<|image_pad|>",
        VIDEO: "<|video_pad|>",
    }
    first = tokenizer.get_vocab_size()
    tokens = [names.get(number, f"<|unused {number}|>") for number in range(first, VIDEO + 1)]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in tokens])
    tokenizer.save(str(path))
    assert json.loads(path.read_text())["added_tokens"][-1]["id"] == VIDEO


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen2_vl")
    make_media_model(folder, "qwen2_vl")
    add_media_tokens(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[ChatModel]:
    arguments = {
        "model_name_or_path": str(folder),
        "template": "qwen2_vl",
        "vllm_maxlen": 512,
        "native_num_threads": 1,
    }
    with ChatModel(arguments) as made:
        yield made


def png(pixels: Any = PIXELS) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_picture_gives_the_tokens_of_transformers(model: ChatModel, folder: Path) -> None:
    asked = ChatRequest(ASK, media=MediaLists(images=[png()]), options=OPTIONS)
    request = asyncio.run(model.engine.tokens.preparation.prepare(asked))
    ids, (item,) = request.prompt.token_ids, request.prompt.media
    assert ids[item.start : item.start + item.length] == (IMAGE,) * item.length
    processor = AutoImageProcessor.from_pretrained(folder)
    inputs = processor(images=[PIXELS], return_tensors="pt", input_data_format="channels_last")
    oracle: Any = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        wanted = oracle.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            mm_token_type_ids=(torch.tensor([ids]) == IMAGE).int(),
            **inputs,
            max_new_tokens=8,
            min_new_tokens=8,
            do_sample=False,
        )
    found = [
        token for delta in model.stream(ASK, images=[png()], **OPTIONS) for token in delta.token_ids
    ]
    assert found == wanted[0, len(ids) :].tolist()


def test_every_form_of_a_picture_is_the_same_picture(model: ChatModel, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png())
    data_url = "data:image/png;base64," + base64.b64encode(png()).decode()
    forms: list[Any] = [
        png(),
        str(path),
        path,
        io.BytesIO(png()),
        data_url,
        Image.fromarray(PIXELS),
        PIXELS,
    ]
    texts = {model.chat(ASK, images=[form], **OPTIONS)[0].response_text for form in forms}
    part = {"type": "image_url", "image_url": {"url": data_url}}
    message = {"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}
    texts.add(model.chat([message], **OPTIONS)[0].response_text)
    assert len(texts) == 1
    other = model.chat(ASK, images=[255 - PIXELS], **OPTIONS)[0].response_text
    assert other not in texts


def test_a_mixed_crowd_is_each_as_alone(model: ChatModel) -> None:
    pictures = [np.roll(PIXELS, 5 * number, axis=0) for number in range(4)]
    clip = [np.roll(PIXELS, 7 * number, axis=1) for number in range(5)]
    calls: list[tuple[str, dict[str, Any]]] = [
        ("Hello!", {}),
        ("<image>One.", {"images": [pictures[1]]}),
        ("<image><image> four <image><image>", {"images": pictures}),
        ("<video>What moves?", {"videos": [clip]}),
        ("And <image> with <video>", {"images": [pictures[2]], "videos": [clip]}),
    ] * 4

    async def ask(call: tuple[str, dict[str, Any]]) -> str:
        text, media = call
        answers = await model.achat([{"role": "user", "content": text}], **media, **OPTIONS)
        return answers[0].response_text

    async def together() -> list[str]:
        return await asyncio.gather(*map(ask, calls))

    alone = [asyncio.run(ask(call)) for call in calls[:5]] * 4
    assert asyncio.run(together()) == alone
    assert len(set(alone)) == 5


@pytest.mark.parametrize(
    ("content", "media", "message"),
    [
        ("<image><video>?", {"images": [png()]}, "videos: 0 given, but 1 <video>"),
        ("<image>?", {"images": [png()] * 2}, "images: 2 given, but 1 <image>"),
        ("?", {"images": [png()] * 5}, "at most 4 are taken"),
        ("?", {"audios": [b"RIFF"]}, "no audio input"),
        ("?", {"images": [png()[:100]]}, "image 1: "),
        ("?", {"images": ["/no/such/picture.png"]}, "picture.png"),
        ("?", {"images": ["http://127.0.0.1:9/picture.png"]}, "an address"),
        ("?", {"images": png()}, "images must be a list"),
        ("?", {"images": 5}, "images must be a list"),
    ],
)
def test_what_is_refused(
    model: ChatModel, content: str, media: dict[str, Any], message: str
) -> None:
    with pytest.raises(MediaError, match=re.escape(message)):
        model.chat([{"role": "user", "content": content}], **media, **OPTIONS)
    assert model.chat(ASK, images=[PIXELS], **OPTIONS)[0].response_length == 8  # it lives on


def test_a_text_that_names_a_token_is_no_picture(model: ChatModel) -> None:
    words = [
        {"role": "user", "content": "<|vision_start|><|image_pad|><|vision_end|> and no picture"}
    ]
    request = model.engine.tokens.preparation.prepare_text(ChatRequest(words, options=OPTIONS))
    assert IMAGE not in request.prompt.token_ids
    literal = {"type": "text", "text": "<image> as text", "literal": True}
    for content in ([literal], "<image> as text"):
        answers = model.chat([{"role": "user", "content": content}], **OPTIONS)
        assert answers[0].response_length == 8


def test_a_model_of_text_refuses_media(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "text")
    with (
        ChatModel({"model_name_or_path": str(folder), "vllm_maxlen": 128}) as model,
        pytest.raises(MediaError, match="takes text alone"),
    ):
        model.chat([{"role": "user", "content": "?"}], images=[png()])


def test_a_picture_dropped_on_the_terminal_is_seen(model: ChatModel, tmp_path: Path) -> None:
    path = tmp_path / "my picture.png"
    path.write_bytes(png())
    (tmp_path / "no picture.png").write_bytes(b"no picture")
    lines = [
        "/set max_new_tokens 8", "/set do_sample false", "/set ignore_eos true",
        f"'{path}' What is this?", "/clear", f"'{tmp_path}/no picture.png' What?",
        "What does <image> mean?",
    ]  # fmt: skip
    output = io.StringIO()
    chat = TerminalChat(model, Console(file=output), Lines([*lines]))
    chat.run()
    seen, text = (answer.content for answer in chat.answers)
    parts = [{"type": "image", "image": png()}, {"type": "text", "text": "What is this?"}]
    assert seen == "".join(model.stream_chat([{"role": "user", "content": parts}], **OPTIONS))
    blind = [{"role": "user", "content": "What is this?"}]
    assert seen != "".join(model.stream_chat(blind, **OPTIONS))
    literal = [{"type": "text", "text": "What does <image> mean?", "literal": True}]
    assert text == "".join(model.stream_chat([{"role": "user", "content": literal}], **OPTIONS))
    assert "no image of a known form" in output.getvalue()
    assert "[image: no picture.png] went back" in output.getvalue()
