"""GGUF files to GGUF files, and adapters merged into them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quire.errors import ConfigError, UnsupportedModelError, WeightsError
from quire.gguf.reader import GgufFile, StringList
from quire.weights.safetensors import SafetensorsFile
from tests.engines.native.random_adapters import make_random_adapter
from tests.engines.native.random_models import make_random_model
from tests.gguf.block_models import write_blocks
from tests.gguf.chat_files import write_chat, write_split
from tests.gguf.converting import run, with_tokenizer
from tests.gguf.model_folders import make_model_folder


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata that can be compared."""
    return {
        key: list(value) if isinstance(value, StringList | np.ndarray) else value
        for key, value in metadata.items()
    }


def assert_same_files(one: GgufFile, other: GgufFile) -> None:
    assert plain(one.metadata) == plain(other.metadata)
    assert list(one.tensors) == list(other.tensors)
    for name, entry in one.tensors.items():
        there = other.tensors[name]
        assert (entry.type, entry.shape) == (there.type, there.shape)
        np.testing.assert_array_equal(one.data(entry), other.data(there), err_msg=name)


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_k_m"])
@pytest.mark.parametrize(
    "name",
    [
        *("llama2", "qwen2", "gemma3", "phi3", "qwen3_moe", "granite"),
        *("gemma3n with fewer inputs than tokens", "gemma4 with experts", "llama4", "minicpm3"),
        *("nemotron_h with experts of latents", "kimi_linear"),
    ],
)
def test_another_type_is_that_of_the_folder(tmp_path: Path, name: str, kind: str) -> None:
    folder = with_tokenizer(make_model_folder(tmp_path, name))
    file = run(folder, tmp_path / "f32.gguf", type="f32")
    direct = GgufFile(run(folder, tmp_path / "direct.gguf", type=kind))
    assert_same_files(GgufFile(run(file, tmp_path / "other.gguf", type=kind)), direct)


def test_what_has_the_type_is_kept_byte_for_byte(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "quire")
    file = write_blocks(tmp_path / "model.gguf", "Q8_0")
    before, after = GgufFile(file), GgufFile(run(file, tmp_path / "same.gguf", type="q8_0"))
    for name, entry in before.tensors.items():
        np.testing.assert_array_equal(before.data(entry), after.data(after.tensors[name]))
    assert not caplog.records
    smaller = GgufFile(run(file, tmp_path / "small.gguf", type="q4_k_m"))
    assert {one.type.name for one in smaller.tensors.values()} >= {"F32", "Q4_K"}
    assert smaller.metadata["general.file_type"] == 15
    assert smaller.size < before.size
    (record,) = caplog.records
    assert "rounded once more" in record.getMessage()


def test_metadata_are_kept_whatever_their_types(tmp_path: Path) -> None:
    odd: dict[str, Any] = {
        "a.large": np.uint64(1 << 40),
        "a.small": np.int8(-3),
        "a.wide": np.float64(1 / 3),
        "a.list": np.array([1, 2], np.uint16),
        "a.words": ["ä", "b"],
        "general.alignment": 32,
    }
    file = write_chat(tmp_path / "model.gguf", odd)
    before, after = (GgufFile(one) for one in (file, run(file, tmp_path / "f16.gguf", type="f16")))
    expected = plain(before.metadata) | {"general.file_type": 1, "general.quantization_version": 2}
    del expected["general.alignment"]
    assert plain(after.metadata) == expected
    assert after.stored_value("a.wide") == before.stored_value("a.wide")


def test_several_files_become_one(tmp_path: Path) -> None:
    parts = write_split(tmp_path / "parts", "model")
    whole = GgufFile(write_chat(tmp_path / "whole.gguf"))
    assert_same_files(GgufFile(run(parts[0], tmp_path / "joined.gguf")), whole)


def test_tensors_that_do_not_belong_to_the_model_are_kept(tmp_path: Path) -> None:
    tower = np.arange(64, dtype=np.float32).reshape(2, 32)
    file = write_chat(tmp_path / "model.gguf", tensors={"v.blk.0.weight": tower})
    after = GgufFile(run(file, tmp_path / "q8.gguf", type="q8_0"))
    entry = after.tensors["v.blk.0.weight"]
    assert entry.type.name == "F32"
    np.testing.assert_array_equal(after.data(entry).view(np.float32), tower.reshape(-1))


def test_no_room_for_numbers(tmp_path: Path) -> None:
    large = np.full((70, 64), 1e6, np.float32)
    file = write_chat(tmp_path / "model.gguf", tensors={"token_embd.weight": large})
    with pytest.raises(WeightsError, match=r"token_embd\.weight has weights of up to 1e"):
        run(file, tmp_path / "f16.gguf", type="f16")
    assert [one.name for one in tmp_path.iterdir()] == ["model.gguf"]


def test_nothing_to_do(tmp_path: Path) -> None:
    file = write_chat(tmp_path / "model.gguf")
    with pytest.raises(ConfigError, match=r"is a GGUF file already\. Name the type"):
        run(file, tmp_path / "other.gguf")
    with pytest.raises(ConfigError, match="a GGUF file says it itself"):
        run(file, tmp_path / "other.gguf", type="f16", pre="gpt-2")


# ---- adapters


ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "rows in llama.cpp's order": ("llama2", {}),
    "biases": ("qwen2", {}),
    "fused tensors": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"]}),
    "DoRA": ("llama2", {"use_dora": True}),
    "norms": ("gemma", {}),
    "whole modules": ("llama2", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "embeddings": ("llama2", {"target_modules": ["embed_tokens", "q_proj", "lm_head"]}),
}


def floats(file: GgufFile, name: str) -> NDArray[np.float32]:
    return file.data(file.tensors[name]).view(np.float32)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_merged_into_a_file(tmp_path: Path, name: str) -> None:
    """As into the folder that the file was made of."""
    kind, options = ADAPTERS[name]
    tied: dict[str, Any] = {"tie_word_embeddings": False} if kind == "llama2" else {}
    folder = make_random_model(tmp_path / "folder", kind, **tied)
    adapter = make_random_adapter(tmp_path / "lora", folder, **options)
    file = run(with_tokenizer(folder), tmp_path / "base.gguf", type="f32")
    expected = GgufFile(run(folder, tmp_path / "direct.gguf", adapters=(adapter,), type="f32"))
    merged = GgufFile(run(file, tmp_path / "merged.gguf", adapters=(adapter,)))
    assert plain(merged.metadata) == plain(expected.metadata)
    assert list(merged.tensors) == list(expected.tensors)
    for key in expected.tensors:  # rows are multiplied in another order
        np.testing.assert_allclose(
            floats(merged, key), floats(expected, key), rtol=1e-5, atol=1e-6, err_msg=key
        )
    base = GgufFile(file)
    changed = [
        key for key in base.tensors if not np.array_equal(floats(base, key), floats(merged, key))
    ]
    assert 0 < len(changed) < len(base.tensors)
    one, other = (
        SafetensorsFile(run(*way, adapters=(adapter,), type="f32") / "model.safetensors")
        for way in ((file, tmp_path / "one"), (tmp_path / "folder", tmp_path / "other"))
    )
    for key in one.names():
        found = one.tensor(key).values
        np.testing.assert_allclose(found, other.tensor(key).values, rtol=1e-5, atol=1e-6)


def test_only_what_an_adapter_changes_is_rounded_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = with_tokenizer(make_random_model(tmp_path / "folder", "llama2"))
    adapter = make_random_adapter(tmp_path / "lora", folder, target_modules=["q_proj"])
    file = run(folder, tmp_path / "base.gguf", type="q8_0")
    before, after = (
        GgufFile(one) for one in (file, run(file, tmp_path / "merged.gguf", adapters=(adapter,)))
    )
    changed = {
        name
        for name, entry in before.tensors.items()
        if not np.array_equal(before.data(entry), after.data(after.tensors[name]))
    }
    assert changed == {name for name in before.tensors if name.endswith("attn_q.weight")}
    assert all(after.tensors[name].type.name == "Q8_0" for name in changed)
    assert "rounded once more" in caplog.text


def test_types_that_are_not_written(tmp_path: Path) -> None:
    file = write_blocks(tmp_path / "model.gguf", "IQ4_NL")
    base = run(file, tmp_path / "base", type="f32")
    adapter = make_random_adapter(tmp_path / "lora", base, target_modules=["q_proj"])
    with pytest.raises(UnsupportedModelError, match=r"attn_q.weight, which is IQ4_NL, .*type="):
        run(file, tmp_path / "merged.gguf", adapters=(adapter,))
    merged = GgufFile(run(file, tmp_path / "q8.gguf", adapters=(adapter,), type="q8_0"))
    assert merged.tensors["blk.0.attn_q.weight"].type.name == "Q8_0"
