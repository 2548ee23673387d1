"""Every command, option, argument and YAML key of the documentation is one that there is."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclopts import CycloptsError

from quire.arguments import FIELDS, get_infer_args, read_assignments, split_bare_words, split_source
from quire.arguments.base import is_secret
from quire.batch import get_batch_args
from quire.cli.batch import BATCH_COMMANDS
from quire.cli.bench import AGAINST
from quire.cli.completion.scripts import CompletionWords, read_vocabulary
from quire.cli.deploy import KINDS
from quire.cli.main import build_app
from quire.cli.words import load_model
from quire.errors import QuireError
from quire.options import REQUEST_OPTIONS
from quire.server.arguments import ServerArguments, read_server_arguments
from tests.docs.pages import PAGES, ROOT, Page, commands

EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.*") if path.suffix != ".pyc")
APP = build_app(load_model)
SERVING = ("serve", "api", "webchat")


# --- commands ------------------------------------------------------------------------------------


def wrong(command: Sequence[str]) -> str | None:
    """What is wrong with a command of ours; None for others' too."""
    program, *words = command
    if Path(program).name in ("python", "python3"):
        return wrong_python(words)
    if Path(program).name == "pip":
        return wrong_extras(words)
    check = _PROGRAMS.get(Path(program).name)
    return check(words) if check else None


def wrong_quire(words: Sequence[str]) -> str | None:
    if len(words) < 2:  # `quire deploy` as a name, in prose
        known = ["--version", "--help", *APP]
        return None if not words or words[0] in known else f"no command {words[0]}"
    try:
        function, bound, *_ = APP.parse_args(words, exit_on_error=False, print_error=False)
    except (CycloptsError, QuireError) as error:
        return str(error)
    if "words" not in function.__annotations__ or "--help" in words:
        return None
    if words[0] == "batch" and words[1] in BATCH_COMMANDS:  # their words are files
        return None
    try:
        return wrong_words(words[0], [str(word) for word in bound.arguments.get("words", ())])
    except QuireError as error:
        return str(error)


def wrong_words(name: str, words: Sequence[str]) -> str | None:
    """The words after a command and its own options."""
    command = vocabulary().get(name) or vocabulary()[APP[name].name[0]]
    if name == "completion":
        return None if tuple(words) in [(one,) for one in command.positions[0]] else "no such shell"
    if name == "deploy":
        kind, *words = words
        if kind not in KINDS:
            return f"{kind} is none of {KINDS}"
    if name == "convert":
        source, _, *rest = words
        words = [source, *rest]
    at = words.index(AGAINST) if AGAINST in words else len(words)
    for part in (words[:at], words[at + 1 :]):
        if name == "chat":  # a prompt in quotes may stand among them
            _, part = split_bare_words(part)
        _, rest = split_source(part)
        values = read_assignments(rest)
        unknown = set(values) - set(command.keys)
        if unknown:
            return f"{name} takes no {sorted(unknown)}"
        if name == "convert":
            continue
        if name == "batch":
            get_batch_args(
                {"model_name_or_path": "folder", **values}, has_rows=not needs_rows(values)
            )
        else:
            check_values(values)
    return None


def needs_rows(values: dict[str, Any]) -> bool:
    """Whether the words name the rows; a file named before them may do so too."""
    return any(name in values for name in ("input", "dataset", "eval_dataset"))


def wrong_llamafactory(words: Sequence[str]) -> str | None:
    others = ("version", "help", "train", "export", "eval", "webui", "env")
    return None if not words or words[0] in others else wrong_quire(words)


def wrong_make(words: Sequence[str]) -> str | None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    missing = [word for word in words if "=" not in word and word not in targets]
    return f"make has no {missing}" if missing else None


def wrong_python(words: Sequence[str]) -> str | None:
    if words[:1] == ["-m"]:
        if words[1] == "quire":
            return wrong_quire(words[2:])
        if words[1] == "llamafactory.cli":
            return wrong_llamafactory(words[2:])
        found = is_module(words[1])
        return None if found else f"no module {words[1]}"
    if words and words[0].endswith(".py") and not (ROOT / words[0]).is_file():
        return f"no file {words[0]}"
    return None


def wrong_extras(words: Sequence[str]) -> str | None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for word in words:
        if re.match(r"quire(\[|$)", word):
            return "the distribution is quire-llm"
        named = re.fullmatch(r"quire-llm\[(.+)\]", word)
        unknown = [extra for extra in named[1].split(",") if extra not in extras] if named else []
        if unknown:
            return f"no extra {unknown}"
    return None


def is_module(name: str) -> bool:
    """Whether `python -m` finds it: ours as a file, others' as installed."""
    parts = name.split(".")
    for base in (ROOT, ROOT / "compat" / "llamafactory" / "src"):
        path = base.joinpath(*parts)
        if path.with_suffix(".py").is_file() or (path / "__main__.py").is_file():
            return True
    return (ROOT / parts[0]).is_dir() is False and importlib.util.find_spec(parts[0]) is not None


_PROGRAMS: dict[str, Callable[[Sequence[str]], str | None]] = {
    "quire": wrong_quire,
    "make": wrong_make,
    "llamafactory-cli": wrong_llamafactory,
    "lmf": wrong_llamafactory,
}


@cache
def vocabulary() -> dict[str, Any]:
    """The commands by name; keys that are secret may stand in a page, though not in completion."""
    words: CompletionWords = read_vocabulary(APP)
    return {command.name: command for command in words.commands}


# --- arguments -----------------------------------------------------------------------------------


def check_values(values: dict[str, Any]) -> None:
    """Read arguments as the engine and the server do.

    Raises:
        QuireError: a name or a value that is wrong.
    """
    model = {"model_name_or_path": "folder", **values}
    rest = {
        name: value for name, value in model.items() if name not in ServerArguments.model_fields
    }
    own = {name: value for name, value in values.items() if name not in rest}
    read_server_arguments(own, {})
    get_infer_args({k: v for k, v in rest.items() if k not in REQUEST_OPTIONS - set(FIELDS)})


def wrong_yaml(text: str) -> str | None:
    try:
        content = yaml.safe_load(text)
        if not isinstance(content, dict):
            return "no keys and values"
        check_values(content)
    except (yaml.YAMLError, QuireError) as error:
        return str(error)
    return None


# --- pages ---------------------------------------------------------------------------------------


def problems(page: Page) -> Iterator[str]:
    lines = "\n".join([*page.blocks("", "sh", "bash", "console"), *commands_in_prose(page)])
    for command in commands(lines):
        said = wrong(command)
        # The demo model was trained on the page of questions: its answers stay as they are.
        if said and not (page.name == "docs/faq.md" and said == "the distribution is quire-llm"):
            yield f"{' '.join(command)}: {said}"
    for block in page.blocks("yaml", "yml"):
        said = wrong_yaml(block)
        if said:
            yield f"{block}: {said}"


def commands_in_prose(page: Page) -> list[str]:
    """Code in lines that is a command: with more than the program's name."""
    return [
        code
        for code in page.code
        if re.match(r"(quire|make|lmf|llamafactory-cli|pip|python) ", code)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_arguments_are_there(page: Page) -> None:
    assert list(problems(page)) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_commands_in_examples_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    said = re.findall(r"(?:: |\()((?:quire|python|pip|make) [^\n()]+)", text, re.M)
    found = [(line, wrong(command)) for line in said for command in commands(line.rstrip('."'))]
    assert [one for one in found if one[1]] == []


@pytest.mark.parametrize("name", [name for name in APP if not name.startswith("-")])
def test_commands_in_help_are_there(name: str) -> None:
    lines = re.findall(r"^ +((?:quire|echo|eval) .+)$", APP[name].help, re.M)
    found = [(line, wrong(command)) for line in lines for command in commands(line)]
    assert [one for one in found if one[1]] == []


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("quire chta model", "chta"),
        ("echo hi | quire chat m --temprature 1", "temprature"),
        ("quire chat config.yaml temperature=hot", "temperature must be"),
        ("quire chat config.yaml port=1", "port"),
        ("quire serve m port=none", "port"),
        ("quire deploy vlm config.yaml", "vlm"),
        ('eval "$(quire completion tcsh)"', "no such shell"),
        ("quire prompt --idz", "idz"),
        ("quire bench a.yaml --against native_num_thread=1", "native_num_thread"),
        ("A=1 make tset && true", "tset"),
        ("python -m benchmarks.nowhere", "nowhere"),
        ("pip install 'quire[server]'", "quire-llm"),
        ("pip install 'quire-llm[serve]'", "serve"),
    ],
)
def test_a_wrong_command_is_found(line: str, text: str) -> None:
    assert [said for command in commands(line) if (said := wrong(command)) and text in said]


def test_a_wrong_key_of_yaml_is_found() -> None:
    assert wrong_yaml("vllm_maxlen: 10\nprot: 8000") is not None
    assert wrong_yaml("vllm_maxlen: 10\nport: 8000") is None


def test_secrets_stay_off_command_lines() -> None:
    keys = vocabulary()["serve"].keys
    secret = [name for name, field in ServerArguments.model_fields.items() if is_secret(field)]
    assert not set(secret) & set(keys)
