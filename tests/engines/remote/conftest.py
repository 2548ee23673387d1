"""Fake servers, and engines over servers; all are closed after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quire.arguments import get_infer_args
from quire.chat import ChatModel
from quire.chat.remote_engine import RemoteEngine
from quire.demo import demo_model_path
from tests.engines.remote.fake_server import FakeServer

MakeServers = Callable[..., list[FakeServer]]
Connect = Callable[..., ChatModel]


def make_engine(*addresses: str, **options: Any) -> RemoteEngine:
    """A remote engine over these addresses, by default with the demo model's folder."""
    given = {
        "model_name_or_path": str(demo_model_path()),
        "infer_backend": "remote",
        "remote_base_url": list(addresses),
        **options,
    }
    return RemoteEngine(*get_infer_args(given))


@pytest.fixture
def servers() -> Iterator[MakeServers]:
    """Starts fake servers."""
    started: list[FakeServer] = []

    def start(count: int = 1, **settings: Any) -> list[FakeServer]:
        new = [FakeServer(**settings).start() for _ in range(count)]
        started.extend(new)
        return new

    yield start
    for server in started:
        server.close()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes ChatModels over servers or addresses."""
    made: list[ChatModel] = []

    def make(*where: FakeServer | str, **options: Any) -> ChatModel:
        addresses = [one if isinstance(one, str) else one.address for one in where]
        model = ChatModel.from_engine(make_engine(*addresses, **options))
        made.append(model)
        return model

    yield make
    for model in made:
        model.close()
