"""Patterns of module names, as adapters and quantised checkpoints hold them, in bounded time.

A pattern is a regular expression; the first one of a config that matches a name counts. Python's `re`
may take for ever over a hostile one, and holds the interpreter's lock meanwhile. So all patterns of a
config are one automaton without backtracking, which reads a name once: its work is bounded by the
number of its states, and in all by `MOST_WORK`. Patterns that begin alike share their states, so that
a thousand full names cost hardly more than one. What is looked for ahead or behind is an automaton of
its own, run once for each position that asks for it.

What needs backtracking (references to groups, possessive repeats) is refused, and so are flags.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

MOST_LENGTH = 10_000
"""Characters of one pattern."""
MOST_STATES = 400_000
MOST_WORK = 4_000_000
"""States visited over all names that are looked up in one table: some seconds."""
MOST_GROUPS = 100
"""How deep groups may be nested."""

T = TypeVar("T")

# ---- the syntax tree


@dataclass(frozen=True, slots=True)
class _Characters:
    """A set of characters: ranges, and classes by the letter of their escape (`d`, `W`)."""

    ranges: tuple[tuple[str, str], ...] = ()
    classes: str = ""
    negated: bool = False

    @property
    def size(self) -> int:
        """How much there is to compare a character with."""
        return 1 + len(self.ranges) + len(self.classes)

    def __contains__(self, char: str) -> bool:
        among = any(low <= char <= high for low, high in self.ranges) or any(
            _in_class(char, one) for one in self.classes
        )
        return among is not self.negated


@dataclass(frozen=True, slots=True)
class _Repeat:
    item: _Item
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class _Choice:
    branches: tuple[_Sequence, ...]


@dataclass(frozen=True, slots=True)
class _Assert:
    kind: Literal["start", "end", "boundary", "inside"]


@dataclass(frozen=True, slots=True)
class _Look:
    """What must follow, or come before, or must not."""

    choice: _Choice
    ahead: bool
    negated: bool


_Item: TypeAlias = "str | _Characters | _Repeat | _Choice | _Assert | _Look"
"""A string is one literal character."""
_Sequence: TypeAlias = "tuple[_Item, ...]"

_ANY = _Characters((("\n", "\n"),), negated=True)
_ASSERTIONS = {
    "A": _Assert("start"),
    "Z": _Assert("end"),
    "b": _Assert("boundary"),
    "B": _Assert("inside"),
}
_LOOKS = {"=": (True, False), "!": (True, True), "<=": (False, False), "<!": (False, True)}
"""After `(?`: whether what is looked for is ahead, and whether it must not be there."""
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def _in_class(char: str, letter: str) -> bool:
    kind = letter.lower()
    if kind == "d":
        member = char.isdecimal()
    elif kind == "s":
        member = char.isspace()
    else:
        member = char.isalnum() or char == "_"
    return member is (letter == kind)


class _Parser:
    """Reads one pattern in Python's syntax."""

    def __init__(self, text: str) -> None:
        if len(text) > MOST_LENGTH:
            raise ValueError(f"it is too long, with more than {MOST_LENGTH:,} characters")
        self._text, self._at, self._depth = text, 0, 0

    def parse(self) -> _Choice:
        """The whole pattern.

        Raises:
            ValueError: it is no regular expression, or needs backtracking.
        """
        choice = self._choice()
        if self._at < len(self._text):
            raise ValueError("a parenthesis is closed that was not opened")
        return choice

    def _next(self) -> str:
        """The next character, or an empty string at the end."""
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        """Whether `text` comes next; it is then passed."""
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _read(self) -> str:
        char = self._next()
        if not char:
            raise ValueError("it ends too early")
        self._at += 1
        return char

    def _choice(self) -> _Choice:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        return _Choice(tuple(branches))

    def _sequence(self) -> _Sequence:
        items: list[_Item] = []
        while self._next() not in ("", "|", ")"):
            items.append(self._repeated(self._item()))
        return tuple(items)

    def _item(self) -> _Item:
        char = self._read()
        if char in "*+?":
            raise ValueError(f"there is nothing that {char} could repeat")
        if char == "(":
            return self._group()
        if char == "[":
            return self._set()
        if char == "\\":
            return self._escape()
        if char == ".":
            return _ANY
        if char in "^$":
            return _Assert("start" if char == "^" else "end")
        return char

    def _group(self) -> _Choice | _Look:
        look: tuple[bool, bool] | None = None
        if self._take("?") and not self._take(":"):
            look = next((kind for sign, kind in _LOOKS.items() if self._take(sign)), None)
            if look is None:
                if not self._take("P<"):
                    raise ValueError("flags, comments and the like in (?...) are not read")
                while self._read() != ">":
                    pass
        self._depth += 1
        if self._depth > MOST_GROUPS:
            raise ValueError(f"its groups are nested more than {MOST_GROUPS} deep")
        choice = self._choice()
        self._depth -= 1
        if not self._take(")"):
            raise ValueError("a parenthesis is not closed")
        return choice if look is None else _Look(choice, *look)

    def _escape(self) -> _Item:
        char = self._read()
        if char in _ASSERTIONS:
            return _ASSERTIONS[char]
        if char in "dDsSwW":
            return _Characters(classes=char)
        return self._escaped(char)

    def _escaped(self, char: str) -> str:
        """The literal character that a backslash and `char` stand for."""
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char.isascii() and char.isalnum():
            raise ValueError(f"\\{char} is not read")
        return char

    def _set(self) -> _Characters:
        negated = self._take("^")
        ranges: list[tuple[str, str]] = []
        classes = ""
        first = True
        while first or self._next() != "]":
            first = False
            low = self._read()
            if low == "\\":
                low = self._read()
                if low in "dDsSwW":
                    classes += low
                    continue
                low = self._escaped(low)
            ranges.append((low, self._end_of_range(low)))
        self._read()
        return _Characters(tuple(ranges), classes, negated)

    def _end_of_range(self, low: str) -> str:
        if self._next() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return low
        self._read()
        high = self._read()
        if high == "\\":
            high = self._escaped(self._read())
        if high < low:
            raise ValueError(f"the range {low}-{high} is empty")
        return high

    def _repeated(self, item: _Item) -> _Item:
        counts = self._counts()
        if counts is None:
            return item
        if isinstance(item, _Assert | _Look):
            raise ValueError("an assertion cannot be repeated")
        self._take("?")  # a lazy repeat matches the same names
        if self._next() in ("*", "+", "?") or self._counts() is not None:
            raise ValueError("a repeat cannot be repeated or possessive")
        return _Repeat(item, *counts)

    def _counts(self) -> tuple[int, int | None] | None:
        """The bounds of a repeat that comes next, which is passed; None for something else."""
        for sign, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return counts
        end = self._text.find("}", self._at, self._at + 20) if self._next() == "{" else -1
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        digits = low + high
        if end < 0 or not (digits or comma) or (digits and not _is_number(digits)):
            return None  # a brace like any other character
        self._at = end + 1
        least = int(low or 0)
        most = least if not comma else int(high) if high else None
        if most is not None and most < least:
            raise ValueError("the bounds of a repeat are the wrong way round")
        return least, most


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


# ---- the automaton

_ROOT = 0


@dataclass(frozen=True, slots=True)
class _Watch:
    """A `_Look` in the automaton: where what it looks for begins and ends."""

    start: int
    end: int
    ahead: bool
    negated: bool


_Assertion: TypeAlias = _Assert | _Watch


class PatternTable(Generic[T]):
    """Values by pattern: `get` has the value of the first pattern that matches a module's name."""

    def __init__(self, values: Mapping[str, T], *, prefixes: bool = False) -> None:
        """Read the patterns.

        Args:
            values: the values by pattern.
            prefixes: a pattern matches a name that begins as it says, as for `re.match`. Without
                this it must match from the name's start, or from a dot on, to its end, as peft has it.

        Raises:
            ValueError: one is no regular expression that can be matched in linear time, or they are
                too long together. The text says which and why.
        """
        self._values = tuple(values.values())
        self._prefixes = prefixes
        self._states, self._work = 1, 0
        # Edges from a state: by one literal character, by a set of characters, and by none.
        self._literals: dict[tuple[int, str], int] = {}
        self._sets: dict[int, dict[_Characters, int]] = {}
        self._empty: dict[int, list[tuple[_Assertion | None, int]]] = {}
        self._accepts: dict[int, int] = {}
        self._found: dict[str, int | None] = {}
        self._looked: dict[tuple[_Watch, int], bool] = {}
        for index, pattern in enumerate(values):
            try:
                end = self._add_choice(_ROOT, _Parser(pattern).parse())
            except ValueError as error:
                short = pattern if len(pattern) <= 60 else f"{pattern[:60]}..."
                raise ValueError(f"{short!r}: {error}") from None
            self._accepts.setdefault(end, index)

    @property
    def values(self) -> tuple[T, ...]:
        """The values, in the order of the patterns."""
        return self._values

    def get(self, name: str, default: T) -> T:
        """The value of the first pattern that matches `name`, or the default.

        Raises:
            ValueError: the patterns take too much work.
        """
        if not self._values:
            return default
        if name not in self._found:
            self._found[name] = self._match(name)
        index = self._found[name]
        return default if index is None else self._values[index]

    def _match(self, name: str) -> int | None:
        self._looked.clear()
        found: set[int] = set()
        for active in self._read(name, _ROOT, 0, "once" if self._prefixes else "parts"):
            found = found | active if self._prefixes else active
        return min((self._accepts[one] for one in found if one in self._accepts), default=None)

    def _read(
        self, name: str, start: int, begin: int, entries: Literal["once", "parts", "anywhere"]
    ) -> Iterator[set[int]]:
        """The states at each position of a name from `begin` on; `start` is entered there or more often."""
        active: set[int] = set()
        for position in range(begin, len(name) + 1):
            at_part = entries == "parts" and name[position - 1 : position] == "."
            if position == begin or at_part or entries == "anywhere":
                self._enter(active, start, name, position)
            self._count(1 + len(active))
            yield active
            if position < len(name):
                following: set[int] = set()
                for state in active:
                    for target in self._targets(state, name[position]):
                        self._enter(following, target, name, position + 1)
                active = following

    def _count(self, work: int) -> None:
        self._work += work
        if self._work > MOST_WORK:
            raise ValueError("the patterns take too long to match: give fewer or simpler ones")

    def _targets(self, state: int, char: str) -> Iterator[int]:
        literal = self._literals.get((state, char))
        if literal is not None:
            yield literal
        for characters, target in self._sets.get(state, {}).items():
            self._work += characters.size
            if char in characters:
                yield target

    def _enter(self, active: set[int], state: int, name: str, position: int) -> None:
        """Add a state, and all that it leads to without a character."""
        pending = [state]
        while pending:
            one = pending.pop()
            if one in active:
                continue
            active.add(one)
            for assertion, target in self._empty.get(one, ()):
                if assertion is None or self._holds(assertion, name, position):
                    pending.append(target)

    def _holds(self, assertion: _Assertion, name: str, position: int) -> bool:
        if isinstance(assertion, _Assert):
            return _holds(assertion, name, position)
        if (assertion, position) not in self._looked:
            self._looked[assertion, position] = self._look(assertion, name, position)
        return self._looked[assertion, position]

    def _look(self, watch: _Watch, name: str, position: int) -> bool:
        if watch.ahead:
            states = self._read(name, watch.start, position, "once")
            found = any(watch.end in active for active in states)
        else:
            states = self._read(name, watch.start, 0, "anywhere")
            found = watch.end in next(itertools.islice(states, position, None))
        return found is not watch.negated

    # ---- building: each method returns the state after what it adds

    def _new(self) -> int:
        if self._states == MOST_STATES:
            raise ValueError("the patterns are too long: give fewer or simpler ones")
        self._states += 1
        return self._states - 1

    def _link(self, state: int, target: int, assertion: _Assertion | None = None) -> None:
        self._empty.setdefault(state, []).append((assertion, target))

    def _add_choice(self, state: int, choice: _Choice) -> int:
        if len(choice.branches) == 1:
            return self._add_sequence(state, choice.branches[0])
        end = self._new()
        for branch in choice.branches:
            start = self._new()
            self._link(state, start)
            self._link(self._add_sequence(start, branch), end)
        return end

    def _add_sequence(self, state: int, items: _Sequence) -> int:
        for item in items:
            state = self._add_item(state, item)
        return state

    def _add_item(self, state: int, item: _Item) -> int:
        if isinstance(item, str):
            target = self._literals.get((state, item))
            if target is None:
                target = self._literals[state, item] = self._new()
            return target
        if isinstance(item, _Characters):
            edges = self._sets.setdefault(state, {})
            if item not in edges:
                edges[item] = self._new()
            return edges[item]
        if isinstance(item, _Repeat):
            return self._add_repeat(state, item)
        if isinstance(item, _Choice):
            return self._add_choice(state, item)
        end = self._new()
        self._link(state, end, self._watch(item) if isinstance(item, _Look) else item)
        return end

    def _watch(self, look: _Look) -> _Watch:
        start = self._new()
        return _Watch(start, self._add_choice(start, look.choice), look.ahead, look.negated)

    def _add_repeat(self, state: int, repeat: _Repeat) -> int:
        for _ in range(repeat.least):
            before, state = state, self._add_item(state, repeat.item)
            if state == before:  # an empty group
                break
        # A loop gets states of its own: other patterns share the ones before it.
        end = self._new()
        if repeat.most is None:
            self._link(state, end)
            self._link(self._add_item(end, repeat.item), end)
            return self._leave(end)
        for _ in range(repeat.most - repeat.least):
            self._link(state, end)
            start = self._new()
            self._link(state, start)
            state = self._add_item(start, repeat.item)
        self._link(state, end)
        return end

    def _leave(self, state: int) -> int:
        """A state after `state` that nothing leads back to."""
        after = self._new()
        self._link(state, after)
        return after


def _holds(assertion: _Assert, name: str, position: int) -> bool:
    if assertion.kind == "start":
        return position == 0
    if assertion.kind == "end":
        return position == len(name)
    before = position > 0 and _in_class(name[position - 1], "w")
    after = position < len(name) and _in_class(name[position], "w")
    return (before is not after) is (assertion.kind == "boundary")
