"""Reward models whose head or weights are in adapters, on the native engine, against transformers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from quire import ChatModel
from quire.demo import demo_reward_path
from quire.errors import UnsupportedModelError, WeightsError
from tests.chat.model_folders import make_model_folder
from tests.chat.reward_folders import (
    add_value_head,
    classifier_scores,
    make_score_adapter,
    value_scores,
)
from tests.engines.native.random_adapters import make_random_adapter

TEXTS = ["Hello!", "2 + 2 is 4.", "Bananas are blue and the answer is no."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that generates."""
    return make_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters of it, without heads."""
    where = tmp_path_factory.mktemp("adapters")
    first, second = (
        make_random_adapter(where / name, folder, seed=seed, strength=0.2)
        for seed, name in enumerate(("sft", "rm"), 1)
    )
    return first, second


def load(folder: Path, **arguments: Any) -> ChatModel:
    settings = {"vllm_maxlen": 256, "native_num_threads": 1, "infer_backend": "native"}
    return ChatModel({"model_name_or_path": folder, "stage": "rm", **settings, **arguments})


def scores_and_prompts(folder: Path, **arguments: Any) -> tuple[list[float], list[tuple[int, ...]]]:
    with load(folder, **arguments) as model:
        encode = model.engine.tokenizer.encode
        return model.get_scores(TEXTS), [tuple(encode(text)) for text in TEXTS]


def with_head(adapter: Path, where: Path, seed: int = 1) -> Path:
    return add_value_head(Path(shutil.copytree(adapter, where / adapter.name)), seed=seed)


def test_an_adapter_with_a_value_head(
    folder: Path, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    """What LLaMA-Factory's example of a reward model writes."""
    adapter = with_head(adapters[1], tmp_path)
    found, prompts = scores_and_prompts(folder, adapter_name_or_path=adapter)
    np.testing.assert_allclose(found, value_scores(folder, [adapter], adapter, prompts), atol=5e-4)


def test_the_head_of_the_last_of_several(
    folder: Path, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    both = [with_head(adapter, tmp_path, seed) for seed, adapter in enumerate(adapters, 1)]
    found, prompts = scores_and_prompts(folder, adapter_name_or_path=both)
    np.testing.assert_allclose(found, value_scores(folder, both, both[1], prompts), atol=5e-4)


def test_a_checkpoint_of_an_adapter(
    folder: Path, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    """The head is that of the checkpoint or, where it has none, that beside it."""
    root = with_head(adapters[0], tmp_path)
    checkpoint = Path(shutil.copytree(adapters[1], root / "checkpoint-5"))
    arguments = {"adapter_name_or_path": str(root), "adapter_folder": "checkpoint-5"}
    found, prompts = scores_and_prompts(folder, **arguments)
    np.testing.assert_allclose(found, value_scores(folder, [checkpoint], root, prompts), atol=5e-4)
    add_value_head(checkpoint, seed=7)
    found, _ = scores_and_prompts(folder, **arguments)
    wanted = value_scores(folder, [checkpoint], checkpoint, prompts)
    np.testing.assert_allclose(found, wanted, atol=5e-4)


def test_a_head_beside_the_model(folder: Path, adapters: tuple[Path, Path], tmp_path: Path) -> None:
    model = add_value_head(Path(shutil.copytree(folder, tmp_path / "model")))
    found, prompts = scores_and_prompts(model, adapter_name_or_path=adapters[0])
    np.testing.assert_allclose(
        found, value_scores(folder, [adapters[0]], model, prompts), atol=5e-4
    )


@pytest.mark.parametrize("base", ["generates", "classifies"])
def test_an_adapter_of_a_classifier(base: str, folder: Path, tmp_path: Path) -> None:
    model = folder if base == "generates" else demo_reward_path("classifier")
    adapter = make_score_adapter(tmp_path / "it", model)
    found, prompts = scores_and_prompts(model, adapter_name_or_path=adapter)
    np.testing.assert_allclose(found, classifier_scores(model, adapter, prompts), atol=2e-4)


def test_without_any_head(
    folder: Path, adapters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quire.engines.native.token_engine.load_model", _never)
    with pytest.raises(UnsupportedModelError, match=r"no reward model.*value_head"):
        load(folder)
    with pytest.raises(UnsupportedModelError, match=adapters[0].name):
        load(folder, adapter_name_or_path=adapters[0])


def test_a_pickled_head_of_an_adapter(
    folder: Path, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(adapters[0], tmp_path / "it"))
    (adapter / "value_head.bin").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(WeightsError, match="pickle"):
        load(folder, adapter_name_or_path=adapter)


def _never(*_: object, **__: object) -> NoReturn:
    pytest.fail("the model was loaded")
