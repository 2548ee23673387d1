"""The folder that is made of a file: its own, and gone when it should be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from quire.errors import ModelError
from quire.gguf import folder as folders
from quire.gguf.folder import make_folder, open_source
from tests.gguf.chat_files import write_chat


def test_it_is_made_once_and_anew_for_another_file(tmp_path: Path) -> None:
    path = write_chat(tmp_path / "model.gguf")
    made = make_folder(path)
    assert make_folder(path) == made
    names = {one.name for one in made.iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "gguf.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((made / "gguf.json").read_text())["file"] == str(path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert make_folder(path) != made


def test_a_file_that_is_replaced_meanwhile_is_not_mixed(tmp_path: Path) -> None:
    path = write_chat(tmp_path / "model.gguf")
    made = make_folder(path)
    write_chat(path, {"general.name": "another"})
    with pytest.raises(ModelError, match="replaced by another file"):
        open_source(made)


def test_a_start_opens_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_chat(tmp_path / "model.gguf")
    opened: list[Path] = []
    open_once = folders.open_files
    monkeypatch.setattr(folders, "open_files", lambda path: opened.append(path) or open_once(path))
    made = make_folder(path)
    first = open_source(made)
    assert opened == [path]
    assert open_source(made) is not first  # nothing holds a file that was read
    assert opened == [path, path]


def test_its_process_takes_it_away(tmp_path: Path) -> None:
    path = write_chat(tmp_path / "model.gguf")
    code = "import sys; from pathlib import Path; from quire.gguf.folder import make_folder\n"
    code += "print(make_folder(Path(sys.argv[1])))"
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert not ran.stderr
    assert not Path(ran.stdout.strip()).parent.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX alone")
def test_folders_of_killed_processes_go_a_day_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = {
        "dead": f"quire-gguf-{ended.pid}-a",
        "young": f"quire-gguf-{ended.pid}-b",
        "alive": f"quire-gguf-{os.getpid()}-c",
        "other": "quire-gguf-notes",
    }
    for kind, name in names.items():
        (tmp_path / name).mkdir()
        if kind != "young":
            os.utime(tmp_path / name, (0, 0))
    folders._remove_abandoned()  # pyright: ignore[reportPrivateUsage]
    assert {one.name for one in tmp_path.iterdir()} == {*names.values()} - {names["dead"]}
