"""Reward models on vLLM: whose head is applied, and what is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from quire import ChatModel
from quire.arguments import get_infer_args
from quire.demo import demo_model_path, demo_reward_path
from quire.engines.vllm.rewards import read_vllm_reward
from quire.errors import UnsupportedModelError
from tests.chat.model_folders import make_model_folder
from tests.chat.reward_folders import (
    add_value_head,
    classifier_scores,
    make_score_adapter,
    value_scores,
)
from tests.engines.native.random_adapters import make_random_adapter

HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
"""Heads of 32, the least that vLLM takes on a CPU."""
TEXTS = ["Hello!", "2 + 2 is 4.", "Bananas are blue and the answer is no."]


def reward_of(folder: Path, *adapters: Path, **arguments: Any) -> Any:
    values = {"model_name_or_path": str(folder), "stage": "rm", **arguments}
    return read_vllm_reward(get_infer_args(values), folder, adapters)


def with_config(folder: Path, **values: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8, **values}))
    save_file({"model.norm.weight": torch.ones(8)}, folder / "model.safetensors")
    return folder


def test_whose_head_it_is(tmp_path: Path) -> None:
    assert reward_of(demo_reward_path("value_head")).head is not None
    assert reward_of(demo_reward_path("classifier")).head is None
    assert reward_of(demo_model_path(), stage="sft") is None
    assert reward_of(demo_model_path(), add_value_head(tmp_path, hidden=256)).head is not None
    other = with_config(tmp_path / "other", architectures=["InternLM2ForRewardModel"])
    assert reward_of(other).head is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": ["Qwen3ForCausalLM"]}, "no reward model"),
        ({"architectures": ["Qwen3Model"]}, "no reward model"),
        ({}, "no reward model"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, r"no head \(score\.weight\)"),
    ],
)
def test_without_any_head(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        reward_of(with_config(tmp_path / "it", **config))


@pytest.mark.parametrize(
    "own",
    [
        {"convert": "classify"},
        {"hf_overrides": {"architectures": ["Qwen3ForSequenceClassification"]}},
    ],
)
def test_who_says_how_vllm_scores_is_taken_at_his_word(own: dict[str, Any]) -> None:
    assert reward_of(demo_model_path(), vllm_config=own) is None


def test_an_adapters_head_for_a_classifier(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="infer_backend native"):
        reward_of(demo_reward_path("classifier"), add_value_head(tmp_path))


def test_the_engine_is_not_started_without_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.engines.vllm.token_engine._make_plan", pytest.fail)
    with pytest.raises(UnsupportedModelError, match="no reward model"):
        load(demo_model_path())


def load(folder: Path, **arguments: Any) -> ChatModel:
    settings = {
        "infer_backend": "vllm",
        "infer_dtype": "float32",
        "vllm_enforce_eager": True,
        "vllm_maxlen": 256,
    }
    return ChatModel({"model_name_or_path": folder, "stage": "rm", **settings, **arguments})


@pytest.mark.vllm
@pytest.mark.parametrize("kind", ["sum", "score"])
def test_scores_are_those_of_transformers(kind: str, forked_vllm: None, tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model", **HEADS)
    if kind == "score":
        adapters = [make_score_adapter(tmp_path / "it", folder)]
    else:
        adapters = [
            make_random_adapter(tmp_path / name, folder, seed=seed, strength=0.2)
            for seed, name in enumerate(("sft", "rm"), 1)
        ]
        add_value_head(adapters[-1])
    with load(folder, adapter_name_or_path=adapters) as model:
        found = model.get_scores(TEXTS)
        prompts = [tuple(model.engine.tokenizer.encode(text)) for text in TEXTS]
    if kind == "score":
        wanted = classifier_scores(folder, adapters[0], prompts)
    else:
        wanted = value_scores(folder, adapters, adapters[-1], prompts)
    assert found == pytest.approx(wanted, abs=2e-3)
