"""Waiting for what another thread, task or process does, with limits that a loaded machine keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_INTERVAL = 0.01  # seconds


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Block until the condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s"
        time.sleep(_INTERVAL)


async def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Let other tasks run until the condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s"
        await asyncio.sleep(_INTERVAL)
