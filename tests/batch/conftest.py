"""Models that answer at once, for batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.chat import ChatModel
from quire.tokenizer import Tokenizer
from tests.batch.sources import make_tokenizer
from tests.chat.echo_engine import EchoEngine


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture
def echo(tokenizer: Tokenizer) -> Iterator[Callable[..., ChatModel]]:
    """Makes models that answer with the prompt's own text; all are closed at the end."""
    made: list[ChatModel] = []

    def make(engine: EchoEngine | None = None, **options: Any) -> ChatModel:
        made.append(ChatModel.from_engine(engine or EchoEngine(tokenizer, **options)))
        return made[-1]

    yield make
    for model in made:
        model.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"
