"""What vLLM would run on here, and what is known of it without vLLM."""

from __future__ import annotations

import importlib.util
import platform
from typing import Any

import pytest

from quire.engines.vllm import devices
from quire.engines.vllm.devices import Devices, find_devices, gpu_is_present, vllm_is_installed
from quire.engines.vllm.launch import import_vllm
from quire.machine.cpus import instruction_sets

HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """The device file of a GPU's driver, which is there; no variable hides it."""
    for name in HIDING:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "nvidiactl"
    file.touch()
    monkeypatch.setattr(devices, "_GPU_FILES", (str(tmp_path / "kfd"), str(file)))
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


@pytest.mark.parametrize(
    ("features", "fast", "avx512"),
    [
        (set(), False, False),
        ({"avx2"}, False, False),
        ({"avx512f"}, False, True),
        ({"avx512f", "avx512_bf16"}, True, True),
        ({"amx_bf16"}, True, False),
        ({"asimd", "bf16"}, True, False),
    ],
)
def test_what_a_cpu_can_do(features: set[str], fast: bool, avx512: bool) -> None:
    cpu = Devices("cpu", features=frozenset(features))
    assert cpu.is_cpu
    assert (cpu.fast_bfloat16, cpu.has_avx512) == (fast, avx512)
    assert not Devices("cuda", 2).is_cpu


def test_the_devices_of_the_installed_vllm() -> None:
    import_vllm()
    from vllm.platforms import current_platform

    found = find_devices()
    assert found.is_cpu == current_platform.is_cpu()
    assert found.count >= 1
    if found.is_cpu:
        assert found.features == instruction_sets()
        assert found.architecture == platform.machine()
        assert found.free_memory > 0


@pytest.mark.parametrize(("count", "expected"), [(8, 8), (1, 1), (0, 1)])
def test_devices_of_another_platform(
    monkeypatch: pytest.MonkeyPatch, count: int, expected: int
) -> None:
    import_vllm()
    import vllm.platforms

    class Eight:
        device_type = "xpu"
        cuda = False

        def is_cpu(self) -> bool:
            return False

        def is_cuda(self) -> bool:
            return self.cuda

        def device_count(self) -> int:
            return count

    monkeypatch.setattr(vllm.platforms, "_current_platform", Eight())
    assert find_devices() == Devices("xpu", expected)
    monkeypatch.setattr(Eight, "cuda", True)
    assert find_devices() == Devices("cuda", expected)
