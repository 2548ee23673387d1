"""An answer that is read whole before anything of it is sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request

from quire.server.disconnect import Watched

T = TypeVar("T")


async def read_whole(
    request: Request, deltas: AsyncGenerator[T, None], take: Callable[[T], Any]
) -> None:
    """Give every delta to `take`; a client that goes away aborts the request.

    Raises:
        ClientGone: the client has gone away.
    """
    async with Watched(request.receive), aclosing(deltas) as stream:
        async for delta in stream:
            take(delta)
