"""An answer that is read whole before anything of it is sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import Request

from quire.chat.response import ChatDelta
from quire.server.disconnect import Watched


async def read_whole(
    request: Request, deltas: AsyncGenerator[ChatDelta, None], take: Callable[[ChatDelta], Any]
) -> None:
    """Give every delta to `take`; a client that goes away aborts the request.

    Raises:
        ClientGone: the client has gone away.
    """
    async with Watched(request.receive), aclosing(deltas) as stream:
        async for delta in stream:
            take(delta)
