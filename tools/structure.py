"""The tree in figures: files, functions, and modules that one other alone imports.

    python -m tools.structure [FOLDER]          src/quire by default

Functions are counted without their docstrings, files with all their lines. An import within a function
or under TYPE_CHECKING counts too: a reader follows it all the same.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

SMALL = 50
"""Lines of a small file."""


def module_name(path: Path, root: Path) -> str:
    """The dotted name of a file under the package at `root`."""
    parts = (root.name, *path.relative_to(root).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def imported(tree: ast.Module, known: set[str]) -> Iterator[str]:
    """The modules of the package that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inner if name in known]
            yield from modules or ([node.module] if node.module in known else [])


def function_lengths(tree: ast.Module) -> Iterator[int]:
    """Lines of each function, its docstring and decorators left out."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield lines


def measure(root: Path) -> dict[str, str]:
    """The figures of the package at `root`, by name."""
    paths = sorted(path for path in root.rglob("*.py") if path.stat().st_size)
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    names = {module_name(path, root): path for path in paths}
    importers: defaultdict[str, set[str]] = defaultdict(set)
    for name, path in names.items():
        for target in set(imported(trees[path], set(names))) - {name}:
            importers[target].add(name)
    files = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
    functions = sorted(length for tree in trees.values() for length in function_lengths(tree))
    return {
        "files": str(len(files)),
        "lines": f"{sum(files):,}",
        "lines a file": spread(files),
        f"files of at most {SMALL} lines": str(sum(length <= SMALL for length in files)),
        "modules with one importer": str(sum(len(who) == 1 for who in importers.values())),
        "functions": f"{len(functions):,}",
        "lines a function": spread(functions),
        "functions over 60 lines": str(sum(length > 60 for length in functions)),
    }


def spread(values: list[int]) -> str:
    """The median, the 90th percentile and the largest of sorted values."""
    return (
        f"median {statistics.median(values):.0f}, p90 {values[int(0.9 * len(values))]}, "
        f"largest {values[-1]}"
    )


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "src/quire")
    for name, value in measure(root).items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
