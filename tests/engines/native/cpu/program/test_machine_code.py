"""The cache of compiled code: found again, never trusted when damaged, no harm when unwritable."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quire.engines.native.cpu.program import machine_code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said by each compilation; the code itself is a stand-in."""
    said: list[str] = []

    def compile_(on_compile: object) -> bytes:
        said.append("compiled")
        return b"code"

    monkeypatch.setattr(machine_code, "compile_with_progress", compile_)
    return said


def test_compiled_once(folder: Path, compiled: list[str]) -> None:
    for _ in range(3):
        assert machine_code.object_code(print) == b"code"
    assert len(compiled) == 1
    assert [path.name for path in folder.iterdir()] == [f"step-{machine_code.cache_key()}.bin"]
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"", b"quire", None])
def test_a_damaged_file_is_compiled_anew(
    folder: Path, compiled: list[str], damage: bytes | None
) -> None:
    machine_code.object_code(print)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"?" if damage is None else damage)
    assert machine_code.object_code(print) == b"code"
    assert machine_code.object_code(print) == b"code"
    assert len(compiled) == 2


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, "quire"):
        assert machine_code.object_code(print) == b"code"
    assert "QUIRE_CACHE_DIR" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o722])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_code_that_others_could_have_written_is_never_run(
    mode: int, what: str, folder: Path, compiled: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    machine_code.object_code(print)
    path = folder if what == "folder" else next(folder.iterdir())
    path.chmod(mode)
    assert machine_code.object_code(print) == b"code"
    assert len(compiled) == 2
    assert f"{path} can be written by other users" in caplog.text


def test_a_progress_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    made = "quire.engines.native.cpu.compiler.objects.compile_object"
    monkeypatch.setattr(made, lambda translation: b"made")
    assert machine_code.compile_with_progress(said.append) == b"made"
    assert said == ["Compiling kernels for this machine, once; it takes some seconds ..."]


def test_a_warm_start_imports_no_kernels() -> None:
    machine_code.load_step()  # compiled by now, whatever ran before
    program = (
        "import sys; from quire.engines.native.cpu.program.machine_code import load_step; load_step();"
        "from quire.engines.native.cpu import loading; print([m for m in sys.modules if m in ('numba', 'torch',"
        "'quire.engines.native.cpu.kernels.simd')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, timeout=100
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_everything_that_the_step_is_made_of_is_in_the_key() -> None:
    """A module whose change did not change the key would leave old machine code in use."""
    package = "quire.engines.native.cpu."
    sources = {
        package + ".".join(p.with_suffix("").parts[-2:]) for p in machine_code.source_files()
    }
    waiting, reached = {f"{package}program.step", f"{package}compiler.objects"}, set[str]()
    while waiting:
        name = waiting.pop()
        reached.add(name)
        tree = ast.parse(Path(importlib.import_module(name).__file__ or "").read_text("utf-8"))
        used: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("quire"):
                within = {f"{node.module}.{alias.name}" for alias in node.names}
                used |= (
                    {m for m in within if importlib.util.find_spec(m)}
                    if hasattr(importlib.import_module(node.module or ""), "__path__")
                    else {node.module or ""}
                )
        waiting |= used - reached
    assert len(reached) > 10
    assert reached <= sources
