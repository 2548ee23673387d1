"""An adapter and its model, also with adapters that peft itself wrote."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from quire.adapters.folder import check_fits, read_adapter
from quire.demo import demo_adapter_path, demo_model_path
from quire.errors import AdapterError
from tests.adapters.adapter_folders import (
    Q_PROJ,
    SHAPES,
    V_PROJ,
    make_adapter,
    make_model,
    tensors_of,
)


def _refusal(adapter: Path, model: Path) -> str:
    with pytest.raises(AdapterError) as caught:
        check_fits(read_adapter(adapter), model)
    assert str(adapter) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["pirate", "butler"])
def test_the_demo_adapters_fit_the_demo_model(name: str) -> None:
    check_fits(read_adapter(demo_adapter_path(name)), demo_model_path())


def test_a_foreign_module(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", {Q_PROJ: (6, 4), V_PROJ.replace("v_", "vv_"): (2, 4)})
    text = _refusal(make_adapter(tmp_path / "adapter"), model)
    assert V_PROJ in text
    assert "did you mean 'model.layers.0.self_attn.vv_proj'" in text
    assert "someone/small" in text


@pytest.mark.parametrize("shape", [(4, 6), (6, 5), (6,), (2, 6, 4)])
def test_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    model = make_model(tmp_path / "model", {**SHAPES, Q_PROJ: shape})
    text = _refusal(make_adapter(tmp_path / "adapter"), model)
    assert "[6, 4]" in text
    assert str(list(shape)) in text


@pytest.mark.parametrize(
    ("stored", "fits"),
    [
        ("layers.0", True),
        ("language_model.model.layers.0", True),
        ("model.language_model.layers.0", True),
        ("transformer.layers.0", True),
        ("model.layers.1", False),
        ("model.blocks.0", False),
    ],
)
def test_other_names_of_the_same_module(tmp_path: Path, stored: str, fits: bool) -> None:
    shapes = {name.replace("model.layers.0", stored): shape for name, shape in SHAPES.items()}
    model = make_model(tmp_path / "model", shapes)
    adapter = make_adapter(tmp_path / "adapter")
    if fits:
        check_fits(read_adapter(adapter), model)
    else:
        assert "no module of the model" in _refusal(adapter, model)


TOWER = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"


def _model_with_tower(folder: Path, text: str) -> Path:
    """A model whose tower has the same modules as its decoder, in other shapes."""
    shapes: dict[str, tuple[int, ...]] = {f"{text}embed_tokens": (9, 4), TOWER: (3, 3)}
    shapes |= {name.replace("model.", text): shape for name, shape in SHAPES.items()}
    return make_model(folder, shapes)


def _adapter_of(folder: Path, shapes: dict[str, tuple[int, int]]) -> Path:
    return make_adapter(folder, tensors_of(shapes), target_modules="all-linear")


@pytest.mark.parametrize("stored", ["language_model.model.", "model.language_model.", "model."])
@pytest.mark.parametrize("named", ["language_model.model.", "model.language_model.", "model."])
def test_the_text_decoder_of_a_model_with_a_tower(tmp_path: Path, stored: str, named: str) -> None:
    model = _model_with_tower(tmp_path / "model", stored)
    shapes = {name.replace("model.", named): shape for name, shape in SHAPES.items()}
    names = check_fits(read_adapter(_adapter_of(tmp_path / "adapter", shapes)), model)
    assert names == {name: name.replace(named, stored, 1) for name in shapes}


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_tower_is_refused_by_name(tmp_path: Path, prefix: str, extended: bool) -> None:
    model = _model_with_tower(tmp_path / "model", "language_model.model.")
    folder = _adapter_of(tmp_path / "adapter", {f"{prefix}{TOWER}": (3, 3)})
    adapter = read_adapter(folder, extended=extended)
    with pytest.raises(AdapterError, match=r"vision_tower.*no part of the model's text decoder"):
        check_fits(adapter, model)
    assert check_fits(adapter, model, towers=True) == {f"{prefix}{TOWER}": TOWER}


def test_a_tower_is_not_the_decoder_of_a_model_without_one(tmp_path: Path) -> None:
    adapter = _adapter_of(tmp_path / "adapter", {f"visual.{Q_PROJ}": (6, 4)})
    assert "no module of the model" in _refusal(adapter, make_model(tmp_path / "model"))


@pytest.mark.parametrize(
    "packed",
    [
        {".qweight": (np.int32, (1, 6)), ".scales": (np.float16, (1, 6))},
        {".weight": (np.uint8, (12, 1)), ".weight.absmax": (np.float32, (1,))},
    ],
)
def test_of_a_quantised_module_only_the_name_counts(tmp_path: Path, packed: dict[str, Any]) -> None:
    tensors = {
        f"{module}{end}": np.zeros(shape, kind)
        for module in SHAPES
        for end, (kind, shape) in packed.items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    check_fits(read_adapter(make_adapter(tmp_path / "adapter")), tmp_path)


def test_matrices_that_hold_packed_bytes_as_floats(tmp_path: Path) -> None:
    """bitsandbytes with `bnb_4bit_quant_storage: bfloat16`."""
    tensors: dict[str, Any] = {}
    for module in SHAPES:
        tensors[f"{module}.weight"] = np.zeros((6, 1), np.float16)
        tensors[f"{module}.weight.absmax"] = np.zeros(1, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    check_fits(read_adapter(make_adapter(tmp_path / "adapter")), tmp_path)


def test_the_one_file_of_autogptq(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    (model / "model.safetensors").rename(model / "gptq_model-4bit-128g.safetensors")
    check_fits(read_adapter(make_adapter(tmp_path / "adapter")), model)


class TestSeveralFiles:
    def _model(self, folder: Path) -> Path:
        folder.mkdir()
        where: dict[str, str] = {}
        for number, (module, shape) in enumerate(SHAPES.items()):
            file = f"model-{number}.safetensors"
            save_file({f"{module}.weight": np.zeros(shape, np.float32)}, folder / file)
            where[f"{module}.weight"] = file
        index = json.dumps({"weight_map": where})
        (folder / "model.safetensors.index.json").write_text(index)
        return folder

    def test_whole(self, tmp_path: Path) -> None:
        check_fits(
            read_adapter(make_adapter(tmp_path / "adapter")), self._model(tmp_path / "model")
        )

    def test_a_file_is_missing(self, tmp_path: Path) -> None:
        model = self._model(tmp_path / "model")
        (model / "model-1.safetensors").unlink()
        assert "model-1.safetensors" in _refusal(make_adapter(tmp_path / "adapter"), model)

    def test_a_file_that_nothing_needs_is_missing(self, tmp_path: Path) -> None:
        model = self._model(tmp_path / "model")
        index = model / "model.safetensors.index.json"
        content = json.loads(index.read_text("utf-8"))
        content["weight_map"]["vision.weight"] = "model-9.safetensors"
        index.write_text(json.dumps(content), "utf-8")
        check_fits(read_adapter(make_adapter(tmp_path / "adapter")), model)

    def test_without_an_index(self, tmp_path: Path) -> None:
        model = self._model(tmp_path / "model")
        (model / "model.safetensors.index.json").unlink()
        for number in (0, 1):
            name = f"model-0000{number + 1}-of-00002.safetensors"
            (model / f"model-{number}.safetensors").rename(model / name)
        check_fits(read_adapter(make_adapter(tmp_path / "adapter")), model)
        (model / name).unlink()
        assert name in _refusal(make_adapter(tmp_path / "adapter"), model)

    @pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', "\xff"])
    def test_no_index(self, tmp_path: Path, text: str) -> None:
        model = self._model(tmp_path / "model")
        (model / "model.safetensors.index.json").write_bytes(text.encode("latin-1"))
        assert "no index" in _refusal(make_adapter(tmp_path / "adapter"), model)


def test_a_model_without_safetensors(tmp_path: Path) -> None:
    assert "neither" in _refusal(make_adapter(tmp_path / "adapter"), tmp_path)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 model of two layers."""
    folder = tmp_path_factory.mktemp("qwen3")
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=False,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def _peft(model: Path, folder: Path, *, embeddings: bool | str = "auto", **options: Any) -> Path:
    """An adapter by peft, with random values in every tensor."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "init_lora_weights": False} | options)
    torch.manual_seed(2)
    wrapped = get_peft_model(Qwen3ForCausalLM.from_pretrained(model), config)
    wrapped.save_pretrained(str(folder), save_embedding_layers=embeddings)
    return folder


class TestPeft:
    def test_what_it_saves_is_read_without_a_warning(
        self, qwen3: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = _peft(qwen3, tmp_path, target_modules="all-linear")
        with caplog.at_level(logging.WARNING, "quire"):
            adapter = read_adapter(folder)
        assert not [record for record in caplog.records if record.name == "quire"]
        check_fits(adapter, qwen3)
        assert (adapter.rank, len(adapter.modules), adapter.base_model) == (4, 14, str(qwen3))

    def test_ranks_and_scaling_are_those_of_peft(self, qwen3: Path, tmp_path: Path) -> None:
        folder = _peft(
            qwen3,
            tmp_path,
            embeddings=False,
            target_modules=["q_proj", "down_proj", "lm_head"],
            rank_pattern={"layers.1.mlp.down_proj": 9},
            alpha_pattern={"layers.1.mlp.down_proj": 12},
            use_rslora=True,
        )
        adapter = read_adapter(folder)
        check_fits(adapter, qwen3)
        assert (adapter.rank, adapter.alpha) == (9, pytest.approx(12))
        assert adapter.scaling == pytest.approx(4)
        assert adapter.modules[0] == "lm_head"

    def test_an_untrained_one_changes_nothing(self, qwen3: Path, tmp_path: Path) -> None:
        _peft(qwen3, tmp_path, target_modules=["q_proj"], init_lora_weights=True)
        with pytest.raises(AdapterError, match="changes nothing"):
            read_adapter(tmp_path)

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
            ({"target_modules": ["lm_head"]}, "save_embedding_layers=False"),
            ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "lm_head"),
            ({"target_modules": ["q_proj"], "trainable_token_indices": [1]}, "token_indices"),
            ({"target_modules": ["q_proj"], "use_dora": True}, "use_dora"),
            ({"target_modules": ["q_proj"], "lora_bias": True}, "lora_bias"),
            ({"target_modules": ["q_proj"], "init_lora_weights": "olora"}, "olora"),
            ({"target_modules": ["q_proj"], "alora_invocation_tokens": [1]}, "invocation"),
            ({"target_modules": ["q_proj"], "rank_pattern": {"layers.1.*": 2}}, "rank_pattern"),
        ],
    )
    def test_other_kinds(
        self, qwen3: Path, tmp_path: Path, options: dict[str, Any], named: str
    ) -> None:
        _peft(qwen3, tmp_path, **options)
        with pytest.raises(AdapterError, match=named):
            read_adapter(tmp_path)

    def test_another_model(self, qwen3: Path, tmp_path: Path) -> None:
        text = _refusal(_peft(qwen3, tmp_path, target_modules=["q_proj"]), demo_model_path())
        assert str(qwen3) in text
