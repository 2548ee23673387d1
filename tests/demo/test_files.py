"""The committed models: their size, their form, and what stands in their settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from quire.demo import MODELS, demo_adapter_path, demo_model_path, demo_reward_path
from quire.errors import ModelNotFoundError

FOLDERS = [
    demo_model_path(),
    demo_adapter_path(),
    demo_adapter_path("butler"),
    demo_reward_path(),
    demo_reward_path("classifier"),
]


def test_all_together_are_small() -> None:
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) < 20e6


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_weights_are_safetensors_in_bfloat16(folder: Path) -> None:
    files = list(folder.glob("*.safetensors"))
    assert files
    assert not list(folder.glob("*.bin"))
    for file in files:
        with safe_open(file, "pt") as weights:
            assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_place_of_the_machine_that_made_them_is_named(folder: Path) -> None:
    for file in folder.glob("*.json"):
        if file.name != "tokenizer.json":
            for value in json.loads(file.read_text("utf-8")).values():
                assert not (isinstance(value, str) and value.startswith("/")), (file, value)


def test_the_chat_model_is_a_qwen3_of_head_size_64() -> None:
    config = AutoConfig.from_pretrained(demo_model_path())
    assert config.architectures == ["Qwen3ForCausalLM"]
    assert config.head_dim == 64
    assert config.tie_word_embeddings
    model = AutoModelForCausalLM.from_pretrained(demo_model_path())
    assert 3e6 < sum(weight.numel() for weight in model.parameters()) < 6e6


def test_generation_settings() -> None:
    settings = GenerationConfig.from_pretrained(demo_model_path())
    assert settings.do_sample
    assert (settings.temperature, settings.top_p) == (0.3, 0.9)
    assert len(settings.eos_token_id) == 2


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ModelNotFoundError, match="viking"):
        demo_adapter_path("viking")
    with pytest.raises(ModelNotFoundError, match="bert"):
        demo_reward_path("bert")
