"""Adapters inside vLLM, over an engine that refuses what it is told to."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quire.adapters.book import AdapterBook
from quire.demo import demo_adapter_path, demo_model_path
from quire.engines.vllm.adapters import VllmAdapters
from quire.engines.vllm.launch import RunningEngine, import_vllm
from quire.errors import AdapterError, EngineDeadError
from tests.chat.reward_folders import make_score_adapter
from tests.engines.native.random_adapters import load_peft, make_random_adapter
from tests.engines.native.random_models import make_random_model
from tests.forks import in_fork

PATIENCE = 60.0  # seconds that a loaded machine may take


class Engine:
    """Loads adapters, but for those whose names are in `refused`."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.loaded: list[str] = []
        self.paths: list[Path] = []
        self.dies = self.errored = False

    async def add_lora(self, request: Any) -> bool:
        if request.lora_name in self.refused:
            raise ValueError("made up: it does not fit")
        if self.dies:
            self.errored = True
            await asyncio.Event().wait()  # as vLLM does
        self.loaded.append(request.lora_name)
        self.paths.append(Path(request.lora_path))
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


async def test_an_engine_that_dies_is_not_waited_for(engine: Engine) -> None:
    dying = Engine()
    dying.dies = True
    adapters = VllmAdapters(AdapterBook((), model_folder=demo_model_path()))
    path = str(demo_adapter_path("pirate"))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(EngineDeadError):
            await adapters.add(RunningEngine(dying, ()), "pirate", path)  # type: ignore[arg-type]
        assert not adapters.book.adapters
        await adapters.add(RunningEngine(engine, ()), "pirate", path)  # type: ignore[arg-type]
    assert engine.loaded == ["pirate"]


async def test_a_sum_is_one_folder(engine: Engine, tmp_path: Path) -> None:
    model = make_random_model(tmp_path / "model", "qwen3")
    several: list[dict[str, Any]] = [
        {"r": 4},
        {"r": 3, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]},
    ]
    folders = [
        make_random_adapter(tmp_path / f"adapter{seed}", model, seed=seed, **options)
        for seed, options in enumerate(several, 1)
    ]
    book = AdapterBook(list(map(str, folders)), model_folder=model)
    adapters = VllmAdapters(book)
    started: Any = SimpleNamespace(engine=engine)
    request = await adapters.request(started, None)
    assert request is not None
    assert engine.loaded == ["adapter1+adapter2"]
    (path,) = engine.paths
    with torch.inference_mode():
        ids = torch.tensor([list(range(5, 45))])
        found = load_peft(model, path)(ids).logits
        wanted = load_peft(model, *folders)(ids).logits
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)
    again: Any = SimpleNamespace(engine=engine)  # a restarted engine reads the same folder
    await adapters.request(again, None)
    assert engine.paths == [path, path]
    await adapters.request(again, "adapter1")
    assert engine.paths[-1] == folders[0]
    adapters.forget()
    assert not path.exists()


async def test_the_head_in_an_adapters_folder_is_not_vllms(engine: Engine, tmp_path: Path) -> None:
    model = make_random_model(tmp_path / "model", "qwen2")
    folder = make_score_adapter(tmp_path / "it", model)
    book = AdapterBook([str(folder)], model_folder=model, scores=True)
    started: Any = SimpleNamespace(engine=engine)
    adapters = VllmAdapters(book)
    await adapters.request(started, None)
    names = load_file(engine.paths[0] / "adapter_model.safetensors")
    assert names
    assert not any("score" in name for name in names)
    adapters.forget()


async def test_what_is_written_for_vllm_outlives_a_forked_child(
    engine: Engine, tmp_path: Path
) -> None:
    model = make_random_model(tmp_path / "model", "qwen2")
    folder = make_score_adapter(tmp_path / "it", model)
    adapters = VllmAdapters(AdapterBook([str(folder)], model_folder=model, scores=True))
    await adapters.request(SimpleNamespace(engine=engine), None)  # type: ignore[arg-type]
    in_fork(adapters.forget)
    assert engine.paths[0].is_dir()
    adapters.forget()
    assert not engine.paths[0].exists()
