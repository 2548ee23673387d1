"""Jinja's filters, tests and formats for chat templates: they keep marks, and pay for their work.

Everything here takes the environment untyped: it is a `ChatEnvironment`, which is made of these.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import markupsafe
from jinja2 import Environment, pass_environment
from jinja2.filters import make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import SandboxedFormatter

from quire.errors import TemplateError
from quire.template.marked import (
    MAX_WIDTH,
    Marked,
    is_own,
    join,
    join_with,
    own,
    percent,
    too_wide,
)

REMOVED = ("urlize", "wordwrap", "random", "lipsum")
"""Filters that no chat template needs, and whose work has no bound or whose result is random."""
# Lists of what need not be paid for, not of what must be: a filter or test that a newer Jinja brings
# is then charged for in full until somebody has looked at it.
_CHEAP_TESTS = frozenset(
    [
        "boolean",
        "callable",
        "defined",
        "divisibleby",
        "even",
        "false",
        "filter",
        "float",
        "integer",
        "iterable",
        "mapping",
        "none",
        "number",
        "odd",
        "sameas",
        "sequence",
        "string",
        "test",
        "true",
        "undefined",
    ]
)
_SHALLOW_FILTERS = frozenset(
    [
        "attr",
        "batch",
        "count",
        "d",
        "default",
        "first",
        "items",
        "last",
        "length",
        "list",
        "map",
        "reject",
        "rejectattr",
        "reverse",
        "select",
        "selectattr",
        "slice",
    ]
)
_COMPARING = frozenset({"dictsort", "groupby", "max", "min", "sort", "unique"})
_ITERATING = _COMPARING | frozenset(
    ["batch", "join", "list", "map", "reject", "rejectattr", "select", "selectattr", "slice", "sum"]
)
_NO_TEXTS = (Environment, EvalContext, Context, Undefined)
"""What filters are given besides values."""
_FILTER = 32
"""The cost of a filter."""
_GROWING = frozenset({"batch", "center", "indent", "round", "slice"})


@pass_environment
def _join(environment: Any, value: Any, d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    texts = [environment.text(item) for item in value]
    environment.spend(sum(map(len, texts)) + len(d) * len(texts))
    return join_with(environment.text(d), texts)


@pass_environment
def _replace(environment: Any, s: Any, old: Any, new: Any, count: Any = None) -> str:
    text, old, new = map(environment.text, (s, old, new))
    matches = str.count(text, old)
    environment.spend_pieces(matches)
    environment.spend(matches * len(new))
    marked = text if type(text) is Marked else Marked(text)
    return marked.replace(old, new, -1 if count is None else count)


@pass_environment
def _string(environment: Any, value: Any) -> str:
    return environment.text(value)


@pass_environment
def _escape(environment: Any, value: Any) -> str:
    text = environment.text(value)
    pieces = text.runs() if type(text) is Marked else (text,)
    escaped = [(type(run) is Marked, str.__str__(markupsafe.escape(run))) for run in pieces]
    return join([own(run) if is_marked else run for is_marked, run in escaped])


@pass_environment
def _sum(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    if attribute is not None:
        iterable = map(make_attrgetter(environment, attribute), iterable)
    total = start
    for item in iterable:
        total = environment.charge(total + item)
    return total


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise TypeError("can't handle positional and keyword arguments at the same time")
    return percent(value, kwargs or args)


@pass_environment
def _trim(environment: Any, value: Any, chars: Any = None) -> str:
    return environment.charge(environment.text(value).strip(chars))


_PLAIN_JSON = json.JSONEncoder(ensure_ascii=False)


@pass_environment
def _tojson(
    environment: Any,
    x: Any,
    ensure_ascii: Any = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: Any = False,
) -> str:
    """JSON text with no HTML escapes, as transformers has it."""
    environment.step(_FILTER)
    environment.flat(x)
    if isinstance(indent, int) and indent > 1000:
        raise TemplateError("The chat template indents JSON too far.")
    if type(x) is int:  # the encoder would make an iterator of it
        return own(environment.charge(str(x)))
    encoder = _PLAIN_JSON
    if ensure_ascii or indent is not None or separators is not None or sort_keys:
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
    if indent is None:
        text = environment.charge(encoder.encode(x))
        return own(text) if _holds_own_alone(x) else text
    pieces: list[str] = []
    for piece in encoder.iterencode(x):  # indentation may be far larger than the value
        environment.spend(len(piece))
        pieces.append(piece)
    return "".join(pieces)


def _holds_own_alone(value: Any) -> bool:
    """Whether no text in a nested value is literal."""
    if isinstance(value, dict):
        return all(map(is_own, value)) and all(map(_holds_own_alone, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_holds_own_alone, value))
    return is_own(value)


FILTERS: dict[str, Callable[..., Any]] = {
    "e": _escape,
    "escape": _escape,
    "forceescape": _escape,
    "format": _format,
    "join": _join,
    "replace": _replace,
    "safe": _string,
    "string": _string,
    "sum": _sum,
    "tojson": _tojson,
    "trim": _trim,
}
"""Filters of our own instead of Jinja's: the same results, with marks."""
_PAYING = frozenset({"safe", "string", "tojson", "trim"})
"""Those of our own that pay for all that they read and make."""
_CONSTANT_FILTERS = frozenset({"count", "d", "default", "first", "last", "length"})
"""Filters that do the same little work whatever they are given, and make nothing."""


def meter_filters(environment: Any) -> None:
    """Have every filter pay for what it reads and makes."""
    for name, function in environment.filters.items():
        if name not in _PAYING | _CONSTANT_FILTERS:
            environment.filters[name] = _metered(environment, name, function)


def meter_tests(environment: Any) -> None:
    """Have the tests that look into values pay for it."""
    for name, function in environment.tests.items():
        if name not in _CHEAP_TESTS:
            environment.tests[name] = _metered(environment, name, function)


def _metered(environment: Any, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    iterates, compares, grows = name in _ITERATING, name in _COMPARING, name in _GROWING
    walks = not compares and name not in _SHALLOW_FILTERS

    @functools.wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        environment.step(_FILTER)
        values = (*args, *kwargs.values()) if kwargs else args
        if iterates:  # a string is taken apart into its characters
            environment.spend_pieces(sum(len(value) for value in values if isinstance(value, str)))
        if compares:
            args = tuple(map(environment.operand, args))
        elif walks:
            for value in values:
                environment.flat(value)
        if grows:
            _pay_for_growth(environment, values)
        result = environment.charge(function(*args, **kwargs))
        if type(result) is str and result and _all_own(values):
            return own(result)
        return result

    return metered


def _pay_for_growth(environment: Any, values: tuple[Any, ...]) -> None:
    """Pay for filters whose result grows with a number, or a text to indent with."""
    size = max((len(value) for value in values if isinstance(value, (str, list, dict))), default=1)
    for value in values[1:]:
        if isinstance(value, int):
            if abs(value) > 1_000_000:
                raise TemplateError("The chat template gives a filter too large a number.")
            environment.spend(abs(value) * max(size, 1))
        elif isinstance(value, str):
            environment.spend(len(value) * max(size, 1))


def _all_own(values: tuple[Any, ...]) -> bool:
    """Whether nothing among a filter's values is literal, or may hold literal text.

    An iterator may: what it gave is gone by now.
    """
    has_text = any(isinstance(value, str) for value in values)
    return has_text and all(is_own(value) or isinstance(value, _NO_TEXTS) for value in values)


# ---- str.format


class MarkedFormatter(SandboxedFormatter):
    """`str.format` in the sandbox, with marks kept."""

    def __init__(self, environment: Environment, flat: Callable[[Any], Any]) -> None:
        """`flat` is called with each value before its text is made."""
        super().__init__(environment)
        self._flat = flat

    def fill(self, text: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """`text.format(*args, **kwargs)`."""
        return self._fields(text, args, kwargs, 2, iter(range(len(args))))

    def _fields(
        self, text: str, args: Sequence[Any], kwargs: Mapping[str, Any], depth: int, numbers: Any
    ) -> str:
        if depth < 0:
            raise ValueError("Max string recursion exceeded")
        mark = own if is_own(text) else str
        pieces: list[str] = []
        for before, name, spec, conversion in self.parse(str.__str__(text)):
            pieces.append(mark(before))
            if name is None:
                continue
            if name == "" or name[0] in ".[":
                name = f"{next(numbers, len(args))}{name}"
            value, _ = self.get_field(name, args, kwargs)
            self._flat(value)
            value = self.convert_field(value, conversion)
            width = str(self._fields(spec or "", args, kwargs, depth - 1, numbers))
            pieces.append(self._field(value, width))
        return join(pieces)

    def _field(self, value: Any, spec: str) -> str:
        for number in re.findall(r"\d+", spec):
            # Nine digits show that it is too wide; converting thousands of them would take long.
            if int(number[:9]) > MAX_WIDTH:
                raise too_wide(int(number[:9]))
        if not spec and isinstance(value, Marked):
            return value
        made = str(self.format_field(value, spec))
        return own(made) if is_own(value) else made
