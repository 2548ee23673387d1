"""Each model's GGUF file against its folder.

Files are written by `model_files.write_model` and, where its sources are at hand, by llama.cpp's converter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.engines.native.cpu.weights.mxfp4 import block_rows, is_in_blocks
from quire.engines.native.models.registry import read_spec
from quire.weights.safetensors import SafetensorsFile, WeightsFolder
from tests.engines.native.random_mxfp4 import make_mxfp4_model
from tests.gguf.llama_cpp import LLAMA_CPP, convert_folders, llama_cpp
from tests.gguf.model_files import write_model
from tests.gguf.model_folders import ALL_MODELS, CONVERTED, MIXED_MODELS, make_model_folder
from tests.gguf.same_model import assert_same_model, open_model, tensors_of


@pytest.mark.parametrize("name", ALL_MODELS)
def test_model_is_that_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = make_model_folder(tmp_path, name)
    assert_same_model(folder, write_model(folder, tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    "name",
    ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "glm4_moe", "minimax_m2", "ernie4_5_moe"],
)
@pytest.mark.parametrize("experts", ["apart", "gate_up"])
def test_experts_apart_or_gate_and_up_fused(tmp_path: Path, name: str, experts: Any) -> None:
    """Experts apart are llama.cpp #10244 of files of before April 2024."""
    folder = make_model_folder(tmp_path, name)
    assert_same_model(folder, write_model(folder, tmp_path / "model.gguf", experts=experts))


@pytest.mark.parametrize(
    "name",
    ["llama with grouped heads and biases", "qwen2", "glm", "gemma2", "internlm2", "granite"],
)
def test_fused_queries_keys_and_values(tmp_path: Path, name: str) -> None:
    folder = make_model_folder(tmp_path, name)
    assert_same_model(folder, write_model(folder, tmp_path / "model.gguf", fused_qkv=True))


def test_first_files_of_qwen3_next(tmp_path: Path) -> None:
    """They have all maps of a delta net in one tensor, in the order of a folder."""
    folder = make_model_folder(tmp_path, "qwen3_next")
    stored, tensors = SafetensorsFile(folder / "model.safetensors"), dict[str, Any]()
    for name in stored.names():
        if "in_proj_qkvz" in name:
            block = f"blk.{name.split('.')[2]}."
            tensors[f"{block}ssm_in.weight"] = np.array(stored.tensor(name).values)
            tensors |= {f"{block}attn_qkv.weight": None, f"{block}attn_gate.weight": None}
    assert len(tensors) == 9
    assert_same_model(folder, write_model(folder, tmp_path / "model.gguf", tensors=tensors))


def test_text_of_qwen2_vl(tmp_path: Path) -> None:
    """In a text the three positions of M-RoPE are equal, so the model is a Qwen2."""
    folder = make_model_folder(tmp_path, "qwen2")
    sections = {".rope.dimension_sections": [np.int32(2), np.int32(3), np.int32(3)]}  # of 4
    path = tmp_path / "model.gguf"
    write_model(folder, path, architecture="qwen2vl", metadata=sections)
    assert_same_model(folder, path)


FUSED = ("llama with grouped heads and biases", "qwen2", "gemma2")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """By name: a folder and the file that llama.cpp's converter made of it."""
    if llama_cpp() is None:
        pytest.skip(f"{LLAMA_CPP} does not name the folder of llama.cpp's sources")
    jobs: dict[str, tuple[Path, Path, list[str]]] = {}
    for name in CONVERTED:
        place = tmp_path_factory.mktemp("model")
        # Without the layers that guess further tokens, which the folders lack.
        options = ["--no-mtp"] if name.startswith("qwen3_") and name in MIXED_MODELS else []
        jobs[name] = make_model_folder(place, name), place / "model.gguf", options
        if name in FUSED:
            jobs[f"{name}, fused"] = jobs[name][0], place / "fused.gguf", ["--fuse-qkv"]
    convert_folders(jobs.values())
    return {name: (folder, file) for name, (folder, file, _) in jobs.items()}


@pytest.mark.parametrize("name", [*CONVERTED, *(f"{name}, fused" for name in FUSED)])
def test_model_that_llama_cpp_converted(converted: dict[str, tuple[Path, Path]], name: str) -> None:
    assert_same_model(*converted[name])


def test_blocks_that_llama_cpp_converted(tmp_path: Path) -> None:
    """Its converter and quire put the codes of a folder in MXFP4 in the same order."""
    if llama_cpp() is None:
        pytest.skip(f"{LLAMA_CPP} does not name the folder of llama.cpp's sources")
    folder, _ = make_mxfp4_model(tmp_path, dtype="bfloat16")
    convert_folders([(folder, tmp_path / "model.gguf", [])])
    source, found = open_model(tmp_path / "model.gguf")
    stored, expected = WeightsFolder(folder), read_spec(folder)
    for ours, theirs in zip(tensors_of(found), tensors_of(expected), strict=True):
        if is_in_blocks(stored, theirs):
            tensor = source.tensor(ours.name)
            assert tensor.type.name == "MXFP4"
            np.testing.assert_array_equal(tensor.data, block_rows(stored, theirs)[:])
