"""The shape of `src/quire`: no circles of imports, and no two classes of one name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tools.structure import module_name

SOURCE = Path(__file__).parents[1] / "src"

FOLDER_CIRCLES: dict[str, str] = {}
"""Folders whose parts may import one another in a circle, each with its reason: none today."""

SAME_NAMES: dict[str, str] = {}
"""Names that several classes may have, each with its reason: none today."""


@cache
def modules() -> dict[str, ast.Module]:
    """Each module of the package by its name, parsed."""
    trees: dict[str, ast.Module] = {}
    for path in sorted((SOURCE / "quire").rglob("*.py")):
        trees[module_name(path, SOURCE / "quire")] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def run_at_import(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported: not those for type checkers alone."""
    for node in body:
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from run_at_import(node.body)
            yield from run_at_import(node.orelse)
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from run_at_import([*node.body, *handlers, *node.orelse, *node.finalbody])
        elif isinstance(node, ast.With):
            yield from run_at_import(node.body)
        else:
            yield node


@cache
def imports() -> dict[str, set[str]]:
    """The modules of the package that each of them imports when it is imported."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, tree in known.items():
        wanted: set[str] = set()
        for node in run_at_import(tree.body):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} has a relative import"
                module = node.module or ""
                for alias in node.names:
                    inner = f"{module}.{alias.name}"
                    wanted.add(inner if inner in known else module)
        graph[name] = (wanted & known.keys()) - {name}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one circle, the first also last; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def parts_of(folder: str) -> dict[str, set[str]]:
    """A folder's modules and subfolders, with those among them that each imports from."""
    prefix = f"{folder}."
    graph: dict[str, set[str]] = defaultdict(set)
    for name, wanted in imports().items():
        if name.startswith(prefix):
            part = name[len(prefix) :].partition(".")[0]
            others = {w[len(prefix) :].partition(".")[0] for w in wanted if w.startswith(prefix)}
            graph[part] |= others - {part}
    return graph


def folders() -> list[str]:
    return sorted({name.rpartition(".")[0] for name in modules()} - {""})


def test_no_module_imports_itself_by_a_detour() -> None:
    assert circle(imports()) == []


@pytest.mark.parametrize("folder", folders())
def test_a_folders_parts_import_one_another_in_no_circle(folder: str) -> None:
    assert bool(circle(parts_of(folder))) == (folder in FOLDER_CIRCLES), circle(parts_of(folder))


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module, tree in modules().items():
        for node in run_at_import(tree.body):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
    doubles = {name: where for name, where in places.items() if len(where) > 1}
    assert doubles.keys() == SAME_NAMES.keys(), doubles


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}
