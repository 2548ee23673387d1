"""Our linker beside LLVM's: the same code runs the same, and what ours does not know goes to LLVM's."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quire.demo import demo_model_path
from quire.engines.native.cpu.compiler import objects, targets
from quire.engines.native.cpu.compiler.language import kernel, outlined
from quire.engines.native.cpu.compiler.linker import load_object
from quire.engines.native.cpu.compiler.objects import compile_object
from quire.engines.native.cpu.compiler.targets import PREBUILT, KernelTarget
from quire.engines.native.cpu.compiler.translator import Translation
from quire.engines.native.cpu.kernels import simd
from quire.engines.native.cpu.kernels.layout import LANES
from quire.engines.native.cpu.program.phases import yield_cpu

ours = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="LLVM links on this platform"
)

ANSWERS = """
import sys
from quire import ChatModel
model = ChatModel({"model_name_or_path": sys.argv[1], "native_kv_cache_memory": "32MiB"})
print(model.chat([{"role": "user", "content": "What is quire?"}], temperature=0)[0].response_text)
print("llvmlite.binding" in sys.modules)
"""


@outlined
def a_function_of_its_own(value: float) -> float:
    return value * 0.1 - 17.25


@kernel
def many_references(source: int, target: int, count: int) -> None:
    """Constants of several sizes, a function that is called, and one of the C library."""
    for index in range(0, count, LANES):
        part = min(LANES, count - index)
        value = simd.exp(simd.load_part(source + 4 * index, part))
        scaled = simd.add(value, simd.splat(a_function_of_its_own(simd.first_lane(value))))
        simd.store_part(target + 4 * index, scaled, part)
    yield_cpu()


def object_file(target: KernelTarget | None = None) -> bytes:
    translation = Translation()
    translation.add_entry(many_references, "entry")
    return compile_object(translation, target)


def run(loaded: tuple[int, object]) -> list[float]:
    address, _ = loaded
    given = np.linspace(-3, 3, 50, dtype=np.float32)
    made = np.zeros_like(given)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(address)
    function(given.ctypes.data, made.ctypes.data, len(given))
    assert made.any()
    return made.tolist()


def refuse(code: bytes, entry: str) -> tuple[int, object]:
    raise AssertionError("LLVM was asked")


@ours
def test_both_linkers_code_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    code = object_file()
    by_llvm = run(objects.link_by_llvm(code, "entry"))
    monkeypatch.setattr(objects, "link_by_llvm", refuse)
    loaded = load_object(code, "entry")
    assert run(loaded) == by_llvm
    lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    rights = [line.split()[1] for line in lines if "quire-kernel" in line]
    assert rights
    assert set(rights) == {"r-xp"}  # never written and run at once


@ours
def test_what_is_not_known_is_left_to_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def note(code: bytes, entry: str) -> tuple[int, object]:
        asked.append(entry)
        return 0, None

    monkeypatch.setattr(objects, "link_by_llvm", note)
    code = object_file()
    assert load_object(code, "entry")[0] != 0
    load_object(code, "another")  # a function that is not there
    load_object(b"\xcf\xfa\xed\xfe" + code[4:], "macOS")
    (arm,) = [one for one in PREBUILT if one.name == "aarch64-dotprod"]
    load_object(object_file(arm), "arm")

    def no_memory(*_: object) -> int:
        raise OSError("not allowed")

    monkeypatch.setattr(os, "memfd_create", no_memory)
    load_object(code, "entry")
    assert asked == ["another", "macOS", "arm", "entry"]


@ours
def test_a_start_with_kept_code_loads_no_llvm() -> None:
    ask = [sys.executable, "-c", ANSWERS, str(demo_model_path())]
    subprocess.run(ask, check=True, timeout=300)  # may compile
    told = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=300).stdout
    assert told.splitlines()[-1] == "False"
    assert "quire is" in told


@ours
def test_the_processor_is_asked_of_llvm_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path))
    host = targets.ask_host()
    monkeypatch.setattr(targets, "_ask_llvm", lambda: pytest.fail("LLVM was asked"))
    assert targets.ask_host() == host
    assert [file.name[:5] for file in tmp_path.iterdir()] == ["host-"]
