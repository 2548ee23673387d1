"""vLLM's log: in a file of its own, never among an answer, read for progress and causes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from quire.engines.vllm import log
from quire.engines.vllm.log import LogReader

CHILD = """
import json, logging, logging.config, multiprocessing, os, subprocess, sys
from pathlib import Path
from quire.engines.vllm import log

def speak(word):
    print("printed", word, flush=True)
    print("warned", word, file=sys.stderr, flush=True)
    os.write(1, f"raw out {word}\\n".encode())
    os.write(2, f"raw err {word}\\n".encode())
    subprocess.run([sys.executable, "-c", f"print('grandchild {word}')"], check=True)

def start(word):
    process = multiprocessing.get_context("spawn").Process(target=speak, args=(word,))
    process.start()
    process.join()
    assert process.exitcode == 0

if __name__ == "__main__":
"""


def run(folder: Path, body: str, **variables: str) -> tuple[Any, str, str]:
    """Run a program: what it gave as JSON in its last line, all before it, and standard error."""
    script = folder / "program.py"
    script.write_text(CHILD + "".join(f"    {line}\n" for line in body.strip().splitlines()))
    plain = {name: value for name, value in os.environ.items() if name not in log._OWN_SETTINGS}
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**plain, "TMPDIR": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *before, last = done.stdout.splitlines()
    return json.loads(last), "\n".join(before), done.stderr


SAID = ("printed {}", "warned {}", "raw out {}", "raw err {}", "grandchild {}")


def test_what_children_print_goes_to_the_log(tmp_path: Path) -> None:
    body = """
with log.children_write_to_log():
    start("inside")
start("outside")
path = log.log_file()
print(json.dumps([path.read_text(), str(path)]))
"""
    (text, path), out, err = run(tmp_path, body)
    for words in SAID:
        assert words.format("inside") in text
        assert words.format("inside") not in out + err
        assert words.format("outside") not in text
        assert words.format("outside") in out + err
    assert Path(path).is_relative_to(tmp_path)


def test_a_child_under_a_failure_leaves_the_executable_as_it_was(tmp_path: Path) -> None:
    body = """
from multiprocessing import spawn
before = spawn.get_executable()
try:
    with log.children_write_to_log():
        inside = spawn.get_executable()
        raise KeyError
except KeyError:
    pass
print(json.dumps([os.fsdecode(x) for x in (before, inside, spawn.get_executable())]))
"""
    (before, inside, after), _, _ = run(tmp_path, body)
    assert before == after != inside


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VLLM_CONFIGURE_LOGGING", "0"),
        ("VLLM_LOGGING_CONFIG_PATH", "/somewhere.json"),
        ("VLLM_LOGGING_LEVEL", "DEBUG"),
    ],
)
def test_the_users_own_settings_rule(tmp_path: Path, name: str, value: str) -> None:
    body = """
with log.children_write_to_log():
    start("inside")
log.quiet_until_configured()
found = [log.log_file(), log.logging_environment(), log.keep(), log.LogReader().phases()]
print(json.dumps([*found, log.LogReader().cause(), logging.getLogger("vllm").propagate]))
"""
    found, out, err = run(tmp_path, body, **{name: value})
    assert found == [None, {}, None, [], None, True]
    assert all(words.format("inside") in out + err for words in SAID)


@pytest.mark.parametrize("kept", [False, True])
def test_the_file_is_gone_at_exit_unless_kept(tmp_path: Path, kept: bool) -> None:
    body = f"""
path = log.log_file()
assert log.keep() is None  # nothing was written
with log.children_write_to_log():
    start("inside")
assert {kept} is False or log.keep() == path
print(json.dumps(str(path)))
"""
    path, _, _ = run(tmp_path, body)
    assert Path(path).is_file() is kept
    assert Path(path).parent.exists() is kept


def test_one_file_a_process_for_its_owner_alone(tmp_path: Path) -> None:
    body = """
path = log.log_file()
with log.children_write_to_log():
    start("inside")
modes = [oct(p.stat().st_mode & 0o077) for p in (path.parent, path)]
print(json.dumps([log.log_file() is path, modes]))
"""
    (same, modes), _, _ = run(tmp_path, body)
    assert same
    assert modes == ["0o0", "0o0"]


def test_vllms_own_lines_go_to_the_file(tmp_path: Path) -> None:
    body = """
log.quiet_until_configured()
logging.getLogger("vllm.early").warning("before")
settings = json.loads(Path(log.logging_environment()["VLLM_LOGGING_CONFIG_PATH"]).read_text())
logging.config.dictConfig(settings)
reader = log.LogReader()
logging.getLogger("vllm.worker").info("Starting to load model x")
logging.getLogger("vllm.worker").debug("too much")
logging.getLogger("other").warning("elsewhere")
print(json.dumps([log.log_file().read_text(), reader.phases()]))
"""
    (text, phases), out, err = run(tmp_path, body)
    assert "INFO vllm.worker: Starting to load model x" in text
    assert "too much" not in text
    assert phases == ["loading the weights"]
    assert out == ""
    assert err == "elsewhere\n"


# --- reading it ----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "vllm.log"
    monkeypatch.setattr(log, "log_file", lambda: path)
    return path


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_phases_are_told_once_and_in_order(file: Path) -> None:
    append(file, "INFO Loading weights took 3 s\n")  # of an engine before this one
    reader = LogReader()
    assert reader.phases() == []
    append(file, "INFO Starting to load model\nINFO Initializing a V1 LLM engine (v0.32.0)\n")
    assert reader.phases() == ["the engine's process runs", "loading the weights"]
    append(file, "INFO Starting to load model\nINFO GPU KV cache size: 5 tokens\n")
    assert reader.phases() == ["the KV cache is allocated"]
    assert reader.phases() == []


def test_a_file_that_comes_later(file: Path) -> None:
    reader = LogReader()
    assert (reader.phases(), reader.cause()) == ([], None)
    append(file, "INFO Starting to load model\n")
    assert reader.phases() == ["loading the weights"]


def test_the_first_error_is_the_cause(file: Path) -> None:
    append(file, "2026 7 ERROR vllm: ValueError: of an engine before\n")
    reader = LogReader()
    assert reader.cause() is None
    append(
        file,
        "2026 8 WARNING vllm: UserError: only a warning\n"
        "2026 8 ERROR vllm.core: EngineCore failed to start.\n"
        "2026 8 ERROR vllm.core: Traceback (most recent call last):\n"
        '2026 8 ERROR vllm.core:   File "x.py", line 3, in <module>\n'
        "2026 8 ERROR vllm.core: torch.OutOfMemoryError: CUDA out of memory.  \n"
        "RuntimeError: Engine core initialization failed.\n",
    )
    assert reader.phases() == []  # reading on does not move what is searched for the cause
    assert reader.cause() == "torch.OutOfMemoryError: CUDA out of memory."


def test_a_crash_without_a_logged_error(file: Path) -> None:
    reader = LogReader()
    append(file, "Traceback (most recent call last):\nImportError: libtorch.so: not found\n")
    assert reader.cause() == "ImportError: libtorch.so: not found"


def test_bytes_that_are_no_text(file: Path) -> None:
    reader = LogReader()
    file.write_bytes(b"\xff\xfe Starting to load model \xf0\n\xff ValueError: bad \xff\n")
    assert reader.phases() == ["loading the weights"]
    cause = reader.cause()
    assert cause is not None
    assert cause.startswith("ValueError: bad")


# --- users without a home ------------------------------------------------------------------------


def no_name() -> str:
    raise KeyError("getpwuid(): uid not found")


@pytest.mark.parametrize("home", ["~", "a file"])
def test_a_user_without_a_home_gets_a_cache_that_goes_with_the_log(
    home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    (tmp_path / "file").write_text("in the way")
    where = str(tmp_path / "file") if home == "a file" else home
    monkeypatch.setattr(log.os.path, "expanduser", lambda path: path.replace("~", where))
    monkeypatch.setattr(log.getpass, "getuser", no_name)
    found = log.home_environment()
    assert Path(found["VLLM_CACHE_ROOT"]).is_relative_to(log._folder_of(os.getpid()))
    assert found["LOGNAME"]
    monkeypatch.setenv("VLLM_CACHE_ROOT", "the user's own")
    assert "VLLM_CACHE_ROOT" not in log.home_environment()


def test_a_user_with_a_home_and_a_name_keeps_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "made when it is needed"))
    monkeypatch.setattr(log.getpass, "getuser", lambda: "me")
    assert log.home_environment() == {}


def test_sockets_are_not_made_where_their_path_gets_too_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    short, long = Path("/tmp") / ("s" * 65), Path("/tmp") / ("l" * 66)
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    assert "VLLM_RPC_BASE_PATH" not in log.home_environment()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert log.home_environment()["VLLM_RPC_BASE_PATH"] == "/tmp"
