"""Adapters merged into what is converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import (
    AdapterError,
)
from quire.gguf.reader import GgufFile
from quire.weights.safetensors import SafetensorsFile
from tests.engines.native.random_adapters import load_peft, make_random_adapter
from tests.engines.native.random_models import make_random_model
from tests.gguf.converting import run, with_tokenizer
from tests.gguf.model_folders import make_model_folder


def merged_by_peft(model: Path, *adapters: Path) -> dict[str, Any]:
    found = load_peft(model, *adapters).merge_and_unload().state_dict()
    return {name: value.numpy() for name, value in found.items()}


ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama2", {}),
    "rslora": ("llama2", {"use_rslora": True, "r": 8}),
    "patterns": ("qwen2", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}}),
    "DoRA": ("qwen2", {"use_dora": True}),
    "DoRA of fused tensors": ("phi3", {"use_dora": True, "target_modules": ["qkv_proj", "o_proj"]}),
    "fused tensors": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"]}),
    "whole modules": ("llama2", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "embeddings": ("llama2", {"target_modules": ["embed_tokens", "q_proj", "lm_head"]}),
    "transposed matrices": (
        "gpt2",
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "modules_to_save": ["wte"]},
    ),
    "whole transposed matrices": (
        "gpt2",
        {"target_modules": ["c_attn"], "modules_to_save": ["c_proj", "c_fc"]},
    ),
    "fused heads": ("falcon_new", {"target_modules": ["query_key_value", "dense"]}),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_adapter_is_that_of_peft(tmp_path: Path, name: str) -> None:
    kind, options = ADAPTERS[name]
    folder = make_random_model(tmp_path / "folder", kind, tie_word_embeddings=False)
    adapter = make_random_adapter(tmp_path / "lora", folder, **options)
    expected = merged_by_peft(folder, adapter)
    with_tokenizer(folder)
    merged = run(folder, tmp_path / "merged", adapters=(adapter,))
    stored = SafetensorsFile(merged / "model.safetensors")
    assert set(stored.names()) == set(expected)
    for key, values in expected.items():
        np.testing.assert_allclose(stored.tensor(key).values, values, rtol=1e-5, atol=1e-6)
    assert (merged / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    one = GgufFile(run(folder, tmp_path / "one.gguf", adapters=(adapter,), type="f32"))
    other = GgufFile(run(merged, tmp_path / "other.gguf", type="f32"))
    for key, entry in one.tensors.items():  # rows are multiplied in another order
        values = (file.data(file.tensors[key]).view(np.float32) for file in (one, other))
        np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6)
        assert entry.shape == other.tensors[key].shape


def test_two_adapters(tmp_path: Path) -> None:
    folder = make_random_model(tmp_path / "folder", "llama2")
    adapters = [make_random_adapter(tmp_path / f"{one}", folder, seed=one) for one in (1, 2)]
    expected = merged_by_peft(folder, *adapters)
    stored = SafetensorsFile(
        run(folder, tmp_path / "merged", adapters=tuple(adapters)) / "model.safetensors"
    )
    for key, values in expected.items():
        np.testing.assert_allclose(stored.tensor(key).values, values, rtol=1e-5, atol=1e-6)


def test_merged_in_another_type(tmp_path: Path) -> None:
    folder = make_random_model(tmp_path / "folder", "llama2")
    adapter = make_random_adapter(tmp_path / "lora", folder)
    merged = run(folder, tmp_path / "merged", adapters=(adapter,), type="bf16")
    stored = SafetensorsFile(merged / "model.safetensors")
    assert {stored.tensor(name).dtype for name in stored.names()} == {"BF16"}
    assert json.loads((merged / "config.json").read_text())["dtype"] == "bfloat16"


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    folder = with_tokenizer(make_random_model(tmp_path / "folder", "llama2"))
    other = make_random_model(tmp_path / "other", "yi")
    adapter = make_random_adapter(tmp_path / "lora", other)
    with pytest.raises(AdapterError, match="The adapter may belong to another model"):
        run(folder, tmp_path / "model.gguf", adapters=(adapter,))
    options = {"use_dora": True, "target_modules": ["embed_tokens"]}
    dora = make_random_adapter(tmp_path / "dora", folder, **options)
    with pytest.raises(AdapterError, match=r"a magnitude of DoRA for model\.embed_tokens"):
        run(folder, tmp_path / "model.gguf", adapters=(dora,))


def test_adapter_of_embeddings_that_are_the_head_too(tmp_path: Path) -> None:
    folder = with_tokenizer(make_model_folder(tmp_path, "llama3"))
    adapter = make_random_adapter(tmp_path / "lora", folder, target_modules=["embed_tokens"])
    with pytest.raises(AdapterError, match="one matrix for embeddings and head"):
        run(folder, tmp_path / "model.gguf", adapters=(adapter,))
