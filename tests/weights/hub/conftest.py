"""A hub on the loopback, a cache of its own, and the arguments that lead there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.arguments import ModelArguments
from tests.weights.hub.server import HubServer, running_hub

MakeArguments = Callable[..., ModelArguments]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("USE_MODELSCOPE_HUB", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere")
        yield server


@pytest.fixture
def arguments(tmp_path: Path) -> MakeArguments:
    def make(name: str = "owner/model", **values: Any) -> ModelArguments:
        place = {"model_name_or_path": name, "cache_dir": str(tmp_path / "cache")}
        return ModelArguments(**{**place, **values})

    return make
