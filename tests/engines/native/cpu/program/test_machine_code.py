"""The cache of compiled code: found again, never trusted when damaged, no harm when unwritable."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from quire.engines.native.cpu.compiler.translator import Translation
from quire.engines.native.cpu.program import machine_code, second_compiler
from quire.engines.native.cpu.program.second_compiler import SecondCompiler


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was compiled; the code itself is a stand-in."""
    said: list[str] = []

    def compile_(names: list[str], on_compile: object) -> list[tuple[str, bytes]]:
        said.extend(names)
        return [(name, b"code") for name in names]

    monkeypatch.setattr(machine_code, "compile_with_progress", compile_)
    return said


def code_of_step() -> bytes:
    return machine_code.object_codes(["step"], print)["step"]


def test_compiled_once(folder: Path, compiled: list[str]) -> None:
    for _ in range(3):
        assert code_of_step() == b"code"
    assert len(compiled) == 1
    assert [path.name for path in folder.iterdir()] == [
        f"kernel-step-{machine_code.cache_key('step')}.bin"
    ]
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"", b"quire", None])
def test_a_damaged_file_is_compiled_anew(
    folder: Path, compiled: list[str], damage: bytes | None
) -> None:
    code_of_step()
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"?" if damage is None else damage)
    assert code_of_step() == b"code"
    assert code_of_step() == b"code"
    assert len(compiled) == 2


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, "quire"):
        assert code_of_step() == b"code"
    assert "QUIRE_CACHE_DIR" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o722])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_code_that_others_could_have_written_is_never_run(
    mode: int, what: str, folder: Path, compiled: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    code_of_step()
    path = folder if what == "folder" else next(folder.iterdir())
    path.chmod(mode)
    assert code_of_step() == b"code"
    assert len(compiled) == 2
    assert f"{path} can be written by other users" in caplog.text


def test_what_is_kept_is_not_compiled_with_the_rest(folder: Path, compiled: list[str]) -> None:
    code_of_step()
    machine_code.object_codes(["embed", "step", "logits"], print)
    assert compiled == ["step", "embed", "logits"]


def test_a_progress_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    made = "quire.engines.native.cpu.compiler.objects.compile_object"
    monkeypatch.setattr(made, lambda translation: b"made")
    names = ["step", "embed"]
    assert dict(machine_code.compile_with_progress(names, said.append)) == {
        "step": b"made", "embed": b"made",
    }  # fmt: skip
    assert said == ["Compiling 2 kernels for this machine, once; it takes some seconds ..."]


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


@pytest.mark.parametrize("name", machine_code.KERNELS)
def test_everything_that_a_kernel_is_made_of_is_in_the_key(name: str) -> None:
    """A module whose change did not change the key would leave old machine code in use."""
    translation = Translation()
    translation.add_entry(machine_code.find_kernel(name), "entry")
    used = {Path(one.function.__code__.co_filename) for one in translation.kernels}
    sources = set(machine_code.source_files(name))
    assert used <= sources
    assert {path.name for path in sources} >= {"language.py", "translator.py", "objects.py"}


def test_a_kernel_knows_what_it_is_made_of_and_no_more() -> None:
    names = {path.stem for path in machine_code.source_files("linear_int8")}
    assert "quantized_tiles" in names
    assert not names & {"attention", "experts", "step", "lora"}


SOME = ["embed", "attention_output", "lora", "step"]


def test_a_second_process_makes_the_same_code() -> None:
    helper = SecondCompiler(SOME)
    try:
        for name in reversed(SOME):
            assert helper.code(name) == machine_code.compile_kernel(name)
            assert helper.has_begun(name)
    finally:
        helper.close()


def test_what_a_second_process_does_not_make_is_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    helper = SecondCompiler(["no kernel of this name", *SOME])
    assert helper.code(SOME[-1]) is not None
    helper.close()
    monkeypatch.setattr(machine_code, "second_compiler", lambda names: helper)
    monkeypatch.setattr(machine_code, "compile_kernel", lambda name: name.encode())
    monkeypatch.setattr(helper, "has_begun", lambda name: name != "embed")
    made = dict(machine_code.compile_with_progress(["embed", "project", SOME[-1]], lambda _: None))
    assert made["embed"] == b"embed"
    assert made["project"] == b"project"
    assert len(made[SOME[-1]]) > 100


def test_a_second_process_without_memory_to_read_it_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(second_compiler, "int", fail, raising=False)
    helper = SecondCompiler(["embed"])
    found: list[bytes | None] = []
    waiting = threading.Thread(target=lambda: found.append(helper.code("embed")), daemon=True)
    waiting.start()
    waiting.join(60)
    assert found == [None]
    helper.close()


def test_no_second_process_of_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    many = ["step"] * 9
    monkeypatch.setattr(second_compiler, "default_threads", lambda: 2)
    monkeypatch.setattr(second_compiler, "SecondCompiler", lambda names: "started")
    assert second_compiler.second_compiler(many) == "started"
    assert second_compiler.second_compiler(many[:2]) is None
    monkeypatch.setattr(sys, "executable", "/usr/bin/an-editor")
    assert second_compiler.second_compiler(many) is None
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(second_compiler, "default_threads", lambda: 1)
    assert second_compiler.second_compiler(many) is None
