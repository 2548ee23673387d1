"""Strings that know which of their characters a chat template wrote itself.

Plain strings are literal: they came from the conversation. What a template holds as constants is
`Marked`, and so is all that is made from the two together. An operation that is not followed here
gives a plain string, so text whose origin is lost counts as literal, which can do no harm.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any, TypeAlias

from quire.errors import TemplateError
from quire.prompt import Span, Spans

Cuts: TypeAlias = tuple[int, ...]
"""Offsets at which a string changes from own to literal, then from literal to own, and so on.

A string begins as own; cuts grow, and each is less than the string's length: `()` is all own and
`(0,)` all literal.
"""
_OWN: Cuts = ()
_LITERAL: Cuts = (0,)
MAX_WIDTH = 10_000
"""The widest field that `%` and `str.format` may make, in characters."""


class Marked(str):
    """A string of which at least a part is the template's own."""

    # It is a `str`, since templates test with `is string`, and filters call the methods of `str`.
    __slots__ = ("cuts",)
    cuts: Cuts

    def __new__(cls, text: str, cuts: Cuts = _LITERAL) -> Marked:
        made = super().__new__(cls, text)  # `str` is immutable: `__init__` would come too late
        made.cuts = cuts
        return made

    def __str__(self) -> str:
        return self  # `str(x)`, as many templates write it, would else make a plain copy

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
            index = range(len(self))[key]
            return self.part(index, index + 1)
        start, stop, step = key.indices(len(self))
        if step == 1:
            return self.part(start, max(start, stop))
        return join([self.part(index, index + 1) for index in range(start, stop, step)])

    def __iter__(self) -> Iterator[str]:
        return (self.part(index, index + 1) for index in range(len(self)))

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
        # The lines with their ends give the offsets, since ends have one character or two.
        whole = self._pieces(str.splitlines(self, True), "")
        lines = str.splitlines(self, keepends)
        return [line[: len(bare)] for line, bare in zip(whole, lines, strict=True)]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        return self._three(*map(len, str.partition(self, sep)))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        return self._three(*map(len, str.rpartition(self, sep)))

    def replace(self, old: str, new: str, count: Any = -1, /) -> str:
        if not old or (self.is_own and is_own(new)):
            # An empty `old` stands between all characters, where `split` finds nothing to cut.
            replaced = str.replace(self, old, new, count)
            return own(replaced) if self.is_own and is_own(new) else replaced
        return join_with(new, self.split(old, count))

    def join(self, items: Iterable[Any], /) -> str:
        return join_with(self, items)

    def _pieces(self, pieces: list[str], sep: str | None) -> list[str]:
        """The same pieces, cut out of this string. They stand in order, `sep` between them."""
        if self.is_own:
            return [own(piece) for piece in pieces]
        cut: list[str] = []
        offset = 0
        for piece in pieces:
            if sep is None:  # white space between: no piece begins with any
                offset = str.find(self, piece, offset)
            cut.append(self.part(offset, offset + len(piece)))
            offset += len(piece) + len(sep or "")
        return cut

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
    cuts = _cuts_of(pieces)
    text = "".join(pieces)
    # A string that is literal throughout needs no marks: plain strings count as literal.
    return text if cuts == [0] else Marked(text, tuple(cuts))


def _cuts_of(pieces: Sequence[str]) -> list[int]:
    """The cuts of the pieces' text.

    Neighbours of one kind become one run, so that the cuts grow with the changes of kind and not with
    the pieces.
    """
    cuts: list[int] = []
    offset = 0
    literal = False
    for piece in pieces:  # tens of thousands of them
        if type(piece) is not Marked:
            if not literal and piece:
                cuts.append(offset)
                literal = True
        elif (inner := piece.cuts) and piece:
            if literal and inner[0] == 0:
                inner = inner[1:]
            elif literal:
                cuts.append(offset)
            # Text that a template adds to again and again comes first, with thousands of cuts.
            cuts += [offset + cut for cut in inner] if offset else inner
            literal = len(cuts) % 2 == 1
        elif literal and piece:
            cuts.append(offset)
            literal = False
        offset += len(piece)
    return cuts


def join_with(separator: str, items: Iterable[Any]) -> str:
    """`separator.join(items)`.

    Raises:
        TypeError: an item is no string.
    """
    pieces: list[str] = []
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise TypeError(
                f"sequence item {index}: expected str instance, {type(item).__name__} found"
            )
        pieces += [separator, item]
    return join(pieces[1:])


def to_spans(pieces: Iterable[str]) -> Spans:
    """The pieces as one text's spans, neighbours of one kind merged."""
    pieces = pieces if isinstance(pieces, list) else list(pieces)
    cuts = _cuts_of(pieces)
    text = "".join(pieces)
    runs = zip(pairwise((0, *cuts, len(text))), cycle((False, True)), strict=False)
    # A span is a tuple: made as one, tens of thousands cost half.
    new = tuple.__new__
    return tuple(
        [new(Span, (text[start:end], literal)) for (start, end), literal in runs if start < end]
    )


def _by_runs(name: str) -> Callable[[Marked], str]:
    """A method that changes letters: run by run, where that gives the same as the whole does.

    It may differ: "ß" becomes two letters, and a final sigma depends on the letter before it.
    """
    change: Callable[[str], str] = getattr(str, name)

    def changed(self: Marked) -> str:
        whole = change(self)
        if self.is_own:
            return own(whole)
        # Run by run first, so that the marks stay at the characters to which they belong.
        joined = join(
            [own(change(run)) if type(run) is Marked else change(run) for run in self.runs()]
        )
        return joined if joined == whole else whole

    changed.__name__ = name
    return changed


def _as_whole(name: str) -> Callable[..., Any]:
    """A method whose result is own where this string and all arguments are, else literal."""
    change: Callable[..., Any] = getattr(str, name)

    def changed(self: Marked, *args: Any, **kwargs: Any) -> Any:
        result = change(self, *args, **kwargs)
        return own(result) if self.is_own and all(map(is_own, args)) else result

    changed.__name__ = name
    return changed


for _name in ("lower", "upper", "capitalize", "title", "swapcase", "casefold"):
    setattr(Marked, _name, _by_runs(_name))
for _name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
    setattr(Marked, _name, _as_whole(_name))


# --- `%` and `str.format`, which would make plain strings of unbounded width --------------------

_PERCENT = re.compile(
    r"%(?:\((?P<key>[^()]*)\))?[#0\- +]*(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d*))?[hlL]?(?P<kind>.)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Conversion:
    """One `%...` of a format."""

    start: int
    end: int
    text: str
    kind: str
    count: int
    """The values that it takes one by one; 0 for a key of a mapping."""
    stars: int
    widest: int


@functools.lru_cache(256)
def _conversions(text: str) -> tuple[_Conversion, ...]:
    found: list[_Conversion] = []
    for match in _PERCENT.finditer(text):
        sizes = [match["width"], match["precision"]]
        stars = sizes.count("*")
        count = 0 if match["kind"] == "%" else stars + (match["key"] is None)
        widest = max((int(size) for size in sizes if size and size != "*"), default=0)
        one = _Conversion(match.start(), match.end(), match[0], match["kind"], count, stars, widest)
        found.append(one)
    return tuple(found)


def percent(text: str, values: Any) -> str:
    """`text % values`, each conversion by itself.

    Raises:
        TemplateError: a width or a precision is too large.
        TypeError, ValueError, KeyError: as `%` itself has it.
    """
    plain = str.__str__(text)
    pieces: list[str] = []
    rest = list(values) if isinstance(values, tuple) else [values]
    offset = used = 0
    for one in _conversions(plain):
        if offset < one.start:
            pieces.append(text[offset : one.start])
        offset = one.end
        if one.kind == "%":
            pieces.append(text[offset - 1 : offset])
            continue
        given = tuple(rest[used : used + one.count]) if one.count else values
        used += one.count
        if one.count and len(given) < one.count:
            raise TypeError("not enough arguments for format string")
        _check_widths(one, given)
        pieces.append(_convert(one, given))
    if offset < len(plain):
        if "%" in plain[offset:]:
            raise ValueError("incomplete format")
        pieces.append(text[offset:])
    if used < len(rest) and not isinstance(values, (Mapping, list)):
        raise TypeError("not all arguments converted during string formatting")
    return pieces[0] if len(pieces) == 1 else join(pieces)


def _check_widths(one: _Conversion, given: Any) -> None:
    numbers = (
        [number for number in given[: one.stars] if isinstance(number, int)] if one.stars else ()
    )
    for number in (one.widest, *numbers):
        if abs(number) > MAX_WIDTH:
            raise too_wide(number)


def _convert(one: _Conversion, given: Any) -> str:
    if one.text == "%s" and isinstance(given[0], str):
        return given[0]
    made = one.text % given
    return own(made) if isinstance(given, tuple) and all(map(is_own, given)) else made


def too_wide(number: int) -> TemplateError:
    return TemplateError(f"The chat template formats to a width of {number} characters.")
