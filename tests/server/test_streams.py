"""Streams that are merged: each end of one is seen, whatever kind it is of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from quire.server.streams import merge

PATIENCE = 60.0  # seconds that a loaded machine may take


async def counted(end: int, error: BaseException | None = None) -> AsyncGenerator[int, None]:
    for number in range(end):
        yield number
    if error is not None:
        raise error


async def merged(*streams: AsyncGenerator[int, None]) -> list[tuple[int, int]]:
    async with asyncio.timeout(PATIENCE):
        return [item async for item in merge(streams)]


async def test_items_come_with_the_number_of_their_stream() -> None:
    found = await merged(counted(2), counted(3), counted(0))
    assert sorted(found) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert await merged(counted(2)) == [(0, 0), (0, 1)]


@pytest.mark.parametrize("error", [ValueError("made up"), asyncio.CancelledError("made up")])
async def test_an_end_by_any_error_ends_all(error: BaseException) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[int, None]:
        try:
            await asyncio.Event().wait()
            yield 0
        finally:
            closed.set()

    with pytest.raises(type(error), match="made up"):
        await merged(endless(), counted(1, error))
    assert closed.is_set()


async def test_who_is_cancelled_closes_the_streams() -> None:
    began, closed = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncGenerator[int, None]:
        try:
            began.set()
            await asyncio.Event().wait()
            yield 0
        finally:
            closed.set()

    reading = asyncio.create_task(merged(endless(), counted(1)))
    await began.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert closed.is_set()
