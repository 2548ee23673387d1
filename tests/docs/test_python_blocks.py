"""The Python of the documentation compiles; its imports, arguments and request options exist."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module, util

import pytest

from quire.arguments import FIELDS
from quire.chat import ChatModel
from quire.options import REQUEST_OPTIONS
from tests.docs.pages import PAGES, Page

METHODS = ("chat", "stream_chat", "stream", "achat", "astream_chat", "astream")


def problems(code: str) -> Iterator[str]:
    try:
        compile(code, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as error:
        yield str(error)
        return
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from missing(node.module, [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from missing(alias.name, [])
        elif isinstance(node, ast.Call):
            yield from wrong_call(node)


def missing(module: str, names: list[str]) -> Iterator[str]:
    """What of an import there is not; others' packages are looked for, not imported."""
    top = module.partition(".")[0]
    if top == "llamafactory":  # the compatibility package's own tests import all of it
        return
    if util.find_spec(top) is None:
        yield f"no package {top}"
    elif top == "quire" and util.find_spec(module) is None:
        yield f"no module {module}"
    elif top == "quire":
        there = import_module(module)
        for name in names:  # what is there, or a module of a package
            is_module = hasattr(there, "__path__") and util.find_spec(f"{module}.{name}")
            if not hasattr(there, name) and not is_module:
                yield f"no {name} in {module}"


def wrong_call(node: ast.Call) -> Iterator[str]:
    """Keys of a ChatModel's dictionary, and keywords of its methods."""
    called = (
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    )
    keywords = {keyword.arg for keyword in node.keywords if keyword.arg}
    if called == "ChatModel":
        dictionaries = [argument for argument in node.args if isinstance(argument, ast.Dict)]
        keys = [key for one in dictionaries for key in one.keys if isinstance(key, ast.Constant)]
        yield from (f"no argument {key.value!r}" for key in keys if key.value not in FIELDS)
    elif called in METHODS and isinstance(node.func, ast.Attribute):
        known = {*REQUEST_OPTIONS, *inspect.signature(getattr(ChatModel, called)).parameters}
        yield from (f"{called} takes no {name}" for name in sorted(keywords - known))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks(page: Page) -> None:
    assert [one for block in page.blocks("python") for one in problems(block)] == []


@pytest.mark.parametrize(
    "code",
    [
        "def f(:",
        "import nowhere_at_all",
        "from quire import ChatModl",
        "from quire.chatt import ChatModel",
        'ChatModel({"model": "x"})',
        "await model.achat(messages, temprature=0)",
    ],
)
def test_wrong_python_is_found(code: str) -> None:
    assert list(problems(code))
