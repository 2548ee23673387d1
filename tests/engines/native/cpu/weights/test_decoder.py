"""A decoder's weights against safetensors and torch: mapped, converted, taken out of fused tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quire.engines.native.cpu.weights.decoder import load_weights, read_tensor
from quire.engines.native.models.registry import read_spec
from quire.engines.native.models.tensors import TensorSpec
from quire.errors import ModelNotFoundError, WeightsError
from quire.weights.safetensors import WeightsFolder, widen
from tests.engines.native.random_models import load_oracle, make_random_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_model(tmp_path_factory.mktemp("model"), "qwen2")


def mapped(array: Any) -> bool:
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


def test_float32_is_mapped_and_equal(folder: Path) -> None:
    weights = load_weights(read_spec(folder), folder)
    expected = load_file(folder / "model.safetensors")
    q = weights.layers[1]["q"]
    assert mapped(q)
    assert not q.flags.writeable
    np.testing.assert_array_equal(q, expected["model.layers.1.self_attn.q_proj.weight"].numpy())
    bias = expected["model.layers.2.self_attn.k_proj.bias"].numpy()
    np.testing.assert_array_equal(weights.layers[2]["k_bias"], bias)
    assert weights.tensors["head"] is weights.tensors["embeddings"]


@pytest.mark.parametrize("shards", ["5GB", "60KB"])
def test_bfloat16_is_mapped_sharded_or_not(tmp_path: Path, shards: str) -> None:
    folder = make_random_model(tmp_path, "llama2", dtype="bfloat16", max_shard_size=shards)
    weights = load_weights(read_spec(folder), folder)
    up = weights.layers[0]["up"]
    assert mapped(up)
    assert up.dtype == np.uint16
    name = "model.layers.0.mlp.up_proj.weight"
    expected = next(t[name] for t in map(load_file, folder.glob("*.safetensors")) if name in t)
    np.testing.assert_array_equal(widen(up), expected.float().numpy())
    assert weights.layers[0]["ffn_norm"].dtype == np.float32
    wide = load_weights(read_spec(folder), folder, "float32").layers[0]["up"]
    np.testing.assert_array_equal(wide, expected.float().numpy())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parts_of_fused_tensors_are_mapped(tmp_path: Path, dtype: str) -> None:
    folder = make_random_model(tmp_path, "phi3", dtype=dtype)
    layer = load_weights(read_spec(folder), folder).layers[1]
    stored = WeightsFolder(folder)
    for name, roles in (("self_attn.qkv_proj", "q k v"), ("mlp.gate_up_proj", "gate up")):
        parts = [layer[role] for role in roles.split()]
        assert all(mapped(part) and part.flags.c_contiguous for part in parts)
        together = np.concatenate(parts)
        spec = TensorSpec("", f"model.layers.1.{name}.weight", together.shape)
        np.testing.assert_array_equal(together, read_tensor(stored, spec).values)


def test_only_interleaved_parts_are_copied(tmp_path: Path) -> None:
    layer = load_weights(read_spec(make_random_model(tmp_path, "internlm2")), tmp_path).layers[0]
    copied = {role for role, array in layer.items() if array.ndim == 2 and not mapped(array)}
    assert copied == {"q", "k", "v"}


def test_one_is_added_to_gemmas_norms(tmp_path: Path) -> None:
    folder = make_random_model(tmp_path, "gemma2", dtype="bfloat16")
    weights = load_weights(read_spec(folder), folder)
    stored = load_file(folder / "model.safetensors")
    expected = 1 + stored["model.layers.0.pre_feedforward_layernorm.weight"].float()
    np.testing.assert_array_equal(weights.layers[0]["ffn_norm"], expected.numpy())
    assert mapped(weights.layers[0]["q"])


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_a_text_decoder_under_either_prefix(tmp_path: Path, prefix: str) -> None:
    folder = make_random_model(tmp_path, "mistral3")
    before = load_weights(read_spec(folder), folder)
    renamed = {}
    for name, value in load_file(folder / "model.safetensors").items():
        for known in ("language_model.model.", "model.language_model."):
            name = name.replace(known, "TEXT.")
        renamed[name.replace("TEXT.", prefix)] = value
    save_file(renamed, folder / "model.safetensors")
    after = load_weights(read_spec(folder), folder)
    assert mapped(after.layers[2]["down"])
    for role, array in after.layers[2].items():
        np.testing.assert_array_equal(array, before.layers[2][role])
    np.testing.assert_array_equal(after.tensors["head"], before.tensors["head"])


def test_float16_becomes_float32(tmp_path: Path) -> None:
    folder = make_random_model(tmp_path, "llama2", dtype="float16")
    up = load_weights(read_spec(folder), folder).layers[0]["up"]
    expected = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    np.testing.assert_array_equal(up, expected.float().numpy())


def test_rounding_on_request(folder: Path) -> None:
    up = load_weights(read_spec(folder), folder, "bfloat16").layers[0]["up"]
    expected = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    np.testing.assert_array_equal(widen(up), expected.bfloat16().float().numpy())


def test_truncated_model(tmp_path: Path, folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="truncated"):
        load_weights(read_spec(folder), tmp_path)


def test_missing_tensor_and_wrong_shape(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2, 3, dtype=torch.int32)}, tmp_path / "model.safetensors")
    source = WeightsFolder(tmp_path)
    with pytest.raises(WeightsError, match=r"lack model\.norm\.weight"):
        read_tensor(source, TensorSpec("final_norm", "model.norm.weight", (4,)))
    with pytest.raises(WeightsError, match=r"w has shape \(2, 3\).*asks for \(3, 2\)"):
        read_tensor(source, TensorSpec("q", "w", (3, 2)))
    with pytest.raises(WeightsError, match="no float"):
        read_tensor(source, TensorSpec("q", "w", (2, 3)))


# ---- tied embeddings


TIED = {"qwen2": "", "gemma3": "language_model."}


def stored_tie(folder: Path, kind: str, how: str) -> Path:
    """A model of a config that ties, whose file holds the head alone, both alike, or both apart."""
    folder = make_random_model(folder, kind, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    (name,) = [one for one in tensors if one.endswith("embed_tokens.weight")]
    head = f"{TIED[kind]}lm_head.weight"
    tensors[head] = tensors[name].clone()
    if how == "apart":
        tensors[head][7] *= -1
    elif how == "head":
        del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("how", ["head", "alike", "apart"])
@pytest.mark.parametrize("kind", TIED)
def test_what_is_stored_decides_whether_embeddings_are_tied(
    how: str,
    kind: str,
    quantize: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    folder = stored_tie(tmp_path / "model", kind, how)
    tied = load_oracle(folder)
    embeddings, head = tied.get_input_embeddings().weight, tied.get_output_embeddings().weight
    weights = load_weights(read_spec(folder), folder, quantize=quantize)
    np.testing.assert_array_equal(weights.tensors["embeddings"], embeddings.detach().numpy())
    if quantize is None:
        np.testing.assert_array_equal(weights.tensors["head"], head.detach().numpy())
        assert (weights.tensors["head"] is weights.tensors["embeddings"]) == (how != "apart")
    assert weights.spec.head.tied == (how != "apart")
    assert ("differ" in caplog.text) == (how == "apart")


def test_a_model_without_a_head_needs_no_head(tmp_path: Path) -> None:
    folder = stored_tie(tmp_path, "qwen2", "apart")
    weights = load_weights(read_spec(folder), folder, with_head=False)
    assert "head" not in weights.tensors


# ---- which files


def sharded(folder: Path) -> list[Path]:
    make_random_model(folder, "llama2", max_shard_size="60KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    return shards


def test_shards_without_an_index(tmp_path: Path) -> None:
    shards = sharded(tmp_path)
    before = load_weights(read_spec(tmp_path), tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    after = load_weights(read_spec(tmp_path), tmp_path)
    for layer, other in zip(before.layers, after.layers, strict=True):
        for role, array in layer.items():
            np.testing.assert_array_equal(array, other[role])
    shards[1].unlink()
    with pytest.raises(ModelNotFoundError, match=rf"lacks {shards[1].name}"):
        load_weights(read_spec(tmp_path), tmp_path)


def test_shards_of_two_models(tmp_path: Path) -> None:
    shards = sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    shards[0].rename(tmp_path / "model-00001-of-00009.safetensors")
    with pytest.raises(WeightsError, match="shards of several models"):
        load_weights(read_spec(tmp_path), tmp_path)


def test_a_file_that_nothing_needs_may_be_absent(tmp_path: Path) -> None:
    sharded(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text("utf-8"))
    content["weight_map"]["model.vision.weight"] = "model-00099-of-00099.safetensors"
    index.write_text(json.dumps(content), "utf-8")
    load_weights(read_spec(tmp_path), tmp_path)
