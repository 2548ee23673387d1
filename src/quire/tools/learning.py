"""Learning how calls are written, from texts in which known calls were written.

The known calls have names, keys and values that stand nowhere else, so that each can be found in the
text; what stands around them is the form's own. Two calls beside one tell what is written for each
call and what is written once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from quire.messages import ToolCall
from quire.tools.call_form import (
    Arguments,
    BraceArguments,
    CallForm,
    JsonArguments,
    PythonArguments,
    Slot,
    TagArguments,
)

FIRST = ToolCall(
    "find_harbour",
    '{"port_name": "zanzibar", "berth_count": 4711, "flag_colour": "magenta"}',
    "callx0001",
)
SECOND = ToolCall(
    "ring_lantern",
    '{"wick_size": "quokka", "flame_count": 2903, "glass_tint": "viridian"}',
    "callx0002",
)
"""The calls that are written; each has a string, a number, and a string again."""

MOST_CHARACTERS = 20_000
"""The longest text that is looked at: what a template writes after a short question is far shorter."""

Write = Callable[[Sequence[ToolCall]], str | None]
"""The text of an answer that consists of these calls; None where it cannot be written."""

_GROUP = r"<\|(?:open|close)\|>[a-z]+<\|sep\|>"
"""A group of markers that is one piece, as Kimi K3's `<|open|>think<|sep|>`."""
_PIECE = r"</?[^<>\s/\0-\4]*/?>|\[/?[A-Z_]+\]|\w+|\s|."
"""A tag, a word, or a character."""
_NUMBER = re.compile(r"(?<!\w)\d{1,9}(?!\w)", re.ASCII)
_HEAD_OF_OBJECT = re.compile(r"\{[^{}]*(\{[^{}]*)?$")
_SLOTS = {"\1": Slot.ID, "\2": Slot.INDEX, "\3": Slot.NAME}
"""What stands for something of a call in a text that is taken apart."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a call's name and arguments stand in a text."""

    name: tuple[int, int]
    arguments: tuple[int, int]
    kind: Arguments


def learn_form(write: Write, markers: Collection[str] = ()) -> CallForm | None:
    """The form in which calls are written; None where it cannot be seen.

    Args:
        write: writes known calls.
        markers: texts that are control tokens, which are never divided.
    """
    split = Splitter(markers)
    one, two = (_short(write(calls)) for calls in ([FIRST], [FIRST, SECOND]))
    place = None if one is None else _find(one, FIRST, split, 0)
    if one is None or place is None:
        return None
    first = None if two is None else _find(two, FIRST, split, 0)
    if two is None or first is None:
        return _of_one(one, place, split)
    second = _find(two, SECOND, split, first.arguments[1])
    return _of_one(one, place, split) if second is None else _of_two(two, first, second, split)


def _short(text: str | None) -> str | None:
    return text if text is not None and len(text) <= MOST_CHARACTERS else None


class Splitter:
    """Divides text at the ends of markers, tags, words and single characters."""

    def __init__(self, markers: Collection[str]) -> None:
        self.markers = frozenset(filter(None, markers))
        known = sorted(self.markers, key=len, reverse=True)
        self._pattern = re.compile("|".join([_GROUP, *map(re.escape, known), _PIECE]), re.DOTALL)

    def split(self, text: str) -> list[str]:
        """The pieces, which together are the text."""
        return self._pattern.findall(text)

    def common_prefix(self, one: str, other: str) -> str:
        """The longest common beginning that divides no piece."""
        common: list[str] = []
        for left, right in zip(self.split(one), self.split(other), strict=False):
            if left != right:
                break
            common.append(left)
        return "".join(common)

    def common_suffix(self, one: str, other: str) -> str:
        """The longest common end that divides no piece."""
        common: list[str] = []
        pairs = zip(reversed(self.split(one)), reversed(self.split(other)), strict=False)
        for left, right in pairs:
            if left != right:
                break
            common.append(left)
        return "".join(reversed(common))

    def markers_in(self, text: str) -> tuple[str, ...]:
        """The markers and tags of a text, in their order."""
        pieces = self.split(text)
        return tuple(dict.fromkeys(piece for piece in pieces if self.is_marker(piece)))

    def is_marker(self, piece: str) -> bool:
        """Whether a piece is a control token or a tag."""
        return piece in self.markers or (len(piece) > 2 and piece[0] in "<[")


# ---- one call in a text


def _find(text: str, call: ToolCall, split: Splitter, start: int) -> _Place | None:
    """Where a call stands in a text, from `start` on."""
    values = json.loads(call.arguments)
    found = _find_json(text, values, start) or _find_parameters(text, values, split, start)
    if found is None:
        return None
    span, kind = found
    # The last name before the arguments: some forms name the call's function twice.
    for word in (call.name, call.id or call.name):
        name = text.rfind(word, start, span[0])
        if name >= 0:
            return _Place((name, name + len(word)), span, kind)
    return None


def _find_json(
    text: str, values: dict[str, Any], start: int
) -> tuple[tuple[int, int], Arguments] | None:
    """The arguments as one JSON object, or as a JSON string that holds it."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r'[{"]', text[start:]):
        begin = start + match.start()
        try:
            value, end = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError):
            continue
        if value == values:
            return (begin, end), _spelling(text[begin:end])
        if isinstance(value, str) and value.startswith("{"):
            try:
                inner = json.loads(value)
            except (ValueError, RecursionError):
                continue
            if inner == values:
                return (begin, end), replace(_spelling(value), as_text=True)
    return None


def _spelling(written: str) -> JsonArguments:
    """How a JSON object spells the space between its parts."""
    colon = re.search(r'"\s*:\s*', written)
    comma = re.search(r'("zanzibar"|"quokka"|4711|2903)(\s*,\s*)', written)
    return JsonArguments(comma=comma[2] if comma else ", ", colon=colon[0][1:] if colon else ": ")


def _find_parameters(
    text: str, values: dict[str, Any], split: Splitter, start: int
) -> tuple[tuple[int, int], Arguments] | None:
    """The arguments one by one: as tags, as Python's keyword arguments, or between braces."""
    places: list[tuple[int, int, int, int, Any]] = []
    at = start
    keys = sorted(values, key=lambda key: _first(text, key, start))
    for key in keys:
        begin = text.find(key, at)
        value = text.find(str(values[key]), begin + len(key)) if begin >= 0 else -1
        if value < 0:
            return None
        at = value + len(str(values[key]))
        places.append((begin, begin + len(key), value, at, values[key]))
    head = places[0][0]
    middles = {isinstance(value, str): text[end:begin] for _, end, begin, _, value in places}
    gaps = [
        text[left[3] : right[0]].replace(text[left[0] : left[1]], "\0")
        for left, right in pairwise(places)
    ]
    tail = text[places[-1][3] :].replace(text[places[-1][0] : places[-1][1]], "\0")
    before_first = text[:head]
    if before_first.endswith("(") and middles[True].startswith("="):
        quote = middles[True][1:]
        end = places[-1][3] + (len(quote) if isinstance(places[-1][4], str) else 0)
        return (head, end), PythonArguments(quote=quote)
    if before_first.endswith("{") and middles[True].startswith(":"):
        quote = middles[True][1:]
        end = text.find("}", places[-1][3]) + 1
        return (head - 1, end), BraceArguments(quote)
    return _find_tags(text, places[-1], middles, gaps, tail, before_first, split)


def _first(text: str, word: str, start: int) -> int:
    place = text.find(word, start)
    return place if place >= 0 else len(text)


def _find_tags(
    text: str,
    last: tuple[int, int, int, int, Any],
    middles: dict[bool, str],
    gaps: list[str],
    tail: str,
    before_first: str,
    split: Splitter,
) -> tuple[tuple[int, int], Arguments] | None:
    gap = min(gaps, key=len)
    quoted = middles[True].endswith('"') and not middles[False].endswith('"')
    after = split.common_prefix(gap, tail)
    after = after.rstrip() if after.strip() else after
    rest = gap[len(after) :]
    before = rest.lstrip()
    if not (before and after.strip()):
        return None
    head = len(before_first) - len(before)
    if not before_first.endswith(before):
        return None
    kind = TagArguments(
        before=before,
        middle=middles[False],
        after=after,
        between=rest[: len(rest) - len(before)],
        raw_strings=not quoted,
        string_middle=None if middles[True] == middles[False] or quoted else middles[True],
    )
    key = text[last[0] : last[1]]
    return (head, last[3] + len(after.replace("\0", key))), kind


# ---- what stands around calls


def _of_one(text: str, place: _Place, split: Splitter) -> CallForm:
    """The form of a template that writes one call alone."""
    head = _with_slots(text[: place.name[0]], FIRST)
    tail = _with_slots(text[place.arguments[1] :], FIRST)
    inner = _inner(text, place, FIRST)
    return replace(_form(head, inner, tail, place, split), most=1)


def _of_two(text: str, first: _Place, second: _Place, split: Splitter) -> CallForm:
    left = _with_slots(text[: first.name[0]], FIRST)
    middle = _with_slots(text[first.arguments[1] : second.name[0]], SECOND, FIRST)
    right = _with_slots(text[second.arguments[1] :], SECOND)
    left, middle, first_index = _with_indices(left, middle)
    opening = split.common_suffix(left, middle)
    closing = split.common_prefix(right, middle[: len(middle) - len(opening)])
    between = middle[len(closing) : len(middle) - len(opening)]
    inner = _inner(text, first, FIRST)
    if first_index is None:
        other = _inner(text, second, SECOND)
        inner, _, first_index = _with_indices(inner, other)
    form = _form(opening, inner, closing, first, split)
    begin, end = left[: len(left) - len(opening)], right[len(closing) :]
    markers = dict.fromkeys((*split.markers_in(begin), *form.markers, *split.markers_in(end)))
    return replace(
        form,
        begin=begin,
        between=between,
        end=end,
        markers=tuple(markers),
        first_index=first_index or 0,
    )


def _with_slots(text: str, *calls: ToolCall) -> str:
    """The text with signs in place of names and ids."""
    for call in calls:
        text = text.replace(call.id or call.name, "\1").replace(call.name, "\3")
    return text


def _inner(text: str, place: _Place, call: ToolCall) -> str:
    """The name and what stands between it and the arguments."""
    return _with_slots(text[place.name[0] : place.arguments[0]], call)


def _with_indices(left: str, middle: str) -> tuple[str, str, int | None]:
    """Both texts with signs in place of the calls' numbers, and the first number."""
    ones, others = list(_NUMBER.finditer(left)), list(_NUMBER.finditer(middle))
    if not (ones and others and int(others[-1][0]) == int(ones[-1][0]) + 1):
        return left, middle, None
    one, other = ones[-1], others[-1]
    return (
        left[: one.start()] + "\2" + left[one.end() :],
        middle[: other.start()] + "\2" + middle[other.end() :],
        int(one[0]),
    )


def _form(opening: str, inner: str, closing: str, place: _Place, split: Splitter) -> CallForm:
    """The form of a call with these texts before its name, after it, and after its arguments."""
    object_head = _HEAD_OF_OBJECT.search(opening)
    if object_head is not None and isinstance(place.kind, JsonArguments):
        start = object_head.start()
        closes = re.match(r"[^{}]*\}" * opening[start:].count("{"), closing)
        stop = closes.end() if closes is not None else len(closing)
    else:
        start = _start_of_call(opening, split)
        stop = len(closing) - len(closing.lstrip(")}"))
    call = f"{opening[start:]}{inner}\4{closing[:stop]}"
    parts = [part for part in re.split("([\1-\4])", call) if part]
    slots = {**_SLOTS, "\4": Slot.ARGUMENTS}
    return CallForm(
        call=tuple(slots.get(part, part) for part in parts),
        arguments=place.kind,
        open=opening[:start],
        close=closing[stop:],
        markers=split.markers_in(opening + inner + closing),
    )


def _start_of_call(opening: str, split: Splitter) -> int:
    """Where the text of a call begins: at a slot, or at a tag that the name stands in."""
    slot = re.search("[\1-\3]", opening)
    if slot is not None:
        return slot.start()
    pieces = split.split(opening)
    for index in range(len(pieces) - 1, -1, -1):
        if pieces[index] in ("<", "["):  # a whole tag is one piece
            return len("".join(pieces[:index]))
        if split.is_marker(pieces[index]):
            break
    return len(opening)
