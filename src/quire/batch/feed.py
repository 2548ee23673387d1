"""The order in which the rows of a window are asked, and the feed from which they are taken."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from quire.batch.answering import Prepared

SHARED = 64
"""Tokens of a common beginning from which on one row waits until another has computed it."""


@dataclass(slots=True)
class Place:
    """A row of a window in its order."""

    prepared: Prepared
    followers: list[Place] = field(default_factory=list)
    """Rows that wait until this one's prompt has been computed, since they begin alike."""


def arrange(window: Sequence[Prepared], *, is_last: bool) -> list[Place]:
    """Put rows that begin alike together, each behind the one that computes the beginning first.

    Args:
        is_last: whether no further window comes: the longest prompts are then asked first, so that
            none is left over at the end.

    Returns:
        The rows that wait for nobody, with their followers.
    """
    ordered = sorted(window, key=lambda one: (tuple(one.tokens), one.row.index))
    roots: list[Place] = []
    # Depths in tokens, each with the first row of those that begin alike with the last one so far.
    levels: list[tuple[int, Place]] = []
    before: Sequence[int] = ()
    for prepared in ordered:
        place = Place(prepared)
        shared = _common(before, prepared.tokens)
        first: Place | None = None
        while levels and levels[-1][0] > shared:
            first = levels.pop()[1]
        if first is not None and shared and (not levels or levels[-1][0] < shared):
            levels.append((shared, first))
        leader = _leader(levels)
        (roots if leader is None else leader.followers).append(place)
        levels.append((len(prepared.tokens), place))
        before = prepared.tokens
    if is_last:
        roots.sort(key=_longest, reverse=True)
    return roots


def _leader(levels: Sequence[tuple[int, Place]]) -> Place | None:
    """The row that computes the longest beginning that is worth waiting for."""
    leader, known = None, 0
    for depth, first in levels:
        if depth - known >= SHARED:
            leader, known = first, depth
    return leader


def _longest(place: Place) -> int:
    """The most tokens of a row and of those that wait for it."""
    longest, left = 0, [place]
    while left:
        one = left.pop()
        longest = max(longest, len(one.prepared.tokens))
        left += one.followers
    return longest


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    low, high = 0, most  # alike up to low, not up to high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


class Feed:
    """Rows that may be asked now. One producer fills it, and waits while it is full."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ready: deque[Place] = deque()
        self._held = 0
        self._open = True
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Rows that were put and not taken, those too that wait for another one's beginning."""
        return len(self._ready) + self._held

    async def put(self, place: Place) -> None:
        """Add a row, with those that wait for it, once there is room."""
        while len(self) >= self._most and self._open:
            await self._change()
        self._ready.append(place)
        self._held += _followers(place)
        self._notify()

    def release(self, place: Place) -> None:
        """Let the followers of a row be taken, before all others."""
        followers, place.followers = place.followers, []
        self._held -= len(followers)
        self._ready.extendleft(reversed(followers))
        self._notify()

    async def take(self) -> Place | None:
        """The next row; None once no more can come."""
        while not self._ready:
            if not self._open and not self._held:
                return None
            await self._change()
        place = self._ready.popleft()
        self._notify()
        return place

    def close(self) -> None:
        """No more rows are put."""
        self._open = False
        self._notify()

    def clear(self) -> None:
        """Drop all rows that were not taken."""
        self._ready.clear()
        self._held = 0
        self.close()

    async def _change(self) -> None:
        event = self._changed
        await event.wait()

    def _notify(self) -> None:
        event, self._changed = self._changed, asyncio.Event()
        event.set()


def _followers(place: Place) -> int:
    return sum(1 + _followers(one) for one in place.followers)
