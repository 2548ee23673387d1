"""Media over HTTP: data URLs are taken, files and addresses only where the server allows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openai import BadRequestError, OpenAI
from PIL import Image

from quire.chat import ChatModel
from tests.chat.test_media_chat import add_media_tokens
from tests.engines.native.media.random_media_models import make_media_model
from tests.server.conftest import client_of
from tests.server.serving import serving

PIXELS = np.random.default_rng(3).integers(0, 256, (48, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    folder = tmp_path_factory.mktemp("media")
    make_media_model(folder, "qwen2_vl")
    add_media_tokens(folder)
    Image.fromarray(PIXELS).save(folder / "inside.png")
    settings = {
        "model_name_or_path": str(folder),
        "template": "qwen2_vl",
        "infer_backend": "native",
        "media_dir": str(folder),
    }
    with ChatModel(settings) as model:
        yield model


def data_url() -> str:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def ask(client: OpenAI, url: str, **more: Any) -> str:
    image: Any = {"type": "image_url", "image_url": {"url": url, **more}}
    content = [image, {"type": "text", "text": "What is this?"}]
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": content}],
        temperature=0,
        max_tokens=8,
    )
    return str(answer.choices[0].message.content)


def test_the_model_tells_what_it_sees(model: ChatModel) -> None:
    with serving(model) as server:
        told = httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"]
    assert [card["max_media"] for card in told] == [{"image": 4, "video": 2}]


def test_data_urls_are_taken_and_nothing_else(model: ChatModel) -> None:
    whole = [{"role": "user", "content": "<image>What is this?"}]
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 8}
    own = model.chat(whole, images=[PIXELS], **options)[0].content
    folder = Path(model.engine.model_args.model_name_or_path)
    with serving(model) as served, client_of(served) as client:
        assert ask(client, data_url(), detail="auto") == own
        for refused in (
            str(folder / "inside.png"),
            "inside.png",
            (folder / "inside.png").as_uri(),
            "/etc/passwd",
            "http://127.0.0.1:1/x.png",
            "data:image/png;base64,AAAA",
        ):
            with pytest.raises(BadRequestError):
                ask(client, refused)
        assert ask(client, data_url(), detail="low") == own
        with pytest.raises(BadRequestError, match="detail"):
            ask(client, data_url(), detail="blurred")


def test_files_under_the_root_are_taken_where_there_is_one(model: ChatModel) -> None:
    folder = Path(model.engine.model_args.model_name_or_path)
    with serving(model, media_root=str(folder)) as served, client_of(served) as client:
        assert ask(client, "inside.png") == ask(client, data_url())
        with pytest.raises(BadRequestError):
            ask(client, "/etc/passwd")
        with pytest.raises(BadRequestError):
            ask(client, "../outside.png")
