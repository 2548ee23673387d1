"""Kernels that wheels bring: made of the sources beside them, for each target, and nothing is compiled."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from quire.demo import demo_model_path
from quire.engines.native.cpu.compiler.objects import compile_object
from quire.engines.native.cpu.compiler.targets import PREBUILT, KernelTarget, current, fits
from quire.engines.native.cpu.compiler.translator import Translation
from quire.engines.native.cpu.program.decoder import KERNELS
from quire.engines.native.cpu.program.machine_code import find_kernel

ROOT = Path(__file__).parents[5]
ELF_MACHINES = {"x86_64": 0x3E, "aarch64": 0xB7}
OLD = {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "sse4.2"}
NEW = {*OLD, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
ASKS = """
import sys
from pathlib import Path
import quire
from quire import ChatModel
from quire.engines.native.cpu.compiler.targets import current
assert Path(quire.__file__).is_relative_to(sys.argv[1]), quire.__file__
model = ChatModel({"model_name_or_path": sys.argv[2], "native_kv_cache_memory": "32MiB"})
print(current().name)
print(model.chat([{"role": "user", "content": "What is quire?"}], temperature=0)[0].response_text)
"""


def fitting(features: set[str], architecture: str = "x86_64") -> list[str]:
    host = KernelTarget("native", f"{architecture}-unknown-linux-gnu", "", frozenset(features), "")
    return [one.name for one in PREBUILT if fits(one, host)]


def test_each_processor_has_one_target_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitting({"avx", "sse4.2"}) == []
    assert fitting({*OLD, "sse2"}) == ["x86-64-v3"]  # Haswell, Zen 3
    assert fitting({*OLD, "avxvnni"}) == ["x86-64-v3-vnni"]  # Alder Lake
    assert fitting(NEW) == []  # Skylake-X: registers of 16 numbers, but no VNNI
    assert fitting({*NEW, "avx512vnni", "avx512bf16"}) == ["x86-64-v4-vnni"]  # Zen 4
    assert fitting({*NEW, "avx512vnni", "avxvnni"}) == ["x86-64-v4-vnni"]  # Sapphire Rapids
    assert fitting({"neon"}, "aarch64") == []
    assert fitting({"neon", "dotprod"}, "aarch64") == ["aarch64-dotprod"]
    assert fitting({"neon", "dotprod", "i8mm", "sve"}, "aarch64") == ["aarch64-i8mm"]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert fitting({"neon", "dotprod"}, "aarch64") == []


@pytest.mark.parametrize("target", PREBUILT, ids=lambda target: target.name)
def test_kernels_are_compiled_for_other_processors(target: KernelTarget) -> None:
    translation = Translation()
    translation.add_entry(find_kernel("linear_bfloat16"), "entry")
    code = compile_object(translation, target)
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == ELF_MACHINES[target.architecture]


def test_a_wheel_answers_without_compiling(tmp_path: Path) -> None:
    host = current()
    (target,) = [one.name for one in PREBUILT if fits(one, host)] or ["x86-64-v3"]
    environment = {**os.environ, "QUIRE_WHEEL_TARGETS": target}
    builder = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", builder, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as held:
        held.extractall(installed)
    objects = installed / "quire/engines/native/cpu/objects" / target
    assert len(list(objects.iterdir())) == len(KERNELS)
    if not fits(next(one for one in PREBUILT if one.name == target), host):
        pytest.skip("no target of wheels is for this processor: it was built, not run")
    said: dict[str, list[str]] = {}
    for name, path in (("wheel", installed), ("sources", ROOT / "src")):
        cache = tmp_path / name
        given = {**os.environ, "PYTHONPATH": str(path), "QUIRE_CACHE_DIR": str(cache)}
        command = [sys.executable, "-c", ASKS, str(path), str(demo_model_path())]
        run = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
        said[name] = run.stdout.splitlines()
        assert bool(list(cache.glob("kernel-*"))) is (name == "sources"), run.stderr
    assert said["wheel"] == [target, *said["sources"][1:]]
    assert said["sources"][0] == "native"
