"""GGUF models on vLLM, which reads them through a plug-in."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import NoReturn

import pytest

from quire.engines.vllm.launch import check_gguf_plugin, import_vllm
from quire.engines.vllm.model_facts import check_weights, read_model_facts
from quire.errors import ConfigError
from quire.gguf.folder import make_folder
from tests.gguf.chat_files import write_chat, write_split


def test_the_facts_of_a_file(tmp_path: Path) -> None:
    file = write_chat(tmp_path / "m-F16.gguf")
    folder = make_folder(file)
    facts = read_model_facts(folder)
    assert (facts.gguf, facts.folder, facts.quantization) == (file, folder, "gguf")
    assert (facts.num_heads, facts.num_kv_heads, facts.num_layers) == (4, 2, 2)
    assert facts.weight_bytes == file.stat().st_size
    check_weights(folder)


def test_the_facts_of_several_files(tmp_path: Path) -> None:
    paths = write_split(tmp_path, "m-F16")
    facts = read_model_facts(make_folder(paths[0]))
    assert facts.gguf == paths[0]
    assert facts.weight_bytes == sum(path.stat().st_size for path in paths)


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The quantisations that vLLM knows."""
    import_vllm()
    from vllm.model_executor.layers import quantization
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    known: list[str] = ["awq"]
    monkeypatch.setattr(quantization, "QUANTIZATION_METHODS", known)
    return known


def test_the_plug_in_may_be_absent(methods: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ConfigError, match=r"vLLM 0.32.0 reads .*pip install vllm-gguf-plugin"):
        check_gguf_plugin("0.32.0")
    methods.append("gguf")
    check_gguf_plugin("0.32.0")


def test_a_plug_in_that_does_not_fit_is_told_with_both_versions(
    methods: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1")
    with pytest.raises(ConfigError, match=r"vLLM 0.32.0 has not loaded vllm-gguf-plugin 0.0.1"):
        check_gguf_plugin("0.32.0")
