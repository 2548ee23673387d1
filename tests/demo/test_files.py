"""The committed models: their size, their form, and what stands in their settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hatchling.builders.wheel import WheelBuilder
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from quire.arguments import ModelArguments
from quire.demo import (
    MODELS,
    NAMES,
    demo_adapter_path,
    demo_hear_path,
    demo_model_path,
    demo_reward_path,
    demo_see_path,
)
from quire.deploy.model import find_served_model
from quire.errors import ModelNotFoundError
from quire.model_folder import find_model_folder

FOLDERS = [
    demo_model_path(),
    demo_adapter_path(),
    demo_adapter_path("butler"),
    demo_reward_path(),
    demo_reward_path("classifier"),
    demo_see_path(),
    demo_hear_path(),
]


def test_all_together_are_small() -> None:
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) < 20e6


def test_the_wheel_holds_every_file_of_them() -> None:
    builder = WheelBuilder(str(Path(__file__).parents[2]))
    packed = {file.distribution_path for file in builder.recurse_included_files()}
    for file in MODELS.rglob("*"):
        if file.is_file():
            assert f"quire/demo/models/{file.relative_to(MODELS).as_posix()}" in packed


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_enough(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ModelArguments(model_name_or_path=name)
    monkeypatch.chdir(tmp_path)
    folder = find_model_folder(arguments)
    assert folder.parent == MODELS
    assert find_served_model(arguments).folder == folder
    # A folder of that name here is what was meant.
    (tmp_path / name).mkdir()
    assert find_model_folder(arguments) == Path(name)


def test_a_misspelt_name_is_told_the_right_one() -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean 'demo-see'"):
        find_model_folder(ModelArguments(model_name_or_path="demo-sea"))


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


@pytest.mark.parametrize("folder", [demo_see_path(), demo_hear_path()], ids=lambda path: path.name)
def test_the_media_models_are_of_shapes_that_vllm_takes(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    text = config.text_config
    assert text.hidden_size // text.num_attention_heads == 32
    names = set()
    with safe_open(folder / "model.safetensors", "np") as weights:
        names = set(weights.keys())
    # The names of the hub, which vLLM knows.
    if folder.name == "see":
        assert config.architectures == ["Qwen2VLForConditionalGeneration"]
        assert {"lm_head.weight", "model.norm.weight", "visual.merger.ln_q.weight"} <= names
        assert config.vision_config.embed_dim // config.vision_config.num_heads == 32
    else:
        assert config.architectures == ["Qwen2AudioForConditionalGeneration"]
        assert {"language_model.lm_head.weight", "language_model.model.norm.weight"} <= names
        # Whisper's half minute: vLLM takes no other.
        assert config.audio_config.max_source_positions == 1500


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
