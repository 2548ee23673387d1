"""GGUF models on vLLM, which reads them through a plug-in."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any, NoReturn

import pytest

from quire.arguments import ModelArguments
from quire.arguments.groups import Backend
from quire.chat import chat_model
from quire.chat.chat_model import engine_class_for
from quire.engines.vllm import launch
from quire.engines.vllm.launch import check_gguf_plugin, import_vllm, why_no_gguf
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


def test_an_older_vllm_reads_gguf_itself(
    methods: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_gguf_plugin_version", lambda: None)
    monkeypatch.setattr(launch, "_installed_version", lambda: "0.23.1")
    assert "not installed" in str(why_no_gguf())
    methods.append("gguf")
    assert why_no_gguf() is None


def test_auto_takes_the_native_engine_where_vllm_reads_no_gguf(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def engine(name: str, backend: Backend = "auto") -> str:
        cache = str(tmp_path / "cache")
        made: Any = engine_class_for(
            ModelArguments(model_name_or_path=name, infer_backend=backend, cache_dir=cache)
        )
        return made.__name__

    monkeypatch.setattr(chat_model, "vllm_is_installed", lambda: True)
    monkeypatch.setattr(chat_model, "gpu_is_present", lambda: True)
    monkeypatch.setattr(launch, "_gguf_plugin_version", lambda: None)
    monkeypatch.setattr(launch, "_installed_version", lambda: "0.32.0")
    monkeypatch.setattr(launch, "import_vllm", None)  # which would take seconds
    caplog.set_level("INFO", "quire")
    file = write_chat(tmp_path / "m-F16.gguf")
    for name in (str(file), str(tmp_path), "owner/model-GGUF"):
        caplog.clear()
        assert engine(name) == "NativeEngine"
        (message,) = caplog.messages
        assert message.startswith("vLLM 0.32.0 reads GGUF files with the package vllm-gguf-plugin")
        assert message.endswith("is not installed: the native engine runs this model.")
    caplog.clear()
    assert engine("owner/model") == engine(str(file), "vllm") == "VllmEngine"
    assert not caplog.messages
    monkeypatch.setattr(launch, "why_no_gguf", lambda: None)
    assert engine(str(file)) == "VllmEngine"
