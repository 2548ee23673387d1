"""`quire` as a command: help, errors and exit codes, and the filter."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire import __version__
from quire.cli.main import main
from quire.errors import (
    EngineBusyError,
    EngineDeadError,
    GenerationError,
    ModelNotFoundError,
    PromptTooLongError,
    RequestTimeoutError,
)
from quire.messages import ToolCall
from tests.chat.deltas import gained
from tests.cli.fake_chat_model import FakeChatModel, words

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs main with some input; returns the exit code, the output and the errors."""

    def run(*argv: str, text: str | None = None, model: Any = None) -> tuple[int, str, str]:
        if text is None:  # a prompt among the words is one without input
            text = "" if "-p" in argv else "Hello"
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


def test_ctrl_c_while_modules_are_read_is_no_traceback() -> None:
    code = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "quire.cli.main":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from quire.__main__ import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\n")


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
        (["chat", "m", "--shema", "{}"], "Unknown option '--shema'; did you mean '--schema'?"),
        (["chat", "m", "--continu", "x"], "did you mean '--continue'?"),
        (["chat", "-m", "demo"], "There is no option -m. The model stands first"),
        (["chat", "m", "--num=3", "-n", "9"], "max_new_tokens=100 bounds the answer."),
        (["chat", "m", "--json_schema", "{}"], "--schema SCHEMA has the answer follow"),
        (["chat", "m", "--temprature", "1"], "did you mean 'temperature'"),
        (["chat", "m", "temperature=hot"], "temperature must be a number"),
        (["chat", "m", "two", "words"], "several prompts, 'two' and 'words'"),
        (["chat", "m", "a prompt", "-p", "another"], "several prompts"),
        (["chat", "m", "-z"], "'-z' is neither key=value nor --key value"),
        (["chat", "m", "-p", ""], "The prompt is empty"),
        (["chat", "m", "-p", "a", "--schema", "/nowhere.json"], "Cannot read /nowhere.json"),
        (["chat", "m", "-p", "a", "--schema", "{broken"], "--schema holds no JSON"),
        (["chat", "m", "-p", "a", "--schema", "[]"], "must be a JSON object"),
        (["chat", "m", "-p", "a", "--tools", "[1]"], "no name"),
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


def test_a_pipe_is_not_told_what_is_waited_for(run: Run) -> None:
    model = FakeChatModel(delay=0.5)
    assert run("chat", "m", "-p", "One", model=model) == (0, "You said: One\n", "")


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


# --- a prompt among the words -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "text", "asked"),
    [
        (["m", "Why?"], "", "Why?"),
        (["m", "temperature=0", "Why?", "--seed", "3"], "", "Why?"),
        (["m", "--prompt", "Why?"], "", "Why?"),
        (["m", "-p", "- why=?"], "", "- why=?"),
        (
            ["m", "Summarise this."],
            "a text\nof two lines\n",
            "a text\nof two lines\n\nSummarise this.",
        ),
        (["m", "-p", ""], "a text", "a text"),
        (["Why is it so?"], "", "Why is it so?"),
        (["--temperature", "0", "Why?"], "a text", "a text\n\nWhy?"),
    ],
)
def test_a_prompt_is_joined_with_what_is_piped(
    run: Run, argv: list[str], text: str, asked: str
) -> None:
    model = FakeChatModel()
    code, out, _ = run("chat", *argv, text=text, model=model)
    assert (code, out) == (0, f"You said: {asked}\n")
    assert [message["content"] for message in model.requests[0]["messages"]] == [asked]


def test_a_folder_with_a_blank_is_no_prompt(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    (tmp_path / "my model").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello"))

    def make(arguments: Any) -> Any:
        made.append(arguments)
        return FakeChatModel()

    assert main(["chat", "my model"], make_model=make) == 0
    assert made == [{"model_name_or_path": "my model"}]


CALL = ToolCall("get_weather", '{"city": "Oslo"}', "call-1")
TOOLS = json.dumps([{"name": "get_weather", "parameters": {}}])


def called(messages: Any, options: Any) -> list[Any]:
    thought = gained(text="Hm.", reasoning="Hm.")
    return [thought, *words("I look.", finish="tool_calls", tool_calls=(CALL,))]


def test_an_answer_as_json(run: Run) -> None:
    model = FakeChatModel(script=called)
    code, out, err = run("chat", "m", "-p", "Weather?", "--json", "--tools", TOOLS, model=model)
    assert (code, err) == (0, "")
    assert out.endswith("}\n")
    assert json.loads(out) == {
        "content": "I look.",
        "reasoning_content": "Hm.",
        "tool_calls": [
            {
                "id": "call-1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
            }
        ],
        "finish_reason": "tool_calls",
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "cached_tokens": 0,
            "reasoning_tokens": 0,
        },
    }
    assert model.requests[0]["tools"] == json.loads(TOOLS)


def test_calls_are_lines_of_json_where_tools_were_given(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "my tools.json"
    file.write_text(TOOLS)
    model = FakeChatModel(script=called)
    code, out, _ = run("chat", "m", "-p", "Weather?", "--tools", str(file), model=model)
    text, line = out.splitlines()
    assert (code, text) == (0, "I look.")
    assert json.loads(line) == {"name": "get_weather", "arguments": '{"city": "Oslo"}'}


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize(("finish", "expected"), [("stop", 0), ("length", 3)])
def test_a_schema_holds_the_answer_and_a_cut_one_is_exit_code_3(
    run: Run, tmp_path: Path, as_file: bool, finish: str, expected: int
) -> None:
    given = json.dumps(SCHEMA)
    if as_file:
        (tmp_path / "schema.json").write_text(given)
        given = str(tmp_path / "schema.json")
    model = FakeChatModel(script=lambda m, o: words('{"a": 1', finish=finish))
    code, out, err = run("chat", "m", "-p", "One", "--schema", given, model=model)
    assert (code, out) == (expected, '{"a": 1\n')
    assert ("cut at its longest" in err) == (expected == 3)
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    assert model.requests[0]["response_format"] == form


def test_a_cut_answer_of_no_form_is_told_and_no_error(run: Run) -> None:
    model = FakeChatModel(script=lambda m, o: words("half", finish="length"))
    code, out, err = run("chat", "m", "-p", "One", model=model)
    assert (code, out) == (0, "half\n")
    assert "--max_new_tokens allows more" in err


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("So:\n\n```py\nif x:\n\ty\n```\n\n```sh\nls\n```\n", "if x:\n\ty\n"),
        ("No code.", "No code.\n"),
    ],
)
def test_the_code_of_an_answer(run: Run, text: str, written: str) -> None:
    model = FakeChatModel(script=lambda messages, options: words(text))
    code, out, _ = run("chat", "m", "-p", "One", "-x", model=model)
    assert (code, out) == (0, written)
    assert run("chat", "m", "-p", "One", "-x", "--json", model=model)[0] == 2


def test_a_system_message(run: Run, tmp_path: Path) -> None:
    model = FakeChatModel()
    file = tmp_path / "system.txt"
    file.write_text("Be long.\n")
    run("chat", "m", "-p", "One", "-s", "Be brief.", model=model)
    run("chat", "m", "-p", "One", "--system", f"@{file}", model=model)
    assert [request["system"] for request in model.requests] == ["Be brief.", "Be long."]


def test_figures_go_beside_the_answer(run: Run) -> None:
    code, out, err = run("chat", "m", "-p", "One", "--stats", model=FakeChatModel())
    assert (code, out) == (0, "You said: One\n")
    assert "tokens · first after" in err


def test_a_schema_and_a_form_contradict_each_other(run: Run) -> None:
    form = json.dumps({"type": "json_object"})
    code, out, err = run(
        "chat", "m", "-p", "One", "--schema", "{}", "--response_format", form, model=FakeChatModel()
    )
    assert (code, out) == (2, "")
    assert "give one" in err


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
        (EngineBusyError("busy"), 4),
        (RequestTimeoutError("too long"), 4),
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


@pytest.mark.parametrize("error", [RuntimeError("a\nfault"), OSError(5, "broken", "a file")])
def test_an_unknown_fault_is_one_line_that_says_where_to_look(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    code, _, err = run("chat", "m", model=FakeChatModel(script=lambda m, o: [error]))
    written = tmp_path / "quire" / "last_fault.txt"
    assert code == 1
    assert err.count("\n") == 1
    assert type(error).__name__ in err
    assert f"This is a fault in quire; {written} says where." in err
    assert "Traceback" in written.read_text()
    assert written.stat().st_mode & 0o077 == 0


def test_a_fault_is_told_where_it_cannot_be_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    code, _, err = run("chat", "m", model=FakeChatModel(script=lambda m, o: [KeyError()]))
    assert (code, err) == (1, "quire: KeyError. This is a fault in quire.\n")


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
