"""What one rendering of a chat template may spend."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from typing import Any

from jinja2.utils import Namespace

from quire.errors import TemplateError

SECONDS = 10.0
"""The longest that one rendering may take."""
FREE_WORK = 10_000_000
WORK_PER_CHARACTER = 2_000
"""What a rendering may spend: so much, and so much more for each character of the conversation."""
NODE = 4
"""What visiting one node of the template, or one item of a value, costs."""
CALL = 100
PIECE = 16
"""What each of many strings costs that are cut out of one, or put together."""
_CLOCK_EVERY = 500_000
_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
_NESTED = (list, tuple, dict, set, frozenset, *_VIEWS, Namespace)


class Budget:
    """The work that is left to the rendering under way. A mark of 1 is about one character made."""

    _left = 0
    _check_at = 0
    _deadline = 0.0

    def begin(self, characters: int) -> None:
        """Start the budget of one rendering, of a conversation of so many characters."""
        self._left = FREE_WORK + WORK_PER_CHARACTER * characters
        self._check_at = self._left
        self._deadline = time.monotonic() + SECONDS

    def spend(self, work: int) -> None:
        """Take from the budget.

        Raises:
            TemplateError: it is used up, or the time is.
        """
        self._left -= work
        if self._left < self._check_at:
            self._check_at = self._left - _CLOCK_EVERY
            if self._left < 0:
                raise TemplateError(
                    "The chat template does too much work for this conversation: it seems to loop, "
                    "or to grow, without end."
                )
            if time.monotonic() > self._deadline:
                raise TemplateError(f"The chat template took longer than {SECONDS:g} s.")

    def tick(self, count: int) -> bool:
        """A body of `count` nodes is run once more; true, so that it can stand in a condition."""
        self.spend(count * NODE)
        return True

    def charge(self, value: Any) -> Any:
        """Pay for a value that was just made; return it."""
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.spend(8 * len(value))
        return value

    def flat(self, value: Any) -> Any:
        """Pay for looking through a nested value, before something does so; return it.

        A value may hold another one many times, and so be far larger than what it took to make it.
        """
        if isinstance(value, _NESTED):
            waiting: list[Any] = [value]
            while waiting:
                inner = waiting.pop()
                if isinstance(inner, _NESTED):
                    items = _items(inner)
                    self.spend(NODE * (len(items) + 1))
                    waiting += items
                elif isinstance(inner, str):
                    self.spend(len(inner))
        return value

    def operand(self, value: Any) -> Any:
        """One side of a comparison: `in` would take the items out of a generator unseen."""
        return self.flat(list(value) if isinstance(value, Generator) else value)


def size_of(value: Any) -> int:
    """How many characters the texts in a value have; keys count as one."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return len(value) + sum(map(size_of, value.values()))
    return sum(map(size_of, value)) if isinstance(value, (list, tuple)) else 0


def strings_in(value: Any) -> Iterable[str]:
    """All strings in a value of strings, lists and mappings."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, str):
            yield inner
        elif isinstance(inner, _NESTED):
            waiting += _items(inner)


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, Namespace):  # hides its attributes from vars()
        return list(object.__getattribute__(value, "_Namespace__attrs").values())
    return list(value)
