"""What one rendering of a chat template may take: of growth, of steps, and of time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinja2.runtime import LoopContext
from jinja2.utils import Namespace

from quire.errors import TemplateError
from quire.template.marked import Marked

SECONDS = 10.0
"""The longest that one rendering of a few messages may take, of the thread's own time."""
FEW_MESSAGES = 1000
"""With so many the time is twice as long, and then it grows with the square of their number."""
MOST_SECONDS = 60.0
FREE_WORK = 10_000_000
WORK_PER_CHARACTER = 2_000
"""A rendering may spend `FREE_WORK`, and this for each character of the conversation."""
STEPS_PER_PAIR = 2_000
"""Steps that it may take besides, for each pair of messages."""
COPIES_PER_MESSAGE = 8
MOST_COPIED = 2_000_000_000
"""It may copy the whole conversation so often for each message, up to so many characters in all."""
_NODE = 4
"""The cost of visiting one node of the template, or one item of a value."""
_PIECE = 16
"""The cost of each string where many are cut out of one, or joined."""
_CLOCK_EVERY = 500_000
_MAX_DEPTH = 1_000  # of nested values: as many as Python's own recursion can walk through
_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
_NESTED = (list, tuple, dict, set, frozenset, *_VIEWS, Namespace)
_SCALARS = frozenset({str, Marked, int, float, bool, type(None)})
BUILT_IN = frozenset({str, Marked, dict, list, tuple})
"""Types whose values are no iterators, and whose methods are known."""


class Budget:
    """What is left to the current rendering: of growth, about a character each, and of steps.

    They are apart since a template may look at all other messages for each of them, which takes steps
    in proportion to the square of their number, and makes nothing.
    """

    # Nothing is left until `begin`, so that compiling a template cannot compute with it.
    _growth = _steps = 0
    _check_growth_at = _check_steps_at = 0
    _seconds = _deadline = 0.0
    _given: Mapping[str, Any] | None = None

    def begin(self, given: Mapping[str, Any]) -> None:
        """Start the budget of one rendering with these variables."""
        self._growth = self._steps = FREE_WORK
        self._check_growth_at = self._check_steps_at = FREE_WORK
        self._given = given
        messages = _length_of(given.get("messages"))
        self._seconds = min(SECONDS * (1 + (messages / FEW_MESSAGES) ** 2), MOST_SECONDS)
        # The clock of this thread alone: others on a busy machine must not use up its time.
        self._deadline = time.thread_time() + self._seconds

    def end(self) -> None:
        """Forget the conversation."""
        self._given = None

    def _extend(self) -> None:
        """Add what a long conversation may take more: counting it takes a part of most renderings."""
        if self._given is not None:
            messages = _length_of(self._given.get("messages"))
            characters = _size_of(self._given)
            size = WORK_PER_CHARACTER * characters
            copies = COPIES_PER_MESSAGE * messages * characters
            self._growth += max(size, min(size + copies, MOST_COPIED))
            self._steps += size + STEPS_PER_PAIR * messages**2
            self._given = None

    def spend(self, growth: int) -> None:
        """Pay for what is made.

        Raises:
            TemplateError: the budget is used up, or the time is.
        """
        self._growth -= growth
        # One comparison for both limits: reading the clock each time would cost more than the work.
        if self._growth < self._check_growth_at:
            self._check()

    def step(self, count: int) -> None:
        """Pay for steps that make nothing; raises as `spend` does."""
        self._steps -= count
        if self._steps < self._check_steps_at:
            self._check()

    def _check(self) -> None:
        if self._growth < 0 or self._steps < 0:
            self._extend()
        self._check_growth_at = self._growth - _CLOCK_EVERY
        self._check_steps_at = self._steps - _CLOCK_EVERY
        if self._growth < 0 or self._steps < 0:
            raise TemplateError(
                "The chat template does too much work for this conversation: it seems to loop, or "
                "to grow, without end."
            )
        if time.thread_time() > self._deadline:
            raise TemplateError(
                f"The chat template took longer than {self._seconds:.3g} s of computing."
            )

    def spend_pieces(self, count: int) -> None:
        """Pay for strings that are cut out of one, or joined, besides their characters."""
        self.spend(count * _PIECE)

    def tick(self, count: int) -> bool:
        """Pay for one more run of a body of `count` nodes; true, so that it can be a condition."""
        self._steps -= count * _NODE
        if self._steps < self._check_steps_at:
            self._check()
        return True

    def charge(self, value: Any) -> Any:
        """Pay for a value that was just made; return it."""
        if isinstance(value, str):
            self._growth -= len(value)
            if self._growth < self._check_growth_at:
                self._check()
        elif isinstance(value, (list, tuple, dict)):
            self.spend(8 * len(value))  # an item is a pointer of 8 bytes
        return value

    def flat(self, value: Any) -> Any:
        """Pay for walking through a nested value, before something does so; return it.

        What it took to make a value says nothing here: `(x, x)`, nested a hundred times, is cheap to
        make and endless to compare, to hash or to write out. Values are therefore paid for by what
        is reached, level by level. To hash a tuple that is nested too deeply would overflow the
        stack and end the process, so such a value is refused.
        """
        if type(value) in _SCALARS or not isinstance(value, _NESTED):
            return value
        if type(value) is CallArguments:  # no more is in it than in its text
            self.step(_NODE * len(value.text) + _NODE)
            return value
        level: list[Any] = [value]
        for _ in range(_MAX_DEPTH):
            if not level:
                return value
            below: list[Any] = []
            for nested in level:
                items = _items(nested)
                work = _NODE * (len(items) + 1)
                for inner in items:
                    if isinstance(inner, str):
                        work += len(inner)
                    elif type(inner) is CallArguments:
                        work += _NODE * len(inner.text) + _NODE
                    elif isinstance(inner, _NESTED):
                        below.append(inner)
                self.step(work)
            level = below
        raise TemplateError(f"The chat template nests values deeper than {_MAX_DEPTH} levels.")

    def operand(self, value: Any) -> Any:
        """Pay for one side of a comparison: it would take an iterator's items out unseen."""
        if type(value) in _SCALARS:
            return value
        is_loop = isinstance(value, LoopContext)
        return self.flat(list(value) if isinstance(value, Iterator) and not is_loop else value)

    def members(self, value: Any) -> Any:
        """Pay for looking a scalar up in a value."""
        if type(value) in BUILT_IN and not isinstance(value, (list, tuple)):
            return value
        if isinstance(value, (list, tuple)):  # nothing in it is looked into
            self.step(_NODE * len(value))
            return value
        return self.operand(value)


def _size_of(value: Any) -> int:
    """The number of characters of all texts in a value; a key counts as one."""
    size = 0
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        kind = type(inner)
        if kind is str or kind is Marked:
            size += len(inner)
        elif kind is dict or isinstance(inner, dict):
            size += len(inner)
            waiting += inner.values()
        elif isinstance(inner, (list, tuple)):
            waiting += inner
        elif isinstance(inner, str):
            size += len(inner)
    return size


def _length_of(messages: Any) -> int:
    return len(messages) if isinstance(messages, (list, tuple)) else 0


def strings_in(value: Any) -> Iterable[str]:
    """All strings in a value of strings, lists and mappings."""
    # The stack is our own: constants may be nested more deeply than Python recurses.
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


class CallArguments(dict[str, Any]):
    """A call's arguments: a dictionary that, put into text as it is, is its own JSON text."""

    __slots__ = ("text",)

    def __init__(self, value: Mapping[str, Any], text: str) -> None:
        super().__init__(value)
        self.text = text
