"""Whether vLLM and a GPU are there."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from quire.engines.vllm import presence
from quire.engines.vllm.presence import gpu_is_present, vllm_is_installed

HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """The device file of a GPU's driver, which is there; no variable hides it."""
    for name in HIDING:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "nvidiactl"
    file.touch()
    monkeypatch.setattr(presence, "_GPU_FILES", (str(tmp_path / "kfd"), str(file)))
    return file


def test_a_driver_that_is_there(driver: Any) -> None:
    assert gpu_is_present()
    driver.unlink()
    assert not gpu_is_present()


@pytest.mark.parametrize("name", HIDING)
@pytest.mark.parametrize(
    ("value", "seen"), [("", False), ("-1", False), (" ", False), ("0", True), ("GPU-1,2", True)]
)
def test_variables_that_hide_devices(
    driver: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str, seen: bool
) -> None:
    monkeypatch.setenv(name, value)
    assert gpu_is_present() is seen


@pytest.mark.vllm
def test_whether_vllm_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vllm_is_installed()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not vllm_is_installed()
