"""`quire completion`: what is offered, and real shells that offer it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import TypeAdapter

from quire.arguments import FIELDS
from quire.batch import BatchArguments
from quire.cli.completion.scripts import (
    FILES,
    FLAG,
    SHELLS,
    CompletionWords,
    completion_script,
    read_vocabulary,
)
from quire.cli.convert import KEYS as CONVERT_KEYS
from quire.cli.main import build_app, load_model, main
from quire.cli.words import read_start
from quire.options import OPTIONS, REQUEST_OPTIONS, Flag
from quire.server.arguments import ServerArguments
from tests.cli.person import Person

APP = build_app(load_model)
FISH = pytest.mark.skipif(shutil.which("fish") is None, reason="the shell fish is not installed")
ZSH = pytest.mark.skipif(shutil.which("zsh") is None, reason="the shell zsh is not installed")


@pytest.fixture(scope="module")
def vocabulary() -> CompletionWords:
    return read_vocabulary(APP)


# --- the words -----------------------------------------------------------------------------------


def test_all_commands_and_their_options(vocabulary: CompletionWords) -> None:
    commands = {command.name: command for command in vocabulary.commands}
    assert set(commands) == {name for name in APP if not name.startswith("-")}
    assert {"--gpus", "--multi-node", "--config"} <= set(commands["deploy"].options)
    assert {"--streams", "--against", "--quality"} <= set(commands["bench"].options)
    assert commands["demo"].keys == ()
    assert commands["completion"].positions == (SHELLS,)
    for command in vocabulary.commands:
        names = {option[2:].replace("-", "_") for option in command.options}
        assert not names & set(command.keys), "a word must mean one thing"


def test_each_key_is_one_that_its_command_reads(vocabulary: CompletionWords) -> None:
    for command in vocabulary.commands:
        known = set(FIELDS)
        known |= REQUEST_OPTIONS if command.name in ("chat", "bench", "batch") else set()
        known |= set(ServerArguments.model_fields) if "Serve a model" in command.summary else set()
        known |= set(BatchArguments.model_fields) if command.name == "batch" else set()
        known |= set(CONVERT_KEYS) if command.name == "convert" else set()
        assert set(command.keys) <= known
    start = read_start([f"{key}=1" for key in vocabulary.commands[1].keys])
    assert {*start.arguments, *start.options} >= set(vocabulary.commands[1].keys)


def test_no_secret_is_offered(vocabulary: CompletionWords) -> None:
    for command in vocabulary.commands:
        assert not {"api_key", "admin_key", "hf_hub_token", "remote_api_key"} & set(command.keys)


def test_values_are_ones_that_their_field_takes(vocabulary: CompletionWords) -> None:
    fields = {**FIELDS, **ServerArguments.model_fields}
    checked = 0
    for key, values in vocabulary.values.items():
        for value in values:
            if key in fields and value not in (FILES, FLAG):
                kind: TypeAdapter[Any] = TypeAdapter(cast("Any", fields[key].annotation))
                assert kind.validate_python(value) is not None
                checked += 1
    assert checked > 150
    assert vocabulary.values["infer_backend"] == ("auto", "vllm", "native", "remote")
    assert vocabulary.values["trust_remote_code"] == ("true", "false")
    assert vocabulary.values["adapter_name_or_path"] == (FILES,)
    assert vocabulary.values["quality"] == (FLAG,)


def test_every_request_option_is_offered_where_requests_are_made(
    vocabulary: CompletionWords,
) -> None:
    for command in vocabulary.commands:
        if command.name in ("chat", "bench"):
            assert set(command.keys) >= REQUEST_OPTIONS
    for option in OPTIONS:
        if isinstance(option.type, Flag):
            assert vocabulary.values[option.name] == ("true", "false")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "Which shell?"),
        (["bash", "zsh"], "Which shell?"),
        (["fisch"], "'fisch'; did you mean 'fish'?"),
        (["powershell"], "there are bash, zsh, fish."),
    ],
)
def test_other_shells(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", *words]) == 2
    assert text in capsys.readouterr().err


# --- the shells ----------------------------------------------------------------------------------

OFFERS = {
    "quire se": {"serve"},
    "quire --": {"--help", "--version"},
    "quire completion ": {"bash", "zsh", "fish"},
    "quire deploy ": {"vllm", "ray", "ray-llm"},
    "quire deploy vllm ": {"bare.txt", "model/", "my model/", "other.yaml"},
    "quire chat demo-": {"demo-see", "demo-hear"},
    "quire chat mo": {"model/", "model_name_or_path=", "model_revision="},
    "quire chat model temp": {"temperature=", "template="},
    "quire chat model template=qwen3_v": {"template=qwen3_vl", "template=qwen3_vl_nothink"},
    "quire chat --template qwen3_v": {"qwen3_vl", "qwen3_vl_nothink"},
    "quire chat model --trust": {"--trust_remote_code"},
    "quire chat --trust_remote_code ": {"true", "false"},
    "quire chat --trust_remote_code --see": {"--seed"},
    "quire serve --config ot": {"other.yaml"},
    "quire serve model ser": {"served_model_name="},
    "quire serve cache_dir=mod": {"cache_dir=model/"},
    "quire prompt --ids --di": {"--diff"},
    "quire prompt --ids temp": {"temperature="},
    "quire bench --against ot": {"other.yaml"},
    "quire bench model --streams ": set(),
    "quire pu": {"pull"},
    "quire convert model ot": {"other.yaml"},
    "quire convert model model.gguf type=q4": {"type=q4_k_m"},
    "quire pull ot": {"other.yaml"},
    "quire pull owner/name model_r": {"model_revision="},
    "quire rm owner/name --cache": {"--cache_dir"},
    "quire list cache_dir=mod": {"cache_dir=model/"},
    "quire none ": set(),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Somewhere with a few files, and the scripts elsewhere."""
    place = tmp_path / "place"
    (place / "model").mkdir(parents=True)
    (place / "my model").mkdir()
    for name in ("other.yaml", "bare.txt"):
        (place / name).touch()
    for shell in SHELLS:
        (tmp_path / f"quire.{shell}").write_text(completion_script(APP, shell), encoding="utf-8")
    return place


BASH = r"""
source ../quire.bash
words=() line=$1
read -r -a words <<< "$line"
[[ $line == *" " ]] && words+=("")
COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
_quire
((${#COMPREPLY[@]})) && printf '%s\n' "${COMPREPLY[@]}"
"""


def offered_by_bash(line: str, folder: Path) -> set[str]:
    command = ["bash", "--norc", "-c", BASH, "bash", line]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert not ran.stderr
    found = ran.stdout.splitlines()
    folders = {
        one for one in found if one[-1] != "=" and (folder / one.rpartition("=")[2]).is_dir()
    }
    return {f"{one}/" if one in folders else one for one in found}


def offered_by_fish(line: str, folder: Path) -> set[str]:
    script = "source ../quire.fish; complete -C $argv[1]"
    command = ["fish", "--no-config", "-c", script, line]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert not ran.stderr
    return {one.partition("\t")[0].replace("\\ ", " ") for one in ran.stdout.splitlines()}


@pytest.mark.parametrize("line", OFFERS)
@pytest.mark.parametrize(
    "offered", [offered_by_bash, pytest.param(offered_by_fish, marks=FISH)], ids=["bash", "fish"]
)
def test_offers(offered: Callable[[str, Path], set[str]], line: str, folder: Path) -> None:
    found = offered(line, folder)
    lead = line.rpartition("=")[0]
    expected = OFFERS[line]
    assert found in (expected, {one.removeprefix(f"{lead}=") for one in expected})


TYPED = [
    ("quire ser\tport=1", "serve port=1"),
    ("quire chat templ\tqwen3_vl_\t", "chat template=qwen3_vl_nothink"),
    ("quire chat --templ\tqwen3_vl_\tmodel", "chat --template qwen3_vl_nothink model"),
    ("quire chat my\t top_k=1", "chat my model/? top_k=1"),
    ("quire serve --config ot\tport=1", "serve --config other.yaml port=1"),
    ("quire serve cache_dir=mod\t", "serve cache_dir=model/?"),
    ("quire bench --infer_ba\tnat\t", "bench --infer_backend native"),
]


@pytest.fixture(params=["bash", pytest.param("zsh", marks=ZSH), pytest.param("fish", marks=FISH)])
def shell(request: pytest.FixtureRequest, folder: Path) -> Iterator[Person]:
    """A person at an interactive shell, in which quire prints its words."""
    name: str = request.param
    command = {
        "bash": ["bash", "--norc", "--noprofile", "-i"],
        "zsh": ["zsh", "-f", "-i"],
        "fish": ["fish", "--no-config", "-i"],
    }[name]
    begin = {
        "bash": "PS1='ready> '; quire() { echo \"got: $*.\"; }",
        "zsh": "PS1='ready> '; autoload -Uz compinit; compinit -u -D; quire() { echo \"got: $*.\" }",
        "fish": "function fish_prompt; echo 'ready> '; end; function quire; echo \"got: $argv.\"; end",
    }[name]
    (folder.parent / "begin").write_text(f"{begin}\nsource ../quire.{name}\n")
    one = Person(command, folder, HOME=str(folder.parent), TERM="dumb")
    one.type(f"cd {folder}; source ../begin\r")
    one.sees("ready> ")
    yield one
    one.close()


def test_typing(shell: Person) -> None:
    for typed, read in TYPED:
        shell.type(f"{typed}\r")
        shell.sees(f"got: {read} ?\\.")
