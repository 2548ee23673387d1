"""`quire` as a command: help, errors and exit codes, and the filter."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire import __version__
from quire.cli.main import main
from quire.errors import EngineDeadError, GenerationError, ModelNotFoundError, PromptTooLongError
from quire.messages import ToolCall
from tests.chat.deltas import gained
from tests.cli.fake_chat_model import FakeChatModel, words

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs main with some input; returns the exit code, the output and the errors."""

    def run(*argv: str, text: str = "Hello", model: Any = None) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        options = {} if model is None else {"make_model": lambda arguments: model}
        code = main(argv, **options)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


# --- help and errors ---------------------------------------------------------------------------


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")


def test_python_m_quire_is_the_command() -> None:
    def quire(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "quire", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr

    assert quire("--version") == (0, f"{__version__}\n", "")
    code, out, error = quire("chta")
    assert (code, out) == (2, "")
    assert "did you mean 'chat'" in error


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(run: Run, argv: list[str]) -> None:
    code, out, _ = run(*argv)
    assert code == 0
    assert all(command in out for command in ("chat", "demo", "prompt", "--version"))


@pytest.mark.parametrize("command", ["chat", "demo", "prompt"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_each_command_has_help(run: Run, command: str, flag: str) -> None:
    code, out, _ = run(command, flag)
    assert code == 0
    assert f"quire {command}" in out


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["chta"], "did you mean 'chat'"),
        (["--versoin"], "did you mean '--version'"),
        (["xyz"], "there are"),
        (["help"], "did you mean '--help'"),
        (["demo", "model", "fast"], "'fast' is more than the command takes"),
        (["chat", "m", "temprature=1"], "did you mean 'temperature'"),
        (["chat", "m", "--temprature", "1"], "did you mean 'temperature'"),
        (["chat", "m", "temperature=hot"], "temperature must be a number"),
        (["chat", "m", "word"], "neither key=value nor --key value"),
        (["chat", "m", "--temperature"], "needs a value"),
        (["chat", "/nowhere.yaml"], "No such file: /nowhere.yaml"),
        (["chat", "m", "infer_backend=gpu"], "infer_backend"),
        (["prompt", "--template", "qwen33"], "did you mean 'qwen3'"),
        (["prompt", "--template", "qwen3", "--elements", "--ids"], "--elements is given alone"),
        (["prompt", "--diff"], "--diff needs a value"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(run: Run, argv: list[str], text: str) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert text in err
    assert err.startswith("quire: ")
    assert err.count("\n") == 1


def test_bad_yaml_names_the_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("template: [qwen\nx: {")
    code, _, err = run("chat", str(file))
    assert code == 2
    assert str(file) in err
    assert err.count("\n") == 1


def test_a_missing_folder_is_exit_code_1(run: Run, tmp_path: Path) -> None:
    code, out, err = run("chat", str(tmp_path / "nowhere"))
    assert (code, out) == (1, "")
    assert "There is no model folder" in err


# --- the filter --------------------------------------------------------------------------------


def test_the_answer_goes_to_the_output_and_nothing_else(run: Run) -> None:
    model = FakeChatModel()
    assert run("chat", "m", text="Hello\nthere\n", model=model) == (
        0,
        "You said: Hello\nthere\n",
        "",
    )
    assert model.closed


def test_arguments_and_a_requests_options_come_to_the_model(run: Run) -> None:
    made: list[FakeChatModel] = []

    def make(arguments: Any) -> FakeChatModel:
        made.append(FakeChatModel(arguments))
        return made[0]

    assert main(["chat", "folder", "temperature=0", "--seed", "3"], make_model=make) == 0  # type: ignore[arg-type]
    assert made[0].arguments == {"model_name_or_path": "folder", "temperature": 0}
    assert made[0].requests[0]["seed"] == 3


@pytest.fixture(autouse=True)
def _piped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello"))


def test_the_output_is_exact_but_for_its_last_line_break(run: Run) -> None:
    """A pipe gets the model's text as it is; only a terminal is protected."""
    model = FakeChatModel(script=lambda m, o: words("a\x1b[31m **b**\n"))
    assert run("chat", "m", model=model)[1] == "a\x1b[31m **b**\n"


def test_thoughts_and_calls_are_not_the_answer(run: Run) -> None:
    deltas = [
        gained(text="<think>Hm.", reasoning="Hm."),
        *words("Yes.", tool_calls=(ToolCall("a", "{}"),), finish="tool_calls"),
    ]
    assert run("chat", "m", model=FakeChatModel(script=lambda m, o: deltas))[1] == "Yes.\n"


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_input_is_refused(run: Run, text: str) -> None:
    code, out, err = run("chat", "m", text=text, model=FakeChatModel())
    assert (code, out) == (2, "")
    assert "empty" in err


def test_an_input_that_is_no_text_is_refused(run: Run) -> None:
    code, out, err = run("chat", "m", text="caf\udce9", model=FakeChatModel())
    assert (code, out) == (2, "")
    assert "no UTF-8 text" in err


def test_several_answers_have_no_place_in_a_filter(run: Run) -> None:
    code, out, err = run("chat", "m", "n=2", model=FakeChatModel())
    assert (code, out) == (2, "")
    assert "num_return_sequences" in err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PromptTooLongError("too long"), 2),
        (GenerationError("a fault"), 1),
        (EngineDeadError("dead"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_fault_in_the_answer_is_an_exit_code(
    run: Run, error: BaseException, expected: int
) -> None:
    model = FakeChatModel(script=lambda m, o: [*words("half")[:1], error])
    code, out, err = run("chat", "m", model=model)
    assert (code, out) == (expected, "hal")
    assert err.count("\n") == 1
    assert model.closed
    assert model.abandoned == 1


def test_a_model_that_cannot_be_loaded_is_exit_code_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: Any) -> Any:
        raise ModelNotFoundError("There is no such model.")

    assert main(["chat", "m"], make_model=fail) == 1
    assert capsys.readouterr().err == "quire: There is no such model.\n"


FILTER = """
import sys
from quire.cli.main import main
from tests.cli.fake_chat_model import FakeChatModel, words
script = lambda messages, options: words("word " * 50_000)
sys.exit(main(sys.argv[1:], make_model=lambda arguments: FakeChatModel(arguments, script)))
"""


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-c", FILTER, "chat", "m"]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"Hello")
        process.stdin.close()
        assert process.stdout.read(4) == b"word"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


# --- what is loaded ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "unwanted"),
    [
        (["--help"], "numba,tokenizers,pydantic,prompt_toolkit,yaml,asyncio"),
        (["prompt", "--template", "qwen3", "--elements"], "numba,prompt_toolkit,asyncio"),
    ],
)
def test_a_command_loads_what_it_needs_alone(argv: list[str], unwanted: str) -> None:
    code = (
        "import sys; from quire.cli.main import main; main(sys.argv[2:]);"
        "sys.exit(','.join(set(sys.argv[1].split(',')) & set(sys.modules)))"
    )
    conversation = b'{"messages": [{"role": "user", "content": "Hi"}]}'
    done = subprocess.run(
        [sys.executable, "-c", code, unwanted, *argv],
        input=conversation,
        capture_output=True,
        check=False,
    )
    assert done.stderr == b"\n" or done.stderr == b"", done.stderr
