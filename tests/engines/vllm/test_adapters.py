"""Adapters inside vLLM, over an engine that refuses what it is told to."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quire.adapters.book import AdapterBook
from quire.demo import demo_adapter_path, demo_model_path
from quire.engines.vllm.adapters import VllmAdapters
from quire.engines.vllm.launch import import_vllm
from quire.errors import AdapterError


class Engine:
    """Loads adapters, but for those whose names are in `refused`."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.loaded: list[str] = []

    async def add_lora(self, request: Any) -> bool:
        if request.lora_name in self.refused:
            raise ValueError("made up: it does not fit")
        self.loaded.append(request.lora_name)
        return True


@pytest.fixture
def engine() -> Engine:
    import_vllm()
    return Engine()


async def test_one_that_vllm_refuses_does_not_stay_in_the_book(
    engine: Engine, tmp_path: Path
) -> None:
    shutil.copytree(demo_adapter_path("pirate"), tmp_path / "found")
    book = AdapterBook((), folder=str(tmp_path), model_folder=demo_model_path())
    adapters = VllmAdapters(book)
    started: Any = SimpleNamespace(engine=engine)
    engine.refused = {"found", "given"}
    for _ in range(2):
        with pytest.raises(AdapterError, match="does not fit"):
            await adapters.request(started, "found")
        with pytest.raises(AdapterError, match="does not fit"):
            await adapters.add(started, "given", str(demo_adapter_path("pirate")))
        assert book.names == ()
    engine.refused = set()
    request = await adapters.request(started, "found")
    assert request is not None
    assert [adapter.name for adapter in book.adapters] == ["found"]
    assert engine.loaded == ["found"]
    assert await adapters.request(started, "found") is request
