"""What the tests of the chat layer share: the demo model's tokenizer and an echoing engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quire.chat import ChatModel
from quire.demo import demo_model_path
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(demo_model_path())


@pytest.fixture
def echo(tokenizer: Tokenizer) -> Iterator[Callable[..., ChatModel]]:
    """Makes ChatModels over an EchoEngine, and closes them."""
    made: list[ChatModel] = []

    def make(template: str = "qwen3_nothink", **options: Any) -> ChatModel:
        model = ChatModel.from_engine(EchoEngine(tokenizer, template, **options))
        made.append(model)
        return model

    yield make
    for model in made:
        model.close()
