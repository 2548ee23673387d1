"""`llamafactory-cli`, as `python -m llamafactory.cli`."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quire import __version__
from quire.demo import demo_model_path

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


RunCli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_cli(
    compat: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> RunCli:
    """Runs `llamafactory-cli` with these words, in this process."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["llamafactory-cli", *words])
        try:
            code = importlib.import_module("llamafactory.cli").main()
        except SystemExit as ended:
            code = ended.code
        return subprocess.CompletedProcess(words, int(code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def config(tmp_path: Path) -> str:
    """An inference YAML in LLaMA-Factory's form, for the demo model."""
    path = tmp_path / "config.yaml"
    path.write_text(
        f"model_name_or_path: {demo_model_path()}\n"
        "template: llama2\n"
        "infer_backend: huggingface  # choices: [huggingface, vllm, sglang, ktransformers]\n"
        "trust_remote_code: true\n"
    )
    return str(path)


def test_chat_answers_piped_input(run_python: RunPython, config: str) -> None:
    words = ("-m", "llamafactory.cli", "chat", config, "do_sample=false", "--max_new_tokens", "12")
    result = run_python(*words, text="Hello! Who are you?\n")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    again = run_python(
        "-c",
        "import sys; from quire.cli.main import main; sys.exit(main(sys.argv[1:]))",
        *words[2:],
        text="Hello! Who are you?\n",
    )
    assert again.stdout == result.stdout  # the same as `quire chat` answers


def test_run_chat_reads_the_command_line(run_python: RunPython, config: str) -> None:
    code = "import sys; from llamafactory.chat.chat_model import run_chat; sys.exit(run_chat())"
    result = run_python("-c", code, config, "do_sample=false", "max_new_tokens=4", text="Hello!")
    assert (result.returncode, bool(result.stdout.strip())) == (0, True), result.stderr


def test_a_wrong_key_is_an_error_of_quire(run_python: RunPython, config: str) -> None:
    result = run_python("-m", "llamafactory.cli", "chat", config, "temperatur=1", text="Hello!")
    assert result.returncode == 2
    assert "did you mean 'temperature'?" in result.stderr


@pytest.mark.parametrize("command", ["api", "webchat"])
def test_the_server_is_quires(run_python: RunPython, command: str) -> None:
    result = run_python("-m", "llamafactory.cli", command, "model_name_or_path=nowhere", "port=0")
    assert (result.returncode, result.stdout) == (1, "")
    assert "nowhere" in result.stderr
    assert "Unknown command" not in result.stderr


@pytest.mark.parametrize(
    "command", ["train", "export", "eval", "webui", "env", "sft", "pt", "rm", "ppo", "dpo", "kto"]
)
def test_a_command_of_training_is_refused(run_cli: RunCli, command: str) -> None:
    result = run_cli(command, "config.yaml")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert f"{command!r}: this is quire's compatibility package" in result.stderr
    assert "inference only" in result.stderr
    assert "the real LLaMA-Factory does that" in result.stderr


def test_an_unknown_command_is_refused(run_cli: RunCli) -> None:
    result = run_cli("chta")
    assert (result.returncode, result.stdout) == (2, "")
    assert "Unknown command 'chta'" in result.stderr


@pytest.mark.parametrize("words", [(), ("help",), ("--help",), ("-h",)])
def test_help_lists_the_commands(run_cli: RunCli, words: tuple[str, ...]) -> None:
    result = run_cli(*words)
    assert (result.returncode, result.stderr) == (0, "")
    assert all(name in result.stdout for name in ("chat", "api", "webchat", "version", "lmf"))


def test_version(run_cli: RunCli) -> None:
    result = run_cli("version")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"quire {__version__}" in result.stdout


def test_the_launcher_is_the_same_command(run_python: RunPython) -> None:
    code = "import sys; from llamafactory.launcher import launch; sys.exit(launch())"
    assert run_python("-c", code, "train").returncode == 2
