"""Weights against safetensors and torch, and every way a folder can be wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from quire.engines.native.cpu.weights import (
    SafetensorsFile,
    WeightsFolder,
    load_weights,
    round_to_bfloat16,
    widen,
)
from quire.engines.native.models.registry import read_spec
from quire.engines.native.models.spec import TensorSpec
from quire.errors import ModelNotFoundError, WeightsError
from tests.engines.native.random_models import make_random_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_model(tmp_path_factory.mktemp("model"), "qwen2")


def mapped(array: Any) -> bool:
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


def test_float32_is_mapped_and_equal(folder: Path) -> None:
    weights = load_weights(read_spec(folder), folder)
    wanted = load_file(folder / "model.safetensors")
    q = weights.layers[1]["q"]
    assert mapped(q)
    assert not q.flags.writeable
    np.testing.assert_array_equal(q, wanted["model.layers.1.self_attn.q_proj.weight"].numpy())
    bias = wanted["model.layers.2.self_attn.k_proj.bias"].numpy()
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
    wanted = next(t[name] for t in map(load_file, folder.glob("*.safetensors")) if name in t)
    np.testing.assert_array_equal(widen(up), wanted.float().numpy())
    assert weights.layers[0]["ffn_norm"].dtype == np.float32
    wide = load_weights(read_spec(folder), folder, "float32").layers[0]["up"]
    np.testing.assert_array_equal(wide, wanted.float().numpy())


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
        np.testing.assert_array_equal(together, stored.tensor(spec).values)


def test_only_interleaved_parts_are_copied(tmp_path: Path) -> None:
    layer = load_weights(read_spec(make_random_model(tmp_path, "internlm2")), tmp_path).layers[0]
    copied = {role for role, array in layer.items() if array.ndim == 2 and not mapped(array)}
    assert copied == {"q", "k", "v"}


def test_one_is_added_to_gemmas_norms(tmp_path: Path) -> None:
    folder = make_random_model(tmp_path, "gemma2", dtype="bfloat16")
    weights = load_weights(read_spec(folder), folder)
    stored = load_file(folder / "model.safetensors")
    wanted = 1 + stored["model.layers.0.pre_feedforward_layernorm.weight"].float()
    np.testing.assert_array_equal(weights.layers[0]["ffn_norm"], wanted.numpy())
    assert mapped(weights.layers[0]["q"])


@pytest.mark.parametrize("spelling", ["language_model.model.", "model.language_model."])
def test_a_text_decoder_under_either_prefix(tmp_path: Path, spelling: str) -> None:
    folder = make_random_model(tmp_path, "mistral3")
    before = load_weights(read_spec(folder), folder)
    renamed = {}
    for name, value in load_file(folder / "model.safetensors").items():
        for prefix in ("language_model.model.", "model.language_model."):
            name = name.replace(prefix, "TEXT.")
        renamed[name.replace("TEXT.", spelling)] = value
    save_file(renamed, folder / "model.safetensors")
    after = load_weights(read_spec(folder), folder)
    assert mapped(after.layers[2]["down"])
    for role, array in after.layers[2].items():
        np.testing.assert_array_equal(array, before.layers[2][role])
    np.testing.assert_array_equal(after.tensors["head"], before.tensors["head"])


def test_float16_becomes_float32(tmp_path: Path) -> None:
    folder = make_random_model(tmp_path, "llama2", dtype="float16")
    up = load_weights(read_spec(folder), folder).layers[0]["up"]
    wanted = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    np.testing.assert_array_equal(up, wanted.float().numpy())


def test_rounding_on_request(folder: Path) -> None:
    up = load_weights(read_spec(folder), folder, "bfloat16").layers[0]["up"]
    wanted = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    np.testing.assert_array_equal(widen(up), wanted.bfloat16().float().numpy())


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_rounding_is_torchs(values: list[float]) -> None:
    array = np.array(values, np.float32)
    wanted = torch.from_numpy(array).bfloat16().float().numpy()
    np.testing.assert_array_equal(widen(round_to_bfloat16(array)), wanted)


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (entry(offsets=(0, 12)), r"w of shape \(2,\) needs 8 bytes"),
        (entry(offsets=(8, 16)), "truncated: w ends at byte 16"),
        (entry(offsets=(-8, 0)), "malformed"),
        (entry(offsets=(0,)), "malformed"),
        (entry(shape=(-2,)), "malformed"),
        (entry(shape=(2.0,)), "malformed"),
        (entry(shape=None), "malformed"),
        (entry(shape=(2**40, 2**40)), "needs"),
        (entry(dtype="F8_E4M3"), "unknown type 'F8_E4M3'"),
        (entry(dtype=None), "unknown type"),
        ({"v": {}}, "no tensor w"),
        ({"w": 3}, "no tensor w"),
        (b"{", "no JSON"),
        (b"[]", "no JSON object"),
    ],
)
def test_damaged_headers(tmp_path: Path, header: Any, text: str) -> None:
    path = write(tmp_path / "a.safetensors", header, bytes(8))
    with pytest.raises(WeightsError, match=text) as caught:
        SafetensorsFile(path).tensor("w")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 1 << 60) + b"{}"])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.safetensors"):
        SafetensorsFile(path)


def test_unaligned_data_is_copied(tmp_path: Path) -> None:
    header = json.dumps(entry()).encode()
    header += b" " * ((1 - len(header)) % 8)  # the data begins one byte off
    path = write(tmp_path / "a.safetensors", header, np.array([1.5, -2], np.float32).tobytes())
    np.testing.assert_array_equal(SafetensorsFile(path).tensor("w").values, [1.5, -2])


def test_truncated_model(tmp_path: Path, folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="truncated"):
        load_weights(read_spec(folder), tmp_path)


def test_missing_tensor_and_wrong_shape(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2, 3, dtype=torch.int32)}, tmp_path / "model.safetensors")
    source = WeightsFolder(tmp_path)
    with pytest.raises(WeightsError, match=r"lack model\.norm\.weight"):
        source.tensor(TensorSpec("final_norm", "model.norm.weight", (4,)))
    with pytest.raises(WeightsError, match=r"w has shape \(2, 3\).*asks for \(3, 2\)"):
        source.tensor(TensorSpec("q", "w", (3, 2)))
    with pytest.raises(WeightsError, match="no float"):
        source.tensor(TensorSpec("q", "w", (2, 3)))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="not a folder"):
        WeightsFolder(tmp_path / "absent")
    with pytest.raises(ModelNotFoundError, match="neither"):
        WeightsFolder(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "part-1.safetensors"}}))
    with pytest.raises(ModelNotFoundError, match=r"lacks part-1\.safetensors"):
        WeightsFolder(tmp_path).tensor(TensorSpec("q", "w", (1,)))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {"w": 3}}'])
def test_damaged_index(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match="index"):
        WeightsFolder(tmp_path)


def test_index_stays_in_its_folder(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../other.safetensors"}}))
    with pytest.raises(WeightsError, match="no file of this folder"):
        WeightsFolder(tmp_path)


def test_pickles_are_refused_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin.*weights_only=True.*save_pretr"):
        WeightsFolder(tmp_path)
