"""The entry point that vLLM calls in each of its processes, and the class that it registers there."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from quire.engines.vllm import plugin
from quire.engines.vllm.launch import import_vllm
from quire.errors import ConfigError
from quire.media.yi_vl import DECLARATION


def test_the_entry_point_is_the_packages() -> None:
    found = importlib.metadata.entry_points(group="vllm.general_plugins", name=plugin.NAME)
    assert {one.load() for one in found} == {plugin.register}


def test_the_entry_point_imports_little() -> None:
    code = f"import sys, {plugin.__name__}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"vllm", "torch", "numpy", "pydantic", "transformers"} & set(done.stdout.split())


class Registry:
    """As much of vLLM's as the plugin uses."""

    def __init__(self, module: str) -> None:
        self.models = {"LlavaForConditionalGeneration": SimpleNamespace(module_name=module)}
        self.registered: list[tuple[str, str]] = []

    def register_model(self, architecture: str, name: str) -> None:
        self.registered.append((architecture, name))
        self.models[architecture] = SimpleNamespace(module_name=name.partition(":")[0])


@pytest.fixture
def registry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Registry:
    import_vllm()
    made = Registry(getattr(request, "param", "vllm.model_executor.models.llava"))
    monkeypatch.setattr("vllm.ModelRegistry", made)
    return made


def test_registered_once_and_by_name(registry: Registry) -> None:
    plugin.register()
    plugin.register()
    assert registry.registered == [
        ("LlavaForConditionalGeneration", "quire.engines.vllm.yi_vl:LlavaForConditionalGeneration")
    ]


@pytest.mark.parametrize("registry", ["other.plugin"], indirect=True)
def test_another_plugins_llava_stays(registry: Registry) -> None:
    plugin.register()
    assert registry.registered == []


def test_where_the_plugin_is_left_out_yi_vl_is_refused(registry: Registry) -> None:
    declared: Any = SimpleNamespace(hf_config=SimpleNamespace(**{DECLARATION: True}))
    other: Any = SimpleNamespace(hf_config=SimpleNamespace())
    with pytest.raises(ConfigError, match="name quire in VLLM_PLUGINS"):
        plugin.check_loaded(declared)
    plugin.check_loaded(other)
    plugin.register()
    plugin.check_loaded(declared)
