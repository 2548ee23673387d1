"""Which tests need vLLM, torch, a browser or Ray: read from what they import, marked by `conftest.py`.

A test needs a package where its function, a fixture of it, or anything of the tests that these name
imports it; a module that imports one at its top needs it for all of its tests. What cannot be seen so
(a model that is loaded on vLLM, a tower that the native engine takes from transformers) is marked by
hand: `pytest.mark.vllm`, `pytest.mark.torch`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

MARKS = {
    "vllm": "vllm",
    "torch": "torch",
    "transformers": "torch",
    "peft": "torch",
    "compressed_tensors": "torch",
    "playwright": "browser",
    "ray": "ray",
}
"""Packages that the fast tier does without, and the mark of what needs them."""

TOGETHER = ("vllm", "ray")
"""Marks of the tests that run in one process, since what they start is shared."""

STARTING_VLLM = frozenset({"import_vllm", "vllm_model"})
"""A function of quire's and a fixture: who names one needs vLLM."""

_ROOT = Path(__file__).parents[1]
_OURS = ("tests", "tools", "benchmarks", "docs")
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


@cache
def needs_of_function(function: Callable[..., Any]) -> frozenset[str]:
    """The marks of a test's function, or of a fixture's."""
    function = inspect.unwrap(function)
    path = Path(inspect.getsourcefile(function) or "")
    # A method needs what its class does.
    name = function.__qualname__.partition(".")[0]
    return _needs(path, name) if path.is_relative_to(_ROOT) else frozenset()


@cache
def needs_of_import(path: Path) -> frozenset[str]:
    """The marks without which a file of tests cannot even be imported."""
    return frozenset[str]().union(*(_needs_of_module(name) for name, _, _ in _imports(_top(path))))


@cache
def _needs(path: Path, name: str) -> frozenset[str]:
    """What the function, class or value `name` of a module needs, with all that it uses."""
    found: set[str] = set()
    seen, left = {(path, name)}, [(path, name)]
    while left:
        marks, uses = _directly(*left.pop())
        found |= marks
        left += uses - seen
        seen |= uses
    return frozenset(found)


@cache
def _directly(path: Path, name: str) -> tuple[frozenset[str], frozenset[tuple[Path, str]]]:
    """What one definition needs by itself and its module's import, and the definitions it uses."""
    defined, imported = _names(path)
    node = defined.get(name)
    if node is None:
        return needs_of_import(path), frozenset()
    below = list(ast.walk(node))
    names = {one.id for one in below if isinstance(one, ast.Name)}
    marks = needs_of_import(path).union(*(_needs_of_module(one) for one, _, _ in _imports(below)))
    if names & STARTING_VLLM:
        marks |= {"vllm"}
    uses = {(path, used) for used in names & set(defined)}
    for used in names & set(imported):
        file = _file(imported[used][0])
        uses |= {(file, imported[used][1])} if file else set()
    return marks, frozenset(uses)


@cache
def _names(path: Path) -> tuple[dict[str, _Definition], dict[str, tuple[str, str]]]:
    """What a module defines, and what it imports by name: each with its module and name there."""
    defined: dict[str, _Definition] = {}
    for node in _top(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    imported = {alias: (module, name) for module, name, alias in _imports(_top(path)) if name}
    return defined, imported


@cache
def _top(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding="utf-8")).body


def _imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str, str]]:
    """Each imported module, the name that is taken from it or an empty one, and its name here."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", alias.asname or "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, one.name, one.asname or one.name) for one in node.names)


@cache
def _needs_of_module(name: str) -> frozenset[str]:
    """What it takes to import a module."""
    mark = MARKS.get(name.partition(".")[0])
    if mark:
        return frozenset({mark})
    file = _file(name)
    return needs_of_import(file) if file else frozenset()


def _file(module: str) -> Path | None:
    """The file of a module of the repository, but of `src`: that imports heavy packages late."""
    if module.partition(".")[0] not in _OURS:
        return None
    path = _ROOT.joinpath(*module.split("."))
    return next(
        (one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None
    )
