"""Specs against transformers' own configs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from quire.errors import ModelError, ModelNotFoundError, UnsupportedModelError
from quire.native.models.config import HubConfig
from quire.native.models.registry import read_spec, spec_of
from tests.native.random_models import KINDS, make_random_model

PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def spec(**changes: Any) -> Any:
    return spec_of(HubConfig({**PLAIN, **changes}))


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_shapes_are_those_of_the_folder(tmp_path: Path, kind: str) -> None:
    folder = make_random_model(tmp_path, kind)
    model = AutoModelForCausalLM.from_pretrained(folder)
    found = read_spec(folder)
    tensors = list(found.global_tensors())
    for layer in range(found.num_layers):
        tensors += found.layer_tensors(layer)
    assert {t.name: t.shape for t in tensors} == {
        name: tuple(value.shape) for name, value in model.named_parameters()
    }


def test_mistral_windows() -> None:
    assert spec(model_type="mistral").windows == (4096, 4096)
    assert spec(model_type="mistral", sliding_window=None).windows == (0, 0)
    assert spec(model_type="mistral", sliding_window=7).windows == (7, 7)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_qwen_windows(model_type: str) -> None:
    on = {"model_type": model_type, "use_sliding_window": True, "sliding_window": 9}
    assert spec(model_type=model_type, sliding_window=9).windows == (0, 0)
    assert spec(**on, max_window_layers=1).windows == (0, 9)
    assert spec(**on, max_window_layers=0).windows == (9, 9)
    assert spec(**on, layer_types=["sliding_attention", "full_attention"]).windows == (9, 0)
    with pytest.raises(ModelError, match="layer_types"):
        spec(**on, layer_types=["sliding_attention"])


def test_unknown_model_type_names_the_known_and_vllm() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'bloom'.*llama, mistral, qwen2.*vllm"):
        spec(model_type="bloom")
    with pytest.raises(UnsupportedModelError, match="missing"):
        spec(model_type=None)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "quant_method is .fp8."),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
    ],
)
def test_unsupported(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UnsupportedModelError, match=text):
        spec(**changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"head_dim": 15}, "head_dim is 15"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
    ],
)
def test_wrong_values_name_the_key(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        spec(**changes)


def test_folder_faults(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="not a folder"):
        read_spec(tmp_path / "absent")
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ModelError, match="no JSON object"):
        read_spec(tmp_path)
