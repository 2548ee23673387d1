"""Rows that begin alike wait for the one that computes the beginning; none is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.batch.answering import Prepared
from quire.batch.feed import SHARED, Feed, Place, arrange
from quire.batch.rows import Row

PIECES = st.lists(st.sampled_from("abc"), max_size=4)
"""Prompts of long pieces, so that many begin alike."""


def prepared(index: int, tokens: Sequence[int]) -> Prepared:
    return Prepared(Row(index), None, tuple(tokens))


def tokens_of(pieces: Sequence[str]) -> tuple[int, ...]:
    return tuple(ord(piece) for piece in pieces for _ in range(SHARED // 2 + 10))


def common(one: Sequence[int], other: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


def walk(
    places: Sequence[Place], leader: Place | None = None
) -> Iterator[tuple[Place, Place | None]]:
    for place in places:
        yield place, leader
        yield from walk(place.followers, place)


@given(st.lists(PIECES, max_size=30), st.booleans())
def test_every_row_has_one_place_and_waits_only_for_its_own_beginning(
    prompts: list[list[str]], is_last: bool
) -> None:
    window = [prepared(index, tokens_of(pieces)) for index, pieces in enumerate(prompts)]
    placed = list(walk(arrange(window, is_last=is_last)))
    assert sorted(place.prepared.row.index for place, _ in placed) == list(range(len(window)))
    for place, leader in placed:
        tokens = place.prepared.tokens
        shared = max(
            (common(tokens, other.tokens) for other in window if other is not place.prepared),
            default=0,
        )
        if leader is not None:
            assert common(tokens, leader.prepared.tokens) >= SHARED
        elif shared >= SHARED:  # nobody before it has this beginning
            earlier = [
                other
                for other in window
                if (other.tokens, other.row.index) < (tokens, place.prepared.row.index)
            ]
            assert all(common(tokens, other.tokens) < SHARED for other in earlier)


def test_a_system_prompt_is_computed_once_and_a_document_below_it_once_too() -> None:
    system, document = [1] * 100, [2] * 100
    window = [
        prepared(0, [*system, *document, 3]),
        prepared(1, [*system, 9]),
        prepared(2, [*system, *document, 4]),
        prepared(3, [*system, *document, 5]),
    ]
    (root,) = arrange(window, is_last=False)
    assert root.prepared.row.index == 0
    assert {one.prepared.row.index for one in root.followers} == {1, 2, 3}


def test_the_longest_come_first_in_the_last_window() -> None:
    window = [prepared(index, [index] * length) for index, length in enumerate([5, 50, 20])]
    order = [place.prepared.row.index for place in arrange(window, is_last=True)]
    assert order == [1, 2, 0]


@pytest.mark.asyncio
async def test_a_feed_holds_back_followers_and_a_producer_that_is_too_fast() -> None:
    feed = Feed(2)
    leader = Place(prepared(0, [1]), [Place(prepared(1, [1]))])
    await feed.put(leader)
    assert len(feed) == 2
    putting = asyncio.create_task(feed.put(Place(prepared(2, [2]))))
    await asyncio.sleep(0)
    assert not putting.done()
    assert await feed.take() is leader
    await putting
    feed.release(leader)
    follower, last = await feed.take(), await feed.take()
    assert follower is not None
    assert last is not None
    assert (follower.prepared.row.index, last.prepared.row.index) == (1, 2)
    feed.close()
    assert await feed.take() is None


@pytest.mark.asyncio
async def test_a_feed_ends_only_when_nobody_is_held_back() -> None:
    feed = Feed(9)
    leader = Place(prepared(0, [1]), [Place(prepared(1, [1]))])
    await feed.put(leader)
    await feed.take()
    feed.close()
    taking = asyncio.create_task(feed.take())
    await asyncio.sleep(0)
    assert not taking.done()
    feed.release(leader)
    assert await taking is not None
    assert await feed.take() is None
