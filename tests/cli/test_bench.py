"""`quire bench` as a command: words, options, exit codes, and a real run on the demo model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quire.bench.figures import Figures
from quire.bench.process import Configuration
from quire.bench.run import BenchSettings
from quire.cli import bench as command
from quire.cli.main import main
from quire.demo import demo_model_path
from tests.bench.test_run import bench as fake_bench

DEMO = str(demo_model_path())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Configuration], BenchSettings]]:
    """What the command asks for; nothing is measured."""
    found: list[tuple[list[Configuration], BenchSettings]] = []

    def run(
        configurations: list[Configuration], settings: BenchSettings, progress: Any
    ) -> list[Figures]:
        found.append((configurations, settings))
        return fake_bench([], settings, **{one.name: {} for one in configurations})

    monkeypatch.setattr("quire.bench.run.run_bench", run)
    return found


def test_words_become_a_configuration(
    asked: list[tuple[list[Configuration], BenchSettings]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [DEMO, "--streams", "1,16", "--new-tokens=9", "vllm_maxlen=256", "--min_p", "0.1"]
    assert main(["bench", *words, "--turns", "2", "--prompt-tokens", "30"]) == 0
    ((one,), settings) = asked[0]
    assert one.arguments == {"model_name_or_path": DEMO, "vllm_maxlen": 256}
    assert one.options == {"ignore_eos": True, "min_p": 0.1, "temperature": 0.0}
    assert settings == BenchSettings((1, 16), prompt_tokens=30, new_tokens=9, turns=2)
    out, err = capsys.readouterr()
    assert "16 at once: tokens/s" in out
    assert "ratio" not in out
    assert err == ""


def test_a_temperature_of_the_users_own_is_kept(
    asked: list[tuple[list[Configuration], BenchSettings]], tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"model_name_or_path: {DEMO}\ntemperature: 0.5\n")
    assert main(["bench", str(file), "--against", DEMO, "temperature=0.25"]) == 0
    for one in asked[0][0]:
        assert "temperature" not in one.options
    assert [one.arguments["temperature"] for one in asked[0][0]] == [0.5, 0.25]


@pytest.mark.parametrize("form", [["--against", "other.yaml"], ["--against=other.yaml"]])
def test_another_file_stands_by_itself(
    form: list[str],
    asked: list[tuple[list[Configuration], BenchSettings]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.yaml").write_text(f"model_name_or_path: {DEMO}\nnative_block_size: 32\n")
    assert main(["bench", DEMO, "vllm_maxlen=256", *form]) == 0
    first, second = asked[0][0]
    assert first.arguments == {"model_name_or_path": DEMO, "vllm_maxlen": 256}
    assert second.arguments == {"model_name_or_path": DEMO, "native_block_size": 32}
    assert second.name == "other.yaml"


def test_words_alone_change_the_first(
    asked: list[tuple[list[Configuration], BenchSettings]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["vllm_maxlen=256", "--against", "native_block_size=32", "vllm_maxlen=128"]
    assert main(["bench", *words, "--streams", "1"]) == 0
    first, second = asked[0][0]
    assert first.arguments == {"model_name_or_path": DEMO, "vllm_maxlen": 256}
    assert second.arguments == {**first.arguments, "vllm_maxlen": 128, "native_block_size": 32}
    out, err = capsys.readouterr()
    assert "ratio" in out
    assert "small demo model" in err


def test_equal_configurations_are_told_apart(
    asked: list[tuple[list[Configuration], BenchSettings]],
) -> None:
    assert main(["bench", DEMO, "--against", DEMO]) == 0
    assert [one.name[:2] for one in asked[0][0]] == ["A:", "B:"]


def test_secrets_are_shown_nowhere(
    asked: list[tuple[list[Configuration], BenchSettings]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "out.json"
    assert main(["bench", DEMO, "hf_hub_token=hunter2", "--json", str(file)]) == 0
    assert asked[0][0][0].arguments["hf_hub_token"] == "hunter2"
    out, _ = capsys.readouterr()
    assert "hunter2" not in out + file.read_text()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["/nowhere.yaml"], "No such file: /nowhere.yaml"),
        ([DEMO, "tempature=1"], "did you mean 'temperature'"),
        ([DEMO, "--stream", "8"], "did you mean '--streams'"),
        ([DEMO, "--streams"], "--streams needs a value"),
        ([DEMO, "--streams", "many"], "--streams must be an integer"),
        ([DEMO, "--streams", "1,,2"], "--streams must be an integer"),
        ([DEMO, "--streams", "0"], "--streams must be from 1"),
        ([DEMO, "--turns", "-1"], "--turns must be an integer"),
        ([DEMO, "--new-tokens", "1"], "--new-tokens must be from 2"),
        ([DEMO, "--against"], "--against needs a configuration"),
        ([DEMO, "--against", DEMO, "--against", DEMO], "--against stands once"),
        ([DEMO, "--against", "native_block_size=abc"], "native_block_size"),
        ([DEMO, "--n", "2"], "one answer each"),
        ([DEMO, "--text", "/nowhere.txt"], "Cannot read /nowhere.txt"),
        ([DEMO, "--json", "/nowhere/out.json"], "no file can be written there"),
        ([DEMO, "--plot", "/"], "no file can be written there"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(
    words: list[str],
    text: str,
    asked: list[tuple[list[Configuration], BenchSettings]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, asked) == ("", [])
    assert text in err
    assert err.startswith("quire: ")
    assert err.count("\n") == 1


def test_an_empty_text_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "empty.txt"
    file.write_text(" \n")
    assert main(["bench", DEMO, "--text", str(file)]) == 2
    assert "is empty" in capsys.readouterr().err


def test_a_missing_matplotlib_is_said_before_anything_is_measured(
    asked: list[tuple[list[Configuration], BenchSettings]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", DEMO, "--plot", "x.png"]) == 2
    assert asked == []
    assert "pip install 'quire-llm[bench]'" in capsys.readouterr().err


def test_a_real_run_of_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, picture, text = tmp_path / "out.json", tmp_path / "out.png", tmp_path / "text.txt"
    text.write_text("The blocks of a paged cache are shared and counted. " * 5)
    words = ["native_kv_cache_memory=64MiB", "vllm_maxlen=256", "native_num_threads=1"]
    options = ["--streams", "1,3", "--new-tokens", "8", "--turns", "1", "--text", str(text)]
    files = ["--json", str(table), "--plot", str(picture)]
    against = ["--against", "native_block_size=32"]
    assert main(["bench", *words, *options, *files, *against]) == 0
    out, _ = capsys.readouterr()
    assert all(label in out for label in ("first token", "KV cache", "perplexity", "ratio"))
    content = json.loads(table.read_text())
    assert content["settings"]["streams"] == [1, 3]
    first, second = content["configurations"]
    assert first["engine"] == "NativeEngine"
    assert [load["streams"] for load in first["loads"]] == [1, 3]
    assert all(load["new_tokens"] == 8 and load["rate"] > 0 for load in second["loads"])
    assert second["arguments"]["native_block_size"] == 32
    # Another size of blocks changes no bit of any score.
    assert first["quality"] == second["quality"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_model_that_is_not_there_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["bench", DEMO, "--against", str(tmp_path / "gone"), "infer_backend=native"])
    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert err.startswith("quire: gone infer_backend=native: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", flag]) == 0
    out = capsys.readouterr().out
    assert "quire bench" in out
    assert "--against" in out
    assert "--prompt-tokens" in out


def test_help_loads_neither_engine_nor_matplotlib() -> None:
    code = (
        "import sys; from quire.cli.main import main\n"
        "assert main(['bench', '--help']) == 0\n"
        "found = {'matplotlib', 'numba', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)


def test_the_options_are_all_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "--help"])
    out = capsys.readouterr().out
    for name in command.BenchOptions.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in out
