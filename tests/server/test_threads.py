"""Work in threads of its own comes to an end, however it ends."""

from __future__ import annotations

import asyncio

import pytest

from quire.server.threads import in_thread

PATIENCE = 60.0  # seconds that a loaded machine may take


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("made up"), ValueError),
        (SystemExit("made up"), SystemExit),
        (StopIteration("made up"), RuntimeError),  # which no future holds
    ],
)
async def test_what_the_work_raises_is_raised(
    error: BaseException, told: type[BaseException]
) -> None:
    def work() -> None:
        raise error

    async def run() -> None:
        with pytest.raises(told) as raised:
            await in_thread(work, "test-work")
        assert error in (raised.value, raised.value.__cause__)

    async with asyncio.timeout(PATIENCE):
        await run()


async def test_its_result_is_returned() -> None:
    assert await in_thread(lambda: 5, "test-work") == 5
