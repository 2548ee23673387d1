"""Strings that know which of their characters a chat template wrote itself.

Plain strings are literal: they came from the conversation. What a template holds as constants is
`Marked`, and so is all that is made from the two together. An operation that is not followed here
gives a plain string, so what is lost is taken for literal and can do no harm.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, TypeAlias

from quire.prompt import Span, Spans

Cuts: TypeAlias = tuple[int, ...]
"""Where a string changes from own to literal, from literal to own, and so on; it begins as own.

Cuts grow, and each is less than the string's length: `()` is all own and `(0,)` all literal.
"""
_OWN: Cuts = ()
_LITERAL: Cuts = (0,)


class Marked(str):
    """A string of which at least a part is the template's own."""

    __slots__ = ("cuts",)
    cuts: Cuts

    def __new__(cls, text: str, cuts: Cuts = _LITERAL) -> Marked:
        made = super().__new__(cls, text)
        made.cuts = cuts
        return made

    def __str__(self) -> str:
        return self

    def __add__(self, other: Any) -> str:
        return join((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any) -> str:
        return join((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: Any) -> str:
        return own(str.__mul__(self, count)) if self.is_own else join([self] * count)

    def __rmul__(self, count: Any) -> str:
        return self * count

    def __getitem__(self, key: Any) -> str:
        if not isinstance(key, slice):
            place = range(len(self))[key]
            return self.part(place, place + 1)
        start, stop, step = key.indices(len(self))
        if step == 1:
            return self.part(start, max(start, stop))
        return join([self.part(place, place + 1) for place in range(start, stop, step)])

    def __iter__(self) -> Iterator[str]:
        return (self.part(place, place + 1) for place in range(len(self)))

    @property
    def is_own(self) -> bool:
        """Whether the template wrote all of it."""
        return not self.cuts

    def part(self, start: int, stop: int) -> str:
        """The characters from `start` to `stop`, with 0 <= start <= stop <= length."""
        cuts, text = self.cuts, str.__getitem__(self, slice(start, stop))
        if not cuts:
            return Marked(text, _OWN)
        first = bisect_right(cuts, start)
        inner = tuple(cut - start for cut in cuts[first : bisect_left(cuts, stop)])
        return _make(text, (0, *inner) if first % 2 else inner)

    def runs(self) -> Iterator[str]:
        """The longest pieces of one kind: own ones are `Marked`, literal ones plain."""
        ends = (0, *self.cuts, len(self))
        return (self.part(start, end) for start, end in pairwise(ends))

    def strip(self, chars: str | None = None, /) -> str:
        left = str.lstrip(self, chars)
        start = len(self) - len(left)
        return self.part(start, start + len(left.rstrip(chars)))

    def lstrip(self, chars: str | None = None, /) -> str:
        return self.part(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        return self.part(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> str:
        return self.part(len(self) - len(str.removeprefix(self, prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> str:
        return self.part(0, len(str.removesuffix(self, suffix)))

    def split(self, sep: str | None = None, maxsplit: Any = -1) -> list[str]:
        return self._pieces(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: Any = -1) -> list[str]:
        return self._pieces(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: Any = False) -> list[str]:
        whole = self._pieces(str.splitlines(self, True), "")
        lines = str.splitlines(self, keepends)
        return [line[: len(bare)] for line, bare in zip(whole, lines, strict=True)]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        return self._three(*map(len, str.partition(self, sep)))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        return self._three(*map(len, str.rpartition(self, sep)))

    def replace(self, old: str, new: str, count: Any = -1, /) -> str:
        if not old or (self.is_own and is_own(new)):
            found = str.replace(self, old, new, count)
            return own(found) if self.is_own and is_own(new) else found
        return join_with(new, self.split(old, count))

    def join(self, items: Iterable[Any], /) -> str:
        return join_with(self, items)

    def _pieces(self, pieces: list[str], sep: str | None) -> list[str]:
        """The same pieces, cut out of this string. They stand in order, `sep` between them."""
        if self.is_own:
            return [own(piece) for piece in pieces]
        found: list[str] = []
        place = 0
        for piece in pieces:
            if sep is None:  # white space between: no piece begins with any
                place = str.find(self, piece, place)
            found.append(self.part(place, place + len(piece)))
            place += len(piece) + len(sep or "")
        return found

    def _three(self, before: int, sep: int, _: int) -> tuple[str, str, str]:
        middle = before + sep
        return self.part(0, before), self.part(before, middle), self.part(middle, len(self))


def _make(text: str, cuts: Cuts) -> str:
    return text if cuts == _LITERAL else Marked(text, cuts)


def own(text: str) -> Marked:
    """Text that the template wrote."""
    return Marked(text, _OWN)


def is_own(value: Any) -> bool:
    """Whether a value holds no literal text: an own string, or a number."""
    if isinstance(value, str):
        return not value or (type(value) is Marked and value.is_own)
    return value is None or isinstance(value, (bool, int, float))


def join(pieces: Iterable[str]) -> str:
    """The pieces as one string."""
    pieces = pieces if isinstance(pieces, (list, tuple)) else list(pieces)
    cuts: list[int] = []
    place = 0
    literal = False
    for piece in pieces:
        if not piece:
            continue
        if type(piece) is not Marked:
            if not literal:
                cuts.append(place)
                literal = True
        elif inner := piece.cuts:
            if literal and inner[0] == 0:
                inner = inner[1:]
            elif literal:
                cuts.append(place)
            cuts += [place + cut for cut in inner]
            literal = len(cuts) % 2 == 1
        elif literal:
            cuts.append(place)
            literal = False
        place += len(piece)
    return _make("".join(pieces), tuple(cuts))


def join_with(separator: str, items: Iterable[Any]) -> str:
    """`separator.join(items)`.

    Raises:
        TypeError: an item is no string.
    """
    pieces: list[str] = []
    for place, item in enumerate(items):
        if not isinstance(item, str):
            raise TypeError(
                f"sequence item {place}: expected str instance, {type(item).__name__} found"
            )
        pieces += [separator, item]
    return join(pieces[1:])


def to_spans(pieces: Iterable[str]) -> Spans:
    """The pieces as one text's spans, neighbours of one kind merged."""
    text = join(pieces)
    cuts = text.cuts if type(text) is Marked else _LITERAL
    plain, ends = str.__str__(text), pairwise((0, *cuts, len(text)))
    return tuple(
        Span(plain[start:end], literal=place % 2 == 1)
        for place, (start, end) in enumerate(ends)
        if start < end
    )


def _by_runs(name: str) -> Callable[[Marked], str]:
    """A method that changes letters: run by run, where that gives the same as the whole does."""
    change: Callable[[str], str] = getattr(str, name)

    def changed(self: Marked) -> str:
        whole = change(self)
        if self.is_own:
            return own(whole)
        found = join(
            [own(change(run)) if type(run) is Marked else change(run) for run in self.runs()]
        )
        return found if found == whole else whole

    changed.__name__ = name
    return changed


def _as_whole(name: str) -> Callable[..., Any]:
    """A method whose result is own where this string and all arguments are, else literal."""
    change: Callable[..., Any] = getattr(str, name)

    def changed(self: Marked, *args: Any, **kwargs: Any) -> Any:
        found = change(self, *args, **kwargs)
        return own(found) if self.is_own and all(map(is_own, args)) else found

    changed.__name__ = name
    return changed


for _name in ("lower", "upper", "capitalize", "title", "swapcase", "casefold"):
    setattr(Marked, _name, _by_runs(_name))
for _name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
    setattr(Marked, _name, _as_whole(_name))
