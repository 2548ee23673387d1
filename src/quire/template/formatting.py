"""`%` and `str.format` for chat templates: marks are kept, and a width is bounded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import Environment
from jinja2.sandbox import SandboxedFormatter

from quire.errors import TemplateError
from quire.template.marked import Marked, is_own, join, own

MAX_WIDTH = 10_000
_PERCENT = re.compile(
    r"%(?:\((?P<key>[^()]*)\))?[#0\- +]*(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d*))?[hlL]?(?P<kind>.)",
    re.DOTALL,
)


def percent(text: str, values: Any) -> str:
    """`text % values`, each conversion by itself.

    Raises:
        TemplateError: a width or a precision is too large.
        TypeError, ValueError, KeyError: as `%` itself has it.
    """
    pieces: list[str] = []
    rest = list(values) if isinstance(values, tuple) else [values]
    place = used = 0
    for found in _PERCENT.finditer(text):
        pieces.append(text[place : found.start()])
        place = found.end()
        if found["kind"] == "%":
            pieces.append(text[place - 1 : place])
            continue
        stars = (found["width"] == "*") + (found["precision"] == "*")
        count = stars + (found["key"] is None)
        given = tuple(rest[used : used + count]) if count else values
        used += count
        if count and len(given) < count:
            raise TypeError("not enough arguments for format string")
        _check_widths(found, given)
        pieces.append(_convert(found, given))
    plain = str.__str__(text)
    if place < len(plain) and "%" in plain[place:]:
        raise ValueError("incomplete format")
    if used < len(rest) and not isinstance(values, (Mapping, list)):
        raise TypeError("not all arguments converted during string formatting")
    return join([*pieces, text[place:]])


def _check_widths(found: re.Match[str], given: Any) -> None:
    sizes = [found["width"], found["precision"]]
    stars = sizes.count("*")
    numbers = [int(size) for size in sizes if size and size != "*"]
    numbers += [number for number in given[:stars] if isinstance(number, int)] if stars else []
    for number in numbers:
        if abs(number) > MAX_WIDTH:
            raise _too_wide(number)


def _convert(found: re.Match[str], given: Any) -> str:
    if found[0] == "%s" and isinstance(given[0], str):
        return given[0]
    made = str(found[0]) % given
    return own(made) if isinstance(given, tuple) and all(map(is_own, given)) else made


def _too_wide(number: int) -> TemplateError:
    return TemplateError(f"The chat template formats to a width of {number} characters.")


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
            if int(number[:9]) > MAX_WIDTH:
                raise _too_wide(int(number[:9]))
        if not spec and isinstance(value, Marked):
            return value
        made = str(self.format_field(value, spec))
        return own(made) if is_own(value) else made
