"""`quire convert`: what it prints, and what is wrong with its words."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from quire.cli.convert import KEYS, TYPES
from quire.cli.main import main
from quire.convert.folders import DTYPES
from quire.convert.header import FILE_TYPES
from quire.demo import demo_adapter_path, demo_model_path
from quire.gguf.reader import GgufFile
from tests.cli.person import Person

DEMO = str(demo_model_path())


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["convert", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "demo.gguf", tmp_path / "demo"
    code, out, err = run(capsys, DEMO, str(file), "type=Q8_0", "pre=kormo")
    assert (code, out) == (0, f"{file}\n")
    assert f"Writing {file}: 4.0 MB." in err
    assert GgufFile(file).tensors["token_embd.weight"].type.name == "Q8_0"
    code, out, err = run(capsys, str(file), str(folder), "--type", "f16")
    assert (code, out) == (0, f"{folder}\n")
    assert err.count("\n") == 1
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float16"


def test_adapter_is_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"adapter_name_or_path={demo_adapter_path('pirate')}"
    code, out, err = run(capsys, DEMO, str(tmp_path / "merged"), words)
    assert code == 0, err
    assert (Path(out.strip()) / "tokenizer.json").is_file()
    assert not list(Path(out.strip()).glob("adapter*"))


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "From where to where? quire convert SOURCE TARGET"),
        ([DEMO], 2, "From where to where?"),
        ([DEMO, "type=q8_0"], 2, "From where to where?"),
        ([DEMO, "x.gguf", "typ=q8_0"], 2, "quire convert knows no 'typ'; did you mean 'type'"),
        ([DEMO, "x.gguf", "temperature=0"], 2, "it takes adapter_folder, adapter_name_or_path"),
        ([DEMO, "x.gguf", "type=q4_k"], 2, "Unknown type 'q4_k'; did you mean 'q4_k_m'"),
        ([DEMO, "x.gguf", "overwrite=perhaps"], 2, "overwrite must be true or false"),
        ([DEMO, "nowhere/x.gguf"], 2, "There is no folder"),
        ([DEMO, "x.gguf"], 1, "no name in GGUF files"),
        ([DEMO, "x.gguf", "pre=qwen22"], 2, "did you mean 'qwen2'"),
        ([DEMO, "there.gguf", "pre=qwen2"], 2, "is there already"),
        (["nothing", "x.gguf"], 1, "There is no model folder nothing"),
        (["there.gguf", "x"], 1, "there.gguf is empty"),
        ([DEMO, "x", "adapter_name_or_path=nothing"], 1, "There is no adapter folder"),
    ],
)
def test_what_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.gguf").touch()
    found, out, err = run(capsys, *words)
    assert (found, out) == (code, "")
    assert text in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.gguf"]


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    words = ["convert", DEMO, str(tmp_path / "demo.gguf"), "pre=kormo"]
    person = Person([sys.executable, "-m", "quire", *words], tmp_path)
    person.sees("14.8/14.8 MB|7.4/7.4 MB")
    assert person.leaves() == 0
    person.close()
    assert (tmp_path / "demo.gguf").is_file()


def test_help_names_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--help")
    assert all(f"{key}=" in out for key in ("type", "overwrite", "pre", "adapter_name_or_path"))
    assert {"type", "overwrite", "pre", "adapter_name_or_path", "adapter_folder"} == set(KEYS)
    assert set(TYPES) == {*FILE_TYPES, *DTYPES}
