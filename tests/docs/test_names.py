"""Names between backticks are those of the code: files, modules, arguments, errors, routes, variables."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from docs import reference
from quire import errors
from quire.arguments import FIELDS
from quire.cli.chat.other_programs import NAMES
from quire.cli.chat.slash_commands import COMMANDS
from quire.cli.main import build_app
from quire.cli.words import load_model
from quire.server.arguments import ServerArguments
from tests.docs.pages import PAGES, ROOT, Page
from tests.docs.test_links import resolve

FOLDERS = ("src", "tests", "benchmarks", "docs", "examples", "tools", "compat", ".ci", ".github")
# What pages name and others have, or what is made where a command runs.
OTHERS_FILES = frozenset(
    {
        "adapter_config.json",
        "config.json",
        "config.yaml",
        "generation_config.json",
        "tokenizer.json",
        "value_head.safetensors",
        "scripts/vllm_infer.py",
        "benchmarks/environments/",
        "/etc/quire/environment",
        "/etc/quire/config.yaml",
    }
)
OTHERS_ERRORS = frozenset({"PackageNotFoundError"})
OTHERS_OPTIONS = frozenset(
    {"--logprobs-mode", "--max-logprobs", "--reasoning-parser", "--tool-call-parser"}
    | {"--enable-auto-tool-choice", "--master-port", "--system-site-packages", "--target"}
    | {"--override-generation-config", "--data-parallel-backend"}
)
OTHERS_PATHS = frozenset({"/", "/chat/", "/openapi.json", "/v1"})


def problems(page: Page) -> Iterator[str]:
    for code in page.code:
        said = wrong(code)
        if said:
            yield f"{code}: {said}"


def wrong(code: str) -> str | None:
    """What is wrong with one piece of code; None too for what is nothing of ours."""
    word = code.split("(")[0].split("=")[0].split(":")[0].strip()
    if re.fullmatch(r"quire(\.\w+)+", word) and not word.endswith(".service"):
        return wrong_dotted(word)
    if re.fullmatch(r"[\w./<>*-]+", code) and ("/" in code or re.search(r"\.\w{2,5}$", code)):
        return wrong_path(code)
    if re.fullmatch(r"\w+Error", word):
        there = word in OTHERS_ERRORS or hasattr(errors, word) or hasattr(builtins, word)
        return None if there else "no such error"
    if re.match(r"(native|vllm|remote|infer)_\w+$", word):
        there = word in FIELDS or word in source_words()
        return None if there else "no such argument"
    if re.match(r"QUIRE_\w+$", word):
        setting = word.removeprefix("QUIRE_").lower()
        there = setting in ServerArguments.model_fields or word in source_words()
        return None if there or word == "QUIRE_" else "no such variable"
    if re.match(r"--[a-z-]+", code):
        return wrong_option(re.match(r"--[\w-]+", code)[0])  # type: ignore[index]
    return None


def wrong_dotted(name: str) -> str | None:
    try:
        resolve(name)
    except (ImportError, AttributeError) as error:
        return str(error)
    return None


def wrong_path(path: str) -> str | None:
    if path in OTHERS_FILES | OTHERS_PATHS or re.search(r"[A-Z]{3,}|^path/to/|^saves/", path):
        return None
    if path.startswith("/"):
        there = path in routes() or path in COMMANDS or path in NAMES
        return None if there else "neither a route nor a command of the chat"
    if "<" in path:
        path = re.sub(r"<\w+>.*", "", path)
    if path.split("/")[0] in FOLDERS:
        # `tools/` is a folder of the repository, and one of the package.
        there = any(ROOT.glob(path)) or (ROOT / path).exists()
        return None if there or (ROOT / "src" / "quire" / path).exists() else "no such file"
    if re.search(r"\.(py|md|yaml|yml|toml|css|js)$", path) or path.endswith("/"):
        ending = f"/{path.strip('/')}"
        there = any(f"/{file}".endswith(ending) for file in files())
        return None if there else "no file ends so"
    return None


def wrong_option(option: str) -> str | None:
    known = option[2:].replace("-", "_") in {*FIELDS, *ServerArguments.model_fields}
    known = known or option in own_options() or option in OTHERS_OPTIONS
    return None if known else "no option of a command"


@cache
def own_options() -> frozenset[str]:
    """Those of `quire`, of the benchmarks and the tools, and vLLM's that `quire deploy` writes."""
    app = build_app(load_model)
    found = {"--against", "--config", "--help", "--version"}
    for name in app:
        for argument in app[name].assemble_argument_collection() if name[0] != "-" else ():
            found |= {*argument.names}
    for path in sources():
        found |= set(re.findall(r"--[a-z][a-z-]+", path.read_text(encoding="utf-8")))
    return frozenset(found)


@cache
def routes() -> frozenset[str]:
    """What looks like a route in the server's code."""
    server = (ROOT / "src" / "quire" / "server").rglob("*.py")
    found = [re.findall(r'"(/[\w/{}]+)"', path.read_text(encoding="utf-8")) for path in server]
    return frozenset(route for routes in found for route in routes)


@cache
def files() -> tuple[str, ...]:
    """All files of the repository and their folders, from its root; and the generated pages."""
    found = [*reference.ROOT_PAGES, *(path.name for path in ROOT.glob("*.py"))]
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if "__pycache__" not in path.parts and "environments" not in path.parts:
                found.append(path.relative_to(ROOT).as_posix())
    return tuple(found)


@cache
def source_words() -> frozenset[str]:
    """All words of the code and the names of its files."""
    found: set[str] = set()
    for path in sources():
        found |= {path.stem, *re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    return frozenset(found)


def sources() -> list[Path]:
    folders = ("src", "benchmarks", "tools", "tests")
    paths = [path for name in folders for path in (ROOT / name).rglob("*.py")]
    # What peers install is theirs.
    own = [path for path in paths if "environments" not in path.parts]
    return [path for path in own if path.parent != Path(__file__).parent]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_are_those_of_the_code(page: Page) -> None:
    assert list(problems(page)) == []


@pytest.mark.parametrize(
    "code",
    [
        "src/quire/nowhere.py",
        "quire.chat.ChatModl",
        "quire.nowhere.at_all()",
        "SamplngError",
        "native_num_thread: 2",
        "QUIRE_MAX_WAITNG=1",
        "/v1/chat/completion",
        "/imge",
        "cpu/nowhere.py",
        "--new-tokns N",
    ],
)
def test_a_wrong_name_is_found(code: str) -> None:
    assert wrong(code)
