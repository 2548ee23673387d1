"""A request's own time limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from quire.errors import RequestTimeoutError

T = TypeVar("T")


def in_time(items: AsyncGenerator[T, None], timeout: float | None) -> AsyncGenerator[T, None]:
    """The same items, until `timeout` seconds have passed since the first was asked for.

    Raises:
        RequestTimeoutError: they have; the items' generator is closed.
    """
    return items if timeout is None else _until(items, timeout)


async def _until(items: AsyncGenerator[T, None], timeout: float) -> AsyncGenerator[T, None]:
    deadline = time.monotonic() + timeout
    async with aclosing(items):
        while True:
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise RequestTimeoutError(
                    f"The request's timeout of {timeout:g} s passed."
                ) from None
            yield item
