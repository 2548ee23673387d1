"""The thread of the native engine: whatever ends it, every reader is told."""

from __future__ import annotations

import asyncio

import pytest

from quire.engines.native.core.pooling import Pooling
from quire.engines.native.engine_thread import EngineThread, Submission
from quire.errors import EngineDeadError, EngineError
from quire.prompt import Prompt
from tests.engines.native.core.engines import PROMPT, greedy, make_engine

PATIENCE = 60.0  # seconds that a loaded machine may take


async def error_of(submission: Submission) -> EngineError:
    """What a request ends with, which has to fail."""
    with pytest.raises(EngineError) as raised:
        async with asyncio.timeout(PATIENCE):
            async for _ in submission.deltas():
                pass
    return raised.value


async def test_a_request_that_the_engine_fails_to_take_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is no longer in the queue then, and not in the engine."""

    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("made up")

    engine = make_engine()
    monkeypatch.setattr(engine, "add_pooling", fail)
    thread = EngineThread(engine, "test-engine")
    before = Submission(thread, Prompt(PROMPT), greedy(200), None)
    at_fault = Submission(thread, Prompt(PROMPT), Pooling("last", normalize=False), None)
    ends = await asyncio.gather(error_of(before), error_of(at_fault))
    assert [type(one) for one in ends] == [EngineDeadError] * 2
    assert "made up" in str(ends[1])
    thread.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_error_without_words_ends_all_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wordless(Exception):
        def __repr__(self) -> str:
            raise ValueError("made up")

    def fail() -> None:
        raise Wordless

    engine = make_engine()
    monkeypatch.setattr(engine, "step", fail)
    thread = EngineThread(engine, "test-engine")
    await error_of(Submission(thread, Prompt(PROMPT), greedy(), None))
    thread.close()
