"""What `docs/architecture.md` says of the code: where things are, and what they are called."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

SOURCE = ROOT / "src" / "quire"
(PAGE,) = (page for page in PAGES if page.name == "docs/architecture.md")
OTHERS = frozenset({"AsyncLLM", "call_soon_threadsafe"})
_NAME = re.compile(r"_?[A-Z]\w*(\.\w+)?|[a-z]\w*_\w+")
"""Names of classes, of their members, and of functions of several words."""


@cache
def names_in(path: Path) -> frozenset[str]:
    """All names that a module defines: at its top, members as `Class.member`, functions in functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            members = [name for item in ast.walk(node) for name in _defined(item)]
            found |= {node.name, *(f"{node.name}.{member}" for member in members)}
        else:
            found |= {*_defined(node)}
    return frozenset(found)


def _defined(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    named = [(one.id if isinstance(one, ast.Name) else getattr(one, "attr", "")) for one in targets]
    return [name for name in named if name]


@cache
def all_names() -> frozenset[str]:
    return frozenset[str]().union(*(names_in(path) for path in SOURCE.rglob("*.py")))


def wrong_row(row: str) -> list[str]:
    """What is wrong with one row of the table: `what`, files, names that one of them defines."""
    _, files, names = (cell.strip() for cell in row.strip("|\n ").split(" | "))
    paths = [(ROOT if one.startswith("tests/") else SOURCE) / one for one in quoted(files)]
    missing = [path.name for path in paths if not path.is_file()]
    defined = [names_in(path) for path in paths if path.is_file()]
    missing += [name for name in quoted(names) if not any(name in one for one in defined)]
    looked_for = set(quoted(names))
    missing += [f"nothing in {path.name}" for path, one in zip(paths, defined, strict=False)
                if not looked_for & one]  # fmt: skip
    return missing


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def rows() -> list[str]:
    section = PAGE.text.split("## Where do I find")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    assert len(lines) > 50
    return lines


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.split("|")[1].strip())
def test_where_things_are(row: str) -> None:
    assert wrong_row(row) == []


def test_names_of_classes_and_functions() -> None:
    prose = PAGE.text.split("## The picture")[1]
    names = set(quoted(re.sub(r"```.*?```", "", prose, flags=re.S)))
    named = {name for name in names if _NAME.fullmatch(name)}
    assert len(named) > 80
    modules = {path.stem for path in SOURCE.rglob("*.py")}
    assert named - all_names() - modules - OTHERS == set()


def test_the_tree_has_every_folder_and_nothing_else() -> None:
    tree = PAGE.text.split("## The tree")[1].split("```text\n")[1].split("```")[0]
    drawn = set(re.findall(r"^  (\w+(?:/|\.py))", tree, re.M))
    there = {f"{one.name}/" for one in SOURCE.iterdir() if one.is_dir() and one.name[0] != "_"}
    assert {one for one in drawn if one.endswith("/")} == there
    files = {one.name for one in SOURCE.glob("*.py") if one.name[0] != "_"}
    assert {one for one in drawn if one.endswith(".py")} == files


def test_the_floors_are_those_that_are_held() -> None:
    floors = PAGE.text.split("```text\ncli\n")[1].split("```")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (held,) = (
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["name"] == "Imports point left only"
    )
    assert ["cli", *floors.split("\n")[:-1]] == [line.replace("quire.", "") for line in held]


@pytest.mark.parametrize(
    "row",
    [
        "| a | `engines/nowhere.py` | `x` |",
        "| a | `errors.py` | `QuireEror` |",
        "| a | `errors.py`, `options.py` | `QuireError` |",
    ],
)
def test_a_wrong_row_is_found(row: str) -> None:
    assert wrong_row(row)
